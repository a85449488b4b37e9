"""Diffusers folders: a whole pipeline, or one of its parts alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from sdcore.checkpoint.files import Contents, read_file, read_json
from sdcore.checkpoint.place import listing, refuse_dangling, sole_weights, weight_files
from sdcore.checkpoint.shards import read_index, read_sole_weights
from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import CheckpointError, UnsupportedModelError

log = logging.getLogger("sdcore")

DENOISERS = ("unet", "transformer")
NETWORKS = (*DENOISERS, "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
# Stems and extension of weights: diffusers' name, then transformers'. First match wins.
FORMATS = (
    (("diffusion_pytorch_model", "model"), "safetensors"),
    (("diffusion_pytorch_model", "pytorch_model"), "bin"),
)
# Stems of what diffusers and PEFT save alone: LoRA, and a textual inversion.
ADAPTERS = ("pytorch_lora_weights", "adapter_model", "learned_embeds")
# A part's folder given alone: what its config's class is called in a pipeline.
ROLES = {
    "UNet2DConditionModel": "unet",
    "UNet2DModel": "unet",
    "AutoencoderKL": "vae",
    "AutoencoderTiny": "vae",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder",
    "CLIPVisionModelWithProjection": "image_encoder",
    "T5EncoderModel": "text_encoder",
    "ControlNetModel": "controlnet",
    "ControlNetUnionModel": "controlnet",
    "SD3ControlNetModel": "controlnet",
    "T2IAdapter": "t2i_adapter",
    "SD3Transformer2DModel": "transformer",
    "PixArtTransformer2DModel": "transformer",
    "Transformer2DModel": "transformer",
}


def read_folder(folder: Path, variant: str | None) -> Contents:
    """Tensors are named after their part: `unet.conv_in.weight`; those of what is no part of a
    model have the names of their file."""
    index = folder / "model_index.json"
    metadata = read_json(index) if index.is_file() else {}
    parts = {name: folder / name for name in NETWORKS if (folder / name).is_dir()}
    if not any(name in parts for name in DENOISERS):
        if adapter := _adapter_file(folder):
            return read_file(adapter)
        single = _single_part(folder)
        if single is None:
            return read_sole_weights(folder)
        parts = single
    contents = Contents("diffusers", {}, metadata)
    for name, path in parts.items():
        if metadata.get(name) == [None, None]:  # how a pipeline says that it goes without
            continue
        if name and (path / "config.json").is_file():
            contents.configs[name] = read_json(path / "config.json")
        for key, tensor in _read_weights(path, variant).items():
            contents.tensors[f"{name}.{key}" if name else key] = tensor
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        contents.configs["scheduler"] = read_json(scheduler)
    contents.tokenizers = {name: folder / name for name in TOKENIZERS if (folder / name).is_dir()}
    return contents


def _adapter_file(folder: Path) -> Path | None:
    """What training scripts leave in a folder of its own."""
    paths = (folder / f"{stem}.{ending}" for stem in ADAPTERS for ending in ("safetensors", "bin"))
    return next((path for path in paths if path.is_file()), None)


def _single_part(folder: Path) -> dict[str, Path] | None:
    """None for weights that nothing is said about."""
    config = folder / "config.json"
    if config.is_file():
        values = read_json(config)
        classes = [values.get("_class_name"), *(values.get("architectures") or [])]
        for name in classes:
            if name in ROLES:
                return {ROLES[name]: folder}
        if any((folder / name).is_file() for name in _weight_files(folder, None)):
            return {"": folder}  # an adapter or the like, which its tensors tell
    if sole_weights(folder):
        return None
    if config.is_file():
        raise UnsupportedModelError(
            f"[checkpoint] folder '{folder}' holds a {classes[-1] or 'network without a class'}, "
            "which sdcore does not know"
        )
    several = "; give one of its files" if weight_files(folder) else ""
    raise CheckpointError(
        f"[checkpoint] folder '{folder}' is no diffusers model: it has no unet/, and holds "
        f"{listing(folder)}{several}"
    )


def _read_weights(folder: Path, variant: str | None) -> dict[str, Tensor]:
    for name in _weight_files(folder, variant):
        path = folder / name
        if path.is_file():
            return read_file(path).tensors if path.suffix != ".json" else read_index(path)
        refuse_dangling(path)
    if sole_weights(folder):
        return read_sole_weights(folder).tensors
    raise CheckpointError(
        f"[checkpoint] folder '{folder}' has no weights: it has {listing(folder)}"
    )


def _weight_files(folder: Path, variant: str | None) -> Iterator[str]:
    """In order of preference; a variant that a part lacks gives way to the plain file, and a plain
    file that it lacks to a variant: rather to one of averaged weights, which is what models are
    drawn with."""
    if variant:
        yield from _names(variant)
        log.info("[checkpoint] '%s' has no variant '%s': taking the plain weights", folder, variant)
    yield from _names(None)
    found = sorted(set(_variants_there(folder)), key=lambda name: ("non_ema" in name, name))
    if found:
        log.info("[checkpoint] '%s' has no plain weights: taking '%s'", folder, found[0])
        yield from _names(found[0])


def _files() -> Iterator[tuple[str, str]]:
    return ((stem, extension) for stems, extension in FORMATS for stem in stems)


def _names(variant: str | None) -> Iterator[str]:
    for stem, extension in _files():
        if variant is None:
            yield f"{stem}.{extension}"
            yield f"{stem}.{extension}.index.json"
        else:
            yield f"{stem}.{variant}.{extension}"
            yield f"{stem}.{extension}.index.{variant}.json"
            yield f"{stem}.{extension}.{variant}.index.json"  # as diffusers once wrote it


def _variants_there(folder: Path) -> Iterator[str]:
    for stem, extension in _files():
        for path in folder.glob(f"{stem}.*.{extension}"):
            variant = path.name.removeprefix(f"{stem}.").removesuffix(f".{extension}")
            if "-of-" not in variant:
                yield variant
        for path in folder.glob(f"{stem}.{extension}.index.*.json"):
            yield path.name.removeprefix(f"{stem}.{extension}.index.").removesuffix(".json")
        for path in folder.glob(f"{stem}.{extension}.*.index.json"):
            yield path.name.removeprefix(f"{stem}.{extension}.").removesuffix(".index.json")
