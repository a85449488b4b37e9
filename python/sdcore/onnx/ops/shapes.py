"""What changes the names of numbers and not the numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sdcore.graph import nn
from sdcore.onnx.call import Array, Call, Computed, image, op


@op("Identity", "Dropout")
def identity(call: Call) -> Computed:
    """Dropout drops nothing in a trained network."""
    return call.any()


@op("Cast")
def cast(call: Call) -> Computed:
    """Between floats of any width: all are float32 here."""
    if call.attribute("to", 1) not in (1, 10, 11):
        call.refuse("it makes whole numbers of floats")
    return call.any()


@op("Shape")
def shape(call: Call) -> Array:
    sizes = np.array(call.any().shape, np.int64)
    end = call.attribute("end", len(sizes))
    return sizes[call.attribute("start", 0) : end]


@op("Concat")
def concat(call: Call) -> Computed:
    parts = [call.image(i) for i in range(len(call.operands))]
    first = parts[0]
    if call.attribute("axis", 1) not in (1, -3):
        call.refuse("it joins something else than channels")
    if any((one.height, one.width) != (first.height, first.width) for one in parts):
        call.damaged(f"it joins {', '.join(str(list(one.shape)) for one in parts[:4])}")
    value = nn.concat(*(one.value for one in parts))
    channels = sum(one.channels for one in parts)
    return call.checked(image(value, first.height, first.width, channels))


@op("Transpose")
def transpose(call: Call) -> Computed:
    x = call.any()
    rank = len(x.shape)
    order = call.sizes("perm", list(range(rank))[::-1])
    if sorted(order) != list(range(rank)):
        call.damaged(f"its perm is {order}")
    if x.axes is None:
        call.refuse(f"it reads what was reshaped to {list(x.shape)}")
    axes = tuple(x.axes[i] for i in order)
    named = tuple(axis for axis in axes if axis != "n")
    rest = tuple(axis for axis in x.order if axis not in named)  # of one each
    return replace(x, shape=tuple(x.shape[i] for i in order), axes=axes, order=(*named, *rest))


@op("Flatten")
def flatten(call: Call) -> Computed:
    x = call.any()
    axis = call.attribute("axis", 1)
    if not -len(x.shape) <= axis <= len(x.shape):
        call.damaged(f"its axis is {axis}, of {len(x.shape)}")
    axis += len(x.shape) if axis < 0 else 0
    return _reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@op("Reshape")
def reshape(call: Call) -> Computed:
    x, sizes = call.any(), call.wholes(1, "shape")
    if not call.attribute("allowzero", 0):
        sizes = [
            x.shape[i] if size == 0 and i < len(x.shape) else size for i, size in enumerate(sizes)
        ]
    known, total = math.prod(size for size in sizes if size != -1), math.prod(x.shape)
    if sizes.count(-1) == 1 and known > 0:
        sizes = [total // known if size == -1 else size for size in sizes]
    if any(size < 1 for size in sizes) or math.prod(sizes) != total:
        call.damaged(f"it makes {list(x.shape)} into {sizes!r:.80}")
    return _reshaped(x, tuple(sizes))


@op("Squeeze", "Unsqueeze")
def squeeze(call: Call) -> Computed:
    """Axes of one come and go."""
    x, comes = call.any(), call.node.op == "Unsqueeze"
    axes = axes_of(call)
    if axes is None:
        if comes:
            call.damaged("it has no axes")
        axes = [i for i, size in enumerate(x.shape) if size == 1]
    rank = len(x.shape) + (len(axes) if comes else 0)
    places = {axis + rank if axis < 0 else axis for axis in axes}
    if len(places) != len(axes) or not all(0 <= place < rank for place in places) or rank > 8:
        call.damaged(f"its axes are {axes!r:.80}, of {rank}")
    if comes:
        kept = iter(x.shape)
        return _reshaped(x, tuple(1 if i in places else next(kept) for i in range(rank)))
    if any(x.shape[i] != 1 for i in places):
        call.damaged(f"it takes the axes {axes!r:.80} from {list(x.shape)}")
    return _reshaped(x, tuple(size for i, size in enumerate(x.shape) if i not in places))


def axes_of(call: Call) -> list[int] | None:
    """An attribute until version 12, an input since."""
    if call.operand(1) is not None:
        return call.wholes(1, "axes")
    given = call.node.attributes.get("axes")
    return None if given is None else call.sizes("axes", given)


def _reshaped(x: Computed, shape: tuple[int, ...]) -> Computed:
    if shape == x.shape:
        return x
    axes: tuple[str, ...] | None = None
    if x.height == x.width == 1 and shape[:2] == (1, x.channels) and math.prod(shape[2:]) == 1:
        # A vector, however many axes of one it has.
        axes = ("n", "c", "h", "w")[: len(shape)] if len(shape) in (2, 4) else None
    return replace(x, shape=shape, axes=axes)
