"""ControlNets and T2I-Adapters on a pipeline whose denoiser is a UNet."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sdcore.checkpoint import Checkpoint, Component
from sdcore.errors import InvalidArgumentError
from sdcore.models.controlnet import ControlNetConfig, ControlNetModel
from sdcore.models.t2i_adapter import FULL_XL, T2IAdapter, T2IAdapterConfig
from sdcore.models.unet import UNet2DConditionModel
from sdcore.pipelines.control import CONTROL_ARGUMENTS, Controller, asked_for
from sdcore.pipelines.control_files import control_lora, with_base
from sdcore.pipelines.control_unet import (
    AdapterController,
    Steering,
    UNetController,
    contexts,
    controls_negative,
    switches,
    usual_scales,
)
from sdcore.pipelines.controlled import ControlledPipeline, Opener, misfit_of
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Request
from sdcore.pipelines.stream import Stream

__all__ = ["UNET_CONTROL_ARGUMENTS", "ControlledUNetPipeline"]

UNET_CONTROL_ARGUMENTS = (*CONTROL_ARGUMENTS, "guess_mode", "control_soft", "control_context")

# What diffusers calls them of T2I-Adapters.
_OTHER_NAMES = {
    "adapter_conditioning_scale": "controlnet_conditioning_scale",
    "adapter_conditioning_factor": "control_guidance_end",
}
# What a file without a config does not show, and a copy of the UNet has from it.
_AS_THE_UNET = (
    *("attention_head_dim", "num_attention_heads", "only_cross_attention"),
    *("norm_num_groups", "norm_eps", "downsample_padding", "flip_sin_to_cos", "freq_shift"),
    "addition_time_embed_dim",
)
# A tensor by being there: weights are what is to be added to the UNet's (comfy/controlnet.py).
_DIFFERENCES = ("difference", "control_model.difference")


class ControlledUNetPipeline(ControlledPipeline):
    beside: ClassVar[Mapping[str, str]] = {"controlnet": "unet"}
    control_arguments = UNET_CONTROL_ARGUMENTS

    unet: UNet2DConditionModel
    controlnet: tuple[Steering, ...] = ()

    @property
    @abstractmethod
    def face_tokens(self) -> str | None:
        """What the conditioning calls the tokens that InstantID's ControlNet reads; None: there are
        none."""

    def control_openers(self) -> Mapping[str, Opener]:
        base: UNet2DConditionModel = self._adapters.base["unet"]  # without LoRAs

        def whole(opened: Checkpoint) -> Component:
            part = _as_the_unet(opened, opened.component("controlnet"), base)
            differs = any(name in opened.tensors for name in _DIFFERENCES)
            return with_base(part, base) if differs else part

        def low_rank(opened: Checkpoint) -> Component:
            return _as_the_unet(opened, control_lora(opened, base), base)

        def adapter(opened: Checkpoint) -> Component:
            return opened.component("t2i_adapter")

        def misfit(config: ControlNetConfig) -> str | None:
            return _misfit(config, base, self.vae)

        return {
            "controlnet": Opener(ControlNetModel, whole, misfit),
            "control-lora": Opener(ControlNetModel, low_rank, misfit),
            "t2i-adapter": Opener(
                T2IAdapter, adapter, lambda config: _adapter_misfit(config, base, self.vae)
            ),
        }

    def usual_control_scales(self, extra: Mapping[str, Any], usual: float) -> list[float]:
        return usual_scales(contexts(extra, self.controlnet, self.face_tokens), usual)

    def controllers(self, request: Request) -> Sequence[Controller]:
        extra, models = request.extra, self.controlnet
        read = contexts(extra, models, self.face_tokens)
        asked = asked_for(request, len(models), usual_scales(read))
        guess = switches("guess_mode", extra, models)
        soft = switches("control_soft", extra, models)
        return [
            AdapterController(one, model)
            if isinstance(model, T2IAdapter)
            else UNetController(one, model, guesses, softly, context)
            for one, model, guesses, softly, context in zip(
                asked, models, guess, soft, read, strict=True
            )
        ]

    def guidance_options(self, request: Request) -> dict[str, Any]:
        """In turns where a ControlNet speaks of the prompt alone: its graph is another then."""
        options = super().guidance_options(request)
        guess = switches("guess_mode", request.extra, self.controlnet)
        if not all(map(controls_negative, self.controlnet, guess)):
            options["in_turns"] = True
        return options

    def stream(
        self, prompt: Texts | None = None, negative_prompt: Texts | None = None, **arguments: Any
    ) -> Stream:
        for other, name in _OTHER_NAMES.items():
            value = arguments.pop(other, None)
            if value is not None and arguments.get(name) is not None:
                raise InvalidArgumentError(
                    f"[controlnet] {other} is another name of {name}: give one of them"
                )
            if value is not None:
                arguments[name] = value
        return super().stream(prompt, negative_prompt, **arguments)


def _as_the_unet(opened: Checkpoint, part: Component, unet: UNet2DConditionModel) -> Component:
    if "controlnet" in opened.configs:
        return part
    known = {key: getattr(unet.config, key) for key in _AS_THE_UNET}
    return dataclasses.replace(part, config=part.config | known)


def _misfit(config: ControlNetConfig, unet: UNet2DConditionModel, vae: Any) -> str | None:
    """What differs from the UNet whose way down a ControlNet copies."""
    names = ["block_out_channels", "layers_per_block"]
    if any("CrossAttn" in kind for kind in config.down_block_types):
        names.append("cross_attention_dim")
    if config.addition_embed_type is not None:
        names.append("projection_class_embeddings_input_dim")
    levels = len(unet.config.block_out_channels)

    def each(value: Any) -> Any:
        return value if isinstance(value, Sequence) else [value] * levels

    pairs = [(n, each(getattr(config, n)), each(getattr(unet.config, n))) for n in names]
    pixels = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    return misfit_of(
        [
            *pairs,
            ("in_channels", config.in_channels, vae.config.latent_channels),
            ("pixels a latent", pixels, vae.scale_factor),
        ]
    )


def _adapter_misfit(config: T2IAdapterConfig, unet: UNet2DConditionModel, vae: Any) -> str | None:
    """What differs from the UNet's levels, and its middle where there is one feature more. SDXL's
    first level comes down by a half before it takes its feature, and its second one does not."""
    levels, features = list(unet.config.block_out_channels), list(config.feature_channels)
    if len(features) == len(levels) + 1:
        levels.append(levels[-1])
    is_xl, for_xl = (
        not unet.config.down_block_types[0].startswith("CrossAttn"),
        config.adapter_type == FULL_XL,
    )
    return misfit_of(
        [
            ("downscale_factor", config.downscale_factor, vae.scale_factor * (2 if is_xl else 1)),
            ("channels of features", features, levels),
            (f"whether it is a {FULL_XL}", for_xl, is_xl),
        ]
    )
