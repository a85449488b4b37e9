"""The latents that a call begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.pipelines.noise import Noise
from sdcore.pipelines.request import Request
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["first_latents"]

Array = NDArray[np.float32]


def first_latents(
    pipe: DiffusionPipeline, request: Request, scheduler: Scheduler, noise: Noise
) -> Array:
    """Noise [n, c, h, w], the seeds' or the caller's, at the level the schedule begins with."""
    shape = pipe.latent_shape(request)
    if request.latents is None:
        latents = noise.draw(shape)
    else:
        latents = request.latents
        wanted = (len(request.prompts), *shape)
        if latents.shape != wanted:
            raise InvalidArgumentError(
                f"[pipeline] latents must be {list(wanted)}, got {list(latents.shape)}"
            )
    scaled: Array = latents * np.float32(scheduler.init_noise_sigma)
    return scaled
