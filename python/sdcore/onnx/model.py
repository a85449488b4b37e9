"""ONNX files: the network that is in one, as values. Field numbers are those of onnx/onnx.proto."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore.checkpoint.sniff import HEAD, refuse_foreign
from sdcore.errors import UnsupportedModelError
from sdcore.onnx.wire import Fields, Source

__all__ = ["Input", "Node", "OnnxModel", "read"]

Array = npt.NDArray[Any]

# TensorProto.DataType: what a tensor's raw bytes are, and the field that they may be in instead.
_FLOAT, _INT32, _INT64, _FLOAT16, _DOUBLE = 1, 6, 7, 10, 11
_TYPES = {
    _FLOAT: ("<f4", 4),
    _INT32: ("<i4", 5),
    _INT64: ("<i8", 7),
    _FLOAT16: ("<f2", 5),
    _DOUBLE: ("<f8", 10),
}
_EXTERNAL = 1  # TensorProto.DataLocation
_MAX_RANK, _MAX_SIZE = 8, 2**31 - 1
_OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Node:
    """One op; the name of an input that is left out is "". Attributes are numbers, texts, arrays
    and lists; graphs among them are None."""

    op: str
    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]

    @property
    def title(self) -> str:
        """For errors, in which anything may be a name."""
        op = self.op if self.op.isprintable() else repr(self.op)
        return f"node {self.name!r:.100}, a {op:.100}"


@dataclass(frozen=True)
class Input:
    name: str
    shape: tuple[int | None, ...]  # None: any


@dataclass(frozen=True)
class OnnxModel:
    """A network in the order in which it runs; `tensors` are its weights, in the file's memory."""

    path: str
    opset: int
    nodes: Sequence[Node]
    tensors: Mapping[str, Array]
    inputs: Sequence[Input]
    outputs: Sequence[str]


def read(path: str | os.PathLike[str]) -> OnnxModel:
    """Raises FileError, CheckpointError for a damaged file, UnsupportedModelError for tensors of
    types that no network of floats has, or in files of their own."""
    file = _core.MappedFile(os.fspath(path))
    data = memoryview(file)
    refuse_foreign(bytes(data[:HEAD]), len(data), file.path)
    source = Source(file.path)
    model = Fields(source, data)
    if 7 not in model:
        source.fail("it is no ONNX file, or damaged: there is no graph in it")
    opsets = [(one.text(1), one.integer(2)) for one in model.messages(8)]
    if not opsets:
        source.fail(
            "the file is cut short, or damaged: it does not say which version its ops are of"
        )
    graph = model.message(7)
    if 15 in graph:
        raise UnsupportedModelError(f"[onnx] '{file.path}' has sparse tensors")
    tensors = dict(_tensor(one) for one in graph.messages(5))
    inputs = [_input(one) for one in graph.messages(11)]
    return OnnxModel(
        path=file.path,
        opset=max((version for domain, version in opsets if domain in _OWN_DOMAINS), default=1),
        nodes=[_node(one) for one in graph.messages(1)],
        tensors=tensors,
        inputs=[one for one in inputs if one.name not in tensors],  # old files list weights too
        outputs=[one.text(1) for one in graph.messages(12)],
    )


def _node(fields: Fields) -> Node:
    op, domain = fields.text(4), fields.text(7)
    return Node(
        op=op if domain in _OWN_DOMAINS else f"{domain}.{op}",
        name=fields.text(3),
        inputs=fields.texts(1),
        outputs=fields.texts(2),
        attributes={one.text(1): _attribute(one) for one in fields.messages(5)},
    )


def _attribute(fields: Fields) -> Any:
    kind = fields.integer(20)
    if kind == 1:
        numbers = fields.numbers(2, "<f4")
        return float(numbers[-1]) if len(numbers) else 0.0
    if kind == 2:
        return fields.integer(3)
    if kind == 3:
        return fields.text(4)
    if kind == 4:
        return _tensor(fields.message(5))[1]
    if kind == 6:
        return fields.numbers(7, "<f4").tolist()
    if kind == 7:
        return fields.integers(8)
    return None


def _input(fields: Fields) -> Input:
    dims = fields.message(2).message(1).message(2).messages(1)
    sizes = [dim.integer(1) if 1 in dim else 0 for dim in dims]
    return Input(fields.text(1), tuple(size if size > 0 else None for size in sizes))


def _tensor(fields: Fields) -> tuple[str, Array]:
    name, kind, source = fields.text(8), fields.integer(2), fields.source
    if fields.integer(14) == _EXTERNAL or 13 in fields:
        raise UnsupportedModelError(
            f"[onnx] '{source.path}': tensor {name!r:.200} is in a file of its own: save the model "
            "as one file, with onnx.save(onnx.load(path), path)"
        )
    if kind not in _TYPES:
        raise UnsupportedModelError(
            f"[onnx] '{source.path}': tensor {name!r:.200} is of type {kind}, and only float32, "
            "float16, float64, int32 and int64 are read"
        )
    shape = fields.integers(1)
    if len(shape) > _MAX_RANK or not all(0 <= size <= _MAX_SIZE for size in shape):
        source.fail(f"tensor {name!r:.200} has the sizes {shape!r:.80}")
    dtype, place = _TYPES[kind]
    data = _data(fields, dtype, place)
    if (need := math.prod(shape)) != len(data):
        source.fail(
            f"tensor {name!r:.200} {shape!r:.80} takes {need} numbers, the file has {len(data)}"
        )
    return name, data.reshape(shape)


def _data(fields: Fields, dtype: str, place: int) -> Array:
    if 9 in fields:
        raw = fields.bytes(9)
        if len(raw) % np.dtype(dtype).itemsize:
            fields.source.fail(f"a tensor's {len(raw)} bytes are no whole numbers")
        return np.frombuffer(raw, dtype)
    if dtype in ("<f4", "<f8"):
        return fields.numbers(place, dtype)
    whole = np.array(fields.integers(place), np.int64)
    if dtype == "<f2":  # its bits
        return whole.astype("<u2").view("<f2")
    return whole.astype(dtype)
