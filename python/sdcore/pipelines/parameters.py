"""The settings that a picture was drawn with, as `PipelineOutput.parameters` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcore.pipelines import arithmetic
from sdcore.pipelines.request import Request

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["parameters"]


def parameters(pipe: DiffusionPipeline, request: Request) -> dict[str, Any]:
    """Of all pictures of a request alike; None where something was not at work."""
    width, height = request.cut or (request.width, request.height)
    return {
        "prompt": request.prompts[0].written,
        "negative_prompt": request.negative_prompts[0].written,
        "steps": request.steps,
        "sampler": type(pipe.scheduler).__name__,
        "guidance_scale": request.guidance_scale,
        "guidance_rescale": request.guidance_rescale or None,
        "guidance_start": request.guidance_start or None,
        "guidance_end": request.guidance_end if request.guidance_end < 1 else None,
        "width": width,
        "height": height,
        "eta": request.eta,
        "rng": request.rng,
        "subseed": request.subseeds[0] if request.subseed_strength else None,
        "subseed_strength": request.subseed_strength or None,
        **_hires(request),
        "strength": None if request.images is None else request.strength,
        "resize_mode": request.resize_mode,
        "lora_scale": request.lora_scale if request.lora_scale != 1 else None,
        "cache_threshold": request.cache_threshold or None,
        "dtype": arithmetic.dtypes(pipe),
        "kernels": arithmetic.kernels(pipe),
        **{name: x for name, x in request.extra.items() if isinstance(x, int | float)},
    }


def _hires(request: Request) -> dict[str, Any]:
    """Of a second pass what it has of its own; `hires_scheduler` is one."""
    hires = request.hires
    if hires is None:
        return {}
    prompts, negatives = hires.prompts, hires.negative_prompts
    return {
        "hires_scale": hires.scale,
        "hires_size": hires.asked and "{}x{}".format(*hires.asked),
        "hires_steps": hires.steps,
        "hires_upscaler": hires.upscaler,
        "hires_strength": hires.strength,
        "hires_prompt": prompts[0].written if prompts else None,
        "hires_negative_prompt": negatives[0].written if negatives else None,
        "hires_guidance_scale": hires.guidance_scale,
        "hires_scheduler": hires.scheduler,
    }
