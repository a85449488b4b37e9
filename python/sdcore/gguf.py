"""GGUF files: `open` one, `write` one.

file = sdcore.gguf.open("model.gguf")
file.metadata["general.architecture"]
sdcore.dequantize(file.tensors["time_embed.0.weight"])

sdcore.gguf.write("copy.gguf", file.typed_metadata, file.tensors)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore._core import Tensor
from sdcore.errors import CheckpointError, InvalidArgumentError

__all__ = ["ByteOrder", "File", "Typed", "open", "write"]

ByteOrder = Literal["little", "big"]

# What gguf-split writes into each of its files, and how it names them.
_SPLIT = ("split.no", "split.count", "split.tensors.count")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<ending>\.\w+)")


class Typed(NamedTuple):
    """A value of the metadata with its type in the file, such as `Typed(3, "u8")`.

    The types are u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool string; beside a list, the type is that
    of its elements, and a list of lists is of type "array" with `Typed` elements.
    """

    value: Any
    type: str


@dataclass(frozen=True)
class File:
    """What a GGUF file holds. The tensors are views of the mapped file, which they keep open."""

    version: int
    byte_order: ByteOrder
    typed_metadata: dict[str, Typed]
    tensors: dict[str, Tensor]

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The metadata as plain Python values: int, float, bool, str and lists of those."""
        return {key: _plain(value) for key, value in self.typed_metadata.items()}


def open(path: str | os.PathLike[str]) -> File:
    """Open a GGUF file of version 1 to 3 and either byte order.

    One of the files that llama.cpp's gguf-split makes of a model (`name-00001-of-00003.gguf`) gives
    all of it, with what the others beside it hold. Raises `CheckpointError` if the file is damaged,
    is no GGUF, or one of others that are not there, `UnsupportedModelError` if a tensor is stored
    in a way that sdcore cannot read, `FileError` if the file cannot be opened.
    """
    path = Path(path)
    file = _open(path)
    count = _number(file, "split.count")
    return file if count <= 1 else _joined(path, count)


def _open(path: Path) -> File:
    version, byte_order, metadata, tensors = _core.gguf_read(os.fspath(path))
    return File(version, byte_order, metadata_from_core(metadata), tensors)


def _joined(path: Path, count: int) -> File:
    """All of a model that is split. Its metadata is in the first file, and says how many tensors
    there are."""
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise CheckpointError(
            f"[gguf] '{path}' is one of {count} files that are one model, and is not named so: "
            f"call them name-00001-of-{count:05}.gguf and so on, as gguf-split does"
        )
    shards = [_shard(path, match, number, count) for number in range(1, count + 1)]
    first = shards[0]
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    held, wanted = (
        sum(len(shard.tensors) for shard in shards),
        _number(first, "split.tensors.count"),
    )
    if not held == len(tensors) == wanted:
        raise CheckpointError(
            f"[gguf] '{path}' and the files beside it hold {len(tensors)} tensors of the {wanted} "
            "of their model: they are of several models, or cut; download them again"
        )
    own = {key: value for key, value in first.typed_metadata.items() if key not in _SPLIT}
    return File(first.version, first.byte_order, own, tensors)


def _shard(path: Path, match: re.Match[str], number: int, count: int) -> File:
    """That of this number, from 1, beside the one that is named so."""
    name = f"{match['stem']}-{number:05}-of-{match['count']}{match['ending']}"
    beside = path.with_name(name)
    if not beside.is_file():
        raise CheckpointError(
            f"[gguf] '{path}' is one of {count} files that are one model, and '{name}' is not "
            "beside it: download it too"
        )
    file = _open(beside)
    if (_number(file, "split.no") + 1, _number(file, "split.count")) != (number, count):
        raise CheckpointError(
            f"[gguf] '{beside}' holds part {_number(file, 'split.no') + 1} of "
            f"{_number(file, 'split.count')}, and is named as another: download it again"
        )
    return file


def _number(file: File, key: str) -> int:
    """A whole number of the metadata; 0 where there is none."""
    value = file.typed_metadata.get(key, Typed(0, "u16")).value
    return value if type(value) is int else 0


def write(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor | npt.NDArray[Any]],
    byte_order: ByteOrder = "little",
) -> None:
    """Write a GGUF file, version 3, which appears when it is complete; a failure leaves nothing.

    An int becomes u32, or whichever of i32, u64, i64 holds it; a float becomes f32; `Typed` says
    otherwise. `general.alignment` sets the alignment of the data (32 where it is absent).
    """
    _core.gguf_write(
        os.fspath(path),
        metadata_to_core(metadata),
        {name: _tensor(value) for name, value in tensors.items()},
        byte_order,
    )


def metadata_to_core(metadata: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Metadata as the core takes it: each value with its type."""
    return {key: _to_core(key, value) for key, value in metadata.items()}


def metadata_from_core(metadata: Mapping[str, tuple[str, Any]]) -> dict[str, Typed]:
    """The way back."""
    return {key: _from_core(type, payload) for key, (type, payload) in metadata.items()}


def _tensor(value: Tensor | npt.NDArray[Any]) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor.from_array(np.asarray(value))


def _plain(typed: Typed) -> Any:
    """A vocabulary has many thousands of items: only those of arrays of arrays are looked at."""
    if typed.type == "array":
        return [_plain(item) for item in typed.value]
    return list(typed.value) if isinstance(typed.value, list) else typed.value


def _from_core(type: str, payload: Any) -> Typed:
    if type != "array":
        return Typed(payload, type)
    element, items = payload
    if element == "array":
        return Typed([_from_core("array", item) for item in items], "array")
    return Typed(items, element)


def _to_core(key: str, value: Any) -> tuple[str, Any]:
    """The type and payload of a value as the bindings take them."""
    if isinstance(value, np.ndarray | np.generic):
        value = Typed(value.tolist(), _NUMPY_TYPES.get(value.dtype.str[1:], ""))
    if isinstance(value, Typed):
        value, type = value
    elif isinstance(value, list | tuple):
        type = _common_type(key, list(value))
    else:
        type = _common_type(key, [value])
    if type == "array":
        return "array", ("array", [_to_core(key, item)[1] for item in value])
    if isinstance(value, list | tuple):
        return "array", (type, list(value))
    return type, value


_NUMPY_TYPES = {
    "u1": "u8", "i1": "i8", "u2": "u16", "i2": "i16", "u4": "u32", "i4": "i32", "u8": "u64",
    "i8": "i64", "f4": "f32", "f8": "f64", "b1": "bool",
}  # fmt: skip


def _common_type(key: str, items: list[Any]) -> str:
    """The type that holds all of these values."""
    kinds = {bool if isinstance(item, bool | np.bool_) else type(item) for item in items}
    if kinds == {bool}:
        return "bool"
    if kinds == {str}:
        return "string"
    if kinds <= {list, tuple, Typed} and kinds:
        return "array"
    if kinds == {int}:
        low, high = min(items), max(items)
        if low >= 0:
            return "u32" if high < 2**32 else "u64"
        return "i32" if low >= -(2**31) and high < 2**31 else "i64"
    if kinds <= {int, float} and kinds:
        return "f32"
    raise InvalidArgumentError(
        f"[gguf] metadata '{key}' has no GGUF type that fits {items!r:.80}; say one with Typed"
    )
