"""The mathematics of each kind of LoRA: what it adds to a weight.

A kind is a class and a row in `KINDS`. W is `[out, in]` or `[out, in, kh, kw]`; a change is
computed in float32 whatever the file stores.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sdcore.errors import CheckpointError

__all__ = ["KINDS", "Change", "Parts", "bias_change", "weight_change"]

Floats = npt.NDArray[np.float32]
Shape = tuple[int, ...]


class Parts:
    """The tensors of one module in a file, by role."""

    def __init__(self, where: str, tensors: Mapping[str, Any], scale: Scale) -> None:
        self.where = where
        self._tensors = tensors
        self._scale = scale

    def __contains__(self, role: str) -> bool:
        return role in self._tensors

    def __getitem__(self, role: str) -> Floats:
        if role not in self._tensors:
            raise CheckpointError(f"[lora] {self.where} has no {role}")
        array: Floats = self._tensors[role].to_float()
        return array

    def matrix(self, role: str) -> Floats:
        """All sizes but the first as one."""
        array = self[role]
        return array.reshape(len(array), -1)

    def scale(self, rank: int) -> float:
        """What the module's product is multiplied by: alpha / rank; without an alpha, 1."""
        alpha = float(self["alpha"].reshape(-1)[0]) if "alpha" in self else None
        # Trainers write 0 for "the rank".
        return self._scale(rank) if alpha is None else alpha / rank if alpha and rank else 1.0

    def fault(self, what: str, shape: Shape) -> CheckpointError:
        sizes = ", ".join(f"{role} {list(t.shape)}" for role, t in self._tensors.items())
        return CheckpointError(
            f"[lora] {self.where}: {what} does not fit a weight of {list(shape)}: {sizes}"
        )


Scale = Callable[[int], float]


def _scaled(values: Floats, by: float) -> Floats:
    scaled: Floats = values * np.float32(by)
    return scaled


class Change(ABC):
    """What an adapter adds to one tensor."""

    @abstractmethod
    def delta(self, weight: Floats, strength: float) -> Floats:
        """What to add to `weight`, in its shape."""

    def low_rank(self) -> tuple[Floats, Floats] | None:
        """`down` [r, …] and `up` [out, r] whose product is the delta at strength 1, if that is all
        there is to it."""
        return None


@dataclass(frozen=True, eq=False)
class Difference(Change):
    """A whole tensor to add: `.diff` of a weight, `.diff_b` of a bias, of norms too."""

    values: Floats

    def delta(self, weight: Floats, strength: float) -> Floats:
        return _scaled(self.values, strength).reshape(weight.shape)


class LowRank(Change):
    """LoRA: up · down, of a convolution too; with `mid` in between, LoCon's Tucker form."""

    def __init__(self, parts: Parts, shape: Shape) -> None:
        self.shape = shape
        up, down = parts.matrix("up"), parts["down"]
        rank = len(down)
        if "mid" in parts:
            mid, low = parts["mid"], parts.matrix("down")
            if mid.ndim != 4 or mid.shape[1] != rank:
                raise parts.fault("lora_mid", shape)
            down, rank = np.einsum("mrhw,ri->mihw", mid, low), len(mid)
        down = down.reshape(len(down), -1)
        if up.shape != (shape[0], rank) or down.shape[1] != math.prod(shape[1:]):
            raise parts.fault("up · down", shape)
        self.down = down.reshape(rank, *shape[1:])
        self.up = _scaled(up, parts.scale(rank))

    def delta(self, weight: Floats, strength: float) -> Floats:
        product = _scaled(self.up, strength) @ self.down.reshape(len(self.down), -1)
        return product.reshape(weight.shape)

    def low_rank(self) -> tuple[Floats, Floats]:
        return self.down, self.up


class Product(Change):
    """A whole matrix made of factors; only the factors are kept."""

    def __init__(self, parts: Parts, shape: Shape) -> None:
        self.parts = parts
        self.shape = shape
        self.values()  # so that what does not fit is known now

    @abstractmethod
    def values(self) -> Floats:
        """The change at strength 1."""

    def delta(self, weight: Floats, strength: float) -> Floats:
        return _scaled(self.values(), strength)


class Hadamard(Product):
    """LoHa: (w1a · w1b) ∘ (w2a · w2b) (Hyeon-Woo et al. 2021, FedPara; LyCORIS)."""

    def values(self) -> Floats:
        first, second = (_factor(self.parts, f"hada_w{i}", f"hada_t{i}") for i in (1, 2))
        if first.shape != second.shape or first.size != math.prod(self.shape):
            raise self.parts.fault("w1 ∘ w2", self.shape)
        scale = self.parts.scale(len(self.parts["hada_w1_b"]))
        return _scaled((first * second).reshape(self.shape), scale)


class Kronecker(Product):
    """LoKr: w1 ⊗ w2, either of them a product of two (LyCORIS)."""

    def values(self) -> Floats:
        first, second = (self._side(f"lokr_w{i}") for i in (1, 2))
        outputs, size = first.shape[0] * second.shape[0], first.size * second.size
        if (outputs, size) != (self.shape[0], math.prod(self.shape)):
            raise self.parts.fault("w1 ⊗ w2", self.shape)
        # Taps are the last sizes of w2, so the product of the flattened ones is in W's order.
        product = np.kron(first, second).reshape(self.shape)
        low = [name for name in ("lokr_w1_b", "lokr_w2_b") if name in self.parts]
        # Two whole factors have no rank to divide by, whatever alpha says.
        return _scaled(product, self.parts.scale(len(self.parts[low[0]])) if low else 1.0)

    def _side(self, name: str) -> Floats:
        parts = self.parts
        return parts.matrix(name) if name in parts else _factor(parts, name, "lokr_t2")


def _factor(parts: Parts, name: str, core: str) -> Floats:
    """a · b, or with a core t [r, r, kh, kw] (never of w1 in LoKr) aᵀ and b at its two sides."""
    a, b = parts.matrix(f"{name}_a"), parts.matrix(f"{name}_b")
    if core in parts and not name.startswith("lokr_w1"):
        product: Floats = np.einsum("rshw,ro,si->oihw", parts[core], a, b)
        return product.reshape(len(product), -1)
    return a @ b


class Decomposed(Change):
    """DoRA (Liu et al. 2024) around any of the others: W' = m · (W + Δ) / ‖W + Δ‖, a norm for each
    output, or in older files for each input.

    As in PEFT the norm is of the merged weight and strength scales Δ alone; the changes of several
    adapters add up.
    """

    def __init__(self, inner: Change, magnitude: Floats, shape: Shape, keep: int) -> None:
        """`keep`: the size of W that `magnitude` has, 0 or 1."""
        self.inner = inner
        self.axes = tuple(i for i in range(len(shape)) if i != keep)
        self.magnitude = magnitude.reshape([-1 if i == keep else 1 for i in range(len(shape))])

    def delta(self, weight: Floats, strength: float) -> Floats:
        merged = weight + self.inner.delta(weight, strength)
        norm = np.sqrt(np.sum(merged * merged, axis=self.axes, keepdims=True))
        gain = self.magnitude / np.maximum(norm, np.finfo(np.float32).tiny)
        changed: Floats = gain * merged - weight
        return changed


# The role that tells a kind apart.
KINDS: dict[str, Callable[[Parts, Shape], Change]] = {
    "up": LowRank,
    "down": LowRank,
    "hada_w1_a": Hadamard,
    "lokr_w1": Kronecker,
    "lokr_w1_a": Kronecker,
    "diff": lambda parts, shape: Difference(_whole(parts, "diff", shape)),
}


def weight_change(parts: Parts, shape: Shape) -> Change | None:
    """What a module's tensors do to its weight of this shape; None for rank 0 and for none."""
    kind = next((kind for role, kind in KINDS.items() if role in parts), None)
    if kind is None or ("down" in parts and 0 in parts["down"].shape):
        return None
    change = kind(parts, shape)
    for role in ("magnitude", "dora_scale"):
        if role in parts:
            magnitude = parts[role]
            # [1, in, …] is only LyCORIS' older form; PEFT's [1, out, 1, 1] looks like it.
            keep = int(role == "dora_scale" and magnitude.shape[:1] != shape[:1])
            if magnitude.size != shape[keep]:
                raise parts.fault("the magnitude", shape)
            change = Decomposed(change, magnitude, shape, keep)
    return change


def _whole(parts: Parts, role: str, shape: Shape) -> Floats:
    values = parts[role]
    if values.size != math.prod(shape):
        raise parts.fault(role, shape)
    return values.reshape(shape)


def bias_change(parts: Parts, shape: Shape) -> Change | None:
    """What they do to its bias: a whole difference, or PEFT's bias of `up`."""
    if "bias_diff" in parts:
        return Difference(_whole(parts, "bias_diff", shape))
    if "up_bias" in parts:
        rank = len(parts["down"])
        return Difference(_scaled(_whole(parts, "up_bias", shape), parts.scale(rank)))
    return None
