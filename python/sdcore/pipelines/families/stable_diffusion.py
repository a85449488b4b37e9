"""Stable Diffusion 1.x."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.models.base import Loadable
from sdcore.models.clip import CLIPTextModel, build_clip
from sdcore.models.unet import UNet2DConditionModel, build_unet
from sdcore.models.vae import AutoencoderKL
from sdcore.pipelines.conditioning import Conditioning
from sdcore.pipelines.export import export
from sdcore.pipelines.loading import PathLike
from sdcore.pipelines.pipeline import Shapes
from sdcore.pipelines.request import Prompt, Request
from sdcore.pipelines.unet import UNetPipeline, unet_inputs
from sdcore.tokenizer import CLIPTokenizer

__all__ = ["StableDiffusionPipeline"]

Array = NDArray[np.float32]


class StableDiffusionPipeline(UNetPipeline, families=("sd1",)):
    """One CLIP text encoder and a UNet (Rombach et al. 2022)."""

    networks: ClassVar[Mapping[str, Loadable]] = {
        "text_encoder": CLIPTextModel,
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
    }
    tokenizers = ("tokenizer",)

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
        return {"encoder_hidden_states": self.encode_prompt([p.text() for p in prompts])}

    def encode_prompt(self, prompts: Sequence[str]) -> Array:
        """Hidden states `[n, 77, d]` of prompts."""
        return self.text_encoder(self.tokenizer(list(prompts)))

    def export(self, path: PathLike, steps: int | Iterable[int] = 20, dtype: str = "auto") -> None:
        """Writes one GGUF file that a C or C++ program draws with, bit for bit as here (sdcore.h).

        The program can draw in those numbers of steps that are named in `steps`. LoRAs at work are
        merged into the weights, quantized ones too.
        """
        export(self._merged(), path, steps, dtype)
