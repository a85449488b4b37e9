"""Pictures of several prompts at once (Liu et al. 2022, "Compositional Visual Generation with
Composable Diffusion Models"): what AND joins in a prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcore.pipelines.guidance import Model
from sdcore.pipelines.request import Prompt, Request

if TYPE_CHECKING:
    from sdcore.pipelines.hooks import FamilyHooks

__all__ = ["Composition", "composition"]

log = logging.getLogger("sdcore")

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Composition:
    """`weights` are those of each image's parts, as many as it has. In place of what a prompt alone
    makes of a picture stands negative + Σ weight · (part - negative), so that guidance of any kind
    goes on from there: the web UI's combine_denoised."""

    weights: Sequence[Sequence[float]]
    in_turns: bool

    def asked(self, request: Request) -> list[Prompt]:
        """The prompt of each row that the model is given: the negative ones, then a part of each
        image, as often as the one of most parts has some. Of images with fewer the first is there
        again, and does not count."""
        of_images = [prompt.parts() for prompt in request.prompts]
        return [
            *request.negative_prompts,
            *(own[k if k < len(own) else 0][0] for k in range(self._most) for own in of_images),
        ]

    def joined(self, model: Model) -> Model:
        """The model as guidance asks it, with rows of negative prompts and of prompts, or of
        prompts alone."""
        negatives: list[Array] = []  # once a step, though guidance asks in turns

        def ask(x: Array, rows: slice = slice(None), **more: Any) -> Array:
            n = len(self.weights)
            own = slice(0, n)
            if rows == own:
                negatives.append(model(x, rows=own))
                return negatives[0]
            known = negatives if not more else []
            made = [*known, *self._ask(model, x[:n], len(known), more)]
            composed = self._composed(made)
            return np.concatenate([made[0], composed]) if len(x) > n else composed

        return ask

    @property
    def _most(self) -> int:
        return max(map(len, self.weights))

    def _ask(self, model: Model, x: Array, begin: int, more: dict[str, Any]) -> list[Array]:
        """What it gives for each part of `asked` from number `begin` on."""
        n, end = len(x), self._most + 1
        if self.in_turns:
            return [model(x, rows=slice(k * n, (k + 1) * n), **more) for k in range(begin, end)]
        times = end - begin
        out = model(np.concatenate([x] * times), rows=slice(begin * n, end * n), **more)
        return np.split(out, times)

    def _composed(self, made: Sequence[Array]) -> Array:
        negative, *parts = made
        out: Array = negative.copy()
        for i, weights in enumerate(self.weights):
            if len(weights) == 1:  # bit for bit what it is beside no others
                out[i] = parts[0][i]
                continue
            for weight, part in zip(weights, parts, strict=False):
                out[i] += np.float32(weight) * (part[i] - negative[i])
        return out


def composition(pipe: FamilyHooks, request: Request, in_turns: bool) -> Composition | None:
    """None where each image has one prompt. To a model that cannot be asked so, AND is a word, with
    a warning."""
    weights = [[weight for _, weight in prompt.parts()] for prompt in request.prompts]
    if max(map(len, weights)) == 1:
        return None
    if not pipe.composes:
        log.warning("[prompt] AND is a word to this model: it draws one prompt a picture")
        return None
    return Composition(weights, in_turns)
