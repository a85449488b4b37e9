"""Networks of ONNX files, as graphs of sdcore's own that run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from sdcore.graph import Builder
from sdcore.models.base import RunOptions, make_network, to_nhwc
from sdcore.onnx import batch_norms
from sdcore.onnx.call import CHW, HWC, MAX_MADE, OPS, Array, Call, Computed, Operand, Weights, image
from sdcore.onnx.model import Node, OnnxModel
from sdcore.onnx.ops.constants import known

__all__ = ["OnnxNetwork"]


class OnnxNetwork:
    """A network of one image in float32: `network(image)` takes `[1, c, h, w]` of its size, and
    gives arrays in ONNX's shapes by the names of the outputs."""

    def __init__(
        self, model: OnnxModel, height: int, width: int, options: RunOptions | None = None
    ) -> None:
        """Raises UnsupportedModelError naming the op or what of it is not run, CheckpointError for
        a network that makes no sense."""
        self._model = _without_constants(model)
        self._outputs, graph, tensors = self._translated(height, width)
        options = dataclasses.replace(options or RunOptions(), dtype="f32")
        self._network = make_network(graph, tensors, options)
        self.size = height, width

    def at(self, height: int, width: int) -> OnnxNetwork:
        """The same network, weights and all, for images of another size."""
        other = OnnxNetwork.__new__(OnnxNetwork)
        other._model, other.size = self._model, (height, width)
        other._outputs, graph, _ = self._translated(height, width)
        other._network = self._network.with_graph(graph)
        return other

    def __call__(self, pixels: ArrayLike) -> dict[str, NDArray[np.float32]]:
        x = to_nhwc(pixels, "[onnx] an image", self._channels)
        if x.shape[:3] != (1, *self.size):
            raise InvalidArgumentError(
                f"[onnx] an image must be [1, {self._channels}, {self.size[0]}, {self.size[1]}], "
                f"got {list(np.shape(pixels))}"
            )
        found = self._network.run({"image": x})
        ends = enumerate(self._outputs.items())
        return {name: _as_onnx(found[_inside(i)], end) for i, (name, end) in ends}

    def release(self) -> None:
        """Gives back the memory of prepared weights until the next run."""
        self._network.release()

    @property
    def _channels(self) -> int:
        return _input_channels(self._model)

    def _translated(
        self, height: int, width: int
    ) -> tuple[dict[str, Computed], _core.Graph, Mapping[str, _core.Tensor]]:
        model, builder = self._model, Builder()
        weights = Weights(builder)
        values: dict[str, Operand] = dict(model.tensors)
        begin = image(builder.input("image"), height, width, _input_channels(model))
        values[model.inputs[0].name] = begin
        for node in model.nodes:
            values[_output(node, model.path)] = _result(node, values, weights, model)
        outputs = {name: _found(values, name, model.path) for name in model.outputs}
        ends: dict[str, Computed] = {}
        for name, value in outputs.items():
            if not isinstance(value, Computed) or value.value is begin.value:
                raise UnsupportedModelError(
                    f"[onnx] '{model.path}': its output {name!r:.200} is nothing that it computes"
                )
            if not value.is_in(CHW) and not value.is_in(HWC):
                raise UnsupportedModelError(
                    f"[onnx] '{model.path}': its output {name!r:.200} is neither channels "
                    "first nor last"
                )
            builder.output(_inside(len(ends)), value.value)
            ends[name] = value
        return ends, builder.graph, weights.tensors


def _inside(output: int) -> str:
    """An output's name in the graph: those of files may be anything."""
    return f"output{output}"


def _without_constants(model: OnnxModel) -> OnnxModel:
    """Those that are nodes among the tensors, and then no batch norm that can be spared."""
    given = {}
    for node in model.nodes:
        if node.op == "Constant":
            given[_output(node, model.path)] = _constant(node, model.path)
    nodes = [node for node in model.nodes if node.op != "Constant"]
    tensors = {**model.tensors, **given}
    return batch_norms.fold(dataclasses.replace(model, nodes=nodes, tensors=tensors), MAX_MADE)


def _constant(node: Node, path: str) -> Array:
    kinds = {"value_float": np.float32, "value_int": np.int64}
    kinds |= {"value_floats": np.float32, "value_ints": np.int64}
    for name, value in node.attributes.items():
        if name == "value" and isinstance(value, np.ndarray):
            return value
        if name in kinds and value is not None:
            return np.array(value, kinds[name])
    raise UnsupportedModelError(f"[onnx] '{path}': {node.title}, is of no known kind")


def _result(
    node: Node, values: Mapping[str, Operand], weights: Weights, model: OnnxModel
) -> Array | Computed:
    operands: Sequence[Operand] = [
        _found(values, name, model.path) if name else None for name in node.inputs
    ]
    call = Call(model.path, node, model.opset, operands, weights)
    if operands and not any(isinstance(one, Computed) for one in operands):
        return known(call)
    translate = OPS.get(node.op)
    if translate is None:
        call.refuse("sdcore does not run this op")
    return translate(call)


def _output(node: Node, path: str) -> str:
    if not node.outputs or not node.outputs[0]:
        raise CheckpointError(f"[onnx] '{path}': {node.title}, gives nothing")
    return node.outputs[0]


def _found(values: Mapping[str, Operand], name: str, path: str) -> Operand:
    if name not in values:
        raise CheckpointError(f"[onnx] '{path}': it is damaged: nothing gives {name!r:.200}")
    return values[name]


def _input_channels(model: OnnxModel) -> int:
    shapes = [one.shape for one in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in range(1, 1025):
        raise UnsupportedModelError(
            f"[onnx] '{model.path}': a network takes one image [n, c, h, w], this one takes "
            f"{[list(shape) for shape in shapes[:4]]}"
        )
    return int(shapes[0][1] or 0)


def _as_onnx(array: NDArray[np.float32], end: Computed) -> NDArray[np.float32]:
    if not end.is_in(HWC):
        array = array.reshape(end.height, end.width, end.channels).transpose(2, 0, 1)
    array = array.reshape(end.shape)
    if end.sigmoid:
        with np.errstate(over="ignore"):
            array = np.float32(1) / (np.float32(1) + np.exp(-array))
    return array
