"""ControlNets on the pipeline of Stable Diffusion 3."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore.checkpoint import Checkpoint, Component
from sdcore.models.controlnet_sd3 import SD3ControlNetConfig, SD3ControlNetModel
from sdcore.models.mmdit import SD3Config, SD3Transformer2DModel
from sdcore.pictures.fit import resized
from sdcore.pictures.given import as_picture
from sdcore.pipelines.control import CONTROL_ARGUMENTS, Controller, asked_for, listed
from sdcore.pipelines.control_sd3 import SD3Controller
from sdcore.pipelines.controlled import ControlledPipeline, Opener, misfit_of
from sdcore.pipelines.pictures import encoded_mean
from sdcore.pipelines.request import Request

__all__ = ["SD3_CONTROL_ARGUMENTS", "ControlledSD3Pipeline"]

Array = NDArray[np.float32]

SD3_CONTROL_ARGUMENTS = (*CONTROL_ARGUMENTS, "control_mask")

# Where a folder of Stability's for canny's edges says so, whose config does not.
_OF_CANNY = re.compile(r"canny", re.IGNORECASE)
# How the transformer embeds latents, for ControlNets that do not.
_EMBEDDING = ("pos_embed.proj.weight", "pos_embed.proj.bias", "pos_embed.pos_embed")


class ControlledSD3Pipeline(ControlledPipeline):
    beside: ClassVar[Mapping[str, str]] = {"controlnet": "transformer"}
    control_arguments = SD3_CONTROL_ARGUMENTS

    transformer: SD3Transformer2DModel
    controlnet: tuple[SD3ControlNetModel, ...] = ()

    def control_openers(self) -> Mapping[str, Opener]:
        base: SD3Transformer2DModel = self._adapters.base["transformer"]  # without LoRAs

        def part(opened: Checkpoint) -> Component:
            found = _with_kind(_with_channels(opened.component("controlnet")), opened.path)
            return found if found.config.get("use_pos_embed", True) else _embedding(found, base)

        def misfit(config: SD3ControlNetConfig) -> str | None:
            return _misfit(config, base.config)

        return {"controlnet-sd3": Opener(SD3ControlNetModel, part, misfit)}

    def resized(
        self, extra: Mapping[str, Any], size: tuple[int, int], mode: str
    ) -> Mapping[str, Any]:
        found, given = super().resized(extra, size, mode), extra.get("control_mask")
        if given is None:
            return found

        def fitted(mask: Any) -> Any:
            return None if mask is None else resized(as_picture(mask, "control_mask"), size, mode)

        is_list = isinstance(given, list | tuple)  # else it is for all
        masks = [fitted(one) for one in given] if is_list else fitted(given)
        return {**found, "control_mask": masks}

    def controllers(self, request: Request) -> Sequence[Controller]:
        models = self.controlnet
        asked = asked_for(request, len(models), [1.0] * len(models))
        masks = [
            None if mask is None else as_picture(mask, "control_mask")
            for mask in listed("control_mask", request.extra, len(models))
        ]
        return [
            SD3Controller(one, model, mask, self._latents_of)
            for one, model, mask in zip(asked, models, masks, strict=True)
        ]

    def _latents_of(self, pictures: Array, shifted: bool) -> Array:
        latents = encoded_mean(self.vae, pictures, shifted)
        self.needs_only(self.denoiser)  # where the VAE cannot be held beside it
        return latents


def _with_channels(part: Component) -> Component:
    """As many as the file has: diffusers' example for alimama's says by hand that its picture
    brings a mask."""
    weight = part.tensors.get("pos_embed_input.proj.weight")
    if weight is None or len(weight.shape) < 2:
        return part  # which the network will ask for
    extra = weight.shape[1] - part.config.get("in_channels", SD3ControlNetConfig.in_channels)
    return dataclasses.replace(part, config=part.config | {"extra_conditioning_channels": extra})


def _with_kind(part: Component, path: Path) -> Component:
    """`control_type` of one that reads no text, where only its name says it; in Hugging Face's
    cache, that of the repository."""
    name = path.parent.parent.name if path.parent.name == "snapshots" else path.name
    silent = part.config.get("control_type") is None
    if silent and part.config.get("joint_attention_dim", 0) is None and _OF_CANNY.search(name):
        return dataclasses.replace(part, config=part.config | {"control_type": 1})
    return part


def _embedding(part: Component, transformer: SD3Transformer2DModel) -> Component:
    """With the transformer's embedding of latents (Stability's for 3.5 large)."""
    own = transformer.network.tensors
    config = part.config | {"pos_embed_max_size": transformer.config.pos_embed_max_size}
    tensors = part.tensors | {name: own[name] for name in _EMBEDDING}
    return dataclasses.replace(part, config=config, tensors=tensors)


def _misfit(config: SD3ControlNetConfig, base: SD3Config) -> str | None:
    names = ["in_channels", "patch_size", "pooled_projection_dim"]
    names += ["joint_attention_dim"] * config.reads_text
    pairs = [(name, getattr(config, name), getattr(base, name)) for name in names]
    return misfit_of([("channels", config.channels, base.channels), *pairs])
