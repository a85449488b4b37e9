"""GGUF files: `open` one, `write` one.

file = sdcore.gguf.open("model.gguf")
file.metadata["general.architecture"]
sdcore.dequantize(file.tensors["time_embed.0.weight"])

sdcore.gguf.write("copy.gguf", file.typed_metadata, file.tensors)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore._core import Tensor
from sdcore.errors import InvalidArgumentError

__all__ = ["ByteOrder", "File", "Typed", "open", "write"]

ByteOrder = Literal["little", "big"]


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

    Raises `CheckpointError` if the file is damaged or is no GGUF, `UnsupportedModelError` if a
    tensor is stored in a way that sdcore cannot read, `FileError` if the file cannot be opened.
    """
    version, byte_order, metadata, tensors = _core.gguf_read(os.fspath(path))
    return File(version, byte_order, metadata_from_core(metadata), tensors)


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


def _plain(value: Any) -> Any:
    if isinstance(value, Typed):
        return _plain(value.value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


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
