"""Stable Diffusion XL, its refiner, and what is trained from it: Turbo, Lightning, Hyper and
Playground v2.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.models.autoencoders import AnyAutoencoder
from sdcore.models.base import Loadable
from sdcore.models.clip import CLIPTextModel, build_clip
from sdcore.models.clip_vision import CLIPVisionModelWithProjection
from sdcore.models.photomaker import PhotoMakerIDEncoder
from sdcore.models.unet import UNet2DConditionModel
from sdcore.models.unet_graph import build_unet
from sdcore.pipelines.clip_text import Encoder, beside, clip_skip, encode_texts
from sdcore.pipelines.conditioning import Conditioning, stacked
from sdcore.pipelines.export import TextEncoding
from sdcore.pipelines.loading import Parts
from sdcore.pipelines.noise import Draws
from sdcore.pipelines.photomaker import PHOTOMAKER_ARGUMENTS, PhotoMakerPipeline
from sdcore.pipelines.pipeline import Shapes
from sdcore.pipelines.request import Prompt, Request
from sdcore.pipelines.start import Start, first_noise
from sdcore.pipelines.unet import UNET_ARGUMENTS, unet_inputs
from sdcore.schedulers import Scheduler
from sdcore.schedulers.base import Row
from sdcore.tokenizer import CLIPTokenizer

__all__ = ["StableDiffusionXLPipeline", "StableDiffusionXLRefinerPipeline"]

Array = NDArray[np.float32]

_SIZES = ("original_size", "crops_coords_top_left", "target_size")
_STAGES = ("denoising_start", "denoising_end")
_SCORE = "aesthetic_score"
_SCORES = {False: 6.0, True: 2.5}  # of prompts, of negative ones (Podell et al. 2023)


class StableDiffusionXLPipeline(PhotoMakerPipeline):
    """Two CLIP text encoders, the second one's pooled state, and the sizes of the picture (Podell
    et al. 2023). Sizes are heights and widths; those of negative prompts are the others' unless
    given."""

    networks: ClassVar[Mapping[str, Loadable]] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModel,
        "image_encoder": CLIPVisionModelWithProjection,
        "id_encoder": PhotoMakerIDEncoder,
        "unet": UNet2DConditionModel,
        "vae": AnyAutoencoder,
    }
    tokenizers: ClassVar[Sequence[str]] = ("tokenizer", "tokenizer_2")
    padding: ClassVar[Mapping[str, str]] = {"tokenizer_2": "!"}
    extra_arguments = (
        "prompt_2",
        "negative_prompt_2",
        *_SIZES,
        *(f"negative_{name}" for name in _SIZES),
        *_STAGES,
        "clip_skip",
        *UNET_ARGUMENTS,
        *PHOTOMAKER_ARGUMENTS,
    )
    optional = (*PhotoMakerPipeline.optional, "id_encoder")

    embeds: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "pooled_prompt_embeds": "text_embeds",
    }

    call_order: ClassVar[Sequence[str]] = ("prompt_2", "height", "width", "num_inference_steps")
    encode_order: ClassVar[Sequence[str]] = (
        *("prompt_2", "device", "num_images_per_prompt", "do_classifier_free_guidance"),
        *("negative_prompt", "negative_prompt_2", "prompt_embeds", "negative_prompt_embeds"),
        *("pooled_prompt_embeds", "negative_pooled_prompt_embeds", "lora_scale", "clip_skip"),
    )

    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModel
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer

    default_guidance = 5.0
    clip_layer: ClassVar[int] = 2
    # Whether no negative prompt means zeros, rather than the states of an empty text.
    force_zeros_for_empty_prompt = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        zeros = parts.settings.get("force_zeros_for_empty_prompt")
        if isinstance(zeros, bool):
            self.force_zeros_for_empty_prompt = zeros
        _size_ids(self.unet, self.text_encoder_2)
        if parts.scheduler.config.get("sigma_data"):  # Playground v2.5's
            self._best_with(parts, self.default_steps, 3.0)

    @property
    def text_channels(self) -> int:
        return sum(encoder.model.config.hidden_size for encoder in self.encoders)

    @classmethod
    def graphs(
        cls, configs: Mapping[str, Any], width: int, height: int
    ) -> dict[str, tuple[_core.Graph, Shapes]]:
        *firsts, last = (name for name in cls.networks if name.startswith("text_encoder"))
        clip, unet = configs[last], configs["unet"]
        inputs = unet_inputs(unet, clip.max_position_embeddings, width, height)
        batch, *_ = ids = inputs["encoder_hidden_states"][:2]
        sizes = unet.projection_class_embeddings_input_dim - clip.pooled_size
        inputs["text_embeds"] = [batch, clip.pooled_size]
        inputs["time_ids"] = [batch, sizes // unet.addition_time_embed_dim]
        texts: dict[str, tuple[_core.Graph, Shapes]] = {
            name: (build_clip(configs[name], 1, False, False), {"input_ids": ids})
            for name in firsts
        }
        pooling = build_clip(clip, 1, False, True)
        return {
            **texts,
            last: (pooling, {"input_ids": ids, "end": [batch]}),
            "unet": (build_unet(unet), inputs),
        }

    @property
    def encoders(self) -> Sequence[Encoder]:
        """In the order of their channels; the last one pools."""
        words = self.words
        return (
            Encoder(self.tokenizer, self.text_encoder, words),
            Encoder(self.tokenizer_2, self.text_encoder_2, words, pools=True),
        )

    def condition(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        ids = [self._time_ids(prompt.negative, request) for prompt in prompts]
        return {**super().condition(prompts, request), "time_ids": np.array(ids, np.float32)}

    def describe(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        states, pooled = self.encode(prompts, clip_skip(request))
        return {"encoder_hidden_states": states, "text_embeds": pooled}

    # Base and refiner share a schedule, each as the expert of a part.

    def first_step(self, request: Request) -> int:
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        start = _part("denoising_start", request, scheduler)
        if start is None:
            return super().first_step(request)
        for step in range(request.steps):
            scheduler.set_timesteps(request.steps, begin=step)
            if scheduler.timesteps[0] < start:
                return step
        raise _no_step(request)

    def start(self, request: Request, scheduler: Scheduler, noise: Draws) -> Start:
        if request.goes_on:
            return Start(first_noise(self, request, noise))
        return super().start(request, scheduler, noise)

    def rows(self, scheduler: Scheduler, request: Request) -> Sequence[Row]:
        rows = super().rows(scheduler, request)
        end = _part("denoising_end", request, scheduler)
        if end is not None:
            rows = [row for row in rows if row.timestep >= end]
        if not rows:
            raise _no_step(request)
        return rows

    def encode(self, prompts: Sequence[Prompt], clip_skip: int = 0) -> tuple[Array, Array]:
        """Hidden states `[n, 77, d]` of all text encoders side by side, before their last layer
        and `clip_skip` more, and the pooled state `[n, p]` of the last encoder. Long prompts have
        77 · k states; where lengths differ, those are an array of arrays."""
        found = encode_texts(
            [[prompt.text(i) for i in range(len(self.encoders))] for prompt in prompts],
            self.encoders,
            skip=clip_skip + 1,
            final_norm=False,
        )
        states, pooled = [], []
        for prompt, one in zip(prompts, found, strict=True):
            assert one[-1].pooled is not None
            share = np.float32(not self.force_zeros_for_empty_prompt or bool(prompt.texts))
            states.append(beside(one) * share)
            pooled.append(one[-1].pooled * share)
        return stacked(states), np.stack(pooled)

    def text_encoding(self) -> TextEncoding:
        first, last = self.text_encoder, self.text_encoder_2
        return TextEncoding(
            {
                "text_encoder": first.network_for(1, False, False),
                "text_encoder_2": last.network_for(1, False, True),
            },
            {"text_encoder": self.tokenizer, "text_encoder_2": self.tokenizer_2},
            {"text_encoder": first.config, "text_encoder_2": last.config},
            self.force_zeros_for_empty_prompt,
        )

    def _time_ids(self, negative: bool, request: Request) -> list[float]:
        """What the model is told about the picture besides its text."""
        sizes = {
            "original_size": (request.height, request.width),
            "crops_coords_top_left": (0, 0),
            "target_size": (request.height, request.width),
        }
        original, crop, target = (
            _pair(name, _given(name, negative, request.extra, default))
            for name, default in sizes.items()
        )
        if _size_ids(self.unet, self.text_encoder_2) == 6:
            return [*original, *crop, *target]
        score = request.extra.get("negative_" * negative + _SCORE, _SCORES[negative])
        return [*original, *crop, _number(_SCORE, score)]


class StableDiffusionXLRefinerPipeline(StableDiffusionXLPipeline):
    """SDXL's second stage: the larger text encoder alone, and an aesthetic score for a size."""

    networks: ClassVar[Mapping[str, Loadable]] = {
        "text_encoder_2": CLIPTextModel,
        "image_encoder": CLIPVisionModelWithProjection,
        "unet": UNet2DConditionModel,
        "vae": AnyAutoencoder,
    }
    tokenizers = ("tokenizer_2",)
    extra_arguments = (
        *("original_size", "crops_coords_top_left", _SCORE),
        *("negative_original_size", "negative_crops_coords_top_left", f"negative_{_SCORE}"),
        *_STAGES,
        "clip_skip",
        *UNET_ARGUMENTS,
    )
    force_zeros_for_empty_prompt = False

    @property
    def encoders(self) -> Sequence[Encoder]:
        return (Encoder(self.tokenizer_2, self.text_encoder_2, self.words, pools=True),)

    def text_encoding(self) -> TextEncoding:
        raise UnsupportedModelError(
            "[export] the refiner goes on with another model's latents, which the C API cannot give"
        )


def _size_ids(unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> int:
    """How many numbers about the picture the UNet takes: six, or the refiner's five."""
    config = unet.config
    pooled = text_encoder.config.pooled_size
    width = (config.projection_class_embeddings_input_dim or 0) - pooled
    ids, rest = divmod(width, config.addition_time_embed_dim or 256)
    if config.addition_embed_type != "text_time" or ids not in (5, 6) or rest:
        raise UnsupportedModelError(
            f"[pipeline] the text encoder and the UNet are of different models: the UNet takes a "
            f"vector of {config.projection_class_embeddings_input_dim}, of which the text's "
            f"{pooled} leave {width}"
        )
    return ids


def _given(name: str, negative: bool, extra: Mapping[str, Any], default: Any) -> Any:
    value = extra.get(f"negative_{name}") if negative else None
    if value is None:
        value = extra.get(name)
    return default if value is None else value


def _part(name: str, request: Request, scheduler: Scheduler) -> float | None:
    """The timestep at which a part of the schedule ends or begins, where one is given."""
    value = request.extra.get(name)
    if value is None:
        return None
    if not 0 < _number(name, value) < 1:
        raise InvalidArgumentError(f"[pipeline] {name} must lie between 0 and 1, got {value!r}")
    steps: int = scheduler.config.num_train_timesteps
    return round(steps - float(value) * steps)


def _no_step(request: Request) -> InvalidArgumentError:
    start, end = (request.extra.get(f"denoising_{part}") for part in ("start", "end"))
    return InvalidArgumentError(
        f"[pipeline] none of {request.steps} steps lies between denoising_start "
        f"{start or 0} and denoising_end {end or 1}"
    )


def _pair(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise InvalidArgumentError(
            f"[pipeline] {name} must be a height and a width, got {value!r:.80}"
        )
    return _number(name, value[0]), _number(name, value[1])


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InvalidArgumentError(f"[pipeline] {name} must be a number, got {value!r:.80}")
    return float(value)
