"""Convolutions, and batch norms that no convolution has taken up."""

from __future__ import annotations

import numpy as np

from sdcore.onnx.batch_norms import scale_and_shift
from sdcore.onnx.call import Array, Call, Computed, image, op

# The bounds of conv2d.
_MAX_STRIDE, _MAX_PADDING = 16, 64


@op("Conv")
def conv(call: Call) -> Computed:
    x, weight = call.image(), call.numbers(1, "weight", 4)
    groups = call.attribute("group", 1)
    c_out, c_group, kh, kw = weight.shape
    if groups < 1 or c_group * groups != x.channels or c_out % groups:
        call.damaged(
            f"its weight {list(weight.shape)} in {groups} groups does not fit {x.channels} channels"
        )
    stride, padding = windows(call)
    if call.sizes("dilations", [1, 1]) != [1, 1]:
        call.refuse("it is dilated")
    if not 1 <= stride <= _MAX_STRIDE or not all(0 <= p <= _MAX_PADDING for p in padding):
        call.refuse(f"its stride is {stride} and its padding {padding}")
    top, left, bottom, right = padding
    height, width = (
        (size + before + after - kernel) // stride + 1
        for size, before, after, kernel in (
            (x.height, top, bottom, kh),
            (x.width, left, right, kw),
        )
    )
    if height < 1 or width < 1:
        call.damaged(f"its kernel {kh} x {kw} is larger than an image {x.height} x {x.width}")
    bias = call.vector(2, "bias", c_out)
    value = x.value.apply(
        "conv2d",
        call.weights.add(_whole(call, weight, groups)),
        None if bias is None else call.weights.add(bias),
        stride=stride,
        padding=padding,
    )
    return call.checked(image(value, height, width, c_out))


def windows(call: Call) -> tuple[int, list[int]]:
    """The stride, and the padding top, left, bottom and right."""
    strides = call.sizes("strides", [1, 1])
    if strides[0] != strides[1]:
        call.refuse(f"its strides are {strides}, and one for both sides is run")
    padding = call.sizes("pads", [0, 0, 0, 0])
    kind = call.attribute("auto_pad", "NOTSET")
    if kind == "VALID":
        padding = [0, 0, 0, 0]
    elif kind != "NOTSET":
        call.refuse(f"its auto_pad is {kind!r:.40}")
    return strides[0], padding


def _whole(call: Call, weight: Array, groups: int) -> Array:
    """That of one group: zeros between the channels that do not meet. It costs arithmetic, of
    which the networks that find faces have little."""
    if groups == 1:
        return weight
    c_out, c_group, kh, kw = weight.shape
    call.make(weight.size * groups)
    whole = np.zeros((groups, c_out // groups, groups, c_group, kh, kw), np.float32)
    each = np.arange(groups)
    whole[each, :, each] = weight.reshape(groups, c_out // groups, c_group, kh, kw)
    return whole.reshape(c_out, groups * c_group, kh, kw)


@op("BatchNormalization")
def batch_norm(call: Call) -> Computed:
    """Before a convolution with padding it stays: what is added would go into the border too."""
    x = call.computed()
    if call.attribute("training_mode", 0):
        call.refuse("it is of a network that is still to be trained")
    parts = [call.numbers(1 + i, "scale, bias, mean or variance", 1) for i in range(4)]
    if any(part.size != x.channels for part in parts):
        call.damaged(f"its vectors do not fit {x.channels} channels")
    if x.axes is None or x.axes[:2] != ("n", "c"):
        call.refuse(f"it reads {list(x.shape)}, where channels are not the second axis")
    scale, shift = scale_and_shift(parts, call.attribute("epsilon", 1e-5))
    value = x.value.apply("mul", call.weights.add(scale.reshape(1, -1)))
    return x.with_value(value.apply("add", call.weights.add(shift.reshape(1, -1))))
