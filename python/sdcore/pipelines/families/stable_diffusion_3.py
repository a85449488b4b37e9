"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from sdcore.models.autoencoders import AnyAutoencoder
from sdcore.models.base import Loadable
from sdcore.models.clip import CLIPTextModel, TextStates, build_clip
from sdcore.models.mmdit import SD3Transformer2DModel, build_mmdit
from sdcore.models.t5 import T5EncoderModel, build_t5
from sdcore.pipelines.clip_text import Encoder, beside, clip_skip, encode_texts
from sdcore.pipelines.conditioning import Conditioning, encode_unique, stacked
from sdcore.pipelines.controlled_sd3 import SD3_CONTROL_ARGUMENTS, ControlledSD3Pipeline
from sdcore.pipelines.export import Captions, TextEncoding
from sdcore.pipelines.guidance import Guidance, Model, rescaled
from sdcore.pipelines.loading import Parts
from sdcore.pipelines.pipeline import Shapes
from sdcore.pipelines.request import Prompt, Request, whole
from sdcore.pipelines.t5_text import encode_captions, sequence_length
from sdcore.tokenizer import CLIPTokenizer, T5Tokenizer

__all__ = ["StableDiffusion3Pipeline"]

Array = NDArray[np.float32]

_T5_TOKENS = 256  # unless asked for
_CLIP_TOKENS = 77


class StableDiffusion3Pipeline(ControlledSD3Pipeline):
    """Two CLIP text encoders, T5 and a transformer of two streams (Esser et al. 2024). Each text
    encoder may be left out."""

    networks: ClassVar[Mapping[str, Loadable]] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModel,
        "text_encoder_3": T5EncoderModel,
        "transformer": SD3Transformer2DModel,
        "vae": AnyAutoencoder,
    }
    optional = ("text_encoder", "text_encoder_2", "text_encoder_3")
    tokenizers = ("tokenizer", "tokenizer_2", "tokenizer_3")
    padding: ClassVar[Mapping[str, str]] = {"tokenizer_2": "!"}
    tokenizer_classes: ClassVar[Mapping[str, Any]] = {"tokenizer_3": T5Tokenizer}
    extra_arguments = (
        *("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3", "clip_skip"),
        "max_sequence_length",  # tokens for T5, 256
        "skip_guidance_layers",  # blocks that skip-layer guidance leaves out, none
        "skip_layer_guidance_scale",  # 2.8
        "skip_layer_guidance_start",  # share of the steps after which it begins, 0.01
        "skip_layer_guidance_stop",  # and before which it ends, 0.2
        *SD3_CONTROL_ARGUMENTS,
    )
    embeds: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "pooled_prompt_embeds": "pooled_projections",
    }
    call_order: ClassVar[Sequence[str]] = (
        "prompt_2",
        "prompt_3",
        "height",
        "width",
        "num_inference_steps",
    )
    encode_order: ClassVar[Sequence[str]] = (
        *("prompt_2", "prompt_3", "device", "num_images_per_prompt", "do_classifier_free_guidance"),
        *("negative_prompt", "negative_prompt_2", "negative_prompt_3", "prompt_embeds"),
        *("negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        *("clip_skip", "max_sequence_length", "lora_scale"),
    )
    default_steps = 28
    clip_layer: ClassVar[int] = 2

    text_encoder: CLIPTextModel | None
    text_encoder_2: CLIPTextModel | None
    text_encoder_3: T5EncoderModel | None
    tokenizer: CLIPTokenizer | None
    tokenizer_2: CLIPTokenizer | None
    tokenizer_3: T5Tokenizer | None
    transformer: SD3Transformer2DModel

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._check_parts()

    def _check_parts(self) -> None:
        """Each text encoder is as wide as the transformer takes it."""
        config = self.transformer.config
        clips = (self.text_encoder, self.text_encoder_2)
        if self.text_encoder_3 is None and clips == (None, None):
            raise InvalidArgumentError(
                "[pipeline] Stable Diffusion 3 needs at least one text encoder: give text_encoder= "
                "(CLIP-L), text_encoder_2= (CLIP-G) or text_encoder_3= (T5)"
            )
        widths = self._clip_widths(config.pooled_projection_dim)
        for name, encoder, width in zip(
            ("text_encoder", "text_encoder_2"), clips, widths, strict=True
        ):
            pooled = width if encoder is None else encoder.config.pooled_size
            if pooled != width or width <= 0:
                raise CheckpointError(
                    f"[pipeline] {name} pools {pooled} channels, and the transformer takes "
                    f"{config.pooled_projection_dim} of both CLIP encoders: it is another model's"
                )
        if self.text_encoder_3 is not None:
            width = self.text_encoder_3.config.d_model
            if width != config.joint_attention_dim:
                raise CheckpointError(
                    f"[pipeline] text_encoder_3 gives {width} channels, and the transformer takes "
                    f"{config.joint_attention_dim}: it is another model's"
                )

    @classmethod
    def graphs(
        cls, configs: Mapping[str, Any], width: int, height: int
    ) -> dict[str, tuple[_core.Graph, Shapes]]:
        mmdit, n = configs["transformer"], 2  # guidance asks about the negative prompt as well
        texts: dict[str, tuple[_core.Graph, Shapes]] = {
            name: (
                build_clip(configs[name], 1, False, True),
                {"input_ids": [n, _CLIP_TOKENS], "end": [n]},
            )
            for name in ("text_encoder", "text_encoder_2")
            if name in configs
        }
        if t5 := configs.get("text_encoder_3"):
            ids = [n, _T5_TOKENS]
            texts["text_encoder_3"] = (build_t5(t5), {"input_ids": ids, "mask": ids})
        inputs = {
            "sample": [n, height, width, mmdit.in_channels],
            "timestep": [n],
            "encoder_hidden_states": [n, _CLIP_TOKENS + _T5_TOKENS, mmdit.joint_attention_dim],
            "pooled_projections": [n, mmdit.pooled_projection_dim],
        }
        return {**texts, "transformer": (build_mmdit(mmdit), inputs)}

    @property
    def denoiser(self) -> SD3Transformer2DModel:
        return self.transformer

    @property
    def max_side(self) -> int:
        """As many patches as there are positions for."""
        return self.transformer.config.pos_embed_max_size * self.size_multiple

    @property
    def size_multiple(self) -> int:
        return self.vae.scale_factor * self.transformer.config.patch_size

    def guidance(self, request: Request) -> Guidance:
        layers = request.extra.get("skip_guidance_layers")
        if not layers:
            return super().guidance(request)
        return SkipLayerGuidance(
            request.guidance_scale,
            tuple(whole(layer, "skip_guidance_layers", 0) for layer in layers),
            float(request.extra.get("skip_layer_guidance_scale", 2.8)),
            float(request.extra.get("skip_layer_guidance_start", 0.01)),
            float(request.extra.get("skip_layer_guidance_stop", 0.2)),
            **self.guidance_options(request),
        )

    def steps_from_picture(self, steps: int, strength: float) -> int:
        """A part of a step counts as one, where earlier families leave it out: as diffusers."""
        return max(steps - int(steps - steps * strength), 1)

    def condition(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        tokens, skip = sequence_length(request, _T5_TOKENS), clip_skip(request)
        return encode_unique(
            prompts, lambda unique: self.encode(unique, tokens, skip), request.encoded
        )

    def encode(
        self, prompts: Sequence[Prompt], tokens: int = _T5_TOKENS, clip_skip: int = 0
    ) -> Conditioning:
        """Hidden states of CLIP-L and CLIP-G side by side, then those of T5, `[n, 77 + tokens, d]`;
        and what the two CLIPs pool, side by side. Zeros stand for an encoder that is left out.
        Prompts that are long for CLIP have 77 · k states of it; where lengths differ, states are an
        array of arrays."""
        width = self.transformer.config.joint_attention_dim
        t5 = self._t5([prompt.text(2) for prompt in prompts], tokens, width)
        self.needs_only(self.text_encoder or self.text_encoder_2)  # T5 is the largest part of all
        states, pooled = [], []
        for clips, captions in zip(self._clips(prompts, clip_skip), t5, strict=True):
            both = beside(clips)
            padded = np.pad(both, ((0, 0), (0, width - both.shape[1])))
            states.append(np.concatenate([padded, captions]))
            pooled.append(np.concatenate([one.pooled for one in clips if one.pooled is not None]))
        return {"encoder_hidden_states": stacked(states), "pooled_projections": np.stack(pooled)}

    def text_encoding(self) -> TextEncoding:
        clips = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        tokenizers = {"text_encoder": self.tokenizer, "text_encoder_2": self.tokenizer_2}
        there = {name: clip for name, clip in clips.items() if clip is not None}
        if len(there) < len(clips):
            raise UnsupportedModelError(
                "[export] the C API draws with both CLIP text encoders of Stable Diffusion 3, and "
                "one is left out: open the model with both"
            )
        captions = Captions(_T5_TOKENS)
        if self.text_encoder_3 is not None:
            captions = Captions(_T5_TOKENS, "text_encoder_3", self.text_encoder_3, self.tokenizer_3)
        return TextEncoding(
            {name: clip.network_for(1, False, True) for name, clip in there.items()},
            {name: one for name, one in tokenizers.items() if one is not None},
            {name: clip.config for name, clip in there.items()},
            channels=self.transformer.config.joint_attention_dim,
            captions=captions,
        )

    def _clips(self, prompts: Sequence[Prompt], clip_skip: int) -> list[list[TextStates]]:
        """What both CLIPs make of each prompt."""
        parts = ((self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2))
        words = self.words
        there = {
            i: Encoder(tokenizer, model, words, pools=True)
            for i, (model, tokenizer) in enumerate(parts)
            if model is not None and tokenizer is not None
        }
        texts = [[prompt.text(i) for i in there] for prompt in prompts]
        encoders = list(there.values())
        found = encode_texts(texts, encoders, skip=clip_skip + 1, final_norm=False)
        widths = self._clip_widths(self.transformer.config.pooled_projection_dim)
        return [
            [made.get(i) or _nothing(made, width) for i, width in enumerate(widths)]
            for made in (dict(zip(there, of_prompt, strict=True)) for of_prompt in found)
        ]

    def _clip_widths(self, both: int) -> tuple[int, int]:
        """Channels that each CLIP pools; of one that is left out, what the other leaves."""
        first, second = (
            None if encoder is None else encoder.config.pooled_size
            for encoder in (self.text_encoder, self.text_encoder_2)
        )
        if first is None:  # where both are, zeros may be split anyhow
            first = both - second if second is not None else both // 2
        return first, both - first

    def _t5(self, texts: Sequence[str], tokens: int, width: int) -> Array:
        if self.text_encoder_3 is None or self.tokenizer_3 is None:
            return np.zeros((len(texts), tokens, width), np.float32)
        # Padding is attended to, as it was in training.
        return encode_captions(texts, self.tokenizer_3, self.text_encoder_3, tokens)[0]


def _nothing(others: Mapping[int, TextStates], width: int) -> TextStates:
    """Zeros for a CLIP that is left out, as long as the other's states."""
    lengths = [len(states.hidden_states) for states in others.values()]
    length = lengths[0] if lengths else _CLIP_TOKENS
    return TextStates(np.zeros((length, width), np.float32), np.zeros(width, np.float32))


@dataclass(frozen=True)
class SkipLayerGuidance(Guidance):
    """Also away from what the model gives without some of its blocks, in a stretch of the steps
    (Stability AI's sd3.5; diffusers' skip_layer_guidance_scale)."""

    layers: tuple[int, ...]
    skip_scale: float
    start: float  # shares of the steps
    stop: float

    def predict(self, model: Model, x: Array, index: int, steps: int) -> Array:
        if not self.guides or not self.start * steps < index < self.stop * steps:
            return super().predict(model, x, index, steps)
        negative, positive = self.ask(model, x)
        skipped = self.positive(model, x, skip_layers=self.layers)
        guided = _core.guide(negative, positive, self.scale)
        out: Array = guided + np.float32(self.skip_scale) * (positive - skipped)
        return rescaled(out, positive, self.rescale)
