"""Classifier-free guidance (Ho and Salimans 2022): away from the negative prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdcore import _core

__all__ = ["Guidance"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Guidance:
    scale: float

    @property
    def active(self) -> bool:
        """Whether the model is asked about the negative prompt at all."""
        return self.scale > 1.0

    def predict(self, model: Callable[[Array], Array], x: Array) -> Array:
        """The model's output at x. Its rows are the images, under guidance those of the negative
        prompts and then those of the prompts."""
        if not self.active:
            return model(x)
        negative, positive = np.split(model(np.concatenate([x, x])), 2)
        return _core.guide(negative, positive, self.scale)
