"""PhotoMaker files (Li et al. 2024): an ID encoder and the LoRA that was trained with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdcore import checkpoint
from sdcore.adapters import lora
from sdcore.checkpoint.infer import infer_config
from sdcore.checkpoint.model import Checkpoint, Component
from sdcore.checkpoint.names import photomaker
from sdcore.checkpoint.parts import Part, is_weightless
from sdcore.checkpoint.sizes import count, size
from sdcore.errors import CheckpointError

__all__ = ["PhotoMakerFile", "read"]

_RESAMPLER = r"qformer_perceiver\.perceiver_resampler"
_DIM_HEAD = 128  # no shape says it (photomaker/model_v2.py, QFormerPerceiver)


@dataclass(frozen=True, eq=False)
class PhotoMakerFile:
    """`id_encoder` has PhotoMaker's names, with diffusers' for the layers of version 2's
    resampler."""

    path: Path
    title: str
    id_encoder: Component = field(repr=False)
    lora: lora.LoraFile = field(repr=False)


def read(
    path: str | os.PathLike[str], text_channels: int, shapes: lora.Shapes, model: str
) -> PhotoMakerFile:
    """Reads a file for a model whose text encoders give states of `text_channels` side by side, and
    whose components have weights of these `shapes`; `model` is what to call it in errors.

    TencentARC's .bin, the same as .safetensors, and with stable-diffusion.cpp's prefix `pmid.`.
    Raises FileError and CheckpointError, the latter for a model of another family too.
    """
    source = checkpoint.open(path)
    kind = source.kind
    if kind is None or kind.family != "photomaker":
        hint = f" ({kind.about.hint})" if kind and not kind.about.runs else ""
        raise CheckpointError(
            f"[photomaker] '{source.path}' holds {source.title}, not PhotoMaker{hint}"
        )
    encoder, changes = _split(source)
    fused = size(encoder, r"fuse_module\.layer_norm\.weight", 0)
    if not fused or not changes:
        raise CheckpointError(
            f"[photomaker] '{source.path}' has no {'lora_weights' if fused else 'fuse_module'}: it "
            "is half of PhotoMaker"
        )
    if fused != text_channels:
        raise CheckpointError(
            f"[photomaker] '{source.path}' does not fit the model, {model}: it holds "
            f"{source.title}, for text encoders of {fused} channels together, and the model's "
            f"have {text_channels}"
        )
    return PhotoMakerFile(
        source.path,
        source.title,
        _id_encoder(source, encoder),
        lora.read_from(source.replaced(tensors=changes), shapes, model),
    )


def _split(source: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of the ID encoder and of the LoRA, without what stands before either."""
    encoder, changes = {}, {}
    for key, tensor in source.tensors.items():
        name = key.removeprefix("pmid.")
        if "lora" in name:
            changes[name.removeprefix("lora_weights.")] = tensor
        elif not is_weightless(name):
            encoder[name.removeprefix("id_encoder.")] = tensor
    return encoder, changes


def _id_encoder(source: Checkpoint, tensors: Mapping[str, Any]) -> Component:
    table = photomaker.table(tensors)
    known, unknown = table.apply(tensors)
    before = next(iter(key for key in source.tensors if "fuse_module" in key)).partition("fuse_")[0]
    part = Part("id_encoder", before, "original", table, known, unknown)
    where = f"'{source.path}' (id_encoder)"
    return Component("id_encoder", _config(known), known, where, part)


def _config(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """From tensors as `id_encoder` has them."""
    vision = infer_config("image_encoder", dict(tensors), "photomaker", "diffusers")
    config = {"vision": vision, "embed_dim": size(tensors, r"fuse_module\.layer_norm\.weight", 0)}
    face = size(tensors, r"qformer_perceiver\.token_proj\.0\.weight", 1)
    if not face:
        return config
    layer = rf"{_RESAMPLER}\.layers\.(\d+)"
    channels = size(tensors, rf"{_RESAMPLER}\.proj_out\.weight", 0)
    all_tokens = size(tensors, r"qformer_perceiver\.token_proj\.2\.weight", 0)
    resampler = {
        "embed_dim": size(tensors, rf"{_RESAMPLER}\.proj_in\.weight", 1),
        "hidden_dim": size(tensors, rf"{_RESAMPLER}\.proj_in\.weight", 0),
        "cross_attention_dim": channels,
        "num_tokens": all_tokens // max(1, channels),
        "depth": count(tensors, rf"{layer}\."),
        "heads": max(1, size(tensors, rf"{layer}\.attn\.to_q\.weight", 0) // _DIM_HEAD),
        "dim_head": _DIM_HEAD,
        "ff_dim": size(tensors, rf"{layer}\.ff\.1\.net\.0\.proj\.weight", 0),
    }
    return config | {
        "id_embeddings_dim": face,
        "token_dim": size(tensors, r"qformer_perceiver\.token_proj\.0\.weight", 0),
        "resampler": resampler,
    }
