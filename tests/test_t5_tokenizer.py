"""T5's ids against SentencePiece's own and transformers', from a small model of T5's kind."""

import base64
import io
import json
import logging
import random
import re
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import transformers

from sdcore import CheckpointError, FileError, UnsupportedModelError
from sdcore.tokenizer import T5Tokenizer

WORDS = re.findall(
    r"\S+",
    """a an the of in on with and red blue green small large old new painting photo picture
    lighthouse dawn mountain river castle portrait woman man child cat dog horse detailed
    intricate cinematic lighting volumetric masterpiece watercolor sketch anime style city street
    night rain snow forest über naïve façade 東京 夜景 дом зима 4k 8k hdr, . ! ? - ( )""",
)

PROMPTS = [
    "",
    " ",
    "a cat",
    "  A  photo\tof\na   red  CASTLE  ",
    "masterpiece, best quality, (ultra-detailed:1.3), 4k",
    "don't stop",
    "über naïve façade u\u0308ber",
    "ﬁne ﬂour ½ ™ ①②③ ＡＢＣ ｶﾞ",
    "東京の夜景 дом зимой",
    "a\u200bb \u00a0c\u3000d \ufeff e",
    "🙂🙂 cat 🚀 ∮ unknown ⛄⛄⛄ ones",
    "one</s>two <pad> <unk> three</s>",
    "<extra_id_0> of <extra_id_99>",
    "\u2581 is a space",
    "x" * 300,
]


def train(path: Path, **options: object) -> bytes:
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=12)) for _ in range(600)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=options.pop("vocab_size", 300),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    path.mkdir(parents=True, exist_ok=True)
    (path / "spiece.model").write_bytes(model.getvalue())
    return model.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("t5")
    train(path)
    return path


@pytest.fixture(scope="module")
def own(folder):
    return T5Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory):
    """transformers' tokenizer, and the folder that it writes: tokenizer.json alone."""
    tokenizer = transformers.T5Tokenizer.from_pretrained(folder)
    path = tmp_path_factory.mktemp("t5-json")
    tokenizer.save_pretrained(path)
    return tokenizer, path


def words(seed, count):
    rng = random.Random(seed)
    alphabet = "abcdefgh ijklmno  prstuvw,.-ÄÖüéñ东京の夜🙂½ﬁ\t"
    return ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(count)]


def test_ids_are_sentencepieces(folder, own):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    plain = [prompt for prompt in PROMPTS if "<" not in prompt] + words(0, 300)
    for prompt in plain:
        assert own.encode(prompt) == model.encode(prompt), repr(prompt)


def test_ids_are_transformers(own, reference):
    tokenizer, path = reference
    from_json = T5Tokenizer.from_folder(path)
    for prompt in PROMPTS + words(1, 100):
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        assert from_json.encode(prompt) == ids, repr(prompt)
        assert own.encode(prompt) == ids, repr(prompt)


@pytest.mark.parametrize("length", [1, 8, 77, 512])
def test_padding_and_mask_are_transformers(own, reference, length, caplog):
    expected = reference[0](
        PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="np"
    )
    ids, mask = own(PROMPTS, length)
    np.testing.assert_array_equal(ids, expected.input_ids)
    np.testing.assert_array_equal(mask, expected.attention_mask)


def test_a_cut_is_told(own, caplog):
    caplog.set_level(logging.WARNING, "sdcore.tokenizer")
    own("a red castle in the snow at night", 4)
    assert "the text encoder's 4 tokens" in caplog.text
    assert "night" in caplog.text


def test_bytes_stand_for_what_is_no_piece(tmp_path):
    train(tmp_path, byte_fallback=True, vocab_size=560)
    own = T5Tokenizer.from_folder(tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for prompt in ["🙂 cat ⛄⛄", "∮"]:
        assert own.encode(prompt) == model.encode(prompt)


def test_gguf_metadata_as_llama_cpp_writes_it(folder, own):
    metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": own.tokens,
        "tokenizer.ggml.scores": own.scores,
        "tokenizer.ggml.token_type": own.types,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.precompiled_charsmap": list(own.charsmap),
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 2,
    }
    again = T5Tokenizer.from_gguf_metadata(metadata)
    assert [again.encode(p) for p in PROMPTS] == [own.encode(p) for p in PROMPTS]
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.ggml\.scores"):
        T5Tokenizer.from_gguf_metadata(
            {k: v for k, v in metadata.items() if not k.endswith("scores")}
        )
    with pytest.raises(CheckpointError, match="tokens, 3 scores"):
        T5Tokenizer.from_gguf_metadata(metadata | {"tokenizer.ggml.scores": [0.0] * 3})


def test_other_and_damaged_files_are_refused(folder, tmp_path, reference):
    with pytest.raises(FileError, match=r"neither tokenizer\.json nor spiece\.model"):
        T5Tokenizer.from_folder(tmp_path)
    data = (folder / "spiece.model").read_bytes()
    for end in (1, 7, len(data) // 2, len(data) - 3):
        (tmp_path / "spiece.model").write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            T5Tokenizer.from_folder(tmp_path)
    rng = random.Random(0)
    for _ in range(200):  # any bytes at all: an error or a tokenizer, never a crash
        damaged = bytearray(data)
        for _ in range(3):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "spiece.model").write_bytes(damaged)
        try:
            T5Tokenizer.from_folder(tmp_path).encode("a ﬁne cat 🙂")
        except (CheckpointError, UnsupportedModelError):
            continue
    content = json.loads((reference[1] / "tokenizer.json").read_text("utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="normalizes with Lowercase"):
        T5Tokenizer.from_folder(tmp_path)
    content["normalizer"] = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(b"\x08\0\0\0abc").decode(),
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="precompiled_charsmap is damaged"):
        T5Tokenizer.from_folder(tmp_path)
