"""Any checkpoint into any other kind: `convert`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdcore import _core
from sdcore.checkpoint import comfyui, gguf_output, safetensors, torch_output
from sdcore.checkpoint.ema import averaged
from sdcore.checkpoint.folder_output import folder_tensors, write_folder
from sdcore.checkpoint.layouts import ALONE, layout_of, original_names, place_of
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.model import open as open_checkpoint
from sdcore.checkpoint.names import t5
from sdcore.checkpoint.output import Outgoing, outgoing, stored_size
from sdcore.checkpoint.output import Progress as Count
from sdcore.checkpoint.parts import Part, is_weightless
from sdcore.checkpoint.sidecars import file_metadata, gguf_metadata
from sdcore.checkpoint.single_part import single_part
from sdcore.checkpoint.tensor import FLOAT8, SIZES, Tensor
from sdcore.errors import FileError, InvalidArgumentError, UnsupportedModelError

__all__ = ["DTYPES", "FORMATS", "PREDICTION_TYPES", "Progress", "convert", "file_tensors"]

PathLike = str | os.PathLike[str]
# Called after each piece with the bytes written so far, and those of all tensors.
Progress = Callable[[int, int], object]

FORMATS = ("safetensors", "gguf", "pickle", "diffusers")
ENDINGS = {
    ".safetensors": "safetensors", ".sft": "safetensors", ".gguf": "gguf", ".ckpt": "pickle",
    ".pt": "pickle", ".pth": "pickle", ".bin": "pickle", "": "diffusers",
}  # fmt: skip
DTYPES = ("f32", "f16", "bf16")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
_FLOATS = frozenset(["f64", "f32", "f16", "bf16", *FLOAT8])
# Tensors that say how a model predicts, by being there.
_MARKERS = ("v_pred", "ztsnr")


def convert(
    source: PathLike | Checkpoint,
    target: PathLike,
    *,
    format: str | None = None,
    dtype: str | None = None,
    ema: bool = False,
    prediction_type: str | None = None,
    image_size: int | None = None,
    for_comfyui: bool = False,
    part: str | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a model, or anything else that holds tensors, as another kind of file or folder.

    `format` is "safetensors", "gguf", "pickle" (PyTorch's .ckpt, .pt, .pth and .bin) or
    "diffusers", a folder; without it the ending of `target` decides, and no ending is a folder, and
    so is a version (`sd-v1.5`) and what a `/` is behind.
    Between a folder and a file, tensors change names by the tables that loading uses; between
    files they keep theirs. Weights keep their types unless `dtype` says "f32", "f16" or "bf16"; a
    quantized one becomes f16 where the format has no such type.

    `ema` takes the averaged weights of an original training file; `prediction_type` ("epsilon",
    "v_prediction" or "sample") and `image_size` (pixels) change what the model says of itself;
    `for_comfyui` writes the denoiser alone, as ComfyUI-GGUF has it; `part` writes one network alone
    ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", or
    "controlnet" of a file that holds a model too); `variant` picks files such as "fp16" of a
    folder.

    What is written appears under its name when it is complete, and memory is bounded by the largest
    tensor. Returns the path. Raises InvalidArgumentError for options that do not go together,
    FileError for a target that is there already or cannot be written, UnsupportedModelError for
    what has no such form, CheckpointError for a damaged source.
    """
    is_folder = os.fspath(target).endswith("/")
    target = Path(target)
    format = _format(target, "diffusers" if is_folder and format is None else format)
    _one_of("dtype", dtype, DTYPES)
    if for_comfyui and format != "gguf":
        raise InvalidArgumentError(f"[convert] ComfyUI-GGUF reads .gguf, not {format}")
    opened = source if isinstance(source, Checkpoint) else open_checkpoint(source, variant)
    check_target(target, opened.path, overwrite)
    if ema:
        opened = opened.replaced(tensors=averaged(opened.tensors, str(opened.path)))
    opened = _with_facts(opened, prediction_type, image_size)
    if part is not None:
        opened = single_part(opened, part)
    if format == "diffusers":
        parts = {
            name: _ready(tensors, format, dtype) for name, tensors in folder_tensors(opened).items()
        }
        everything = [tensor for tensors in parts.values() for tensor in tensors]
        write_folder(opened, target, parts, counter(everything, target, progress))
    else:
        _write_file(opened, target, format, dtype, for_comfyui, progress)
    return target


def _ready(tensors: Mapping[str, Tensor], format: str, dtype: str | None) -> list[Outgoing]:
    return [
        outgoing(name, tensor, stored_type(name, tensor, format, dtype))
        for name, tensor in tensors.items()
    ]


def _write_file(
    opened: Checkpoint,
    target: Path,
    format: str,
    dtype: str | None,
    for_comfyui: bool,
    progress: Progress | None,
) -> None:
    shapes: Mapping[str, Sequence[int]] = {}
    architecture = None
    named = file_tensors(opened, format)
    if for_comfyui:
        named, shapes = comfyui.unet_alone(opened)
        architecture = comfyui.architecture(opened)
    elif format == "gguf":
        named, shapes = comfyui.fold(named, comfyui.folded_already(named))
    tensors = _ready(named, format, dtype)
    count = counter(tensors, target, progress)
    if format == "gguf":
        metadata = gguf_metadata(opened, tensors, shapes, architecture)
        gguf_output.write(target, tensors, metadata, count)
    elif format == "safetensors":
        texts = {key: _text(value) for key, value in file_metadata(opened).items()}
        safetensors.write(target, tensors, {"format": "pt"} | texts, count)
    else:
        is_model = _denoiser(opened) is not None
        torch_output.write(target, tensors, file_metadata(opened), count, nested=is_model)


def stored_type(name: str, tensor: Tensor, format: str, dtype: str | None = None) -> str:
    """What a tensor is stored as in a file of this format."""
    type = tensor.type
    if type in SIZES and not (type in _FLOATS and dtype and not is_weightless(name)):
        return gguf_output.HELD_AS.get(type, type) if format == "gguf" else type
    if dtype:
        return dtype
    return type if format == "gguf" and _divides(type, tensor.shape) else "f16"


def file_tensors(opened: Checkpoint, format: str) -> dict[str, Tensor]:
    """All tensors as a single file of this format has them: as they are, or where they are under
    diffusers' names, in the original layout of their family. T5 alone is llama.cpp's in GGUF, and
    transformers' elsewhere."""
    kind = opened.kind
    if kind is not None and kind.family == "t5":
        return _t5_tensors(opened.parts["text_encoder"], format)
    if opened.format != "diffusers" and not _is_pipeline(opened):
        return opened.tensors
    layout = layout_of(kind.family) if kind else None
    places = layout.original if layout else ALONE
    components = opened.components
    if not components or (layout is None and not places.keys() >= components.keys()):
        if opened.format == "diffusers" and len(components) != 1:
            raise UnsupportedModelError(
                f"[convert] '{opened.path}' holds {opened.title}, which sdcore cannot write as a "
                "single file"
            )
        return {name: t for part in components.values() for name, t in part.tensors.items()}
    tensors: dict[str, Tensor] = {}
    for name, part in components.items():
        place = place_of(name, components, places)
        tensors |= original_names(name, part.tensors, place)
    return tensors | _markers(opened, tensors)


def _markers(opened: Checkpoint, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by which other programs know what no shape tells, of a folder that only says it in
    its configs: how SDXL predicts, and the scale of Playground's latents."""
    family = opened.kind.family if opened.kind else ""
    if not family.startswith("sdxl"):
        return {}
    scheduler, found = opened.scheduler_config, {}
    latents = opened.components["vae"].config if "vae" in opened.components else {}
    if latents.get("latents_mean") and latents.get("latents_std"):
        found = {"edm_mean": latents["latents_mean"], "edm_std": latents["latents_std"]}
    elif scheduler.get("prediction_type") == "v_prediction" and "beta_schedule" in scheduler:
        found = {"v_pred": [1.0]}
        if scheduler.get("rescale_betas_zero_snr"):
            found["ztsnr"] = [1.0]
    made = {key: _core.Tensor.from_array(np.float32(value)) for key, value in found.items()}
    return {key: tensor for key, tensor in made.items() if key not in tensors}


def _t5_tensors(part: Part, format: str) -> dict[str, Tensor]:
    if format != "gguf":
        return part.tensors
    return t5.to_llama_cpp(part.tensors).restore(part.tensors)[0]


def _denoiser(opened: Checkpoint) -> Part | None:
    return opened.parts.get("unet") or opened.parts.get("transformer")


def _is_pipeline(opened: Checkpoint) -> bool:
    """A single file of several parts under diffusers' names, such as sdcore's export."""
    denoiser = _denoiser(opened)
    return len(opened.parts) > 1 and denoiser is not None and denoiser.naming == "diffusers"


def _divides(type: str, shape: Sequence[int]) -> bool:
    try:
        stored_size(type, tuple(shape))
    except InvalidArgumentError:
        return False
    return True


def _with_facts(
    opened: Checkpoint, prediction_type: str | None, image_size: int | None
) -> Checkpoint:
    """Changes what no tensor shows."""
    configs = dict(opened.configs)
    tensors = opened.tensors
    if prediction_type is not None:
        _one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        _need_unet(opened, "prediction_type")
        configs["scheduler"] = opened.scheduler_config | {"prediction_type": prediction_type}
        if prediction_type != "v_prediction":
            configs["scheduler"].pop("rescale_betas_zero_snr", None)
            tensors = {name: t for name, t in tensors.items() if name not in _MARKERS}
    if image_size is not None:
        _need_unet(opened, "image_size")
        levels = len(opened.component("vae").config["block_out_channels"])
        pixels = 2 ** (levels - 1)
        if image_size < pixels or image_size % pixels:
            raise InvalidArgumentError(
                f"[convert] image_size must be a multiple of {pixels}, got {image_size}"
            )
        configs["unet"] = opened.component("unet").config | {"sample_size": image_size // pixels}
    return opened.replaced(configs=configs, tensors=tensors)


def _need_unet(opened: Checkpoint, option: str) -> None:
    if "unet" not in opened.parts:
        raise InvalidArgumentError(
            f"[convert] {option} is a model's, and '{opened.path}' holds {opened.title}"
        )


# ---- the target ----------------------------------------------------------------------------------


def _format(target: Path, format: str | None) -> str:
    if format is not None:
        return _one_of("format", format, FORMATS)
    ending = target.suffix.lower()
    if target.is_dir() or _is_version(ending):
        return "diffusers"
    if ending not in ENDINGS:
        raise InvalidArgumentError(
            f"[convert] '{target}' has an unknown ending '{ending}': it must be one of "
            f"{', '.join(filter(None, ENDINGS))}, or none for a folder; or name a folder as "
            f"'{target}/'"
        )
    return ENDINGS[ending]


def _is_version(ending: str) -> bool:
    """Of a name such as `sd-v1.5`: it is no ending of a file."""
    return ending[1:2].isdigit()


def _one_of(option: str, value: str | None, allowed: Iterable[str]) -> str:
    if value is not None and value not in allowed:
        raise InvalidArgumentError(
            f"[convert] {option} must be one of {', '.join(allowed)}, got {value!r:.40}"
        )
    return value or ""


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Refuses before any work what would be lost or could not be written."""
    if not target.exists():
        if not target.resolve().parent.is_dir():
            raise FileError(f"[convert] there is no folder '{target.resolve().parent}'")
        return
    if target.is_dir() and source.resolve().is_relative_to(target.resolve()):
        raise FileError(f"[convert] '{target}' holds what is to be converted: name another folder")
    is_empty = target.is_dir() and not any(target.iterdir())
    if not overwrite and not is_empty:
        raise FileError(f"[convert] '{target}' exists already: -f (overwrite=True) replaces it")
    if target.is_dir() and not is_empty and not _is_model_folder(target):
        raise FileError(
            f"[convert] folder '{target}' holds other things than a model, which would be lost: "
            "name another"
        )


def _is_model_folder(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("model_index.json", "config.json"))


def counter(tensors: Sequence[Outgoing], target: Path, progress: Progress | None) -> Count | None:
    total = sum(tensor.nbytes for tensor in tensors)
    free = shutil.disk_usage(target.resolve().parent).free
    if free < total:
        raise FileError(
            f"[convert] the disk of '{target}' is full: {free / 1e6:.1f} MB are free, "
            f"{total / 1e6:.1f} MB are needed"
        )
    if progress is None:
        return None
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    return count


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
