"""IP-Adapter files (Ye et al. 2023): what they add to a UNet, and the projection of images."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdcore import checkpoint
from sdcore.adapters.lora.changes import Change, Parts, weight_change
from sdcore.checkpoint.model import Checkpoint, Component
from sdcore.checkpoint.names import image_projection
from sdcore.checkpoint.parts import Part
from sdcore.checkpoint.sizes import count, size
from sdcore.checkpoint.weights import check_weights
from sdcore.errors import CheckpointError, UnsupportedModelError

__all__ = ["IPAdapterFile", "read"]

Shapes = Mapping[str, Sequence[int]]

_PROJECTION, _ADAPTER = "image_proj.", "ip_adapter."
_PAIR = re.compile(r"ip_adapter\.(\d+)\.to_[kv]_ip\.weight$")
_LORA = re.compile(r"ip_adapter\.(\d+)\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
_NOT_RUN = {
    "IPAdapterFaceIDPlusImageProjection": "which looks at a picture and at insightface's embedding "
    "of its face together",
}


@dataclass(frozen=True, eq=False)
class IPAdapterFile:
    """`projection` has diffusers' names, and as `kind` diffusers' class or InstantID's; `weights`
    are further tensors of the UNet, and `changes` what is changed of it (FaceID's LoRA), by tensor.
    """

    path: Path
    title: str
    kind: str
    projection: Component = field(repr=False)
    weights: Mapping[str, Any] = field(repr=False)
    changes: Mapping[str, Change] = field(repr=False)


def read(
    path: str | os.PathLike[str],
    number: int,
    attentions: Sequence[str],
    unet: Shapes,
    model: str,
) -> IPAdapterFile:
    """Reads a file as adapter `number` of a UNet whose weights have the shapes `unet`.

    `attentions` are the UNet's attentions to the text, in the order in which diffusers counts their
    processors: files number them so, 1, 3, 5 and on, and even numbers are those to the image.
    `model` is what to call the model in errors. Raises FileError, CheckpointError (also for another
    family's adapter), and UnsupportedModelError for a kind that is not built.
    """
    source = checkpoint.open(path)
    kind = source.kind
    if kind is None or kind.family not in ("ip-adapter", "instantid"):
        hint = f" ({kind.about.hint})" if kind and not kind.about.runs else ""
        raise CheckpointError(
            f"[ip-adapter] '{source.path}' holds {source.title}, not an IP-Adapter{hint}"
        )
    projection = _projection(source)
    weights = _weights(source, number, attentions, unet, model)
    takes = unet[f"{attentions[0]}.to_k.weight"][1]
    if projection.config["cross_attention_dim"] != takes:
        raise _misfit(
            source,
            model,
            f"its tokens have {projection.config['cross_attention_dim']} channels, and the UNet "
            f"reads {takes}",
        )
    of_instantid = kind.family == "instantid"
    return IPAdapterFile(
        source.path,
        source.title,
        "InstantIDImageProjection" if of_instantid else str(projection.config["_class_name"]),
        projection,
        weights,
        _changes(source, attentions, unet),
    )


def _misfit(source: Checkpoint, model: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"[ip-adapter] '{source.path}' does not fit the model, {model}: it holds {source.title}: "
        f"{why}"
    )


def _weights(
    source: Checkpoint, number: int, attentions: Sequence[str], unet: Shapes, model: str
) -> dict[str, Any]:
    """Keys and values of the image's tokens, under the names of diffusers' processors."""
    there = {int(match[1]) for name in source.tensors if (match := _PAIR.match(name))}
    if len(there) != len(attentions):
        raise _misfit(
            source,
            model,
            f"it is for {len(there)} attentions, and the UNet has {len(attentions)} to the text",
        )
    expected, files = {}, {}
    for i, attention in enumerate(attentions):
        for side in "kv":
            name = f"{attention}.processor.to_{side}_ip.{number}.weight"
            expected[name] = tuple(unet[f"{attention}.to_{side}.weight"])
            files[name] = f"{_ADAPTER}{2 * i + 1}.to_{side}_ip.weight"
    found = {name: source.tensors[old] for name, old in files.items() if old in source.tensors}
    try:
        return check_weights(expected, found, f"'{source.path}'", files.__getitem__)
    except CheckpointError as error:
        why = str(error).removeprefix(f"[checkpoint] '{source.path}': ")
        raise _misfit(source, model, why) from error


def _projection(source: Checkpoint) -> Component:
    tensors = {
        name.removeprefix(_PROJECTION): tensor
        for name, tensor in source.tensors.items()
        if name.startswith(_PROJECTION)
    }
    kind = next((kind for name, kind in image_projection.KINDS if name in tensors), None)
    if kind is None:
        raise CheckpointError(
            f"[ip-adapter] '{source.path}' has no image projection that sdcore knows: it is half "
            "an adapter, or of a later kind"
        )
    if why := _NOT_RUN.get(kind):
        raise UnsupportedModelError(
            f"[ip-adapter] '{source.path}' holds {source.title}, {why}: sdcore does not run it; it "
            "runs IP-Adapter, Plus, those for whole faces, FaceID and InstantID"
        )
    table = image_projection.table(kind, tensors)
    known, unknown = table.apply(tensors)
    part = Part("image_proj", _PROJECTION, "original", table, known, unknown)
    config = {"_class_name": kind, **_CONFIGS[kind](known)}
    return Component("image_proj", config, known, f"'{source.path}' (image_proj)", part)


def _changes(source: Checkpoint, attentions: Sequence[str], unet: Shapes) -> dict[str, Change]:
    """FaceID comes with a LoRA of all attentions, of strength 1."""
    modules: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, tensor in source.tensors.items():
        if match := _LORA.match(name):
            number, leaf, role = int(match[1]), match[2], match[3]
            if number // 2 >= len(attentions):
                raise CheckpointError(
                    f"[ip-adapter] '{source.path}': '{name}' is of an attention that the UNet does "
                    f"not have: it has {2 * len(attentions)}"
                )
            attention = attentions[number // 2]
            if number % 2 == 0:
                attention = attention.removesuffix("attn2") + "attn1"
            leaf = "out.0" if leaf == "out" else leaf
            modules[f"{attention}.to_{leaf}.weight"][role] = tensor
    changes = {
        name: weight_change(Parts(f"'{name}'", roles, lambda _: 1.0), tuple(unet[name]))
        for name, roles in modules.items()
    }
    return {name: change for name, change in changes.items() if change is not None}


# ---- configs of projections, from tensors under diffusers' names ---------------------------------

_HIDDEN = r"ff\.net\.0\.proj\.weight"


def _linear(tensors: Mapping[str, Any]) -> dict[str, int]:
    return {
        "embed_dim": size(tensors, r"image_embeds\.weight", 1),
        **_in_tokens(tensors, r"image_embeds\.weight"),
    }


def _full(tensors: Mapping[str, Any]) -> dict[str, int]:
    return {
        "embed_dim": size(tensors, _HIDDEN, 1),
        "hidden_dim": size(tensors, _HIDDEN, 0),
        "cross_attention_dim": size(tensors, r"norm\.weight", 0),
    }


def _face_id(tensors: Mapping[str, Any]) -> dict[str, int]:
    return {**_full(tensors), **_in_tokens(tensors, r"ff\.net\.2\.weight")}


def _in_tokens(tensors: Mapping[str, Any], last: str) -> dict[str, int]:
    """Of a layer that gives all tokens at once."""
    channels = size(tensors, r"norm\.weight", 0)
    return {
        "cross_attention_dim": channels,
        "num_tokens": size(tensors, last, 0) // max(1, channels),
    }


def _resampler(tensors: Mapping[str, Any]) -> dict[str, int]:
    layer, dim_head = r"layers\.(\d+)", 64
    return {
        "embed_dim": size(tensors, r"proj_in\.weight", 1),
        "hidden_dim": size(tensors, r"proj_in\.weight", 0),
        "cross_attention_dim": size(tensors, r"proj_out\.weight", 0),
        "num_tokens": size(tensors, r"latents", 1),
        "depth": count(tensors, rf"{layer}\."),
        "heads": max(1, size(tensors, rf"{layer}\.attn\.to_q\.weight", 0) // dim_head),
        "dim_head": dim_head,
        "ff_dim": size(tensors, rf"{layer}\.ff\.1\.net\.0\.proj\.weight", 0),
    }


_CONFIGS = {
    "ImageProjection": _linear,
    "IPAdapterFullImageProjection": _full,
    "IPAdapterFaceIDImageProjection": _face_id,
    "IPAdapterPlusImageProjection": _resampler,
}
