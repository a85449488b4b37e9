"""Names of Stable Diffusion 3's transformer: Stability's and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sdcore.checkpoint.names.table import NameTable, Row

OUTER: tuple[Row, ...] = (
    ("pos_embed", "pos_embed.pos_embed"),
    ("x_embedder.proj", "pos_embed.proj"),
    ("context_embedder", "context_embedder"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("final_layer.adaLN_modulation.1", "norm_out.linear"),
    ("final_layer.linear", "proj_out"),
)
BLOCK: tuple[Row, ...] = (
    ("x_block.adaLN_modulation.1", "norm1.linear"),
    ("x_block.attn.ln_q", "attn.norm_q"),
    ("x_block.attn.ln_k", "attn.norm_k"),
    ("x_block.attn.proj", "attn.to_out.0"),
    ("x_block.attn2.ln_q", "attn2.norm_q"),
    ("x_block.attn2.ln_k", "attn2.norm_k"),
    ("x_block.attn2.proj", "attn2.to_out.0"),
    ("x_block.mlp.fc1", "ff.net.0.proj"),
    ("x_block.mlp.fc2", "ff.net.2"),
    ("context_block.adaLN_modulation.1", "norm1_context.linear"),
    ("context_block.attn.ln_q", "attn.norm_added_q"),
    ("context_block.attn.ln_k", "attn.norm_added_k"),
    ("context_block.attn.proj", "attn.to_add_out"),
    ("context_block.mlp.fc1", "ff_context.net.0.proj"),
    ("context_block.mlp.fc2", "ff_context.net.2"),
)
FUSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("x_block.attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    ("x_block.attn2.qkv", ("attn2.to_q", "attn2.to_k", "attn2.to_v")),
    ("context_block.attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
)
ROOTS = (
    "pos_embed",
    "context_embedder",
    "time_text_embed",
    "transformer_blocks",
    "norm_out",
    "proj_out",
)

LEAVES = ("weight", "bias")

_ORIGINAL_BLOCK = re.compile(r"joint_blocks\.(\d+)\.")
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
    blocks = {int(match[1]) for name in names if (match := block.match(name))}
    last = f"transformer_blocks.{max(blocks, default=0)}.norm1_context.linear"
    return NameTable(
        [*OUTER, *(row for i in blocks for row in _block_rows(i))],
        fused=(row for i in blocks for row in _fused_rows(i)),
        # Shift and scale there, scale and shift in diffusers' AdaLayerNormContinuous.
        swapped=[f"{norm}.{leaf}" for norm in ("norm_out.linear", last) for leaf in LEAVES],
    )


def _block_rows(i: int) -> Iterator[Row]:
    for old, new in BLOCK:
        yield f"joint_blocks.{i}.{old}", f"transformer_blocks.{i}.{new}"


def _fused_rows(i: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for old, pieces in FUSED:
        for leaf in LEAVES:
            yield (
                f"joint_blocks.{i}.{old}.{leaf}",
                tuple(f"transformer_blocks.{i}.{piece}.{leaf}" for piece in pieces),
            )
