"""T5's tokenizer: SentencePiece's unigram model, from each of the files it comes in."""

import base64
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import CheckpointError, FileError, UnsupportedModelError
from sdcore.tokenizer import sentencepiece
from sdcore.tokenizer.reading import as_bytes, damage_in, read_json, warn_of_cut
from sdcore.tokenizer.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

SPACE = "\u2581"
EOS, PAD, UNK = "</s>", "<pad>", "<unk>"


class T5Tokenizer:
    """Prompts to the ids that transformers' T5Tokenizer gives. Immutable and safe to share."""

    def __init__(
        self,
        tokens: Sequence[str],
        scores: Sequence[float],
        types: Sequence[int],
        *,
        charsmap: bytes = b"",
        eos: str = EOS,
        pad: str = PAD,
        unk: str = UNK,
        add_prefix: bool = True,
        remove_extra_spaces: bool = True,
    ) -> None:
        """`tokens` by id, `types` SentencePiece's; `charsmap` is its precompiled_charsmap. Control
        and user-defined tokens stand for themselves wherever they occur in a prompt."""
        self.tokens, self.scores, self.types = list(tokens), list(scores), list(types)
        self.charsmap = charsmap
        self.add_prefix, self.remove_extra_spaces = add_prefix, remove_extra_spaces
        ids = {token: i for i, token in reversed(list(enumerate(self.tokens)))}
        for role, token in {"end": eos, "padding": pad, "unknown": unk}.items():
            if token not in ids:
                raise CheckpointError(
                    f"[tokenizer] the {role} token {token!r} is not in the vocabulary"
                )
        self.eos_token_id, self.pad_token_id = ids[eos], ids[pad]
        self.unk_token_id = ids[unk]
        special = [i for i, kind in enumerate(self.types) if kind in _SPECIAL]
        self._core = _core.UnigramTokenizer(
            self.tokens,
            self.scores,
            [kind == NORMAL for kind in self.types],
            charsmap,
            special,
            self.eos_token_id,
            self.pad_token_id,
            self.unk_token_id,
            add_prefix,
            remove_extra_spaces,
        )

    @classmethod
    def from_folder(cls, path: str | PathLike[str]) -> "T5Tokenizer":
        """From a tokenizer folder with tokenizer.json or spiece.model, or from one such file."""
        place = Path(path)
        with damage_in(str(place)):
            if place.suffix == ".json" and place.is_file():
                return cls._from_json(place)
            if place.is_file():
                return cls._from_spiece(place)
            if (place / "tokenizer.json").is_file():
                return cls._from_json(place / "tokenizer.json")
            if (place / "spiece.model").is_file():
                return cls._from_spiece(place / "spiece.model")
        raise FileError(f"[tokenizer] '{place}' has neither tokenizer.json nor spiece.model")

    @classmethod
    def _from_spiece(cls, path: Path) -> "T5Tokenizer":
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FileError(f"[tokenizer] cannot read {path}: {error.strerror}") from error
        model = sentencepiece.parse(data, str(path))
        tokens, scores, types = (list(column) for column in zip(*model.pieces, strict=True))
        # Places of masked words, which transformers adds after the pieces, the last one first.
        extra = [f"<extra_id_{i}>" for i in reversed(range(100))]
        if extra[0] not in tokens:
            tokens += extra
            scores += [0.0] * len(extra)
            types += [USER_DEFINED] * len(extra)
        return cls(
            tokens,
            scores,
            types,
            charsmap=model.charsmap,
            unk=next((text for text, _, kind in model.pieces if kind == UNKNOWN), UNK),
            add_prefix=model.add_prefix,
            remove_extra_spaces=model.remove_extra_spaces,
        )

    @classmethod
    def _from_json(cls, path: Path) -> "T5Tokenizer":
        content = read_json(path)
        model = content.get("model") or {}
        if model.get("type") != "Unigram":
            raise UnsupportedModelError(
                f"[tokenizer] {path} holds a {model.get('type')} tokenizer; T5's is Unigram"
            )
        tokens = [str(text) for text, _ in model["vocab"]]
        scores = [float(score) for _, score in model["vocab"]]
        types = [NORMAL] * len(tokens)
        if model.get("byte_fallback"):
            types = [BYTE if _is_byte(text) else NORMAL for text in tokens]
        for added in content.get("added_tokens") or ():
            i = int(added["id"])
            if not 0 <= i <= 2 * len(tokens):
                raise CheckpointError(f"[tokenizer] {path}: an added token has the id {i}")
            missing = max(0, i + 1 - len(tokens))
            tokens += [""] * missing
            scores += [0.0] * missing
            types += [CONTROL] * missing
            tokens[i], types[i] = str(added["content"]), CONTROL
        return cls(
            tokens,
            scores,
            types,
            charsmap=_charsmap(content.get("normalizer"), path),
            unk=tokens[int(model["unk_id"])],
        )

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> "T5Tokenizer":
        """From the tokenizer.ggml.* keys of a GGUF file."""
        with damage_in("the file's metadata"):
            return cls._from_gguf_metadata(metadata)

    @classmethod
    def _from_gguf_metadata(cls, metadata: Mapping[str, Any]) -> "T5Tokenizer":
        def get(name: str, otherwise: Any = None) -> Any:
            value = metadata.get(f"tokenizer.ggml.{name}", otherwise)
            if value is None:
                raise CheckpointError(
                    f"[tokenizer] the file's metadata has no tokenizer.ggml.{name}"
                )
            return value

        tokens = [str(token) for token in get("tokens")]

        def role(name: str, otherwise: int) -> str:
            i = int(get(f"{name}_token_id", otherwise))
            if not 0 <= i < len(tokens):
                raise CheckpointError(
                    f"[tokenizer] tokenizer.ggml.{name}_token_id is {i}, "
                    f"outside a vocabulary of {len(tokens)}"
                )
            return tokens[i]

        charsmap = get("precompiled_charsmap", b"")
        return cls(
            tokens,
            [float(score) for score in get("scores")],
            [int(kind) for kind in get("token_type", [NORMAL] * len(tokens))],
            charsmap=bytes(int(byte) & 0xFF for byte in charsmap),
            eos=role("eos", 1),
            pad=role("padding", 0),
            unk=role("unknown", 2),
            add_prefix=bool(get("add_space_prefix", True)),
            remove_extra_spaces=bool(get("remove_extra_whitespaces", True)),
        )

    def to_gguf_metadata(self) -> dict[str, Any]:
        """What `from_gguf_metadata` reads."""
        return {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.scores": self.scores,
            "tokenizer.ggml.token_type": self.types,
            "tokenizer.ggml.eos_token_id": self.eos_token_id,
            "tokenizer.ggml.padding_token_id": self.pad_token_id,
            "tokenizer.ggml.unknown_token_id": self.unk_token_id,
            "tokenizer.ggml.add_space_prefix": self.add_prefix,
            "tokenizer.ggml.remove_extra_whitespaces": self.remove_extra_spaces,
            "tokenizer.ggml.precompiled_charsmap": list(self.charsmap),
        }

    def save_folder(self, path: str | PathLike[str]) -> None:
        """What `from_folder` and transformers' T5TokenizerFast read."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        eos, pad, unk = (self.tokens[i] for i in
                         (self.eos_token_id, self.pad_token_id, self.unk_token_id))  # fmt: skip
        added = [
            {"id": i, "content": self.tokens[i], "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
            for i, kind in enumerate(self.types) if kind in _SPECIAL
        ]  # fmt: skip
        charsmap = base64.b64encode(self.charsmap).decode("ascii")
        scheme = "always" if self.add_prefix else "never"
        spaces = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": scheme,
            "split": True,
        }
        end = {"SpecialToken": {"id": eos, "type_id": 0}}
        sequences = [{"Sequence": {"id": side, "type_id": 0}} for side in ("A", "B")]
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap}
            if self.charsmap
            else None,
            "pre_tokenizer": {"type": "Sequence",
                              "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [sequences[0], end],
                "pair": [sequences[0], end, sequences[1], end],
                "special_tokens": {
                    eos: {"id": eos, "ids": [self.eos_token_id], "tokens": [eos]}
                },
            },
            "decoder": spaces,
            "model": {
                "type": "Unigram",
                "unk_id": self.unk_token_id,
                "vocab": list(zip(self.tokens, self.scores, strict=True)),
                "byte_fallback": BYTE in self.types,
            },
        }  # fmt: skip
        config = {"tokenizer_class": "T5TokenizerFast", "model_max_length": 512, "extra_ids": 0,
                  "eos_token": eos, "pad_token": pad, "unk_token": unk}  # fmt: skip
        for name, value in (("tokenizer.json", content), ("tokenizer_config.json", config)):
            (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

    def __call__(
        self, text: str | Sequence[str], max_length: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids [number of prompts, max_length]: prompt, end, padding; and their mask, ones but for
        the padding. A prompt that is too long is cut before the end token, and a warning tells
        which part."""
        texts = [text] if isinstance(text, str) else list(text)
        ids, mask = self._core.encode_padded([as_bytes(t) for t in texts], max_length)
        for row, prompt in zip(ids, texts, strict=True):
            # Only a row that is full to its end can have lost something.
            if row[-1] == self.eos_token_id and (cut := self.encode(prompt)[max_length - 1 :]):
                warn_of_cut(max_length, self.decode(cut))
        return ids, mask

    def encode(self, text: str) -> list[int]:
        """All ids of a prompt, without the end token."""
        ids: list[int] = self._core.encode(as_bytes(text))
        return ids

    def cut_row(
        self, groups: Sequence[tuple[Sequence[int], float, int]], length: int
    ) -> tuple[list[int], list[float], int, list[int]]:
        """A row of `length` ids with end and padding, and a weight each, of groups of ids with
        their weight and section; how many are not padding; and the ids that found no room."""
        row: tuple[list[int], list[float], int, list[int]] = self._core.cut_row(groups, length)
        return row

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return "".join(self.tokens[i] for i in ids).replace(SPACE, " ").strip()


# They stand for themselves; <unk> among them, as transformers has it.
_SPECIAL = (UNKNOWN, CONTROL, USER_DEFINED)


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _charsmap(normalizer: Mapping[str, Any] | None, path: Path) -> bytes:
    """The precompiled_charsmap among normalizers; those that mend spaces say what is done
    anyway."""
    if normalizer is None:
        return b""
    kind = normalizer.get("type")
    if kind == "Sequence":
        found = [_charsmap(one, path) for one in normalizer["normalizers"]]
        return next((charsmap for charsmap in found if charsmap), b"")
    if kind == "Precompiled":
        return base64.b64decode(normalizer["precompiled_charsmap"] or "")
    if kind in ("Strip", "Replace", "Prepend"):
        return b""
    raise UnsupportedModelError(
        f"[tokenizer] {path} normalizes with {kind}; T5's tokenizer has Precompiled"
    )
