"""Ids against transformers' CLIPTokenizer, built from the same merges."""

import gzip
import json
import logging
import random
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import transformers

from sdcore.errors import CheckpointError, FileError, InvalidArgumentError, UnsupportedModelError
from sdcore.tokenizer import BOS, EOS, CLIPTokenizer
from sdcore.tokenizer import clip as module

SHARED = Path(__file__).parents[2] / "shared/data/clip/bpe_simple_vocab_16e6.txt.gz"


def clip_merges():
    """From OpenAI's file where the checkout has it beside it, else from the package."""
    if SHARED.is_file():
        return gzip.decompress(SHARED.read_bytes()).decode().split("\n")[1:48895]
    return module.clip_vocabulary().merges


def write_folder(path, merges, config=None, special_map=None, added=None):
    path.mkdir(parents=True, exist_ok=True)
    tokens = CLIPTokenizer.from_merges(merges).tokens
    vocab = {token: i for i, token in enumerate(tokens)}
    (path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    files = {"tokenizer_config": config, "special_tokens_map": special_map, "added_tokens": added}
    for name, content in files.items():
        if content is not None:
            (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("clip"), clip_merges())


@pytest.fixture(scope="module")
def reference(clip_folder):
    return transformers.CLIPTokenizer.from_pretrained(clip_folder)


@pytest.fixture(scope="module")
def tokenizer(clip_folder):
    return CLIPTokenizer.from_folder(clip_folder)


def reference_ids(reference, texts):
    return reference(list(texts), add_special_tokens=False).input_ids


PROMPTS = (
    "",
    " ",
    "a photo of a cat",
    "  Leading,\ttabs\u00a0and\r\nlines \u2003 trailing  ",
    "It's John's; WE'RE they'll I'd 'sam ''s !'s 's can't've 'RE",
    "high-quality (masterpiece:1.3), [best], {8k}, <lora:x:0.5> -- v5.2_final #1 @50% $€£",
    "2024 ½ ² ① ٣ 四 Ⅷ 1st 3D 4k60",
    "&amp; &lt;b&gt; &#39; &nbsp;",
    "café cafe\u0301 Å A\u030a \u212b ǆ ﬁ Ⅳ ϴ \u1e9b\u0323 \u0344 \u2126 \u1fef",
    "q\u0323\u0307 q\u0307\u0323 a\u0301\u0301\u0316 \u0300x e\u200d\u0301",
    "ÀÉÎÕÜ ÇŒÆØ ẞß İIıi ΣΑΣ ΑΣ. ДЖЕЙ Ὀδυσσεύς ǅ Ა ꭰ Ꭰ 𐐀 𞤀",
    "한국어 \u1112\u1161\u11ab 각 \u1100\u1161\u11a8 \uac00\u11a8 日本語 中文字符",
    "ไทย हिन्दी தமிழ் العربية עברית ქართული አማርኛ",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ☃️ ♥ © ™ 🇺🇳",
    "\x00 \x01\x1b\x7f \x85 \u200b\u2028\ufeff\u00ad \x1c\x1d a\x00b",
    "<|startoftext|> a <|endoftext|>b<|endoftext|>",
    "A<|ENDOFTEXT|>b !!<|StartOfText|>!! <|endoftext |> <|endoftext|\u226f",
    "<|endoftext|>\u0338 >\u0338 =\u0338",
    "\ufffd \uffff \U0010ffff \ue000 \U000f0000",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ababababab .............. ~~~~~",
    "word " * 100,
)


def test_ids_agree_on_prompts(tokenizer, reference):
    for text, expected in zip(PROMPTS, reference_ids(reference, PROMPTS), strict=True):
        assert tokenizer.encode(text) == expected, text


def test_ids_agree_on_every_script(tokenizer, reference):
    """Each assigned code point within a word; of the long runs of Chinese, Korean and private
    characters, every 97th."""
    bulk = {"Lo": 97, "Co": 997}
    points = [
        chr(c)
        for c in range(0x110000)
        if (kind := unicodedata.category(chr(c))) not in ("Cs", "Cn")
        and (c < 0x3000 or c % bulk.get(kind, 1) == 0)
    ]
    texts = [" ".join(f"A{c}B" for c in points[i : i + 50]) for i in range(0, len(points), 50)]
    for text, expected in zip(texts, reference_ids(reference, texts), strict=True):
        assert tokenizer.encode(text) == expected, ascii(text)


def test_ids_agree_on_random_mixtures(tokenizer, reference):
    """Marks in every order, characters that compose or fall apart, and pieces of the syntax."""
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    pools = (
        [c for c in everything if unicodedata.combining(c)],
        [c for c in everything if unicodedata.decomposition(c)],
        [chr(c) for c in (*range(0x1100, 0x1200), *range(0xAC00, 0xAC60))],
        [chr(c) for c in range(0x20, 0x250)],
        [chr(c) for c in range(0x20, 0x7F)],
        ["'s", "'LL", EOS, BOS, EOS.upper(), " ", "\n", "!", "1"],
    )
    rng = random.Random(0)
    texts = [
        "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 20)))
        for _ in range(5000)
    ]
    for text, expected in zip(texts, reference_ids(reference, texts), strict=True):
        assert tokenizer.encode(text) == expected, ascii(text)


@pytest.mark.parametrize(
    "text",
    [
        "a photo of an astronaut riding a horse on mars, " * 1000,
        "x" * 50_000,
        "ab" * 25_000,
        "a\u0301\u0323" * 10_000,
        "e" + "\u0301\u0323" * 10_000,
        "<|" * 20_000,
    ],
    ids=["words", "x", "ab", "accents", "one base", "marker"],
)
def test_long_prompts_agree_and_are_quick(tokenizer, reference, text):
    begin = time.perf_counter()
    ids = tokenizer.encode(text)
    seconds = time.perf_counter() - begin
    assert ids == reference_ids(reference, [text])[0]
    assert seconds < 1  # about 0.02; anything quadratic takes many seconds


def test_bytes_that_are_not_utf8_read_as_python_reads_them(tokenizer, reference):
    rng = random.Random(1)
    broken = [
        b"\xff\xfe",
        b"caf\xe9",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ]
    broken += [b"\xf0\x9f\x98", b"\xf0\x9fa", b"\xe0\x80\xaf", b"\x80\xbf", b"a\xf1\x80\x80"]
    broken += [
        bytes(rng.choice(b"a \x80\xbf\xc3\xe0\xed\xf0\xf4\xff") for _ in range(9))
        for _ in range(300)
    ]
    for data in broken:
        text = data.decode("utf-8", "replace")
        assert tokenizer._core.encode(data) == reference_ids(reference, [text])[0], data
    # Half of a surrogate pair has three bytes in that form, each of which is replaced.
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffd\ufffd\ufffdb")


@pytest.mark.parametrize("pad", [EOS, "!"])
def test_padding_and_truncation_agree(clip_folder, pad):
    reference = transformers.CLIPTokenizer.from_pretrained(clip_folder, pad_token=pad)
    ours = CLIPTokenizer.default(pad=pad)
    assert (ours.pad_token_id, ours.bos_token_id, ours.eos_token_id) == (
        reference.pad_token_id,
        49406,
        49407,
    )
    texts = [*PROMPTS, "hello world!", "a cat " * 37, "a cat " * 37 + "a", "a cat " * 38]
    for max_length in (77, 8, 2):
        expected = reference(
            texts, padding="max_length", max_length=max_length, truncation=True, return_tensors="np"
        ).input_ids
        ids = ours(texts, max_length=max_length)
        assert (ids.dtype, ids.shape) == (np.int32, (len(texts), max_length))
        np.testing.assert_array_equal(ids, expected)
    assert ours("one prompt").shape == (1, 77)
    assert ours([]).shape == (0, 77)
    for max_length in (1, 0, -5):
        with pytest.raises(InvalidArgumentError, match=f"max_length must .*got {max_length}"):
            ours("a", max_length=max_length)


def test_a_cut_prompt_is_told_once(tokenizer, caplog):
    caplog.set_level(logging.WARNING, "sdcore.tokenizer")
    fits = "a cat " * 37 + "a"
    tokenizer(fits)
    assert not caplog.records
    for _ in range(3):
        tokenizer(fits + " Lost, though wanted", max_length=77)
    assert len(caplog.records) == 1
    assert caplog.records[0].message.endswith(
        "77 tokens; this part of it is left out: lost , though wanted"
    )
    caplog.clear()
    tokenizer("a cat " * 9000, max_length=77)
    assert len(caplog.records[0].message) < 250
    assert caplog.records[0].message.endswith("…")


SMALL_MERGES = ["h e", "l l", "he ll", "hell o</w>", "w o", "r l", "wo rl", "worl d</w>", "a a"]
SMALL_BOS, SMALL_EOS = 521, 522


def token(text, normalized=True):
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    return {"content": text, "normalized": normalized, **flags}


def typed(text, normalized=True):
    return {"__type": "AddedToken", **token(text, normalized)}


OLD_CONFIG = {
    "bos_token": typed(BOS),
    "eos_token": typed(EOS),
    "unk_token": typed(EOS),
    "pad_token": EOS,
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
}
OLD_MAP = {"bos_token": token(BOS), "eos_token": token(EOS), "unk_token": token(EOS)}
DECODER = {
    "0": {**token("!", False), "special": True},
    str(SMALL_BOS): {**token(BOS), "special": True},
    str(SMALL_EOS): {**token(EOS), "special": True},
}
NAMES = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS}
# name: (tokenizer_config.json, special_tokens_map.json, added_tokens.json, id of the pad token)
FOLDERS = {
    "only vocab": (None, None, None, SMALL_EOS),
    "SD 1.5": (OLD_CONFIG, {**OLD_MAP, "pad_token": EOS}, None, SMALL_EOS),
    "SD 2": (OLD_CONFIG, {**OLD_MAP, "pad_token": "!"}, None, 0),
    "SD 2, object": (OLD_CONFIG, {**OLD_MAP, "pad_token": token("!", False)}, None, 0),
    "SDXL 2": ({**NAMES, "pad_token": "!", "added_tokens_decoder": DECODER}, None, None, 0),
    "decoder wins": (
        {**NAMES, "added_tokens_decoder": DECODER},
        {"pad_token": "!"},
        None,
        SMALL_EOS,
    ),
    "mixed flags": (None, {**OLD_MAP, "unk_token": token(EOS, False)}, None, SMALL_EOS),
    "textual inversion": (OLD_CONFIG, OLD_MAP, {"<cat-toy>": 523, "<My Style>": 524}, SMALL_EOS),
    "special word": ({"additional_special_tokens": ["<x>"]}, OLD_MAP, {"<x>": 523}, SMALL_EOS),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("saved_again", [False, True])
def test_folders_agree(tmp_path, name, saved_again):
    """As transformers 4 wrote them, and as transformers 5 does (tokenizer.json)."""
    config, special_map, added, pad = FOLDERS[name]
    folder = write_folder(tmp_path / "old", SMALL_MERGES, config, special_map, added)
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    if saved_again:
        folder = tmp_path / "new"
        reference.save_pretrained(folder)
        assert not (folder / "vocab.json").exists()
    ours = CLIPTokenizer.from_folder(folder)
    assert ours.pad_token_id == reference.pad_token_id == pad
    texts = (
        *PROMPTS,
        "a!b !! !",
        "<cat-toy> a <CAT-TOY>x<cat-toy><my style><My Style> <x> <X>",
        "A<|EndOfText|>B<|StartOfText|>",
    )
    again = CLIPTokenizer.from_gguf_metadata(ours.to_gguf_metadata())
    for text, expected in zip(texts, reference_ids(reference, texts), strict=True):
        assert ours.encode(text) == expected, text
        assert again.encode(text) == expected, text
    np.testing.assert_array_equal(again(list(texts)), ours(list(texts)))


def test_small_vocabularies_agree(tmp_path):
    reference = transformers.CLIPTokenizer.from_pretrained(write_folder(tmp_path, SMALL_MERGES))
    ours = CLIPTokenizer.from_merges(SMALL_MERGES)
    assert len(ours.tokens) == 512 + len(SMALL_MERGES) + 2
    texts = ("hello world", "HELLO worldly", "aaaaa aaaa", "he'll é 😀 <|endoftext|>", "")
    for text, expected in zip(texts, reference_ids(reference, texts), strict=True):
        assert ours.encode(text) == expected
    np.testing.assert_array_equal(
        ours("hello", max_length=6),
        reference("hello", padding="max_length", max_length=6, return_tensors="np").input_ids,
    )


def test_bytes_without_a_token_are_unknown(tmp_path):
    vocab = {"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3, BOS: 4, EOS: 5}
    reference = transformers.CLIPTokenizer(vocab=vocab, merges=[("a", "b</w>")])
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("a b</w>\n")
    ours = CLIPTokenizer.from_folder(tmp_path)
    texts = ("ab", "xab", "axb é a", "aab bb", "1ab!")
    for text, expected in zip(texts, reference_ids(reference, texts), strict=True):
        assert ours.encode(text) == expected, text


def test_from_merges_takes_openai_files_and_plain_lists(tokenizer):
    merges = clip_merges()
    text = "a photo of a cat"
    expected = [320, 1125, 539, 320, 2368]
    for lines in (
        merges,
        ['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges, "beyond clip"],
        [line + "\n" for line in ["#version: 0.2", *merges, ""]],
    ):
        made = CLIPTokenizer.from_merges(lines)
        assert (len(made.tokens), made.encode(text)) == (49408, expected)
    # The package carries OpenAI's list.
    assert module.clip_vocabulary().merges == merges


def test_decode(tokenizer):
    text = "a photo of a café , 😀 & 日本"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("🫠")[:1]) == "\ufffd"  # a part of a character
    with pytest.raises(InvalidArgumentError, match="no token 49408"):
        tokenizer.decode([49408])


def test_damaged_vocabularies_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"cannot read .*vocab\.json"):
        CLIPTokenizer.from_folder(tmp_path)
    folder = write_folder(tmp_path, SMALL_MERGES)
    (folder / "merges.txt").write_text("h e\nz q\n")
    with pytest.raises(CheckpointError, match=r"merge 1 \('z q'\) needs the token 'zq'"):
        CLIPTokenizer.from_folder(folder)
    (folder / "merges.txt").write_text("he\n")
    with pytest.raises(CheckpointError, match=r"merge 0 must be two tokens .* got 'he'"):
        CLIPTokenizer.from_folder(folder)
    (folder / "merges.txt").write_text("")
    (folder / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        CLIPTokenizer.from_folder(folder)
    for vocab, message in (
        ({"a": 0}, "bos token .* is not in the vocabulary"),
        ({"a": 0, BOS: 1, EOS: 10**9}, "numbers 3 tokens up to 1000000000"),
        ({"a": -1, BOS: 1, EOS: 0}, "whole number from 0 on"),
        ({"a": "x"}, "whole number"),
        (["a"], "must hold an object, not list"),
    ):
        (folder / "vocab.json").write_text(json.dumps(vocab))
        with pytest.raises(CheckpointError, match=message):
            CLIPTokenizer.from_folder(folder)
    bpe = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {}, "merges": []}
    for content in (
        {"model": {**bpe, "vocab": ["a"]}},
        {"model": {**bpe, "merges": [5]}},
        {"model": bpe, "added_tokens": [5]},
        {"model": bpe, "added_tokens": [{"content": "a"}]},
        {"model": 5},
    ):
        (folder / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="does not hold a tokenizer as expected"):
            CLIPTokenizer.from_folder(folder)
    t5 = {"model": {"type": "Unigram", "vocab": []}}
    (folder / "tokenizer.json").write_text(json.dumps(t5))
    with pytest.raises(UnsupportedModelError, match="holds a Unigram tokenizer"):
        CLIPTokenizer.from_folder(folder)


def test_damaged_metadata_is_refused():
    good = CLIPTokenizer.from_merges(SMALL_MERGES).to_gguf_metadata()
    for name in ("tokens", "merges", "eos_token_id"):
        bad = {key: value for key, value in good.items() if key != f"tokenizer.ggml.{name}"}
        with pytest.raises(CheckpointError, match=rf"no tokenizer\.ggml\.{name}"):
            CLIPTokenizer.from_gguf_metadata(bad)
    with pytest.raises(CheckpointError, match=r"bos_token_id is 99999, outside .* of 523"):
        CLIPTokenizer.from_gguf_metadata({**good, "tokenizer.ggml.bos_token_id": 99999})
    for wrong in ({"tokens": 5}, {"eos_token_id": "x"}, {"token_type": 1}):
        bad = {**good, **{f"tokenizer.ggml.{key}": value for key, value in wrong.items()}}
        with pytest.raises(CheckpointError, match="metadata does not hold a tokenizer"):
            CLIPTokenizer.from_gguf_metadata(bad)


def test_a_missing_vocabulary_package_is_told(monkeypatch):
    module.clip_vocabulary.cache_clear()
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedModelError, match="pip install instant-clip-tokenizer"):
        CLIPTokenizer.default()
