"""Names of the autoencoder: CompVis' (LDM), diffusers', and diffusers' before 2023."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from sdcore.checkpoint.names.table import NameTable, Row

SIDES = ("encoder", "decoder")
OUTER: tuple[Row, ...] = (
    ("quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv"),
    *((f"{side}.conv_in", f"{side}.conv_in") for side in SIDES),
    *((f"{side}.norm_out", f"{side}.conv_norm_out") for side in SIDES),
    *((f"{side}.conv_out", f"{side}.conv_out") for side in SIDES),
)
MIDDLE: tuple[Row, ...] = (("block_1", "resnets.0"), ("block_2", "resnets.1"))
ATTENTION: tuple[Row, ...] = (
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
)
OLD_ATTENTION: tuple[Row, ...] = (
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
)
# Stored as 1x1 convolutions by the original, as linear layers by diffusers.
LINEAR = re.compile(r"\.attentions\.\d+\.to_(q|k|v|out\.0)\.weight$")

_ORIGINAL_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.block\.(\d+)\.")
_DIFFUSERS_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.resnets\.(\d+)\.")


def original(names: Iterable[str]) -> NameTable:
    """The table for a file with original names, these."""
    return _table(names, _ORIGINAL_BLOCK)


def to_original(names: Iterable[str]) -> NameTable:
    """The same table, found from diffusers' names."""
    return _table(names, _DIFFUSERS_BLOCK)


def diffusers(_names: Iterable[str]) -> NameTable:
    """The table for a file that has diffusers' names already, the attention's old ones included."""
    return NameTable(
        ((root, root) for root in (*SIDES, "quant_conv", "post_quant_conv")),
        aliases=(
            (f"{side}.mid_block.attentions.0.{old}", f"{side}.mid_block.attentions.0.{new}")
            for side in SIDES
            for old, new in OLD_ATTENTION
        ),
    )


def _table(names: Iterable[str], block: re.Pattern[str]) -> NameTable:
    levels = dict.fromkeys(SIDES, 0)
    layers: dict[str, int] = defaultdict(int)
    for name in names:
        if match := block.match(name):
            side, level, layer = match[1], int(match[2]), int(match[3])
            levels[side] = max(levels[side], level + 1)
            layers[side] = max(layers[side], layer + 1)
    rows = [*OUTER]
    for side in SIDES:
        rows += _middle_rows(side)
        for level in range(levels[side]):
            rows += _level_rows(side, level, levels[side], layers[side])
    return NameTable(rows)


def _middle_rows(side: str) -> Iterator[Row]:
    for old, new in MIDDLE:
        yield from _resnet(f"{side}.mid.{old}", f"{side}.mid_block.{new}")
    for old, new in ATTENTION:
        yield f"{side}.mid.attn_1.{old}", f"{side}.mid_block.attentions.0.{new}"


def _level_rows(side: str, level: int, levels: int, layers: int) -> Iterator[Row]:
    # The original counts the decoder's levels from the image, diffusers from the latent.
    old, new = {
        "encoder": (f"encoder.down.{level}", f"encoder.down_blocks.{level}"),
        "decoder": (f"decoder.up.{levels - 1 - level}", f"decoder.up_blocks.{level}"),
    }[side]
    for j in range(layers):
        yield from _resnet(f"{old}.block.{j}", f"{new}.resnets.{j}")
    yield f"{old}.downsample.conv", f"{new}.downsamplers.0.conv"
    yield f"{old}.upsample.conv", f"{new}.upsamplers.0.conv"


def _resnet(old: str, new: str) -> Iterator[Row]:
    yield old, new
    yield f"{old}.nin_shortcut", f"{new}.conv_shortcut"
