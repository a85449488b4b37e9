"""What a run begins with: noise, or a picture and noise over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.pipelines.noise import Noise
from sdcore.pipelines.pictures import encode
from sdcore.pipelines.request import Request
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["Start", "begin"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Kept:
    """The latents of a picture that is kept where `mask` [1, h, w] is 0, and the noise over it."""

    picture: Array
    noise: Array
    mask: Array

    def restore(self, latents: Array, scheduler: Scheduler, t: float | None) -> Array:
        """`latents` at timestep t (None: the end) with the kept part as the picture has it."""
        picture = self.picture
        if t is not None:
            picture = scheduler.add_noise(picture, self.noise, np.full(len(picture), t))
        restored: Array = (1 - self.mask) * picture + self.mask * latents
        return restored


@dataclass(frozen=True)
class Start:
    latents: Array  # [n, c, h, w], at the level of the first row
    kept: Kept | None = None


def begin(pipe: DiffusionPipeline, request: Request, scheduler: Scheduler, noise: Noise) -> Start:
    """Draws in the order that diffusers does: for the encoder, then for the first noise."""
    if request.images is None:
        return Start(_noise(pipe, request, noise) * np.float32(scheduler.init_noise_sigma))
    picture = encode(pipe.vae, request.images, noise)
    fresh = _noise(pipe, request, noise)
    if request.mask is None or request.strength < 1:
        first = np.full(len(fresh), scheduler.timesteps[0])
        latents = scheduler.add_noise(picture, fresh, first)
    else:
        latents = fresh * np.float32(scheduler.init_noise_sigma)
    if request.mask is None:
        return Start(latents)
    noise.draw(picture.shape[1:])  # diffusers encodes the masked picture too, used or not
    return Start(latents, Kept(picture, fresh, shrunk_mask(pipe, request.mask)))


def shrunk_mask(pipe: DiffusionPipeline, mask: Array) -> Array:
    """A mask in the latents' size: the first pixel of each, as diffusers does."""
    f = pipe.vae.scale_factor
    return mask[:, ::f, ::f]


def _noise(pipe: DiffusionPipeline, request: Request, noise: Noise) -> Array:
    """[n, c, h, w]: the seeds' or the caller's."""
    shape = pipe.latent_shape(request)
    if request.latents is None:
        return noise.draw(shape)
    wanted = (len(request.prompts), *shape)
    if request.latents.shape != wanted:
        raise InvalidArgumentError(
            f"[pipeline] latents must be {list(wanted)}, got {list(request.latents.shape)}"
        )
    return request.latents
