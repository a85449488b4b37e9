"""A picture drawn twice: small, where models compose well, then larger over itself."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.pictures.fit import fitted
from sdcore.pipelines.denoise import new_scheduler
from sdcore.pipelines.request import Hires, Request
from sdcore.pipelines.stages import Stage

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["second_pass"]

Array = NDArray[np.float32]


def second_pass(pipe: DiffusionPipeline, request: Request, hires: Hires) -> Stage:
    """Image-to-image from the first pass's picture, enlarged by Lanczos' filter, with the same
    seeds."""
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
        of_latents=False,
        mask=None,
        latents=None,
        hires=None,
        encoded=request.encoded if same_loras else {},  # of text encoders with other LoRAs
    )
    if isinstance(pipe.vae, AutoencoderTiny):
        pipe.vae.require_encoder()
    call = pipe._for_call(second.lora_tags(), second.lora_scale)
    call.denoiser_options(second)
    if hires.scheduler is not None:
        call.scheduler = hires.scheduler

    def enlarged(asked: Request, latents: Array) -> Request:
        pictures = call.to_pil(latents)
        size = asked.width, asked.height
        images = np.stack([fitted(picture, *size, hires.mode) for picture in pictures])
        return dataclasses.replace(asked, images=images)

    return Stage(call, second, new_scheduler(call, second), enlarged)
