"""A pipeline as one GGUF file that a C or C++ program draws with: networks as graphs, weights as
they are stored, vocabulary and step tables. csrc/pipeline/settings.h lists the keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcore import _core, gguf
from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.schedulers.base import Row, Table, Term

if TYPE_CHECKING:
    from sdcore.pipelines.families.stable_diffusion import StableDiffusionPipeline
    from sdcore.pipelines.loading import PathLike

__all__ = ["export"]

VERSION = 2


def export(
    pipe: StableDiffusionPipeline,
    path: PathLike,
    steps: int | Iterable[int] = 20,
    dtype: str = "auto",
) -> None:
    """Writes `pipe` to a GGUF file; see `StableDiffusionPipeline.export`."""
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise UnsupportedModelError(
            "[export] the model sees more than latents, such as a picture or a mask, which the C "
            "API cannot give"
        )
    if pipe.unet.config.time_cond_proj_dim:
        raise UnsupportedModelError(
            "[export] the model takes the guidance scale as an input, which the C API cannot give"
        )
    if pipe.scheduler.renoises_negative:
        raise UnsupportedModelError(
            f"[export] the C API does not sample with {type(pipe.scheduler).__name__}; set "
            "another scheduler before exporting"
        )
    networks = {
        "text_encoder": pipe.text_encoder.network,
        "unet": pipe.unet.network,
        "vae_decoder": pipe.vae.decoder,
        "vae_encoder": pipe.vae.encoder,
    }
    metadata = {
        "general.architecture": pipe.family,
        **_defaults(pipe, dtype),
        **_configs(pipe),
        **_tables(pipe, _numbers(steps)),
        **_tokenizer(pipe),
    }
    graphs = {name: (network.graph, network.tensors) for name, network in networks.items()}
    _core.save_model(path, graphs, gguf.metadata_to_core(metadata))


def _defaults(pipe: StableDiffusionPipeline, dtype: str) -> dict[str, Any]:
    if dtype not in ("auto", "f32", "bf16"):
        raise InvalidArgumentError(f"[export] dtype must be auto, f32 or bf16, got {dtype!r}")
    width, height = pipe.default_size
    return {
        "sdcore.pipeline.version": VERSION,
        "sdcore.latent.channels": pipe.unet.config.in_channels,
        "sdcore.latent.pixels": pipe.vae.scale_factor,
        "sdcore.latent.scale": float(pipe.vae.config.scaling_factor),
        "sdcore.latent.shift": float(pipe.vae.config.shift_factor or 0.0),
        "sdcore.default.width": width,
        "sdcore.default.height": height,
        "sdcore.default.guidance_scale": float(pipe.default_guidance),
        "sdcore.default.dtype": dtype,
        "sdcore.text.tokens": pipe.text_encoder.config.max_position_embeddings,
    }


def _configs(pipe: StableDiffusionPipeline) -> dict[str, str]:
    """What Python opens the file again with."""
    scheduler = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    configs: Mapping[str, Mapping[str, Any]] = {
        "unet": pipe.unet.config_json(),
        "vae": pipe.vae.config_json(),
        "text_encoder": pipe.text_encoder.config_json(),
        "scheduler": scheduler,
    }
    return {f"sdcore.config.{name}": _json(config) for name, config in configs.items()}


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, default=lambda array: np.asarray(array).tolist())


def _numbers(steps: int | Iterable[int]) -> list[int]:
    numbers = [steps] if isinstance(steps, int) else list(steps)
    if not numbers or not all(type(n) is int and n >= 1 for n in numbers):
        raise InvalidArgumentError(f"[export] steps must be whole numbers >= 1, got {steps!r}")
    return numbers


def _tables(pipe: StableDiffusionPipeline, numbers: list[int]) -> dict[str, Any]:
    default = pipe.default_steps if pipe.default_steps in numbers else numbers[0]
    metadata: dict[str, Any] = {"sdcore.default.steps": default}
    for steps in numbers:
        own = type(pipe.scheduler).from_config(pipe.scheduler.config)
        own.set_timesteps(steps)
        metadata |= _table(f"sdcore.table.{steps}", own.table)
    return metadata


def _table(key: str, table: Table) -> dict[str, Any]:
    terms = max(len(row.terms) for row in table.rows)
    return {
        f"{key}.init_noise_sigma": float(table.init_noise_sigma),
        f"{key}.terms": terms,
        f"{key}.rows": np.concatenate([_row(row, terms) for row in table.rows]),
    }


def _row(row: Row, terms: int) -> NDArray[np.float32]:
    padded = [*row.terms, *[Term()] * (terms - len(row.terms))]
    x0 = row.x0_from.x, row.x0_from.m
    bounds, noise = (row.clip, row.quantile), (row.noise, row.draws)
    head = (row.timestep, row.input_scale, *x0, *bounds, *noise)
    return np.array([*head, *np.ravel(padded)], np.float32)


def _tokenizer(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    metadata = pipe.tokenizer.to_gguf_metadata()
    # GGUF's types are i32, where a list of small numbers would be written as u32.
    types = metadata["tokenizer.ggml.token_type"]
    return metadata | {"tokenizer.ggml.token_type": gguf.Typed(types, "i32")}
