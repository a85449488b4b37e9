"""Stable Diffusion for inpainting: a UNet that sees the mask and what is around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from sdcore.pipelines.families.stable_diffusion import StableDiffusionPipeline
from sdcore.pipelines.families.stable_diffusion_2 import StableDiffusion2Pipeline
from sdcore.pipelines.families.stable_diffusion_xl import StableDiffusionXLPipeline
from sdcore.pipelines.noise import Draws
from sdcore.pipelines.pictures import encode
from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.request import Request
from sdcore.pipelines.start import (
    Start,
    first_noise,
    from_noise,
    from_picture,
    shrunk_mask,
    under_mask,
)
from sdcore.schedulers import Scheduler

__all__ = [
    "StableDiffusion2InpaintPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLInpaintPipeline",
]


class _Inpainting(DiffusionPipeline):
    """Nine channels into the UNet: latents, mask, latents of the picture without what is masked.

    With no `image` or no mask everything is to be painted.
    """

    call_order: ClassVar[Sequence[str]] = ("image", "mask_image")
    inpaints: ClassVar[bool] = True
    begins_from_latents: ClassVar[bool] = False

    def start(self, request: Request, scheduler: Scheduler, noise: Draws) -> Start:
        n, size = len(request.prompts), (request.height, request.width)
        images = np.zeros((n, 3, *size), np.float32) if request.images is None else request.images
        mask = np.ones((1, *size), np.float32) if request.mask is None else request.mask
        picture = None
        if request.images is not None and request.strength < 1:
            picture = encode(self.vae, images, noise)
        fresh = first_noise(self, request, noise)
        around = encode(self.vae, images * (mask < 0.5), noise)
        small = shrunk_mask(self, mask)
        shrunk = np.broadcast_to(small, (n, 1, *around.shape[2:]))
        latents = (
            from_noise(fresh, scheduler)
            if picture is None
            else from_picture(under_mask(request, picture, fresh, small), fresh, scheduler)
        )
        return Start(latents, channels=np.concatenate([shrunk, around], axis=1))


class StableDiffusionInpaintPipeline(_Inpainting, StableDiffusionPipeline):
    """Stable Diffusion 1.x."""


class StableDiffusion2InpaintPipeline(_Inpainting, StableDiffusion2Pipeline):
    """Stable Diffusion 2.x."""


class StableDiffusionXLInpaintPipeline(_Inpainting, StableDiffusionXLPipeline):
    """SDXL."""

    call_order: ClassVar[Sequence[str]] = ("prompt_2", "image", "mask_image")
    extra_arguments = tuple(
        name
        for name in StableDiffusionXLPipeline.extra_arguments
        if not name.startswith("denoising")
    )
