"""Stable Diffusion 2.x and SD-Turbo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sdcore.pipelines.families.stable_diffusion import StableDiffusionPipeline

__all__ = ["StableDiffusion2Pipeline"]


class StableDiffusion2Pipeline(StableDiffusionPipeline):
    """Stable Diffusion with OpenCLIP's ViT-H, whose texts are padded with "!" (token 0)."""

    padding: ClassVar[Mapping[str, str]] = {"tokenizer": "!"}
    clip_layer: ClassVar[int] = 2
