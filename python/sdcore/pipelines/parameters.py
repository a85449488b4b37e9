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
        "hires_scale": request.hires and request.hires.scale,
        "hires_steps": request.hires and request.hires.steps,
        "hires_strength": request.hires and request.hires.strength,
        "strength": None if request.images is None else request.strength,
        "resize_mode": request.resize_mode,
        "cache_threshold": request.cache_threshold or None,
        "dtype": arithmetic.dtypes(pipe),
        "kernels": arithmetic.kernels(pipe),
        **{name: x for name, x in request.extra.items() if isinstance(x, int | float)},
    }
