"""What ops are translated from and into: the values of a network, and one call of an op."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore.errors import CheckpointError, UnsupportedModelError
from sdcore.graph import Builder, Value
from sdcore.onnx.model import Node

__all__ = [
    "CHW",
    "HWC",
    "MAX_MADE",
    "OPS",
    "Array",
    "Call",
    "Computed",
    "Operand",
    "Weights",
    "image",
    "op",
]

Array = npt.NDArray[Any]

CHW, HWC = ("c", "h", "w"), ("h", "w", "c")
_NCHW = ("n", *CHW)
# Of one value. The largest of a detector at 640 x 640 has 3 million; a file may ask for anything.
_MAX_NUMBERS = 1 << 26
# Of weights together that are made here and are in no file. The largest network that knows faces
# has 65 million.
MAX_MADE = 1 << 27


@dataclass(frozen=True)
class Computed:
    """What an op gives, of one image. `value` is `[n, h, w, c]`, or `[n, c]` where `is_vector`.

    `shape` is what ONNX calls it, and `order` that in which it lists the numbers, the last axis
    fastest. `axes` says which axis each of `shape` is, None after a reshape that cuts or joins
    them. `sigmoid`: it is to be taken of what comes out.
    """

    value: Value
    height: int
    width: int
    channels: int
    shape: tuple[int, ...]
    axes: tuple[str, ...] | None = _NCHW
    order: tuple[str, ...] = CHW
    is_vector: bool = False
    sigmoid: bool = False

    @property
    def long_axes(self) -> tuple[str, ...]:
        """`order` without axes of one, which change nothing."""
        sizes = {"h": self.height, "w": self.width, "c": self.channels}
        return tuple(axis for axis in self.order if sizes[axis] > 1)

    def is_in(self, order: tuple[str, ...]) -> bool:
        return self.long_axes == tuple(axis for axis in order if axis in self.long_axes)

    def with_value(self, value: Value) -> Computed:
        """Other numbers in the same places."""
        return replace(self, value=value)


Operand = Array | Computed | None


def image(value: Value, height: int, width: int, channels: int) -> Computed:
    """As convolutions give and take them."""
    return Computed(value, height, width, channels, (1, channels, height, width))


class Weights:
    """The weights of the graph as it is written."""

    def __init__(self, builder: Builder) -> None:
        self.tensors: dict[str, _core.Tensor] = {}
        self._graph = builder.graph
        self._known: dict[int, tuple[Array, Value]] = {}
        self._made = 0

    def add(self, array: Array) -> Value:
        """One array is one weight, whichever nodes read it. They are named by their place, for the
        names in files may be anything."""
        if id(array) in self._known:
            return self._known[id(array)][1]
        name = f"w{len(self.tensors)}"
        ready = np.ascontiguousarray(array, np.float32)
        self.tensors[name] = _core.Tensor.from_array(ready)
        value = Value(self._graph, self._graph.weight(name, list(ready.shape)))
        self._known[id(array)] = array, value
        return value

    def may_make(self, numbers: int) -> bool:
        """Whether so many more may be made, which then count."""
        self._made += numbers
        return self._made <= MAX_MADE


T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A node and what it reads."""

    path: str
    node: Node
    opset: int
    operands: Sequence[Operand]
    weights: Weights

    # ---- what is wrong with it

    @property
    def where(self) -> str:
        return f"[onnx] '{self.path}': {self.node.title}"

    def refuse(self, message: str) -> NoReturn:
        """A sound node that is not run."""
        raise UnsupportedModelError(f"{self.where}: {message}")

    def damaged(self, message: str) -> NoReturn:
        raise CheckpointError(f"{self.where}: {message}")

    # ---- what it reads

    def operand(self, i: int) -> Operand:
        """None where it is left out."""
        return self.operands[i] if i < len(self.operands) else None

    def any(self, i: int = 0) -> Computed:
        """An operand that is computed, whatever its sigmoid: for ops that move no numbers."""
        found = self.operand(i)
        if not isinstance(found, Computed):
            self.refuse(f"its input {i} is no result of the network")
        return found

    def computed(self, i: int = 0) -> Computed:
        found = self.any(i)
        if found.sigmoid:
            self.refuse("it reads a sigmoid, which is run where a network ends only")
        return found

    def image(self, i: int = 0) -> Computed:
        """`[1, c, h, w]`."""
        found = self.computed(i)
        if found.axes != _NCHW or found.is_vector:
            self.refuse(f"its input {i} is {list(found.shape)}, and no image [1, c, h, w]")
        return found

    def constant(self, i: int, what: str) -> Array:
        found = self.operand(i)
        if not isinstance(found, np.ndarray):
            self.refuse(f"its {what} is no constant")
        return found

    def numbers(self, i: int, what: str, rank: int) -> npt.NDArray[np.float32]:
        """Weights of so many axes, in float32."""
        found = self.constant(i, what)
        if found.ndim != rank or 0 in found.shape or found.dtype.kind != "f":
            self.damaged(f"its {what} is {found.dtype} {list(found.shape)}")
        if found.dtype == np.float32:
            return found
        self.make(found.size)
        return found.astype(np.float32)

    def make(self, numbers: int) -> None:
        """Raises UnsupportedModelError where weights that no file has are more than any needs."""
        if not self.weights.may_make(numbers):
            self.refuse(f"with it more than {MAX_MADE} weights would be made that are in no file")

    def vector(self, i: int, what: str, size: int) -> npt.NDArray[np.float32] | None:
        """One number a channel; None where it is left out."""
        if self.operand(i) is None:
            return None
        found = self.numbers(i, what, 1)
        if found.size != size:
            self.damaged(f"its {what} has {found.size} numbers, for {size} channels")
        return found

    def wholes(self, i: int, what: str) -> list[int]:
        found = self.constant(i, what)
        if found.ndim > 1 or found.dtype.kind not in "iu" or found.size > 100:
            self.damaged(f"its {what} is {found.dtype} {list(found.shape)}")
        return [int(one) for one in found.reshape(-1)]

    # ---- its attributes

    def attribute(self, name: str, default: T) -> T:
        found = self.node.attributes.get(name, default)
        if not isinstance(found, type(default)):
            self.damaged(f"its {name} is {found!r:.40}")
        return found

    def sizes(self, name: str, default: Sequence[int]) -> list[int]:
        """As many whole numbers as there are in `default`."""
        found = self.attribute(name, list(default))
        if len(found) != len(default) or not all(isinstance(one, int) for one in found):
            self.damaged(f"its {name} is {found!r:.80}, expected {len(default)} numbers")
        return found

    # ---- what it gives

    def checked(self, result: Computed) -> Computed:
        """Raises UnsupportedModelError where a network asks for more than any needs."""
        if math.prod(result.shape) > _MAX_NUMBERS:
            self.refuse(f"it would give {list(result.shape)}, more than {_MAX_NUMBERS} numbers")
        return result


Translate = Callable[[Call], Array | Computed]
OPS: dict[str, Translate] = {}


def op(*names: str) -> Callable[[Translate], Translate]:
    """Registers how an op is written in sdcore's graph."""

    def register(translate: Translate) -> Translate:
        OPS.update(dict.fromkeys(names, translate))
        return translate

    return register
