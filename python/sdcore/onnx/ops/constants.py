"""What is known before a network runs: sizes of images, and weights that are put together."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sdcore.onnx.call import Array, Call
from sdcore.onnx.ops.shapes import axes_of

__all__ = ["FOLDS", "known"]

# Of what is computed with; weights are moved about only.
_MAX_NUMBERS = 1024
_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64, 9: np.bool_}

Fold = Callable[[Call], Array]
FOLDS: dict[str, Fold] = {}


def known(call: Call) -> Array:
    """The result of a node that reads constants alone."""
    fold = FOLDS.get(call.node.op)
    if fold is None:
        call.refuse("it is not computed from constants")
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(fold(call))  # NumPy makes scalars of arrays without axes
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        call.damaged(f"{error}")
    if found.size > _MAX_NUMBERS:
        call.make(found.size)
    return found


def _fold(*names: str) -> Callable[[Fold], Fold]:
    def register(fold: Fold) -> Fold:
        FOLDS.update(dict.fromkeys(names, fold))
        return fold

    return register


def _few(call: Call, i: int) -> Array:
    """A constant that is small enough to compute with."""
    found = call.constant(i, f"input {i}")
    if found.size > _MAX_NUMBERS:
        call.refuse(f"it computes from {found.size} constants, more than {_MAX_NUMBERS}")
    return found


@_fold("Identity", "Dropout")
def _identity(call: Call) -> Array:
    return call.constant(0, "input")


@_fold("Shape")
def _shape(call: Call) -> Array:
    sizes = np.array(call.constant(0, "input").shape, np.int64)
    return sizes[call.attribute("start", 0) : call.attribute("end", len(sizes))]


@_fold("Cast")
def _cast(call: Call) -> Array:
    dtype = _CASTS.get(call.attribute("to", 0))
    if dtype is None:
        call.refuse("it casts to a type that is not run")
    return call.constant(0, "input").astype(dtype)


@_fold("Transpose")
def _transpose(call: Call) -> Array:
    x = call.constant(0, "input")
    found: Array = x.transpose(call.sizes("perm", list(range(x.ndim))[::-1]))
    return found


@_fold("Reshape")
def _reshape(call: Call) -> Array:
    x = call.constant(0, "input")
    sizes = call.wholes(1, "shape")
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


@_fold("Unsqueeze")
def _unsqueeze(call: Call) -> Array:
    return np.expand_dims(call.constant(0, "input"), axes_of(call) or [])


@_fold("Squeeze")
def _squeeze(call: Call) -> Array:
    axes = axes_of(call)
    return np.squeeze(call.constant(0, "input"), None if axes is None else tuple(axes))


@_fold("Gather")
def _gather(call: Call) -> Array:
    found: Array = np.take(_few(call, 0), _few(call, 1).astype(np.int64), call.attribute("axis", 0))
    return found


@_fold("Concat")
def _concat(call: Call) -> Array:
    parts = [_few(call, i) for i in range(len(call.operands))]
    if sum(part.size for part in parts) > _MAX_NUMBERS:
        call.refuse(f"it joins more than {_MAX_NUMBERS} constants")
    return np.concatenate(parts, call.attribute("axis", 0))


@_fold("Slice")
def _slice(call: Call) -> Array:
    x = _few(call, 0)
    if call.operand(1) is None:  # until version 9
        begins, ends = (list(call.attribute(name, [0])) for name in ("starts", "ends"))
        axes = list(call.attribute("axes", list(range(len(begins)))))
        steps = [1] * len(begins)
    else:
        begins, ends = call.wholes(1, "starts"), call.wholes(2, "ends")
        axes = list(range(len(begins)))
        if call.operand(3) is not None:
            axes = call.wholes(3, "axes")
        steps = [1] * len(begins)
        if call.operand(4) is not None:
            steps = call.wholes(4, "steps")
    for begin, end, axis, step in zip(begins, ends, axes, steps, strict=True):
        x = np.moveaxis(np.moveaxis(x, axis, 0)[begin:end:step], 0, axis)
    return x


@_fold("ConstantOfShape")
def _constant_of_shape(call: Call) -> Array:
    sizes = call.wholes(0, "shape")
    if any(size < 0 for size in sizes) or math.prod(sizes) > _MAX_NUMBERS:
        call.refuse(f"it makes {sizes!r:.80}")
    return np.full(sizes, call.attribute("value", np.zeros(1, np.float32)).reshape(-1)[0])


@_fold("Floor", "Ceil", "Neg")
def _one(call: Call) -> Array:
    function = {"Floor": np.floor, "Ceil": np.ceil, "Neg": np.negative}[call.node.op]
    found: Array = function(_few(call, 0))
    return found


@_fold("Add", "Sub", "Mul", "Div")
def _two(call: Call) -> Array:
    a, b = _few(call, 0), _few(call, 1)
    whole = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    divide = (lambda x, y: np.fix(x / y).astype(x.dtype)) if whole else np.divide
    functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": divide}
    found: Array = functions[call.node.op](a, b)
    return found
