"""Consistency models (Song et al. 2023): pictures of a class, or of none, in one step or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.models.base import Loadable
from sdcore.models.unet2d import UNet2DModel
from sdcore.pipelines.conditioning import Conditioning
from sdcore.pipelines.guidance import Guidance
from sdcore.pipelines.loading import Parts
from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Prompt, Request
from sdcore.pipelines.stream import Stream

__all__ = ["ConsistencyModelPipeline"]

Array = NDArray[np.float32]


class Pixels:
    """What stands where other families have a VAE: their latents are the picture."""

    scale_factor = 1
    tiling: bool | None = False
    encoder = decoder = None

    def __init__(self, channels: int) -> None:
        self.config = SimpleNamespace(latent_channels=channels)

    def unscale(self, latents: Array) -> Array:
        return latents

    def decode(self, latents: Array, tiled: bool | None = None) -> Array:
        return latents


class ConsistencyModelPipeline(DiffusionPipeline):
    """The number of a class is the prompt: `pipe("207")`, or `class_labels=207`, one or a list.
    Without one, each seed draws its class; models without classes take none."""

    networks: ClassVar[Mapping[str, Loadable]] = {"unet": UNet2DModel}
    extra_arguments: ClassVar[Sequence[str]] = ("class_labels",)
    composes: ClassVar[bool] = False
    call_order: ClassVar[Sequence[str]] = ()
    default_steps = 1
    default_guidance = 1.0

    unet: UNet2DModel

    def __init__(self, parts: Parts) -> None:
        self.vae: Any = Pixels(parts.networks["unet"].config.in_channels)
        super().__init__(parts)

    @property
    def denoiser(self) -> UNet2DModel:
        return self.unet

    def guidance(self, request: Request) -> Guidance:
        """None: distillation has taken it in."""
        return Guidance(1.0)

    @property
    def size_multiple(self) -> int:
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def stream(
        self, prompt: Texts | None = None, negative_prompt: Texts | None = None, **arguments: Any
    ) -> Stream:
        labels = arguments.pop("class_labels", None)
        if labels is not None:
            if prompt:
                raise InvalidArgumentError(
                    "[pipeline] prompt and class_labels say the same: give one"
                )
            prompt = [str(label) for label in np.atleast_1d(labels)]
        if arguments.get("image") is not None:
            raise InvalidArgumentError("[pipeline] consistency models begin from no image")
        return super().stream("" if prompt is None else prompt, negative_prompt, **arguments)

    def said(self, prompts: Sequence[Prompt], request: Request) -> Mapping[int, tuple[Prompt, ...]]:
        """A class is not read as a prompt."""
        return {0: tuple(prompts)}

    def condition(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        classes = self.unet.config.num_class_embeds
        texts = [prompt.text().strip() for prompt in prompts]
        if classes is None:
            if any(texts):
                raise InvalidArgumentError(
                    f"[pipeline] this model has no classes, and takes no prompt, got {texts[0]!r}"
                )
            return {}
        labels = [
            _label(text, classes) if text else int(np.random.default_rng(seed).integers(classes))
            for text, seed in zip(texts, request.seeds, strict=True)
        ]
        return {"class_labels": np.array(labels, np.float32)}


def _label(text: str, classes: int) -> int:
    if not text.isdecimal() or int(text) >= classes:
        raise InvalidArgumentError(
            f"[pipeline] the prompt of this model is a class, a number from 0 to {classes - 1}, "
            f"got {text!r:.80}"
        )
    return int(text)
