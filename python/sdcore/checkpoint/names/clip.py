"""Names of CLIP's two towers: transformers' with and without `text_model.`, and OpenCLIP's.

Inside sdcore those of texts are `text_model.encoder.layers.0…`, as every published file has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sdcore.checkpoint.names.table import NameTable, Row

TOWER = ("embeddings", "encoder", "final_layer_norm")
OPEN_CLIP_OUTER: tuple[Row, ...] = (
    ("token_embedding", "text_model.embeddings.token_embedding"),
    # A bare parameter: it gains a ".weight".
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final", "text_model.final_layer_norm"),
    ("text_projection", "text_projection.weight"),
)
OPEN_CLIP_VISION: tuple[Row, ...] = (
    ("class_embedding", "vision_model.embeddings.class_embedding"),
    ("conv1", "vision_model.embeddings.patch_embedding"),
    ("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("ln_pre", "vision_model.pre_layrnorm"),
    ("ln_post", "vision_model.post_layernorm"),
    ("proj", "visual_projection.weight"),
)
OPEN_CLIP_LAYER: tuple[Row, ...] = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)

_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


def hugging_face(_names: Iterable[str]) -> NameTable:
    return NameTable(
        [("text_model", "text_model"), ("text_projection", "text_projection")],
        aliases=((part, f"text_model.{part}") for part in TOWER),
    )


def open_clip(names: Iterable[str]) -> NameTable:
    """The table for a file with OpenCLIP's names, these."""
    return _open_clip_table(names, _OPEN_CLIP_BLOCK)


def to_open_clip(names: Iterable[str]) -> NameTable:
    """The same table, found from diffusers' names."""
    return _open_clip_table(names, _LAYER)


def _open_clip_table(names: Iterable[str], layer: re.Pattern[str]) -> NameTable:
    return _tower(names, layer, "text_model", OPEN_CLIP_OUTER, "text_projection.weight")


def vision(_names: Iterable[str]) -> NameTable:
    """Transformers' names of the image tower, which every file has in full."""
    return NameTable([("vision_model", "vision_model"), ("visual_projection", "visual_projection")])


def open_clip_vision(names: Iterable[str]) -> NameTable:
    """OpenCLIP's, after `visual.`."""
    return _tower(
        names, _OPEN_CLIP_BLOCK, "vision_model", OPEN_CLIP_VISION, "visual_projection.weight"
    )


def _tower(
    names: Iterable[str], layer: re.Pattern[str], tower: str, outer: Iterable[Row], transposed: str
) -> NameTable:
    layers = {match[1] for name in names if (match := layer.match(name))}
    return NameTable(
        [*outer, *(row for layer in layers for row in _layer_rows(tower, layer))],
        fused=(row for layer in layers for row in _fused_rows(tower, layer)),
        transposed=[transposed],
    )


def _layer_rows(tower: str, layer: str) -> Iterator[Row]:
    for old, new in OPEN_CLIP_LAYER:
        yield f"transformer.resblocks.{layer}.{old}", f"{tower}.encoder.layers.{layer}.{new}"


def _fused_rows(tower: str, layer: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    attention = f"{tower}.encoder.layers.{layer}.self_attn"
    for leaf in ("weight", "bias"):
        yield (
            f"transformer.resblocks.{layer}.attn.in_proj_{leaf}",
            tuple(f"{attention}.{part}_proj.{leaf}" for part in "qkv"),
        )
