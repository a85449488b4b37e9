"""Stable Diffusion 2 with depth: a UNet that sees how far away everything is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.errors import InvalidArgumentError
from sdcore.pictures.fit import resized_numbers
from sdcore.pictures.given import as_levels
from sdcore.pipelines.families.stable_diffusion_2 import StableDiffusion2Pipeline
from sdcore.pipelines.noise import Draws
from sdcore.pipelines.request import Request
from sdcore.pipelines.start import Start
from sdcore.schedulers import Scheduler

__all__ = ["StableDiffusionDepth2ImgPipeline"]

Array = NDArray[np.float32]


class StableDiffusionDepth2ImgPipeline(StableDiffusion2Pipeline):
    """Five channels into the UNet: latents, and the depth of the picture to be, which every call
    needs as `depth_map`."""

    call_order: ClassVar[Sequence[str]] = ("image", "depth_map", "strength", "num_inference_steps")
    extra_arguments = (*StableDiffusion2Pipeline.extra_arguments, "depth_map")

    def resized(
        self, extra: Mapping[str, Any], size: tuple[int, int], mode: str
    ) -> Mapping[str, Any]:
        given = extra.get("depth_map")
        if given is None:
            return super().resized(extra, size, mode)
        levels = resized_numbers(as_levels(given, "depth_map"), size, mode)
        return {**super().resized(extra, size, mode), "depth_map": levels}

    def start(self, request: Request, scheduler: Scheduler, noise: Draws) -> Start:
        given = request.extra.get("depth_map")
        if given is None:
            raise InvalidArgumentError(
                "[pipeline] this model draws by depth: give it as depth_map (--depth-map on the "
                "command line), a picture that is white where near; sdcore estimates none"
            )
        f = self.vae.scale_factor
        depth = _depth(given, request.width // f, request.height // f)
        start = super().start(request, scheduler, noise)
        channels = np.broadcast_to(depth, (len(request.prompts), 1, *depth.shape))
        return dataclasses.replace(start, channels=channels)


def _depth(given: Any, width: int, height: int) -> Array:
    """[height, width] from -1, farthest, to 1, of a picture or of depth in any unit."""
    levels = Image.fromarray(as_levels(given, "depth_map"))
    picture = levels.resize((width, height), Image.Resampling.BICUBIC)
    resized: Array = np.asarray(picture)
    low, high = float(resized.min()), float(resized.max())
    if low == high:
        raise InvalidArgumentError(
            f"[pipeline] depth_map has the same depth everywhere, {low:g}: it says nothing"
        )
    return (2 * (resized - low) / (high - low) - 1).astype(np.float32)
