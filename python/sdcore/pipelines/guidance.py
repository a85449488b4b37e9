"""Classifier-free guidance (Ho and Salimans 2022): away from the negative prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.pipelines.request import Prompt, Request

__all__ = ["Guidance", "GuidancePlusPlus", "Model", "PerturbedGuidance", "rescaled"]

Array = NDArray[np.float32]
# The model at one step, of x: `rows` picks some of what was asked, and what else is named goes to
# the denoiser.
Model = Callable[..., Array]


@dataclass(frozen=True)
class Guidance:
    """`begin` and `end` are the shares of the steps between which it works (Kynkäänniemi et al.
    2024); before and after, the prompt alone is asked about. Asked `in_turns`, the model runs once
    for each prompt: less memory, and the same bits as all in one batch."""

    scale: float
    rescale: float = field(default=0.0, kw_only=True)
    begin: float = field(default=0.0, kw_only=True)
    end: float = field(default=1.0, kw_only=True)
    in_turns: bool = field(default=False, kw_only=True)
    began: bool = field(default=False, kw_only=True)  # with guidance, whatever the scale is now

    @property
    def guides(self) -> bool:
        """Whether it leads anywhere."""
        return self.scale > 1.0

    @property
    def active(self) -> bool:
        """Whether the model is asked about the negative prompt at all."""
        return self.began or self.guides

    def at(self, scale: float) -> Guidance:
        """The same with another scale, in the middle of a run."""
        changed = replace(self, scale=scale, began=self.active)
        if changed.active and not self.active:
            raise InvalidArgumentError(
                f"[pipeline] guidance_scale cannot become {scale:g} on the way: this run began "
                "without guidance, and knows no negative prompt"
            )
        return changed

    def asked(self, request: Request) -> list[Prompt]:
        """The prompt of each row that the model is given."""
        if not self.active:
            return request.prompts
        return [*request.negative_prompts, *request.prompts]

    def predict(self, model: Model, x: Array, index: int, steps: int) -> Array:
        """The model's output at x, whose rows are the images, at step `index` of `steps`."""
        return self.predict_both(model, x, index, steps)[0]

    def predict_both(
        self, model: Model, x: Array, index: int, steps: int
    ) -> tuple[Array, Array | None]:
        """The same, and what the model gives for the negative prompt, where it is asked."""
        if not self.active:
            return model(x), None
        if not self.works_at(index, steps):
            return self.positive(model, x), None
        negative, positive = self.ask(model, x)
        guided = _core.guide(negative, positive, self.scale)
        return rescaled(guided, positive, self.rescale), negative

    def works_at(self, index: int, steps: int) -> bool:
        """As diffusers' guiders count."""
        return self.guides and int(self.begin * steps) <= index < int(self.end * steps)

    def positive(self, model: Model, x: Array, **more: Any) -> Array:
        """What the model gives for the prompts alone."""
        return model(x, rows=slice(len(x), 2 * len(x)), **more)

    def ask(self, model: Model, x: Array, times: int = 2) -> list[Array]:
        """What it gives for each part of `asked`: the negative prompts, and the prompts."""
        n = len(x)
        if self.in_turns:
            return [model(x, rows=slice(i * n, (i + 1) * n)) for i in range(times)]
        return np.split(model(np.concatenate([x] * times)), times)


@dataclass(frozen=True)
class PerturbedGuidance(Guidance):
    """Also away from what the model gives when some self-attentions see each token alone (Ahn et
    al. 2024; diffusers' pag_scale)."""

    pag_scale: float
    layers: tuple[str, ...]

    def predict(self, model: Model, x: Array, index: int, steps: int) -> Array:
        n, scale = len(x), np.float32(self.pag_scale)
        if not self.active:
            positive = model(x)
            alone: Array = positive + scale * (positive - model(x, perturbed=self.layers))
            return alone
        if not self.works_at(index, steps):
            return self.positive(model, x)
        negative, positive = self.ask(model, x)
        perturbed = model(x, rows=slice(n, 2 * n), perturbed=self.layers)
        guided = _core.guide(negative, positive, self.scale)
        return rescaled(guided + scale * (positive - perturbed), positive, self.rescale)


@dataclass(frozen=True)
class GuidancePlusPlus(Guidance):
    """That of CFG++, whose scale is a share: 0 is the negative prompt's picture, 1 the prompt's."""

    @property
    def guides(self) -> bool:
        return True


def rescaled(guided: Array, positive: Array, share: float) -> Array:
    """Lin et al. 2023, "Common Diffusion Noise Schedules", equations 15 and 16: each image's
    spread on its way back to what the prompt alone gives."""
    if not share:
        return guided
    spreads = [x.reshape(len(x), -1).std(axis=1, ddof=1) for x in (positive, guided)]
    factors = share * (spreads[0] / spreads[1]) + (1 - share)
    at_spread: Array = guided * factors.astype(np.float32).reshape(-1, 1, 1, 1)
    return at_spread
