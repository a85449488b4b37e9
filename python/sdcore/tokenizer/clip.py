"""CLIP's tokenizer: where its vocabulary comes from. The work itself is done by the core."""

import functools
import importlib.util
import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import CheckpointError, UnsupportedModelError
from sdcore.tokenizer.reading import as_bytes, damage_in, read_json, read_text, warn_of_cut

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
# OpenAI's list of merges goes on after those that CLIP uses.
CLIP_MERGES = 48894
# Token types of GGUF. A special token is looked for in the raw prompt when it is a control token,
# and in the lower-cased one when it is user-defined.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
# What an exported file may say of one text encoder alone (csrc/pipeline/settings.h), by the keys
# of the vocabulary that it takes the place of.
OF_ONE_ENCODER = {
    "tokenizer.ggml.padding_token_id": "padding",
    "tokenizer.ggml.token_type": "token_type",
}


_VOCABULARY = "tokenizer.ggml."


def vocabulary_key(key: str, encoder: str) -> str:
    """A key of a vocabulary, where it is one text encoder's alone: `tokenizer_3.ggml.…`."""
    return key.replace("tokenizer", encoder.replace("text_encoder", "tokenizer"), 1)


def metadata_for(metadata: Mapping[str, Any], encoder: str) -> Mapping[str, Any]:
    """A GGUF file's metadata, with the vocabulary as that text encoder has it."""
    prefix = vocabulary_key(_VOCABULARY, encoder)
    own = {k: k.replace(prefix, _VOCABULARY, 1) for k in metadata if k.startswith(prefix)}
    if own:
        metadata = {k: v for k, v in metadata.items() if not k.startswith(_VOCABULARY)} | {
            ours: metadata[k] for k, ours in own.items()
        }
    of_one = {key: f"sdcore.text.{encoder}.{name}" for key, name in OF_ONE_ENCODER.items()}
    return {**metadata, **{key: metadata[n] for key, n in of_one.items() if n in metadata}}


class CLIPTokenizer:
    """Prompts to the ids that transformers' CLIPTokenizer gives. Immutable and safe to share."""

    def __init__(
        self,
        vocabulary: _core.ClipVocabulary,
        *,
        bos: str = BOS,
        eos: str = EOS,
        unk: str = EOS,
        pad: str = EOS,
        special: Mapping[str, bool] | None = None,
    ) -> None:
        """`special` are more tokens that stand for themselves within a prompt, and whether case is
        ignored in finding them; bos, eos, unk and pad always do, as in transformers (so where "!"
        pads, it is no longer a word)."""
        self.vocabulary = vocabulary
        roles = {"bos": bos, "eos": eos, "unk": unk, "pad": pad}
        self.special = {**dict.fromkeys(roles.values(), False), **(special or {})}
        ids = {token: vocabulary.find(token) for token in self.special}
        for role, token in roles.items():
            if ids[token] < 0:
                raise CheckpointError(
                    f"[tokenizer] the {role} token {token!r} is not in the vocabulary"
                )
        self.bos_token_id, self.eos_token_id = ids[bos], ids[eos]
        self.unk_token_id, self.pad_token_id = ids[unk], ids[pad]
        self._core = _core.ClipTokenizer(
            vocabulary,
            [_core.SpecialToken(text, ids[text], ci) for text, ci in self.special.items()],
            self.bos_token_id,
            self.eos_token_id,
            self.pad_token_id,
            self.unk_token_id,
        )

    @property
    def tokens(self) -> list[str]:
        """The vocabulary by id."""
        return self.vocabulary.tokens

    @property
    def merges(self) -> list[str]:
        """As "left right", best first."""
        return self.vocabulary.merges

    @classmethod
    def from_merges(cls, lines: Iterable[str], **options: Any) -> "CLIPTokenizer":
        """From OpenAI's bpe_simple_vocab_16e6.txt or a merges.txt, which tell the vocabulary: the
        256 bytes, the 256 bytes that end a word, what each merge makes, and the two specials."""
        merges = [line.rstrip("\r\n") for line in lines]
        if merges and "#version" in merges[0]:
            merges = merges[1:]
        text = "\n".join(line for line in merges if line).encode("utf-8")
        return cls(_core.ClipVocabulary.from_merges(text, CLIP_MERGES), **options)

    @classmethod
    def default(cls, **options: Any) -> "CLIPTokenizer":
        """CLIP's own vocabulary, for files that bring none; pad="!" for OpenCLIP's models."""
        return cls(clip_vocabulary(), **options)

    @classmethod
    def from_folder(cls, path: str | PathLike[str]) -> "CLIPTokenizer":
        """From a tokenizer folder: tokenizer.json, or vocab.json with merges.txt."""
        folder = Path(path)
        with damage_in(str(folder)):
            return cls._from_folder(folder)

    @classmethod
    def _from_folder(cls, folder: Path) -> "CLIPTokenizer":
        if (folder / "tokenizer.json").is_file():
            vocab, merges, added = _read_tokenizer_json(folder / "tokenizer.json")
        else:
            vocab, merges, added = _read_vocab_and_merges(folder)
        roles, special, more = _read_special_tokens(folder)
        for text, i, ignore_case in [*added, *more]:
            vocab.setdefault(text, i)
            special[text] = ignore_case
        vocabulary = _core.ClipVocabulary(_by_id(vocab, folder), merges)
        return cls(vocabulary, **roles, special=special)

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> "CLIPTokenizer":
        """From the tokenizer.ggml.* keys of a GGUF file."""
        with damage_in("the file's metadata"):
            return cls._from_gguf_metadata(metadata)

    @classmethod
    def _from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> "CLIPTokenizer":
        def get(name: str) -> Any:
            key = f"tokenizer.ggml.{name}"
            if key not in metadata:
                raise CheckpointError(f"[tokenizer] the file's metadata has no {key}")
            return metadata[key]

        tokens = [str(token) for token in get("tokens")]

        def role(name: str, otherwise: int) -> str:
            i = int(metadata.get(f"tokenizer.ggml.{name}_token_id", otherwise))
            if not 0 <= i < len(tokens):
                raise CheckpointError(
                    f"[tokenizer] tokenizer.ggml.{name}_token_id is {i}, "
                    f"outside a vocabulary of {len(tokens)}"
                )
            return tokens[i]

        types = metadata.get("tokenizer.ggml.token_type", ())
        return cls(
            _core.ClipVocabulary(tokens, [str(merge) for merge in get("merges")]),
            bos=role("bos", int(get("bos_token_id"))),
            eos=role("eos", int(get("eos_token_id"))),
            unk=role("unknown", int(get("eos_token_id"))),
            pad=role("padding", int(get("eos_token_id"))),
            special={
                token: kind == USER_DEFINED
                for token, kind in zip(tokens, types, strict=False)
                if kind in (CONTROL, USER_DEFINED)
            },
        )

    def to_gguf_metadata(self) -> dict[str, Any]:
        """What `from_gguf_metadata` reads."""
        kinds = {True: USER_DEFINED, False: CONTROL}
        return {
            "tokenizer.ggml.model": "clip",
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": [
                kinds[self.special[token]] if token in self.special else NORMAL
                for token in self.tokens
            ],
            "tokenizer.ggml.merges": self.merges,
            "tokenizer.ggml.bos_token_id": self.bos_token_id,
            "tokenizer.ggml.eos_token_id": self.eos_token_id,
            "tokenizer.ggml.unknown_token_id": self.unk_token_id,
            "tokenizer.ggml.padding_token_id": self.pad_token_id,
        }

    def save_folder(self, path: str | PathLike[str]) -> None:
        """What `from_folder` and transformers' CLIPTokenizer read."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tokens = self.tokens
        roles = {
            "bos_token": tokens[self.bos_token_id],
            "eos_token": tokens[self.eos_token_id],
            "unk_token": tokens[self.unk_token_id],
            "pad_token": tokens[self.pad_token_id],
        }
        more = [
            {"content": text, "normalized": ignore_case, "__type": "AddedToken"}
            for text, ignore_case in self.special.items()
            if text not in roles.values()
        ]
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **roles}
        files: dict[str, Any] = {
            "vocab.json": {token: i for i, token in enumerate(tokens) if token},
            "special_tokens_map.json": roles,
            "tokenizer_config.json": config | ({"additional_special_tokens": more} if more else {}),
        }
        for name, value in files.items():
            text = json.dumps(value, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8")
        merges = "\n".join(["#version: 0.2", *self.merges]) + "\n"
        (folder / "merges.txt").write_text(merges, encoding="utf-8")

    def __call__(self, text: str | Sequence[str], max_length: int = 77) -> NDArray[np.int32]:
        """Ids [number of prompts, max_length]: begin, prompt, end, padding. A prompt that is too
        long is cut before the end token, and a warning tells which part."""
        texts = [text] if isinstance(text, str) else list(text)
        ids: NDArray[np.int32] = self._core.encode_padded([as_bytes(t) for t in texts], max_length)
        for row, prompt in zip(ids, texts, strict=True):
            # Only a row that is full to its end can have lost something.
            if row[-1] == self.eos_token_id:
                cut = self.encode(prompt)[max_length - 2 :]
                if cut:
                    warn_of_cut(max_length, self.decode(cut))
        return ids

    def encode(self, text: str) -> list[int]:
        """All ids of a prompt, without the tokens of begin and end."""
        ids: list[int] = self._core.encode(as_bytes(text))
        return ids

    def cut_rows(
        self, groups: Sequence[tuple[Sequence[int], float, int]], length: int
    ) -> list[tuple[list[int], list[float]]]:
        """Rows of `length` ids with begin, end and padding, and a weight each, of groups of ids
        that stay together: their weight, and the number of their section, which begins a row."""
        rows: list[tuple[list[int], list[float]]]
        rows = self._core.cut_rows(groups, length, self.pad_token_id)
        return rows

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, in lower case and with a space between words."""
        text: bytes = self._core.decode(list(ids))
        return text.decode("utf-8", "replace")


@functools.cache
def clip_vocabulary() -> _core.ClipVocabulary:
    """CLIP's, from the package instant-clip-tokenizer: its compiled module holds OpenAI's list of
    merges as text, which its functions do not give out."""
    spec = importlib.util.find_spec("instant_clip_tokenizer")
    if spec is None or spec.origin is None:
        raise UnsupportedModelError(
            "[tokenizer] this model brings no vocabulary, and CLIP's own is not here: "
            "pip install instant-clip-tokenizer"
        )
    for file in sorted(Path(spec.origin).parent.glob("instant_clip_tokenizer*")):
        if lines := _after(file, b"#version: 0.2\n"):
            return _core.ClipVocabulary.from_merges(lines, CLIP_MERGES)
    raise UnsupportedModelError(
        f"[tokenizer] {Path(spec.origin).parent} holds no list of merges; "
        "instant-clip-tokenizer 0.1.1 does"
    )


def _after(file: Path, marker: bytes) -> bytes:
    """A megabyte behind the marker in a file, more than the merges take; nothing without it."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as held:
        found = held.find(marker)
        return b"" if found < 0 else held[found + len(marker) : found + (1 << 20)]


Added = list[tuple[str, int, bool]]  # text, id, whether case is ignored in finding it


def _read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[str], Added]:
    content = read_json(path)
    model = content.get("model", {})
    kind, suffix = model.get("type"), model.get("end_of_word_suffix")
    if kind != "BPE" or suffix != "</w>":
        raise UnsupportedModelError(
            f"[tokenizer] {path} holds a {kind} tokenizer with word ends {suffix!r}; "
            "CLIP's is BPE with '</w>'"
        )
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", ())]
    added = content.get("added_tokens") or ()
    special = [(t["content"], int(t["id"]), bool(t.get("normalized"))) for t in added]
    return dict(model.get("vocab", {})), merges, special


def _read_vocab_and_merges(folder: Path) -> tuple[dict[str, int], list[str], Added]:
    vocab = read_json(folder / "vocab.json")
    lines = read_text(folder / "merges.txt").split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and "#version" not in line]
    return vocab, merges, []


def _read_special_tokens(folder: Path) -> tuple[dict[str, str], dict[str, bool], Added]:
    """The tokens of each role, whether case is ignored in finding them, and added tokens. Which
    file counts follows transformers 5."""

    def read(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).is_file() else {}

    config = read("tokenizer_config.json")
    roles: dict[str, str] = {}
    special: dict[str, bool] = {}
    for token in config.get("additional_special_tokens") or ():
        text, ignore_case = _content(token)
        special[text] = ignore_case
    in_config: Mapping[str, Any] | None = config.get("added_tokens_decoder")
    if in_config is None:
        config = {**config, **read("special_tokens_map.json")}
    for role in ("bos", "eos", "unk", "pad"):
        token = config.get(f"{role}_token") or (BOS if role == "bos" else EOS)
        roles[role], ignore_case = _content(token)
        special[roles[role]] = special.get(roles[role], True) and ignore_case
    if in_config is None:
        added = [(text, i, text not in special) for text, i in read("added_tokens.json").items()]
    else:
        added = [(_content(t)[0], int(i), _content(t)[1]) for i, t in in_config.items()]
    return roles, special, added


def _content(token: str | Mapping[str, Any]) -> tuple[str, bool]:
    """The text of a token written as a string or as an object, and whether case is ignored."""
    if isinstance(token, str):
        return token, False
    return str(token["content"]), bool(token.get("normalized"))


def _by_id(vocab: Mapping[str, int], folder: Path) -> list[str]:
    if not all(type(i) is int and i >= 0 for i in vocab.values()):
        raise CheckpointError(f"[tokenizer] {folder}: every id must be a whole number from 0 on")
    count = max(vocab.values(), default=-1) + 1
    if count > 2 * len(vocab):  # a few gaps are common, more are damage
        raise CheckpointError(f"[tokenizer] {folder} numbers {len(vocab)} tokens up to {count - 1}")
    tokens = [""] * count  # an id that stands for nothing stays empty
    for token, i in vocab.items():
        tokens[i] = token
    return tokens
