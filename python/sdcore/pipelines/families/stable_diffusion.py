"""Stable Diffusion 1.x."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore.models.base import Loadable
from sdcore.models.clip import CLIPTextModel
from sdcore.models.unet import UNet2DConditionModel
from sdcore.models.vae import AutoencoderKL
from sdcore.pipelines.conditioning import Conditioning, encode_unique
from sdcore.pipelines.export import export
from sdcore.pipelines.loading import PathLike
from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.request import Prompt, Request
from sdcore.tokenizer import CLIPTokenizer

__all__ = ["StableDiffusionPipeline"]

Array = NDArray[np.float32]


class StableDiffusionPipeline(DiffusionPipeline, families=("sd1",)):
    """One CLIP text encoder and a UNet (Rombach et al. 2022)."""

    networks: ClassVar[Mapping[str, Loadable]] = {
        "text_encoder": CLIPTextModel,
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
    }
    tokenizers = ("tokenizer",)

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel

    @property
    def denoiser(self) -> UNet2DConditionModel:
        return self.unet

    def condition(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        def encode(unique: Sequence[Prompt]) -> Conditioning:
            return {"encoder_hidden_states": self.encode_prompt([p.text() for p in unique])}

        return encode_unique(prompts, encode)

    def encode_prompt(self, prompts: Sequence[str]) -> Array:
        """Hidden states `[n, 77, d]` of prompts."""
        return self.text_encoder(self.tokenizer(list(prompts)))

    def export(self, path: PathLike, steps: int | Iterable[int] = 20, dtype: str = "auto") -> None:
        """Writes one GGUF file that a C or C++ program draws with, bit for bit as here (sdcore.h).

        The program can draw in those numbers of steps that are named in `steps`. LoRAs at work are
        merged into the weights, quantized ones too.
        """
        export(self._merged(), path, steps, dtype)
