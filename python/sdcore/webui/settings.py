"""A picture's settings in the web UI's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError
from sdcore.webui import samplers

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline, PipelineOutput

__all__ = [
    "RNGS",
    "RNG_NAMES",
    "clip_skip",
    "described",
    "hires_steps",
    "number",
]

# Noise made on the CPU, and NVIDIA's noise.
RNGS = {"cpu": "CPU", "cuda": "NV"}
RNG_NAMES = {"cpu": "cpu", "nv": "cuda", "gpu": "cuda", "cuda": "cuda"}  # as read, in small letters


def described(
    out: PipelineOutput,
    pipe: DiffusionPipeline,
    model: str,
    *,
    index: int = 0,
    schedule: str | None = None,
    hires_schedule: str | None = None,
    layer: int | None = None,
    refiner: str | None = None,
    vae: str | None = None,
    hashes: Mapping[str, str | None] | None = None,
) -> dict[str, object]:
    """What image `index` was drawn with; `model`, `refiner` and `vae` are names. The schedules and
    `layer`, the CLIP skip, are as they were asked for; `hashes` are by key, as of `hashes_of`."""
    known = hashes or {}
    used = out.parameters
    strengths = [used.get("strength"), used.get("hires_strength")]
    first, second = (*(one for one in strengths if one is not None), None, None)[:2]
    subseed = used.get("subseed")
    return {
        "Steps": used["steps"],
        "Sampler": samplers.title(pipe.scheduler),
        "Schedule type": samplers.schedule_title(pipe.scheduler, schedule),
        "CFG scale": number(used["guidance_scale"]),
        "CFG Rescale": used.get("guidance_rescale"),
        "Guidance start": used.get("guidance_start"),
        "Guidance end": used.get("guidance_end"),
        "Seed": out.seeds[index],
        "Size": f"{used['width']}x{used['height']}",
        "Model hash": known.get("Model hash"),
        "Model": model,
        "VAE hash": known.get("VAE hash"),
        "VAE": vae,
        "Variation seed": None if subseed is None else subseed + index,
        "Variation seed strength": used.get("subseed_strength"),
        "Denoising strength": first if first is None else number(first),
        "Resize mode": used.get("resize_mode"),
        "Hires denoising strength": second if second is None else number(second),
        **_of_second_pass(used, hires_schedule),
        "Refiner": _short_title(refiner, known.get("Refiner")),
        "Refiner switch at": refiner and number(used["refiner_switch"]),
        "Lora hashes": known.get("Lora hashes"),
        "Clip skip": layer,
        "RNG": RNGS[used.get("rng", "cpu")],
        "Eta DDIM": None if used.get("eta") is None else number(used["eta"]),
        "PAG scale": used.get("pag_scale"),
        "Cache interval": used.get("cache_interval"),
        "Cache threshold": used.get("cache_threshold"),
        "Token merging ratio": used.get("token_merging_ratio"),
        "Dtype": used.get("dtype"),
        "Kernels": used.get("kernels"),
    }


def _of_second_pass(used: Mapping[str, Any], schedule: str | None) -> dict[str, object]:
    scheduler = used.get("hires_scheduler")
    return {
        "Hires prompt": used.get("hires_prompt"),
        "Hires negative prompt": used.get("hires_negative_prompt"),
        "Hires sampler": scheduler and samplers.title(scheduler),
        "Hires schedule type": scheduler and samplers.schedule_title(scheduler, schedule),
        "Hires CFG Scale": used.get("hires_guidance_scale"),
        "Hires upscale": used.get("hires_scale"),
        "Hires resize": used.get("hires_size"),
        "Hires steps": used.get("hires_steps"),
        "Hires upscaler": used.get("hires_upscaler"),
    }


def _short_title(name: str | None, found: str | None) -> str | None:
    return f"{name} [{found}]" if name and found else name


def number(value: float) -> str:
    """As short as it can be read back."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def clip_skip(pipe: DiffusionPipeline, layer: int) -> int:
    """A1111's number as diffusers': SD 2 and SDXL read the last layer but one to begin with, and
    the web UI takes no less there."""
    if layer < 1:
        raise InvalidArgumentError(f"[txt2img] CLIP skip must be at least 1, got {layer}")
    return max(layer - getattr(pipe, "clip_layer", 1), 0)


def hires_steps(steps: int, strength: float) -> int:
    """The web UI counts a second pass's steps after the strength took its share: that many are
    made."""
    return int(steps / min(strength, 0.999))
