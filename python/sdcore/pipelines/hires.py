"""A picture drawn twice: small, where models compose well, then larger over itself."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.pictures.fit import fitted
from sdcore.pictures.upscale import LATENT_MODES, enlarged, enlarged_latents
from sdcore.pipelines.denoise import new_scheduler
from sdcore.pipelines.request import Hires, Request
from sdcore.pipelines.stages import Stage

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["second_pass"]

Array = NDArray[np.float32]


def second_pass(pipe: DiffusionPipeline, request: Request, hires: Hires) -> Stage:
    """Image-to-image from the first pass's picture or latents, enlarged, with the same seeds."""
    own = hires.prompts or request.prompts
    same_loras = own[0].tags == request.prompts[0].tags
    second = dataclasses.replace(
        request,
        prompts=own,
        negative_prompts=hires.negative_prompts or request.negative_prompts,
        width=hires.width,
        height=hires.height,
        steps=hires.steps,
        placed={},
        steps_before=pipe.span(request).steps,
        strength=hires.strength,
        guidance_scale=(
            request.guidance_scale if hires.guidance_scale is None else hires.guidance_scale
        ),
        images=np.zeros(0, np.float32),
        of_latents=hires.upscaler in LATENT_MODES,
        mask=None,
        latents=None,
        hires=None,
        encoded=request.encoded if same_loras else {},  # of text encoders with other LoRAs
    )
    if isinstance(pipe.vae, AutoencoderTiny) and not second.of_latents:
        pipe.vae.require_encoder()
    call = pipe._for_call(second.lora_tags(), second.lora_scale)
    call.denoiser_options(second)
    if hires.scheduler is not None:
        call.scheduler = hires.scheduler

    def goes_on(asked: Request, latents: Array) -> Request:
        size = asked.width, asked.height
        if asked.of_latents:
            f = call.vae.scale_factor
            inner = size[0] // f, size[1] // f
            images = enlarged_latents(latents, inner, hires.upscaler, hires.mode)
            return dataclasses.replace(asked, images=images)
        larger = [
            enlarged(picture, size, hires.upscaler, hires.mode) for picture in call.to_pil(latents)
        ]
        return dataclasses.replace(asked, images=np.stack([fitted(one, *size) for one in larger]))

    return Stage(call, second, new_scheduler(call, second), goes_on)
