"""What this room needs of a tensor, and the few stored types that the core does not hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore.errors import InvalidArgumentError, UnsupportedModelError

Floats = npt.NDArray[np.float32]


class Tensor(Protocol):
    """`_core.Tensor`: elements in a mapped file or an array, never copied without need."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def data(self) -> Any: ...  # the bytes as they are stored
    def to_float(self) -> Floats: ...
    def reshape(self, shape: Sequence[int]) -> Tensor: ...
    def rows(self, begin: int, end: int) -> Tensor: ...
    def release(self) -> None: ...  # gives mapped memory back until it is next read


# Bytes of an element, of all types that have no blocks: the core's, and those it does not hold.
CORE_SIZES: dict[str, int] = {
    str(row["name"]): int(str(row["block_bytes"]))
    for row in _core.types()
    if row["block_size"] == 1
}
FOREIGN_SIZES = {
    "bool": 1, "u8": 1, "u16": 2, "u32": 4, "u64": 8, "c64": 8, "c128": 16, "f8_e4m3": 1,
    "f8_e5m2": 1, "f8_e8m0": 1, "f8_e4m3fnuz": 1, "f8_e5m2fnuz": 1,
}  # fmt: skip
SIZES = CORE_SIZES | FOREIGN_SIZES


def row_range(tensor: Tensor, begin: int, end: int) -> Tensor:
    try:
        return tensor.rows(begin, end)
    except InvalidArgumentError:  # it would cut a quantized block
        return _remade(tensor, tensor.to_float()[begin:end])


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return tensor.reshape(shape)
    except InvalidArgumentError:  # likewise: blocks run along the last size
        return _remade(tensor, tensor.to_float().reshape(shape))


def transposed(tensor: Tensor) -> Tensor:
    return TurnedTensor(tensor)


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    return StackedTensor(tensors)


def swapped_halves(tensor: Tensor) -> Tensor:
    count = tensor.shape[0] if tensor.shape else 0
    middle = count // 2
    return stacked([row_range(tensor, middle, count), row_range(tensor, 0, middle)])


def _remade(tensor: Tensor, values: Floats) -> Tensor:
    """New elements for a tensor: as f32 what f16 would round, and else as f16, whose rounding is
    far below a quantized block's."""
    keeps = tensor.type in ("f32", "f64", "bf16")
    made: Tensor = _core.Tensor.from_array(
        np.asarray(values, np.float32 if keeps else np.float16, order="C")
    )
    return made


class ForeignTensor:
    """Stored in a type that the core has no kernels for; `carrier` has the bytes, as i8. Float8
    widens to bf16, which holds every value of it; the others (bytes, booleans, unsigned) are never
    weights, so only using one as such is an error."""

    def __init__(self, name: str, type: str, shape: tuple[int, ...], carrier: Tensor) -> None:
        self.name = name
        self.type = type
        self.shape = shape
        self._carrier = carrier

    @property
    def nbytes(self) -> int:
        return self._carrier.nbytes

    @property
    def data(self) -> Any:
        return self._carrier.data

    def release(self) -> None:
        self._carrier.release()

    def to_core(self) -> Tensor:
        if self.type not in FLOAT8:
            raise UnsupportedModelError(
                f"[checkpoint] tensor '{self.name}' is stored as {self.type}, which is no type of "
                "weights"
            )
        tensor: Tensor = _core.Tensor.from_array(_as_bf16(self.type)[self.data], "bf16")
        return tensor.reshape(self.shape)

    def to_float(self) -> Floats:
        return self.to_core().to_float()

    def reshape(self, shape: Sequence[int]) -> Tensor:
        return ForeignTensor(self.name, self.type, tuple(shape), self._carrier)

    def rows(self, begin: int, end: int) -> Tensor:
        row = self.nbytes // self.shape[0]
        part = self._carrier.rows(begin * row, end * row)
        return ForeignTensor(self.name, self.type, (end - begin, *self.shape[1:]), part)


class PackedTensor(ForeignTensor):
    """Of a type of which a byte has more than one. A float4's are two, the first in the lower half
    (PyTorch's float4_e2m1fn_x2); in which order there are four float6 in three, no format says."""

    def to_core(self) -> Tensor:
        if self.type != "f4":
            return super().to_core()
        data = np.frombuffer(self.data, np.uint8)
        codes = np.stack([data & 15, data >> 4], axis=1).reshape(self.shape)
        tensor: Tensor = _core.Tensor.from_array(_FLOAT4[codes])
        return tensor

    def reshape(self, shape: Sequence[int]) -> Tensor:
        return PackedTensor(self.name, self.type, tuple(shape), self._carrier)

    def rows(self, begin: int, end: int) -> Tensor:
        return self.to_core().rows(begin, end)


class FoldedTensor:
    """Quantized in rows of another length than its own, as ComfyUI-GGUF stores convolutions. A
    network takes its blocks as they are; for files in its true shape it must leave them, which is
    put off until somebody needs it."""

    def __init__(self, stored: Tensor, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.type = stored.type
        self.nbytes = stored.nbytes
        self._stored = stored

    @property
    def data(self) -> Any:
        return self.to_core().data

    def release(self) -> None:
        self._stored.release()

    def to_core(self) -> Tensor:
        return reshaped(self._stored, self.shape)

    def unfold(self, shape: Sequence[int]) -> Tensor:
        unfolded: Tensor = core_tensor(self._stored).unfold(shape)
        return unfolded

    def to_float(self) -> Floats:
        return self._stored.to_float().reshape(self.shape)

    def reshape(self, shape: Sequence[int]) -> Tensor:
        return FoldedTensor(self._stored, tuple(shape))

    def rows(self, begin: int, end: int) -> Tensor:
        return self.to_core().rows(begin, end)


class RemadeTensor:
    """Elements that lie otherwise than in the file, so that they must be copied, which is put off
    until somebody needs them. A subclass says how in `data`."""

    def __init__(self, type: str, shape: tuple[int, ...], name: str = "") -> None:
        self.type = type
        self.shape = shape
        self.name = name

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * SIZES[self.type]

    @property
    def data(self) -> Any:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def to_core(self) -> Tensor:
        data = np.ascontiguousarray(self.data).view(np.uint8).reshape(-1)
        if self.type in CORE_SIZES:
            tensor: Tensor = _core.Tensor.from_bytes(data, self.type, self.shape)
            return tensor
        carrier = _core.Tensor.from_bytes(data, "i8", [data.size])
        return ForeignTensor(self.name, self.type, self.shape, carrier).to_core()

    def to_float(self) -> Floats:
        return self.to_core().to_float()

    def reshape(self, shape: Sequence[int]) -> Tensor:
        return self.to_core().reshape(shape)

    def rows(self, begin: int, end: int) -> Tensor:
        return self.to_core().rows(begin, end)


class TurnedTensor(RemadeTensor):
    """A matrix the other way round: blocks, which run along rows, become f16."""

    def __init__(self, stored: Tensor) -> None:
        super().__init__(stored.type if stored.type in SIZES else "f16", tuple(stored.shape[::-1]))
        self._stored = stored

    @property
    def data(self) -> Any:
        if self._stored.type not in SIZES:
            return np.ascontiguousarray(self._stored.to_float().T, np.float16)
        elements = np.frombuffer(self._stored.data, f"V{SIZES[self.type]}")
        return np.ascontiguousarray(elements.reshape(self._stored.shape).T).view(np.uint8)

    def release(self) -> None:
        self._stored.release()


class StackedTensor(RemadeTensor):
    """Tensors one below the other, in the type of all of them or one that holds them all."""

    def __init__(self, pieces: Sequence[Tensor]) -> None:
        shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        types = {piece.type for piece in pieces}
        wide = types & {"f64", "f32", "bf16"}
        super().__init__(types.pop() if len(types) == 1 else "f32" if wide else "f16", shape)
        self._pieces = pieces

    @property
    def nbytes(self) -> int:
        same = self._pieces[0].type == self.type
        return sum(piece.nbytes for piece in self._pieces) if same else super().nbytes

    @property
    def data(self) -> Any:
        if all(piece.type == self.type for piece in self._pieces):
            return np.concatenate([np.frombuffer(piece.data, np.uint8) for piece in self._pieces])
        values = np.concatenate([piece.to_float() for piece in self._pieces])
        return values.astype(np.float32 if self.type == "f32" else np.float16)

    def release(self) -> None:
        for piece in self._pieces:
            piece.release()

    def to_core(self) -> Tensor:
        if self.type in SIZES:
            return super().to_core()
        tensor: Tensor = _core.Tensor.from_bytes(self.data, self.type, self.shape)
        return tensor


def core_tensor(tensor: Any) -> Any:
    """The `_core.Tensor` that networks take."""
    return tensor.to_core() if hasattr(tensor, "to_core") else tensor


# E2M1 of OCP's Microscaling formats 1.0, whose eight codes above have the sign.
_FLOAT4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0] * 2, np.float16)
_FLOAT4[8:] *= -1

# Exponent and mantissa bits, and exponent bias. E4M3 has no infinity and one NaN (OCP 8-bit
# floating point specification 1.0, the "fn" type of PyTorch); E5M2 is the upper byte of a float16.
# Of the "fnuz" types a negative zero is the only NaN, and nothing is infinite. E8M0, of scales, has
# no sign and no zero (OCP's Microscaling formats 1.0).
FLOAT8 = {
    "f8_e4m3": (4, 3, 7), "f8_e5m2": (5, 2, 15), "f8_e8m0": (8, 0, 127),
    "f8_e4m3fnuz": (4, 3, 8), "f8_e5m2fnuz": (5, 2, 16),
}  # fmt: skip


@lru_cache
def _as_bf16(type: str) -> npt.NDArray[np.uint16]:
    """The bits of all 256 values as bf16, the upper half of a float32."""
    return (_float8_values(type).view(np.uint32) >> 16).astype(np.uint16)


def _float8_values(type: str) -> Floats:
    exponent_bits, mantissa_bits, bias = FLOAT8[type]
    codes = np.arange(256)
    if type == "f8_e8m0":
        values = np.exp2(codes - float(bias))
        values[0xFF] = np.nan
        return np.asarray(values, np.float32)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    scale = np.exp2(np.maximum(exponent, 1) - float(bias))
    values = np.where(codes & 0x80, -1.0, 1.0) * scale * (mantissa + (exponent > 0))
    if type.endswith("fnuz"):
        values[0x80] = np.nan
    elif type == "f8_e4m3":
        values[[0x7F, 0xFF]] = np.nan
    else:
        top = exponent == 31
        values[top] = np.where(mantissa[top] > 0, np.nan, np.copysign(np.inf, values[top]))
    return np.asarray(values, np.float32)
