"""Classifier-free guidance (Ho and Salimans 2022): away from the negative prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.pipelines.request import Prompt, Request

__all__ = ["Guidance", "Model", "rescaled"]

Array = NDArray[np.float32]
# The model at one step, of x: `rows` picks some of what was asked, and what else is named goes to
# the denoiser.
Model = Callable[..., Array]


@dataclass(frozen=True)
class Guidance:
    scale: float
    rescale: float = field(default=0.0, kw_only=True)

    @property
    def active(self) -> bool:
        """Whether the model is asked about the negative prompt at all."""
        return self.scale > 1.0

    def asked(self, request: Request) -> list[Prompt]:
        """The prompt of each row that the model is given."""
        if not self.active:
            return request.prompts
        return [*request.negative_prompts, *request.prompts]

    def predict(self, model: Model, x: Array, index: int, steps: int) -> Array:
        """The model's output at x, whose rows are the images, at step `index` of `steps`."""
        if not self.active:
            return model(x)
        negative, positive = np.split(model(np.concatenate([x, x])), 2)
        guided = _core.guide(negative, positive, self.scale)
        return rescaled(guided, positive, self.rescale)


def rescaled(guided: Array, positive: Array, share: float) -> Array:
    """Lin et al. 2023, "Common Diffusion Noise Schedules", equations 15 and 16: each image's
    spread on its way back to what the prompt alone gives."""
    if not share:
        return guided
    spreads = [x.reshape(len(x), -1).std(axis=1, ddof=1) for x in (positive, guided)]
    factors = share * (spreads[0] / spreads[1]) + (1 - share)
    at_spread: Array = guided * factors.astype(np.float32).reshape(-1, 1, 1, 1)
    return at_spread
