"""Names of T5's encoder: transformers', and llama.cpp's in GGUF files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sdcore.checkpoint.names.table import NameTable, Row

OUTER: tuple[Row, ...] = (
    ("token_embd", "shared"),
    ("enc.output_norm", "encoder.final_layer_norm"),
)
BLOCK: tuple[Row, ...] = (
    ("attn_norm", "layer.0.layer_norm"),
    *((f"attn_{part}", f"layer.0.SelfAttention.{part}") for part in "qkvo"),
    ("attn_rel_b", "layer.0.SelfAttention.relative_attention_bias"),
    ("ffn_norm", "layer.1.layer_norm"),
    ("ffn_down", "layer.1.DenseReluDense.wo"),
)
# Version 1.1 has a gate; the first T5 has not.
GATED: tuple[Row, ...] = (
    ("ffn_gate", "layer.1.DenseReluDense.wi_0"),
    ("ffn_up", "layer.1.DenseReluDense.wi_1"),
)
PLAIN: tuple[Row, ...] = (("ffn_up", "layer.1.DenseReluDense.wi"),)

_LLAMA_BLOCK = re.compile(r"enc\.blk\.(\d+)\.")
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")


def hugging_face(_names: Iterable[str]) -> NameTable:
    return NameTable(
        ((root, root) for root in ("shared", "encoder.block", "encoder.final_layer_norm")),
        # The same table under the encoder's own name: some writers have both, some only this.
        aliases=[("encoder.embed_tokens", "shared")],
    )


def llama_cpp(names: Iterable[str]) -> NameTable:
    """The table for a file with llama.cpp's names, these."""
    names = list(names)
    return _table(names, _LLAMA_BLOCK, any(".ffn_gate." in name for name in names))


def to_llama_cpp(names: Iterable[str]) -> NameTable:
    """The same table, found from transformers' names."""
    names = list(names)
    return _table(names, _BLOCK, any(".wi_0." in name for name in names))


def _table(names: list[str], block: re.Pattern[str], gated: bool) -> NameTable:
    blocks = {match[1] for name in names if (match := block.match(name))}
    return NameTable([*OUTER, *(row for i in blocks for row in _block_rows(i, gated))])


def _block_rows(i: str, gated: bool) -> Iterator[Row]:
    for old, new in (*BLOCK, *(GATED if gated else PLAIN)):
        yield f"enc.blk.{i}.{old}", f"encoder.block.{i}.{new}"
