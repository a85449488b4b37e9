"""Arithmetic of one number at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdcore.onnx.call import Array, Call, Computed, op


def along_channels(call: Call, x: Computed, constant: Array) -> Array:
    """A constant that is repeated over the places of `x`, as `[1, c]`."""
    if constant.dtype.kind not in "fiu":
        call.damaged(f"a constant of it is {constant.dtype}")
    if constant.size == 1:
        return np.full((1, x.channels), constant.reshape(()), np.float32)
    sizes = (1,) * (len(x.shape) - constant.ndim) + constant.shape
    wanted = tuple(x.channels if axis == "c" else 1 for axis in x.axes or ())
    if sizes != wanted:
        call.refuse(
            f"a constant {list(constant.shape)} of it is not one number a channel of "
            f"{list(x.shape)}"
        )
    return constant.reshape(1, x.channels).astype(np.float32)


@op("Add")
def add(call: Call) -> Computed:
    return _combined(call, "add")


@op("Mul")
def mul(call: Call) -> Computed:
    return _combined(call, "mul")


@op("Sub")
def sub(call: Call) -> Computed:
    """A sum with the second one negative."""
    b: Computed | Array
    if isinstance(call.operand(1), Computed):
        b = _negative(call.computed(1))
    else:
        b = np.asarray(-call.constant(1, "second input"))
    return _combined(replace(call, operands=(call.operand(0), b)), "add")


@op("Div")
def div(call: Call) -> Computed:
    by = call.constant(1, "divisor")
    with np.errstate(all="ignore"):
        inverse = np.asarray(1 / by.astype(np.float64))
    return _combined(replace(call, operands=(call.operand(0), inverse)), "mul")


@op("Neg")
def neg(call: Call) -> Computed:
    return _negative(call.computed())


@op("Relu")
def relu(call: Call) -> Computed:
    x = call.computed()
    return x.with_value(x.value.apply("activation", kind="relu"))


@op("PRelu")
def prelu(call: Call) -> Computed:
    x = call.computed()
    slope = along_channels(call, x, call.constant(1, "slope"))
    return x.with_value(x.value.apply("prelu", call.weights.add(slope)))


@op("LeakyRelu")
def leaky_relu(call: Call) -> Computed:
    x = call.computed()
    slope = along_channels(call, x, np.array(call.attribute("alpha", 0.01)))
    return x.with_value(x.value.apply("prelu", call.weights.add(slope)))


@op("Sigmoid")
def sigmoid(call: Call) -> Computed:
    """Of scores, which are what a network ends in: left to whoever reads them."""
    return replace(call.computed(), sigmoid=True)


def _combined(call: Call, name: str) -> Computed:
    """Two results of one size, the second of which may be one place repeated; or a result and a
    constant."""
    a, b = call.operand(0), call.operand(1)
    if not isinstance(a, Computed):
        a, b = b, a
        call = replace(call, operands=(a, b))
    x = call.computed(0)
    if isinstance(b, np.ndarray):
        return x.with_value(x.value.apply(name, call.weights.add(along_channels(call, x, b))))
    y = call.computed(1)
    if x.height * x.width < y.height * y.width:
        x, y = y, x
    same = x.shape == y.shape and x.long_axes == y.long_axes
    repeated = x.axes == y.axes and y.shape == (1, x.channels, 1, 1)
    if not same and not repeated:
        call.refuse(f"it combines {list(x.shape)} and {list(y.shape)}")
    return x.with_value(x.value.apply(name, y.value))


def _negative(x: Computed) -> Computed:
    return x.with_value(x.value.apply("scale", factor=-1.0))
