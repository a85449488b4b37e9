"""The safetensors format: a reader that maps and checks, and a writer.

A file is a little-endian u64 length, that many bytes of JSON header, and the tensors' bytes with no
gap between them. Offsets need not be aligned.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore.checkpoint.output import Outgoing, Progress, whole_file, write_pieces
from sdcore.checkpoint.tensor import CORE_SIZES, SIZES, ForeignTensor, PackedTensor, Tensor
from sdcore.errors import CheckpointError, InvalidArgumentError

MAX_HEADER = 100_000_000  # the bound of the format's own reader
# A tensor is nine; without a bound a header could ask for fifty times its size in objects.
_MAX_ITEMS = 4_000_000

# dtype in the file -> bytes an element, name here.
DTYPES = {
    dtype: (SIZES[name], name)
    for dtype, name in {
        "F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "I64": "i64", "I32": "i32",
        "I16": "i16", "I8": "i8", "BOOL": "bool", "U8": "u8", "U16": "u16", "U32": "u32",
        "U64": "u64", "C64": "c64", "F8_E4M3": "f8_e4m3", "F8_E5M2": "f8_e5m2",
        "F8_E8M0": "f8_e8m0", "F8_E4M3FNUZ": "f8_e4m3fnuz", "F8_E5M2FNUZ": "f8_e5m2fnuz",
    }.items()
}  # fmt: skip
_NAMES = {name: dtype for dtype, (_, name) in DTYPES.items()}
# Likewise in bits, with those of which a byte has more than one; these are read and not written.
_BITS = {dtype: (8 * size, name) for dtype, (size, name) in DTYPES.items()} | {
    "F4": (4, "f4"), "F6_E2M3": (6, "f6_e2m3"), "F6_E3M2": (6, "f6_e3m2"),
}  # fmt: skip


def read(file: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a mapped file."""
    data = memoryview(file)
    header, begin = _header(data, file.path)
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not _is_string_map(metadata):
        _fail(file.path, "__metadata__ is not a map of strings to strings")
    tensors: dict[str, Tensor] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        dtype, shape, first, last = _entry(entry, name, file.path)
        ranges.append((first, last, name))
        if begin + last > len(data):
            _fail(
                file.path,
                f"tensor '{name}' ends at byte {begin + last} of a file of {len(data)}: the file "
                "is cut short",
            )
        tensors[name] = _tensor(file, name, _BITS[dtype][1], shape, begin + first, last - first)
    _check_gapless(ranges, len(data) - begin, file.path)
    return tensors, metadata


def write(
    path: str | os.PathLike[str],
    tensors: Sequence[Outgoing],
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes tensors one after another. The widest elements come first, as the format's own writer
    puts them, so that all are aligned."""
    ordered = sorted(tensors, key=lambda tensor: -SIZES.get(tensor.type, 0))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for tensor in ordered:
        if tensor.type not in _NAMES:
            raise InvalidArgumentError(
                f"[safetensors] the format has no dtype for {tensor.type} of '{tensor.name}'"
            )
        if tensor.name in header:
            raise InvalidArgumentError(f"[safetensors] tensor '{tensor.name}' occurs twice")
        offsets = [offset, offset + tensor.nbytes]
        header[tensor.name] = {
            "dtype": _NAMES[tensor.type],
            "shape": tensor.shape,
            "data_offsets": offsets,
        }
        offset = offsets[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise InvalidArgumentError(
            f"[safetensors] a header of {len(text)} bytes is above the format's {MAX_HEADER}"
        )
    with whole_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in ordered:
            write_pieces(file, tensor, progress)


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    types: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays; `types` names those that hold the bits of another type ("BF16" in uint16)."""
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    ready = []
    for name, array in arrays.items():
        dtype = (types or {}).get(name) or _dtype_of(name, array)
        if DTYPES[dtype][0] != array.itemsize:
            raise InvalidArgumentError(f"[safetensors] '{name}' of {array.dtype} cannot be {dtype}")
        ready.append(Outgoing(name, DTYPES[dtype][1], array.shape, partial(_array_bytes, array)))
    write(path, ready, metadata)


def _array_bytes(array: npt.NDArray[Any]) -> list[Any]:
    return [array.data] if array.size else []


def _fail(where: str, message: str) -> NoReturn:
    raise CheckpointError(f"[safetensors] '{where}': {message}")


def _header(data: memoryview, where: str) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        _fail(where, f"the file is cut short, it has {len(data)} bytes")
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER:
        _fail(where, f"a header of {length} bytes is above the limit of {MAX_HEADER}")
    if 8 + length > len(data):
        _fail(where, f"a header of {length} bytes does not fit a file of {len(data)}")
    text = bytes(data[8 : 8 + length])
    if (items := sum(map(text.count, (b"[", b"{", b",")))) > _MAX_ITEMS:
        _fail(where, f"a header of {items} items is above the limit of {_MAX_ITEMS}")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except _TwiceError as error:
        _fail(where, f"{error.args[0]!r:.200} is in the header twice, and not the same")
    except (ValueError, RecursionError) as error:
        _fail(where, f"the header is not JSON: {error}")
    if not isinstance(header, dict):
        _fail(where, "the header is not a JSON object")
    return header, 8 + length


class _TwiceError(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As the format's own reader has it, the same may be said twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise _TwiceError(key)
    return found


def _entry(entry: Any, name: str, where: str) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        _fail(where, f"tensor '{name}' needs dtype, shape and data_offsets, got {entry!r:.100}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        _fail(where, f"tensor '{name}' has an unknown dtype {dtype!r:.40}")
    if not _is_sizes(shape):
        _fail(where, f"tensor '{name}' has a shape that is no list of sizes: {shape!r:.100}")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _fail(where, f"tensor '{name}' has data_offsets that are no range: {offsets!r:.100}")
    bits, got = math.prod(shape) * _BITS[dtype][0], offsets[1] - offsets[0]
    if bits % 8:
        _fail(where, f"tensor '{name}' {dtype} {shape} does not fill its last byte")
    if (need := bits // 8) != got:
        _fail(where, f"tensor '{name}' {dtype} {shape} takes {need} bytes, its offsets span {got}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _is_sizes(value: Any) -> bool:
    # bool is an int to Python, and no size to JSON.
    return isinstance(value, list) and all(type(i) is int and 0 <= i < 2**63 for i in value)


def _is_string_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _check_gapless(ranges: list[tuple[int, int, str]], size: int, where: str) -> None:
    position = 0
    for first, last, name in sorted(ranges):
        if first != position:
            _fail(where, f"tensor '{name}' begins at offset {first}, expected {position}")
        position = last
    if position != size:
        _fail(where, f"the tensors end at offset {position}, the file's data at {size}")


def _tensor(
    file: Any, name: str, type: str, shape: tuple[int, ...], begin: int, nbytes: int
) -> Tensor:
    if type in CORE_SIZES:
        tensor: Tensor = _core.Tensor.from_file(file, begin, type, shape)
        return tensor
    kind = ForeignTensor if type in SIZES else PackedTensor
    return kind(name, type, shape, _core.Tensor.from_file(file, begin, "i8", [nbytes]))


def _dtype_of(name: str, array: npt.NDArray[Any]) -> str:
    kind = {"f": "F", "i": "I", "u": "U"}.get(array.dtype.kind)
    dtype = "BOOL" if array.dtype == np.bool_ else f"{kind}{array.itemsize * 8}"
    if dtype not in DTYPES or not array.dtype.isnative:
        raise InvalidArgumentError(f"[safetensors] '{name}' is {array.dtype}, which has no dtype")
    return dtype
