"""A pipeline as one GGUF file that a C or C++ program draws with: networks as graphs, weights as
they are stored, vocabulary and step tables. csrc/pipeline/settings.h lists the keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdcore import _core, gguf
from sdcore.arguments import as_path
from sdcore.checkpoint.sidecars import VOCABULARY_TYPES
from sdcore.errors import FileError, InvalidArgumentError, UnsupportedModelError
from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.models.clip import CLIPTextConfig
from sdcore.models.t5 import T5EncoderModel
from sdcore.models.vae import AutoencoderKL
from sdcore.pipelines.export_schedules import schedules
from sdcore.tokenizer import T5Tokenizer
from sdcore.tokenizer.clip import OF_ONE_ENCODER, CLIPTokenizer, vocabulary_key

if TYPE_CHECKING:
    from sdcore.pipelines.loading import PathLike
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["Captions", "TextEncoding", "export"]

VERSION = 5
_TYPES = "tokenizer.ggml.token_type"
_DENOISERS = ("unet", "transformer")  # what pipelines call theirs


@dataclass(frozen=True)
class Captions:
    """How a model reads a prompt with T5: in so many tokens, by a component, or without one, whose
    states are then zeros. `masked`: padding is passed over; `cleaned`: it reads cleaned captions.
    """

    tokens: int
    component: str = ""
    model: T5EncoderModel | None = None
    tokenizer: T5Tokenizer | None = None
    masked: bool = False
    cleaned: bool = False


@dataclass(frozen=True)
class TextEncoding:
    """How a model reads a prompt: its CLIPs by component, in the order of their channels, each as a
    network with its tokenizer and config. `zeros_for_none`: no negative prompt is zeros. Zeros also
    fill up the states to `channels`, where that is not 0; those of `captions` follow."""

    networks: Mapping[str, _core.Network]
    tokenizers: Mapping[str, CLIPTokenizer]
    configs: Mapping[str, CLIPTextConfig]
    zeros_for_none: bool = False
    channels: int = 0
    captions: Captions | None = None


def check_target(path: PathLike, *, overwrite: bool) -> None:
    """Raises FileError where a file would be lost."""
    if Path(as_path(path, "[export] path")).exists() and not overwrite:
        raise FileError(f"[export] '{path}' exists already: -f (overwrite=True) replaces it")


def export(
    pipe: DiffusionPipeline,
    text: TextEncoding,
    path: PathLike,
    steps: int | Iterable[int] = 20,
    dtype: str = "auto",
) -> None:
    """Writes `pipe` to a GGUF file; see `DiffusionPipeline.export`."""
    channels = pipe.vae.config.latent_channels
    seen = 2 * channels + 1 if pipe.inpaints else channels
    if pipe.denoiser.config.in_channels != seen:
        raise UnsupportedModelError(
            "[export] the model sees more than latents and a mask, such as a picture to edit or "
            "its depth, which the C API cannot give"
        )
    if isinstance(pipe.vae, AutoencoderTiny):
        raise UnsupportedModelError(
            "[export] the C API does not decode with a tiny autoencoder: open the model with its "
            "full VAE"
        )
    for what, unload in pipe.at_work_beside().items():
        raise UnsupportedModelError(f"[export] the C API does not know {what}: {unload} first")
    if pipe.scheduler.renoises_negative:
        raise UnsupportedModelError(
            f"[export] the C API does not sample with {type(pipe.scheduler).__name__}; set "
            "another scheduler before exporting"
        )
    denoiser = next(name for name in _DENOISERS if name in pipe.networks)
    networks = {
        **text.networks,
        **_caption_network(text.captions),
        denoiser: pipe.denoiser.network,
        "vae_decoder": pipe.vae.decoder,
        "vae_encoder": pipe.vae.encoder,
    }
    metadata = {
        "general.architecture": pipe.family,
        **_defaults(pipe, dtype),
        **_latent(pipe.vae),
        **_text(text),
        **_captions(text.captions),
        "sdcore.denoiser.network": denoiser,
        "sdcore.denoiser.inpaints": pipe.inpaints,
        "sdcore.denoiser.guidance_embedding": getattr(
            pipe.denoiser.config, "time_cond_proj_dim", None
        )
        or 0,
        **_configs(pipe, text, denoiser),
        **schedules(pipe, _numbers(steps)),
    }
    graphs = {name: (network.graph, network.tensors) for name, network in networks.items()}
    _core.save_model(path, graphs, gguf.metadata_to_core(metadata))


def _defaults(pipe: DiffusionPipeline, dtype: str) -> dict[str, Any]:
    if dtype not in ("auto", "f32", "bf16"):
        raise InvalidArgumentError(f"[export] dtype must be auto, f32 or bf16, got {dtype!r}")
    width, height = pipe.default_size
    return {
        "sdcore.pipeline.version": VERSION,
        "sdcore.latent.pixels": pipe.vae.scale_factor,
        "sdcore.default.width": width,
        "sdcore.default.height": height,
        "sdcore.default.guidance_scale": float(pipe.default_guidance),
        "sdcore.default.dtype": dtype,
        "sdcore.size.multiple": pipe.size_multiple,
        "sdcore.size.largest": pipe.max_side,
        "sdcore.size.trained": gguf.Typed(
            [float(x) for shape, size in pipe.trained_sizes.items() for x in (shape, *size)], "f64"
        ),
    }


def _latent(vae: AutoencoderKL) -> dict[str, Any]:
    shift, factor = vae.normalization()
    return {
        "sdcore.latent.channels": vae.config.latent_channels,
        "sdcore.latent.scale": np.ravel(factor),
        "sdcore.latent.shift": np.ravel(shift),
    }


def _text(text: TextEncoding) -> dict[str, Any]:
    """The vocabulary, which all CLIPs share, and what each of them wants of it."""
    metadata: dict[str, Any] = {
        # A list without entries tells no type.
        "sdcore.text.encoders": gguf.Typed(list(text.networks), "string"),
        "sdcore.text.zeros_for_none": text.zeros_for_none,
        "sdcore.text.channels": text.channels,
    }
    if not text.tokenizers:
        return metadata
    shared = next(iter(text.tokenizers.values())).to_gguf_metadata()
    for name, tokenizer in text.tokenizers.items():
        own, config = tokenizer.to_gguf_metadata(), text.configs[name]
        differ = {key for key in shared if own[key] != shared[key]}
        if differ - OF_ONE_ENCODER.keys():
            raise UnsupportedModelError(
                "[export] the text encoders have different vocabularies, and the C API reads one"
            )
        metadata[f"sdcore.text.{name}.tokens"] = config.max_position_embeddings
        metadata[f"sdcore.text.{name}.padding"] = tokenizer.pad_token_id
        # A small vocabulary may have none of transformers' default.
        if (end := config.end_id) is not None and end < len(tokenizer.vocabulary):
            metadata[f"sdcore.text.{name}.end"] = end
        if _TYPES in differ:
            metadata[f"sdcore.text.{name}.token_type"] = gguf.Typed(own[_TYPES], "i32")
    return metadata | _vocabulary(shared)


def _captions(captions: Captions | None) -> dict[str, Any]:
    """The vocabulary of T5, which may stand beside CLIP's."""
    if captions is None:
        return {"sdcore.captions.tokens": 0}
    metadata: dict[str, Any] = {
        "sdcore.captions.tokens": captions.tokens,
        "sdcore.captions.network": captions.component,
        "sdcore.captions.masked": captions.masked,
        "sdcore.captions.cleaned": captions.cleaned,
    }
    if captions.tokenizer is None:
        return metadata
    vocabulary = _vocabulary(captions.tokenizer.to_gguf_metadata())
    own = {vocabulary_key(key, captions.component): value for key, value in vocabulary.items()}
    return metadata | own


def _vocabulary(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """In GGUF's types, where a list of small numbers would be written as u32."""
    types = {f"tokenizer.ggml.{name}": type for name, type in VOCABULARY_TYPES.items()}
    return {
        key: gguf.Typed(value, types[key]) if key in types else value
        for key, value in metadata.items()
    }


def _caption_network(captions: Captions | None) -> dict[str, _core.Network]:
    if captions is None or captions.model is None:
        return {}
    return {captions.component: captions.model.network}


def _configs(pipe: DiffusionPipeline, text: TextEncoding, denoiser: str) -> dict[str, str]:
    """What Python opens the file again with."""
    scheduler = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    configs: dict[str, Mapping[str, Any]] = {
        denoiser: pipe.denoiser.config_json(),
        "vae": pipe.vae.config_json(),
        **{name: asdict(config) for name, config in text.configs.items()},
        "scheduler": scheduler,
    }
    if text.captions is not None and text.captions.model is not None:
        configs[text.captions.component] = text.captions.model.config_json()
    return {f"sdcore.config.{name}": _json(config) for name, config in configs.items()}


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, default=lambda array: np.asarray(array).tolist())


def _numbers(steps: int | Iterable[int]) -> list[int]:
    numbers = list(steps) if isinstance(steps, Iterable) else [steps]
    if not numbers or not all(type(n) is int and n >= 1 for n in numbers):
        raise InvalidArgumentError(f"[export] steps must be whole numbers >= 1, got {steps!r}")
    return numbers
