"""What a run begins with: noise, or a picture and noise over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.pipelines.noise import Draws, Noise, mixed
from sdcore.pipelines.pictures import encode
from sdcore.pipelines.request import Request
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.hooks import FamilyHooks

__all__ = [
    "Start",
    "begin",
    "first_noise",
    "from_noise",
    "from_picture",
    "shrunk_mask",
    "under_mask",
]

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
    """`channels` [rows, c, h, w] are what the denoiser takes beside the latents: a row an image, or
    one for each row that guidance makes of them."""

    latents: Array  # [n, c, h, w], at the level of the first row
    kept: Kept | None = None
    channels: Array | None = None

    def beside(self, x: Array, first: int = 0) -> Array:
        """x with the further channels; its rows are those from `first` of what guidance asks."""
        if self.channels is None:
            return x
        rows = (first + np.arange(len(x))) % len(self.channels)
        return np.concatenate([x, self.channels[rows]], axis=1)


def begin(pipe: FamilyHooks, request: Request, scheduler: Scheduler, noise: Draws) -> Start:
    """Draws in the order that diffusers does: for the encoder, then for the first noise."""
    if request.images is None:
        return Start(from_noise(first_noise(pipe, request, noise), scheduler))
    picture = request.images if request.of_latents else encode(pipe.vae, request.images, noise)
    fresh = first_noise(pipe, request, noise)
    if request.mask is None:
        return Start(from_picture(picture, fresh, scheduler))
    if not isinstance(pipe.vae, AutoencoderTiny):
        noise.draw(picture.shape[1:])  # diffusers encodes the masked picture too, used or not
    mask = shrunk_mask(pipe, request.mask)
    begun = under_mask(request, picture, fresh, mask)
    whole = request.strength == 1
    latents = from_noise(fresh, scheduler) if whole else from_picture(begun, fresh, scheduler)
    return Start(latents, Kept(picture, fresh, mask))


def from_noise(noise: Array, scheduler: Scheduler) -> Array:
    latents: Array = noise * np.float32(scheduler.init_noise_sigma)
    return latents


def from_picture(picture: Array, noise: Array, scheduler: Scheduler) -> Array:
    """A picture's latents as they stand at the first row."""
    return scheduler.add_noise(picture, noise, np.full(len(picture), scheduler.timesteps[0]))


def first_noise(pipe: FamilyHooks, request: Request, noise: Draws) -> Array:
    """[n, c, h, w]: the seeds' or the caller's."""
    shape = pipe.latent_shape(request)
    if request.latents is None:
        fresh = noise.draw(shape)
        if not request.subseed_strength:
            return fresh
        return mixed(
            fresh, Noise(request.subseeds, request.rng).draw(shape), request.subseed_strength
        )
    wanted = (len(request.prompts), *shape)
    if request.latents.shape != wanted:
        raise InvalidArgumentError(
            f"[pipeline] latents must be {list(wanted)}, got {list(request.latents.shape)}"
        )
    return request.latents


def under_mask(request: Request, picture: Array, noise: Array, mask: Array) -> Array:
    """A picture's latents with what is to be painted over as `masked_content` says: the web UI's
    latent noise, which is that of the first step, and latent nothing."""
    if request.masked_content == "original":
        return picture
    content = noise if request.masked_content == "noise" else np.float32(0)
    begun: Array = (1 - mask) * picture + mask * content
    return begun


def shrunk_mask(pipe: FamilyHooks, mask: Array) -> Array:
    """A mask in the latents' size: the first pixel of each, as diffusers does."""
    f = pipe.vae.scale_factor
    return mask[:, ::f, ::f]
