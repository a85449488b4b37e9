"""Windows of which one number is made, and images made larger."""

from __future__ import annotations

from sdcore.graph import nn
from sdcore.onnx.call import Call, Computed, image, op
from sdcore.onnx.ops.convolutions import windows

_MAX_KERNEL, _MAX_STRIDE = 4096, 16  # the bounds of pool2d

# Ways to place pixels and to choose the nearest at which twice the size is each pixel twice: the
# place of pixel i is i / 2 or i / 2 - 1 / 4.
_REPEATING = {
    ("asymmetric", "floor"),
    ("asymmetric", "round_prefer_floor"),
    *(
        (kind, f"round_prefer_{way}")
        for kind in ("half_pixel", "pytorch_half_pixel")
        for way in ("floor", "ceil")
    ),
}


@op("MaxPool")
def max_pool(call: Call) -> Computed:
    if len(call.node.outputs) > 1 and call.node.outputs[1]:
        call.refuse("it is asked for places")
    return _pooled(call, "max")


@op("AveragePool")
def average_pool(call: Call) -> Computed:
    if call.attribute("count_include_pad", 0) and any(call.sizes("pads", [0, 0, 0, 0])):
        call.refuse("its mean counts the padding")
    return _pooled(call, "mean")


@op("GlobalAveragePool")
def global_average_pool(call: Call) -> Computed:
    x = call.image()
    value = nn.pool2d(x.value, "mean", (x.height, x.width), 1, (0, 0, 0, 0))
    return image(value, 1, 1, x.channels)


def _pooled(call: Call, kind: str) -> Computed:
    x = call.image()
    kernel = call.sizes("kernel_shape", [0, 0])
    stride, padding = windows(call)
    if call.sizes("dilations", [1, 1]) != [1, 1]:
        call.refuse("it is dilated")
    if not all(1 <= size <= _MAX_KERNEL for size in kernel) or not 1 <= stride <= _MAX_STRIDE:
        call.refuse(f"its kernel is {kernel} and its stride {stride}")
    if not all(0 <= padding[i] < kernel[i % 2] for i in range(4)):
        call.damaged(f"its padding {padding} is not less than its kernel {kernel}")
    sizes = []
    for i, size in enumerate((x.height, x.width)):
        room = size + padding[i] + padding[i + 2] - kernel[i]
        if room < 0:
            call.damaged(f"its kernel {kernel} is larger than an image {x.height} x {x.width}")
        count = room // stride + 1
        if call.attribute("ceil_mode", 0) and room % stride:
            # One more, if it begins inside; what is beyond the image does not count.
            begins = count * stride
            if begins < size + padding[i]:
                padding[i + 2] += begins - room
                count += 1
        sizes.append(count)
    if not all(padding[i] < kernel[i % 2] for i in range(4)):
        call.refuse(f"its windows of {kernel} in steps of {stride} leave the image")
    value = nn.pool2d(x.value, kind, kernel, stride, padding)
    return call.checked(image(value, sizes[0], sizes[1], x.channels))


@op("Resize", "Upsample")
def resize(call: Call) -> Computed:
    """By whole powers of two, each pixel repeated."""
    x = call.image()
    if (mode := call.attribute("mode", "nearest")) != "nearest":
        call.refuse(f"its mode is {mode!r:.40}, and only nearest is run")
    if call.node.op == "Resize" and call.opset >= 11:
        kind = call.attribute("coordinate_transformation_mode", "half_pixel")
        nearest = call.attribute("nearest_mode", "round_prefer_floor")
        if (kind, nearest) not in _REPEATING:
            call.refuse(f"it places pixels by {kind!r:.40} and {nearest!r:.40}")
    height, width = _target(call, x)
    value, times = x.value, height // x.height
    if times * x.height != height or times * x.width != width or times & (times - 1) or not times:
        call.refuse(f"it makes {x.height} x {x.width} into {height} x {width}, which is not twice")
    result = call.checked(image(value, height, width, x.channels))
    for _ in range(times.bit_length() - 1):
        value = nn.upsample(value)
    return result.with_value(value)


def _target(call: Call, x: Computed) -> tuple[int, int]:
    """Height and width: as sizes, or by how much they grow."""
    old = call.node.op == "Upsample" or call.opset < 11
    if not old and call.operand(3) is not None:
        sizes = call.wholes(3, "sizes")
        if len(sizes) != 4 or sizes[:2] != [1, x.channels]:
            call.refuse(f"its sizes are {sizes!r:.80}")
        return sizes[2], sizes[3]
    if old and call.operand(1) is None:  # Upsample until version 8
        scales = call.attribute("scales", [1.0])
    else:
        scales = [float(one) for one in call.numbers(1 if old else 2, "scales", 1)[:5]]
    if len(scales) != 4 or scales[:2] != [1.0, 1.0] or not all(0 < s < 2**20 for s in scales):
        call.refuse(f"its scales are {scales!r:.80}")
    return int(x.height * scales[2]), int(x.width * scales[3])
