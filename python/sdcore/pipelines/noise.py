"""The random numbers of a call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdcore import _core

__all__ = ["Noise"]


class Noise:
    """A generator an image, as diffusers is given a list of them: a picture of a batch is the
    picture made alone. The numbers are those of `torch.Generator("cpu")`."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [_core.TorchRandom(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Each image's next normal numbers: [n, *shape]."""
        return np.stack([generator.randn(list(shape)) for generator in self._generators])
