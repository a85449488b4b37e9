"""Files of textual inversion (Gal et al. 2022): a word's vectors, found by training."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore import checkpoint
from sdcore.errors import CheckpointError, FileError, InvalidArgumentError
from sdcore.prompts.words import Vector, Word

__all__ = ["SUFFIXES", "by_word", "make_word", "read"]

_PICTURES = (".png", ".webp")
SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".pth", ".gguf", *_PICTURES)  # best first
_IN_FOLDERS = ("learned_embeds.safetensors", "learned_embeds.bin")  # of diffusers
_PARAMETER = "string_to_param."  # of the web UI
_BY_ENCODER = ("clip_l", "clip_g")  # of kohya's trainers
_NAMELESS = ("emb_params", "*")
_CHUNK = "sd-ti-embedding"  # of the web UI's pictures
_TITLES: Mapping[Collection[int], str] = {
    frozenset([768]): "Stable Diffusion 1.x",
    frozenset([1024]): "Stable Diffusion 2.x",
    frozenset([768, 1280]): "Stable Diffusion XL",
}
_MOST = 75  # vectors that go into a chunk of a prompt

Tensors = Mapping[str, Any]  # of a checkpoint, or whatever has a shape and to_float()


def read(path: Path, widths: Collection[int], model: str, token: str | None = None) -> list[Word]:
    """The words of a file for a model, `model` in errors, whose text encoders have these widths.

    `path` is a file as the web UI, diffusers or kohya's trainers write it, the web UI's pictures
    too, or diffusers' folder. `token` is what to call its word; else it has the name that the file
    gives, or the file's own. Raises FileError, CheckpointError (also for another family's), and
    InvalidArgumentError if `token` is to name several.
    """
    named = _in_picture(path) if path.suffix.lower() in _PICTURES else _in_file(path)
    if not named:
        raise CheckpointError(f"[embedding] '{path}' is empty")
    if token is not None:
        if len(named) > 1:
            raise InvalidArgumentError(
                f"[embedding] '{path}' has {len(named)} words, {', '.join(named)}: one token "
                "cannot name them all"
            )
        named = dict(zip([token], named.values(), strict=True))
    return [make_word(name, tensors, widths, model, path) for name, tensors in named.items()]


def make_word(name: str, tensors: Tensors, widths: Collection[int], model: str, path: Path) -> Word:
    """A word of tensors `[n, d]` or `[d]`, one for each of the text encoders' widths d."""

    def fault(what: str) -> CheckpointError:
        return CheckpointError(f"[embedding] '{path}': '{name}' {what}")

    if not name.strip():
        raise fault("is no name that a prompt could hold")
    vectors: dict[int, tuple[Vector, ...]] = {}
    for tensor in tensors.values():
        *count, width = tensor.shape or (0,)
        if len(count) > 1 or not 1 <= math.prod(count) <= _MOST or not width:
            raise fault(f"must have 1 to {_MOST} vectors, got {list(tensor.shape)}")
        vectors[width] = tuple(map(Vector, tensor.to_float().reshape(-1, width)))
    if not all(np.isfinite(vector.values).all() for some in vectors.values() for vector in some):
        raise fault("has vectors that are not numbers")
    if vectors.keys() != set(widths):
        title = _TITLES.get(frozenset(vectors))
        raise fault(
            f"is for another model: its vectors have {_listed(vectors)} numbers"
            f"{', as for ' + title if title else ''}, and {model} takes {_listed(widths)}"
        )
    return Word(name.strip(), vectors)


def _listed(widths: Collection[int]) -> str:
    return " and ".join(map(str, sorted(widths))) or "no"


def _in_file(path: Path) -> dict[str, Tensors]:
    if path.is_dir():
        files = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
        if not files:
            raise FileError(f"[embedding] the folder '{path}' has none of {', '.join(_IN_FOLDERS)}")
        path = files[0]
    source = checkpoint.open(path)
    if source.kind is not None and source.kind.family != "embedding":
        raise CheckpointError(f"[embedding] '{path}' holds {source.title}, not a textual inversion")
    said = source.metadata.get("name")
    return by_word(source.tensors, said if isinstance(said, str) and said else path.stem, path.stem)


def by_word(tensors: Tensors, said: str, otherwise: str) -> dict[str, Tensors]:
    """The tensors of each word: called `said` in the web UI's layout, in others `otherwise`, and in
    diffusers' what each tensor is called."""
    for name in tensors:
        if name.startswith(_PARAMETER):
            return {said: {name: tensors[name]}}
    if of_encoders := {name: tensors[name] for name in _BY_ENCODER if name in tensors}:
        return {otherwise: of_encoders}
    return {
        otherwise if name in _NAMELESS else name: {name: tensor} for name, tensor in tensors.items()
    }


@dataclass(frozen=True)
class _Array:
    """Numbers that are no file's tensor."""

    values: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def to_float(self) -> NDArray[np.float32]:
        return self.values


def _in_picture(path: Path) -> dict[str, Tensors]:
    """The web UI's: JSON in base64, with a tensor as lists under TORCHTENSOR."""
    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get(_CHUNK)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileError(f"[embedding] cannot read '{path}': {why}") from None
    if text is None:
        raise CheckpointError(f"[embedding] the picture '{path}' has no textual inversion in it")
    try:
        content = json.loads(base64.b64decode(text))
        tensors = {
            f"{_PARAMETER}{name}": _Array(np.asarray(value["TORCHTENSOR"], np.float32))
            for name, value in content["string_to_param"].items()
        }
        said = content.get("name")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"[embedding] the picture '{path}' is damaged where its textual inversion is: {error!r}"
        ) from None
    return by_word(tensors, said if isinstance(said, str) and said else path.stem, path.stem)
