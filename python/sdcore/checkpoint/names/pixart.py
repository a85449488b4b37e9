"""Names of PixArt's transformer: its makers' and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sdcore.checkpoint.names.table import NameTable, Row

_TIME = "adaln_single.emb.timestep_embedder"
_SIZE = "adaln_single.emb.resolution_embedder"
_RATIO = "adaln_single.emb.aspect_ratio_embedder"

OUTER: tuple[Row, ...] = (
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", f"{_TIME}.linear_1"),
    ("t_embedder.mlp.2", f"{_TIME}.linear_2"),
    ("csize_embedder.mlp.0", f"{_SIZE}.linear_1"),
    ("csize_embedder.mlp.2", f"{_SIZE}.linear_2"),
    ("ar_embedder.mlp.0", f"{_RATIO}.linear_1"),
    ("ar_embedder.mlp.2", f"{_RATIO}.linear_2"),
    ("t_block.1", "adaln_single.linear"),
    ("y_embedder.y_proj.fc1", "caption_projection.linear_1"),
    ("y_embedder.y_proj.fc2", "caption_projection.linear_2"),
    ("final_layer.scale_shift_table", "scale_shift_table"),
    ("final_layer.linear", "proj_out"),
)
# Not of the network, which computes its positions and takes the empty prompt's states as T5 gives
# them; but their sizes tell which PixArt it is.
TELLING: tuple[Row, ...] = (
    ("pos_embed", "pos_embed.pos_embed"),
    ("y_embedder.y_embedding", "caption_projection.y_embedding"),
)
BLOCK: tuple[Row, ...] = (
    ("scale_shift_table", "scale_shift_table"),
    ("attn.proj", "attn1.to_out.0"),
    ("attn.sr", "attn1.sr"),  # where keys and values are made fewer; diffusers has no name for it
    ("attn.norm", "attn1.norm"),
    ("cross_attn.q_linear", "attn2.to_q"),
    ("cross_attn.proj", "attn2.to_out.0"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
)
FUSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attn.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
    ("cross_attn.kv_linear", ("attn2.to_k", "attn2.to_v")),
)
ROOTS = (
    "pos_embed",
    "adaln_single",
    "caption_projection",
    "transformer_blocks",
    "scale_shift_table",
    "proj_out",
)
LEAVES = ("weight", "bias")

_ORIGINAL_BLOCK = re.compile(r"blocks\.(\d+)\.")
_DIFFUSERS_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")


def original(names: Iterable[str]) -> NameTable:
    """The table for a file with original names, these."""
    return _table(names, _ORIGINAL_BLOCK)


def to_original(names: Iterable[str]) -> NameTable:
    """The same table, found from diffusers' names."""
    return _table(names, _DIFFUSERS_BLOCK)


def diffusers(_names: Iterable[str]) -> NameTable:
    return NameTable((root, root) for root in ROOTS)


def _table(names: Iterable[str], block: re.Pattern[str]) -> NameTable:
    blocks = {match[1] for name in names if (match := block.match(name))}
    return NameTable(
        [*OUTER, *TELLING, *(row for i in blocks for row in _block_rows(i))],
        fused=(row for i in blocks for row in _fused_rows(i)),
    )


def _block_rows(i: str) -> Iterator[Row]:
    for old, new in BLOCK:
        yield f"blocks.{i}.{old}", f"transformer_blocks.{i}.{new}"


def _fused_rows(i: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for old, pieces in FUSED:
        for leaf in LEAVES:
            yield (
                f"blocks.{i}.{old}.{leaf}",
                tuple(f"transformer_blocks.{i}.{piece}.{leaf}" for piece in pieces),
            )
