"""Stable Diffusion 1.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.models.autoencoders import AnyAutoencoder
from sdcore.models.base import Loadable
from sdcore.models.clip import CLIPTextModel, build_clip
from sdcore.models.clip_vision import CLIPVisionModelWithProjection
from sdcore.models.unet import UNet2DConditionModel
from sdcore.models.unet_graph import build_unet
from sdcore.pipelines.clip_text import Encoder, clip_skip, encode_texts
from sdcore.pipelines.conditioning import Conditioning, stacked
from sdcore.pipelines.export import TextEncoding
from sdcore.pipelines.pipeline import Shapes
from sdcore.pipelines.request import Prompt, Request
from sdcore.pipelines.unet import UNET_ARGUMENTS, UNetPipeline, unet_inputs
from sdcore.tokenizer import CLIPTokenizer

__all__ = ["StableDiffusionPipeline"]

Array = NDArray[np.float32]


class StableDiffusionPipeline(UNetPipeline):
    """One CLIP text encoder and a UNet (Rombach et al. 2022)."""

    networks: ClassVar[Mapping[str, Loadable]] = {
        "text_encoder": CLIPTextModel,
        "image_encoder": CLIPVisionModelWithProjection,
        "unet": UNet2DConditionModel,
        "vae": AnyAutoencoder,
    }
    tokenizers = ("tokenizer",)
    extra_arguments: ClassVar[Sequence[str]] = ("clip_skip", *UNET_ARGUMENTS)
    embeds: ClassVar[Mapping[str, str]] = {"prompt_embeds": "encoder_hidden_states"}
    encode_order: ClassVar[Sequence[str]] = (
        *("device", "num_images_per_prompt", "do_classifier_free_guidance", "negative_prompt"),
        *("prompt_embeds", "negative_prompt_embeds", "lora_scale", "clip_skip"),
    )
    clip_layer: ClassVar[int] = 1  # the one that it reads, from the last: A1111's clip skip

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    @property
    def text_channels(self) -> int:
        return self.text_encoder.config.hidden_size

    @classmethod
    def graphs(
        cls, configs: Mapping[str, Any], width: int, height: int
    ) -> dict[str, tuple[_core.Graph, Shapes]]:
        clip, unet = configs["text_encoder"], configs["unet"]
        inputs = unet_inputs(unet, clip.max_position_embeddings, width, height)
        ids = inputs["encoder_hidden_states"][:2]
        return {
            "text_encoder": (build_clip(clip), {"input_ids": ids}),
            "unet": (build_unet(unet), inputs),
        }

    def describe(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        states = self.encode([prompt.text() for prompt in prompts], clip_skip(request))
        return {"encoder_hidden_states": states}

    def encode(self, prompts: Sequence[str], clip_skip: int = 0) -> Array:
        """Hidden states `[n, 77, d]` of prompts, without the last `clip_skip` layers. A prompt of
        more than 75 tokens or with BREAK has 77 · k of them; where lengths differ, the result is an
        array of arrays."""
        encoder = Encoder(self.tokenizer, self.text_encoder, self.words)
        states = encode_texts([(text,) for text in prompts], [encoder], skip=clip_skip)
        return stacked([one.hidden_states for (one,) in states])

    def text_encoding(self) -> TextEncoding:
        return TextEncoding(
            {"text_encoder": self.text_encoder.network_for(0, True, False)},
            {"text_encoder": self.tokenizer},
            {"text_encoder": self.text_encoder.config},
        )
