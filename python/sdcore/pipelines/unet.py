"""What the families have in common whose denoiser is a UNet that reads a text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.models.unet import DeepFeatures, UNet2DConditionModel, guidance_embedding
from sdcore.models.unet_graph import MOST_MERGED, UNetConfig
from sdcore.pipelines.conditioning import Conditioning, encode_unique
from sdcore.pipelines.controlled_unet import UNET_CONTROL_ARGUMENTS, ControlledUNetPipeline
from sdcore.pipelines.guidance import Guidance, PerturbedGuidance
from sdcore.pipelines.ip_adapter import IP_ADAPTER_ARGUMENTS, IPAdapterPipeline
from sdcore.pipelines.loading import Parts
from sdcore.pipelines.request import Prompt, Request, finite, whole
from sdcore.schedulers import Scheduler
from sdcore.schedulers.lcm import LCMScheduler

__all__ = ["UNET_ARGUMENTS", "UNetPipeline", "unet_inputs"]

UNET_ARGUMENTS = (
    *("pag_scale", "pag_applied_layers"),
    *("cache_interval", "cache_branch_id", "token_merging_ratio"),
    *IP_ADAPTER_ARGUMENTS,
    *UNET_CONTROL_ARGUMENTS,
)

_GUIDED = 2  # images a step: classifier-free guidance asks about the negative prompt as well
# Steps and guidance of models that were distilled to few steps.
_TURBO = (4, 1.0)
_LCM = (4, 8.5)


# In this order, for IPAdapterPipeline has the face_tokens that ControlledUNetPipeline asks for.
class UNetPipeline(IPAdapterPipeline, ControlledUNetPipeline):
    optional: ClassVar[Sequence[str]] = ("image_encoder",)

    unet: UNet2DConditionModel

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._begin_ip_adapters(parts)
        self._check_text()
        if self.unet.config.time_cond_proj_dim:
            self._best_with(parts, *_LCM)
        elif _is_turbo(parts.scheduler):
            self._best_with(parts, *_TURBO)

    @property
    @abstractmethod
    def text_channels(self) -> int:
        """Of the states that the text encoders give."""

    @abstractmethod
    def describe(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        """What the UNet is told about each of these prompts."""

    @property
    def denoiser(self) -> UNet2DConditionModel:
        return self.unet

    def described(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        describe = partial(self.describe, request=request)
        return encode_unique(prompts, describe, request.encoded)

    def condition(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        told = self.described(prompts, request)
        if dim := self.unet.config.time_cond_proj_dim:
            scale = guidance_embedding(request.guidance_scale, dim)
            told = {**told, "timestep_cond": np.tile(scale, (len(prompts), 1))}
        if self.controlnet:
            told = {**told, "negative": np.array([prompt.negative for prompt in prompts])}
        return {**told, **self.image_tokens(prompts, request)}

    def guidance(self, request: Request) -> Guidance:
        """A model distilled with guidance takes the scale as an input, and is asked once."""
        distilled = self.unet.config.time_cond_proj_dim is not None
        pag_scale = finite(request.extra.get("pag_scale", 0.0), "pag_scale")
        if not pag_scale:
            return Guidance(1.0) if distilled else super().guidance(request)
        layers = request.extra.get("pag_applied_layers", "mid")
        return PerturbedGuidance(
            1.0 if distilled else request.guidance_scale,
            pag_scale,
            (layers,) if isinstance(layers, str) else tuple(layers),
            **self.guidance_options(request),
        )

    def denoiser_options(self, request: Request) -> dict[str, Any]:
        name = "token_merging_ratio"
        ratio = finite(request.extra.get(name, 0.0), name)
        if not 0 <= ratio <= MOST_MERGED:
            raise InvalidArgumentError(
                f"[pipeline] {name} must be from 0, which is off, to {MOST_MERGED}, got {ratio:g}"
            )
        merges = {"merges": ratio} if ratio else {}
        return {**merges, **super().denoiser_options(request)}

    @property
    def spreads_steps(self) -> bool:
        """Latent consistency models, as diffusers' pipeline for them; all others leave out the
        first steps."""
        distilled = self.unet.config.time_cond_proj_dim is not None
        return distilled and isinstance(self.scheduler, LCMScheduler)

    def keeps_between_steps(self, request: Request) -> DeepFeatures | None:
        interval = whole(request.extra.get("cache_interval", 1), "cache_interval", 1)
        branch = whole(request.extra.get("cache_branch_id", 0), "cache_branch_id", 0)
        return DeepFeatures(interval, branch) if interval > 1 else None

    def _check_text(self) -> None:
        wanted = self.unet.config.cross_attention_dim
        if wanted != self.text_channels and not isinstance(wanted, Sequence):
            raise UnsupportedModelError(
                f"[pipeline] the text encoder is of another model: the UNet takes texts of "
                f"{wanted} channels, and it gives {self.text_channels}"
            )


def _is_turbo(scheduler: Scheduler) -> bool:
    """Whether a model's own schedule is one of few steps: it begins at the very last time step, and
    not because that holds no signal (as in models of zero terminal SNR)."""
    config = scheduler.config
    return (
        config.get("timestep_spacing") == "trailing"
        and config.get("prediction_type") == "epsilon"
        and not config.get("rescale_betas_zero_snr")
    )


def unet_inputs(unet: UNetConfig, tokens: int, width: int, height: int) -> dict[str, Sequence[int]]:
    """Sizes of what a UNet takes for a guided picture of such latents."""
    batch = 1 if unet.time_cond_proj_dim else _GUIDED
    assert isinstance(unet.cross_attention_dim, int)
    inputs: dict[str, Sequence[int]] = {
        "sample": [batch, height, width, unet.in_channels],
        "timestep": [batch],
        "encoder_hidden_states": [batch, tokens, unet.cross_attention_dim],
    }
    if unet.time_cond_proj_dim:
        inputs["timestep_cond"] = [batch, unet.time_cond_proj_dim]
    return inputs
