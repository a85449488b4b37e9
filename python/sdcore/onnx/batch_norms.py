"""Batch norms of trained networks are a product and a sum: those after a convolution go into its
weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sdcore.onnx.model import Node, OnnxModel

__all__ = ["fold", "scale_and_shift"]

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]


def scale_and_shift(parts: Sequence[Array], epsilon: float) -> tuple[Doubles, Doubles]:
    """What a batch norm of this scale, bias, mean and variance multiplies by and adds, in float64
    (Ioffe and Szegedy 2015)."""
    scale, bias, mean, variance = (part.astype(np.float64) for part in parts)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        return factor, bias - mean * factor


def fold(model: OnnxModel, most: int) -> OnnxModel:
    """The same network with the batch norms in the weights of the convolutions and linear layers
    that alone they follow, as long as those are not more than so many numbers."""
    tensors, nodes = dict(model.tensors), list(model.nodes)
    made_by = {name: i for i, node in enumerate(nodes) for name in node.outputs}
    uses = Counter([*(name for node in nodes for name in node.inputs), *model.outputs])
    gone: set[int] = set()
    left = most
    for i, node in enumerate(nodes):
        if node.op != "BatchNormalization" or not node.inputs or not node.outputs:
            continue
        at = made_by.get(node.inputs[0], -1)
        if not 0 <= at < i or uses[node.inputs[0]] != 1 or at in gone:
            continue
        found = _folded(nodes[at], node, tensors)
        if found is not None and (left := left - found[0].size) >= 0:
            weight, bias = (f"{node.outputs[0]}.{name}" for name in ("weight", "bias"))
            tensors[weight], tensors[bias] = found
            nodes[at] = dataclasses.replace(
                nodes[at],
                inputs=(nodes[at].inputs[0], weight, bias),
                outputs=node.outputs[:1],
            )
            made_by[node.outputs[0]] = at
            gone.add(i)
    kept = [node for i, node in enumerate(nodes) if i not in gone]
    return dataclasses.replace(model, nodes=kept, tensors=tensors)


def _folded(node: Node, norm: Node, tensors: dict[str, Array]) -> Sequence[Array] | None:
    """The weight and the bias of both together; None where they are not so simple."""
    given = [tensors.get(name) for name in (*node.inputs[1:], *norm.inputs[1:])]
    arrays = [one for one in given if one is not None and one.dtype.kind == "f"]
    if len(arrays) != len(given) or len(norm.inputs) != 5 or len(node.inputs) not in (2, 3):
        return None
    weight, bias = arrays[0], arrays[1] if len(node.inputs) == 3 else None
    rank = {"Conv": 4, "Gemm": 2}.get(node.op)
    vectors = [*arrays[-4:], *([] if bias is None else [bias])]
    if (
        weight.ndim != rank
        or not _is_plain(node)
        or any(v.shape != weight.shape[:1] for v in vectors)
    ):
        return None
    epsilon = norm.attributes.get("epsilon", 1e-5)
    if not isinstance(epsilon, float) or norm.attributes.get("training_mode", 0) != 0:
        return None
    scale, shift = scale_and_shift(arrays[-4:], epsilon)
    with np.errstate(all="ignore"):
        both = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        total = shift if bias is None else bias * scale + shift
        return both.astype(np.float32), total.astype(np.float32)


def _is_plain(node: Node) -> bool:
    """Whether a product is with the rows of its matrix, and with nothing else."""
    if node.op == "Conv":
        return True
    given = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **node.attributes}
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float)}
    return len(numbers) == len(given) and numbers == {
        "alpha": 1.0,
        "beta": 1.0,
        "transA": 0,
        "transB": 1,
    }
