"""A picture drawn twice: small, where models compose well, then larger over itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.pictures.fit import fitted
from sdcore.pipelines.denoise import denoise, new_scheduler
from sdcore.pipelines.noise import Noise
from sdcore.pipelines.request import Hires, Request
from sdcore.pipelines.stream import Step

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["drawn_twice"]

Array = NDArray[np.float32]


def drawn_twice(
    pipe: DiffusionPipeline, request: Request, hires: Hires, first: Iterator[Step]
) -> Iterator[Step]:
    """The steps of the first pass and of a second: image-to-image from the first one's picture,
    enlarged by Lanczos' filter, with the same seeds."""
    # Made before the first step, so that what is wrong with it is said at once.
    second = dataclasses.replace(
        request,
        width=hires.width,
        height=hires.height,
        steps=hires.steps,
        steps_before=pipe.span(request).steps,
        strength=hires.strength,
        images=np.zeros(0, np.float32),
        mask=None,
        latents=None,
        hires=None,
    )
    if isinstance(pipe.vae, AutoencoderTiny):
        pipe.vae.require_encoder()
    pipe.denoiser_options(second)
    scheduler = new_scheduler(pipe, second)
    more = len(scheduler.table.rows)

    def steps() -> Iterator[Step]:
        step = None
        for step in first:
            step.total += more
            yield step
        assert step is not None  # there is no table without a step
        larger = dataclasses.replace(second, images=_enlarged(pipe, step.latents, hires))
        noise = Noise(request.seeds, request.rng)
        start = pipe.start(larger, scheduler, noise)
        before = step.index + 1
        for step in denoise(pipe, larger, scheduler, noise, start):
            step.index += before
            step.total += before
            yield step

    return steps()


def _enlarged(pipe: DiffusionPipeline, latents: Array, hires: Hires) -> Array:
    pictures = pipe.to_pil(latents)
    return np.stack([fitted(picture, hires.width, hires.height) for picture in pictures])
