"""The random numbers of a call."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError

__all__ = ["GENERATORS", "Draws", "Noise", "TorchNoise", "is_generator", "mixed"]

# Whose numbers: those of torch.Generator on either device.
GENERATORS: Mapping[str, Any] = {"cpu": _core.TorchRandom, "cuda": _core.PhiloxRandom}


class Draws(Protocol):
    def draw(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Each image's next normal numbers: [n, *shape]."""


class Noise:
    """A generator an image, as diffusers is given a list of them: a picture of a batch is the
    picture made alone. The numbers are those of `torch.Generator(kind)`."""

    def __init__(self, seeds: Sequence[int], kind: str = "cpu") -> None:
        if kind not in tuple(GENERATORS):
            raise InvalidArgumentError(
                f"[pipeline] rng must be {' or '.join(GENERATORS)}, got {kind!r}"
            )
        self._generators = [GENERATORS[kind](seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> NDArray[np.float32]:
        return np.stack([generator.randn(list(shape)) for generator in self._generators])


def is_generator(value: Any) -> bool:
    """Whether it is a torch.Generator; whoever has one has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Generator)


class TorchNoise:
    """The caller's own torch.Generators, one an image, or one that draws for all images at once as
    in diffusers. They go on with every draw, so that a second call gets other numbers."""

    def __init__(self, generators: Sequence[Any], images: int) -> None:
        self._generators = generators
        self._rows = images if len(generators) == 1 else 1

    def draw(self, shape: Sequence[int]) -> NDArray[np.float32]:
        torch: Any = sys.modules["torch"]
        drawn = [
            torch.randn(self._rows, *shape, generator=one, device=one.device, dtype=torch.float32)
            for one in self._generators
        ]
        return np.concatenate([one.cpu().numpy() for one in drawn])


def mixed(a: NDArray[np.float32], b: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """`share` of b in a, along the arc between each image's two, so that noise stays as loud:
    Shoemake 1985, "Animating rotation with quaternion curves", as A1111's web UI mixes seeds."""
    return np.stack([_on_arc(one, other, share) for one, other in zip(a, b, strict=True)])


def _on_arc(a: NDArray[np.float32], b: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    cosine = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-3:  # the same direction: the arc is a point
        of_a, of_b = 1 - share, share
    else:
        of_a, of_b = (np.sin(part * angle) / np.sin(angle) for part in (1 - share, share))
    between: NDArray[np.float32] = np.float32(of_a) * a + np.float32(of_b) * b
    return between
