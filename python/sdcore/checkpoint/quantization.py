"""A whole model as a smaller GGUF file: `quantize_model`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdcore.checkpoint import comfyui, gguf_output
from sdcore.checkpoint.conversion import Progress, check_target, counter, file_tensors
from sdcore.checkpoint.imatrix import ImportanceMatrix
from sdcore.checkpoint.layouts import layout_of, place_of
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.model import open as open_checkpoint
from sdcore.checkpoint.names import t5
from sdcore.checkpoint.output import outgoing
from sdcore.checkpoint.recipe import (
    TypeRules,
    checked_rules,
    checked_type,
    choose_type,
    is_kept,
    weighs,
)
from sdcore.checkpoint.sidecars import gguf_metadata
from sdcore.checkpoint.single_part import single_part
from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import CheckpointError, InvalidArgumentError

__all__ = ["quantize_model", "written_name"]

log = logging.getLogger("sdcore")

PathLike = str | os.PathLike[str]


def quantize_model(
    source: PathLike | Checkpoint,
    target: PathLike,
    type: str,
    *,
    tensor_types: TypeRules = (),
    importance: ImportanceMatrix | None = None,
    convolutions: bool = False,
    for_comfyui: bool = False,
    part: str | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a model as a GGUF file with the matrices of its layers in a storage type.

    `type` is one of `sdcore.quantization.types()`, such as "q8_0" or "q4_K". What does not suffer
    it stays f16 or f32 (docs/quantization.md), and rows that its blocks do not divide get the
    nearest type that does. `tensor_types` are pairs of a regular expression and a type: the first
    that is found in a tensor's name in the new file decides. `importance` is of the same model
    (`read_imatrix`), and helps the K and IQ types.

    The file has the names of the original single files, as stable-diffusion.cpp reads them, unless
    `convolutions` has those of the denoiser quantized too: they are folded into rows of 256, as
    ComfyUI-GGUF does it, which sdcore and that understand. `for_comfyui` writes the denoiser alone,
    as ComfyUI-GGUF has it; `part` one network alone, as `convert` does. The file appears when it is
    complete, and memory is bounded by the largest tensor.
    Returns the path. Raises InvalidArgumentError for a type that does not exist, FileError for a
    target that is there already or cannot be written, UnsupportedModelError for what has no such
    form, CheckpointError for a damaged source, a part that is not there or an importance matrix of
    another model.
    """
    type, rules, target = checked_type(type), checked_rules(tensor_types), Path(target)
    if target.suffix.lower() != ".gguf":
        raise InvalidArgumentError(
            f"[quantize] quantized models are .gguf files, got '{target.name}'"
        )
    opened = source if isinstance(source, Checkpoint) else open_checkpoint(source, variant)
    check_target(target, opened.path, overwrite)
    if part is not None:
        opened = single_part(opened, part)
    folded: Mapping[str, Sequence[int]]
    if for_comfyui:
        named, folded = comfyui.unet_alone(opened)
    else:
        named = file_tensors(opened, "gguf")
        wanted = comfyui.folded_already(named) | (_convolutions(named) if convolutions else set())
        named, folded = comfyui.fold(named, wanted)
    chosen = {name: _type_of(name, tensor, type, rules) for name, tensor in named.items()}
    weights = _weights(opened, named, chosen, importance, folded)
    tensors = [
        outgoing(name, tensor, chosen[name], weights.get(name)) for name, tensor in named.items()
    ]
    architecture = comfyui.architecture(opened) if for_comfyui else None
    metadata = gguf_metadata(opened, tensors, folded, architecture)
    if number := gguf_output.FILE_TYPES.get(type):
        metadata["general.file_type"] = number  # what was asked for, whatever stayed larger
    gguf_output.write(target, tensors, metadata, counter(tensors, target, progress))
    return target


def written_name(source: Checkpoint, component: str, name: str) -> str:
    """What `quantize_model` calls a tensor of a component that diffusers calls `name`."""
    part = source.component(component)
    if source.kind and source.kind.family == "t5":
        return t5.to_llama_cpp(part.tensors).to_original(name) or name
    if source.format != "diffusers" and part.part.naming != "diffusers":
        return part.source_name(name)
    layout = layout_of(source.kind.family) if source.kind else None
    if layout is None or component not in layout.original:
        return part.source_name(name)
    place = place_of(component, source.components, layout.original)
    return place.prefix + (place.table(part.tensors).to_original(name) or name)


def _convolutions(named: Mapping[str, Tensor]) -> set[str]:
    return {name for name, tensor in named.items() if len(tensor.shape) == 4 and not is_kept(name)}


def _type_of(name: str, tensor: Tensor, type: str, rules: TypeRules) -> str:
    stored = gguf_output.HELD_AS.get(tensor.type, tensor.type)
    return choose_type(name, stored, tensor.shape, type, rules)


def _weights(
    opened: Checkpoint,
    named: Mapping[str, Tensor],
    types: Mapping[str, str],
    importance: ImportanceMatrix | None,
    folded: Mapping[str, Sequence[int]],
) -> dict[str, object]:
    """The importance of each tensor that is made with an eye on it."""
    if importance is None:
        return {}
    wanted = [name for name in named if name not in folded and weighs(types[name])]
    found: dict[str, object] = {}
    for name in wanted:
        for key in (name, _UNET + name):  # a UNet alone has no prefix
            weights = importance.weights(key, named[name].shape[-1])
            if weights is not None:
                found[name] = weights
    if wanted and not found:
        raise CheckpointError(
            f"[quantize] the importance matrix knows no tensor of '{opened.path}': it is of "
            "another model"
        )
    if missing := len(wanted) - len(found):
        log.info("[quantize] the importance matrix lacks %d of %d tensors", missing, len(wanted))
    return found


_UNET = "model.diffusion_model."
