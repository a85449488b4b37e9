"""PixArt-α and PixArt-Σ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import CheckpointError, UnsupportedModelError
from sdcore.models.autoencoders import AnyAutoencoder
from sdcore.models.base import Loadable
from sdcore.models.pixart import PixArtTransformer2DModel, build_pixart
from sdcore.models.t5 import T5EncoderModel, build_t5
from sdcore.pipelines.conditioning import Conditioning, Told, encode_unique
from sdcore.pipelines.encode_prompt import encode_prompts
from sdcore.pipelines.export import Captions, TextEncoding
from sdcore.pipelines.loading import Parts
from sdcore.pipelines.pipeline import DiffusionPipeline, Shapes
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Prompt, Request
from sdcore.pipelines.t5_text import encode_captions, sequence_length
from sdcore.prompts.captions import clean_caption
from sdcore.schedulers.lcm import LCMScheduler
from sdcore.tokenizer import T5Tokenizer

__all__ = ["PixArtPipeline"]

Array = NDArray[np.float32]

# Tokens of a caption that α and Σ were trained on.
_ALPHA_TOKENS, _SIGMA_TOKENS = 120, 300
_LCM = (4, 1.0)  # steps and guidance of PixArt-LCM, which is known by its scheduler

# Heights and widths of the training, in units of a 32nd of the model's own side, which has so many
# latents (PixArt-alpha/PixArt-sigma, diffusion/data/datasets/utils.py).
_TRAINED = (32, 64, 128, 256)
_UNITS = 32
_SIZES = (
    *((16, 64), (16, 58), (18, 56), (18, 54), (18, 52), (20, 50), (20, 48), (22, 46), (22, 44)),
    *((22, 42), (24, 42), (24, 40), (26, 38), (26, 36), (28, 36), (28, 34), (30, 34), (30, 32)),
    *((32, 32), (32, 30), (34, 30), (34, 28), (36, 28), (36, 26), (38, 26), (40, 24), (42, 24)),
    *((44, 22), (46, 22), (48, 20), (50, 20), (54, 18), (64, 16)),
)
_SIZES_2K = (
    *_SIZES,
    *((16, 62), (16, 60), (52, 18), (56, 18), (58, 16), (60, 16), (62, 16)),
)


class PixArtPipeline(DiffusionPipeline):
    """T5 and a transformer that attends to it (Chen et al. 2023 and 2024)."""

    networks: ClassVar[Mapping[str, Loadable]] = {
        "text_encoder": T5EncoderModel,
        "transformer": PixArtTransformer2DModel,
        "vae": AnyAutoencoder,
    }
    tokenizers = ("tokenizer",)
    tokenizer_classes: ClassVar[Mapping[str, Any]] = {"tokenizer": T5Tokenizer}
    extra_arguments = (
        "max_sequence_length",  # tokens for T5: 300, of α 120
        "clean_caption",  # True
        "use_resolution_binning",  # True
    )
    embeds: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "prompt_attention_mask": "encoder_attention_mask",
    }
    call_order: ClassVar[Sequence[str]] = ("negative_prompt", "num_inference_steps")
    encode_order: ClassVar[Sequence[str]] = (
        *("do_classifier_free_guidance", "negative_prompt", "num_images_per_prompt", "device"),
        *("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask"),
        *("negative_prompt_attention_mask", "clean_caption", "max_sequence_length"),
    )
    default_guidance = 4.5

    text_encoder: T5EncoderModel
    tokenizer: T5Tokenizer
    transformer: PixArtTransformer2DModel

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        width, wanted = self.text_encoder.config.d_model, self.transformer.config.caption_channels
        if wanted is not None and width != wanted:
            raise CheckpointError(
                f"[pipeline] text_encoder gives {width} channels, and the transformer takes "
                f"{wanted}: it is another model's"
            )
        if isinstance(parts.scheduler, LCMScheduler):
            self._best_with(parts, *_LCM)

    @classmethod
    def graphs(
        cls, configs: Mapping[str, Any], width: int, height: int
    ) -> dict[str, tuple[_core.Graph, Shapes]]:
        pixart, n = configs["transformer"], 2  # guidance asks about the negative prompt as well
        ids = [n, _SIGMA_TOKENS]
        inputs = {
            "sample": [n, height, width, pixart.in_channels],
            "timestep": [n],
            "encoder_hidden_states": [*ids, configs["text_encoder"].d_model],
            "mask": ids,
        }
        if pixart.knows_sizes:
            inputs |= {"resolution": [n, 2], "aspect_ratio": [n, 1]}
        return {
            "text_encoder": (build_t5(configs["text_encoder"]), {"input_ids": ids, "mask": ids}),
            "transformer": (build_pixart(pixart), inputs),
        }

    @property
    def denoiser(self) -> PixArtTransformer2DModel:
        return self.transformer

    @property
    def size_multiple(self) -> int:
        return self.vae.scale_factor * self.transformer.config.patch_size

    @property
    def trained_sizes(self) -> Mapping[float, tuple[int, int]]:
        config = self.transformer.config
        if config.sample_size not in _TRAINED:
            return {}
        sizes = _SIZES_2K if config.sample_size == _TRAINED[-1] else _SIZES
        unit = config.sample_size * self.vae.scale_factor // _UNITS
        return {round(h / w, 2): (w * unit, h * unit) for h, w in sizes}

    def drawn_size(self, width: int, height: int, extra: Mapping[str, Any]) -> tuple[int, int]:
        """The size of nearest shape among those of the training."""
        shapes = self.trained_sizes
        if not shapes or not extra.get("use_resolution_binning", True):
            return width, height
        return shapes[min(shapes, key=lambda shape: abs(shape - height / width))]

    @property
    def default_tokens(self) -> int:
        """Where nothing else says which it is: Σ has SDXL's autoencoder."""
        is_alpha = self.family == "pixart-alpha"
        if self.family == "pixart":
            is_alpha = _BETWEEN_VAES < self.vae.config.scaling_factor < _TINY
        return _ALPHA_TOKENS if is_alpha else _SIGMA_TOKENS

    def described(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        tokens = sequence_length(request, self.default_tokens)
        read = clean_caption if request.extra.get("clean_caption", True) else str.lower
        encode = partial(self.encode, tokens=tokens, read=read)
        return encode_unique(prompts, encode, request.encoded)

    def condition(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        encoded = dict(self.described(prompts, request))
        if self.transformer.config.knows_sizes:
            n, h, w = len(prompts), request.height, request.width
            encoded["resolution"] = np.tile(np.array([[h, w]], np.float32), (n, 1))
            encoded["aspect_ratio"] = np.full((n, 1), h / w, np.float32)
        return encoded

    def encode_prompt(
        self, prompt: Texts | None = None, *values: Any, **arguments: Any
    ) -> tuple[Array | None, ...]:
        """The same; masks follow the states that they are of."""
        if len(values) <= self.encode_order.index("clean_caption"):
            arguments = {"clean_caption": False, **arguments}  # diffusers' default in this place
        own, negative = encode_prompts(self, prompt, values, arguments)
        return *own.values(), *negative.values()

    def encode(
        self,
        prompts: Sequence[Prompt],
        tokens: int,
        read: Callable[[str], str] = clean_caption,
    ) -> Conditioning:
        """T5's hidden states `[n, tokens, d]`, and their mask `[n, tokens]`; `read` makes captions
        of prompts, as those of the training were made."""
        texts = [prompt.text().strip() for prompt in prompts]
        states, mask = encode_captions(
            texts, self.tokenizer, self.text_encoder, tokens, masked=True, read=read
        )
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def text_encoding(self) -> TextEncoding:
        if self.transformer.config.kv_compress_layers:
            raise UnsupportedModelError(
                "[export] a PixArt-Σ that compresses keys and values is run by other weights than "
                "its file's, which could not be opened again: use it from Python"
            )
        captions = Captions(
            self.default_tokens,
            "text_encoder",
            self.text_encoder,
            self.tokenizer,
            masked=True,
            cleaned=True,
        )
        return TextEncoding({}, {}, {}, captions=captions)

    def predict(self, x: Array, timestep: float, told: Told, **more: Any) -> Array:
        out = super().predict(x, timestep, told, **more)
        # The second half is the variance that the model learned, which no sampler here asks for.
        return out[:, : x.shape[1]]


_BETWEEN_VAES = 0.15  # SDXL's scaling factor is 0.13025, Stable Diffusion's 0.18215
_TINY = 1.0  # that of every tiny autoencoder, which tells nothing
