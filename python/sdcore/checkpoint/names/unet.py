"""Names of the UNet: CompVis' (LDM) and diffusers'.

The original numbers its blocks in one row through all levels, so where a block sits follows from
how many layers each level has. That layout is read off the names themselves, in either naming.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sdcore.checkpoint.names.table import NameTable, Row

OUTER: tuple[Row, ...] = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("time_embed.cond_proj", "time_embedding.cond_proj"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("label_emb", "class_embedding"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)
RESNET: tuple[Row, ...] = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
ROOTS = (
    *("conv_in", "time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj"),
    *("down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out"),
)

# What a block's first inner name says that it is.
_ORIGINAL_KIND = {
    "in_layers": "resnet",
    "transformer_blocks": "attention",
    "proj_in": "attention",  # of a transformer without blocks too
    "op": "resample",
    "conv": "resample",
}
_ORIGINAL_BLOCK = re.compile(
    rf"(input|output)_blocks\.(\d+)\.\d+\.({'|'.join(_ORIGINAL_KIND)})\."
    r"|(middle)_block\.(\d+)\.(in_layers|transformer_blocks|proj_in)\."
)
_DIFFUSERS_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\."
    r"|(mid)_block\.(resnets|attentions)\.(\d+)\."
)


@dataclass(frozen=True)
class Level:
    """One resolution: its resnets in order, true where an attention follows."""

    layers: tuple[bool, ...]
    resampled: bool


@dataclass(frozen=True)
class Layout:
    down: tuple[Level, ...]
    middle: tuple[str, ...]  # "resnet" and "attention" in order
    up: tuple[Level, ...]


def original(names: Iterable[str]) -> NameTable:
    """The table for a file with original names, these."""
    return _table(_original_layout(names))


def to_original(names: Iterable[str]) -> NameTable:
    """The same table, found from diffusers' names."""
    return _table(_diffusers_layout(names))


def way_down(names: Iterable[str]) -> Iterator[Row]:
    """The rows of what a ControlNet copies, for a file with original names."""
    return _way_down(_original_layout(names))


def way_down_to_original(names: Iterable[str]) -> Iterator[Row]:
    """The same rows, found from diffusers' names."""
    return _way_down(_diffusers_layout(names))


def diffusers(_names: Iterable[str]) -> NameTable:
    """The table for a file that has diffusers' names already."""
    return NameTable((root, root) for root in ROOTS)


def _table(layout: Layout) -> NameTable:
    return NameTable([*_way_down(layout), *_up_rows(layout)])


def _way_down(layout: Layout) -> Iterator[Row]:
    yield from OUTER
    yield from _down_rows(layout)
    yield from _middle_rows(layout)


def _down_rows(layout: Layout) -> Iterator[Row]:
    i = 1  # input_blocks.0 is conv_in
    for b, level in enumerate(layout.down):
        for j, attention in enumerate(level.layers):
            yield from _resnet(f"input_blocks.{i}.0", f"down_blocks.{b}.resnets.{j}")
            if attention:
                yield f"input_blocks.{i}.1", f"down_blocks.{b}.attentions.{j}"
            i += 1
        if level.resampled:
            yield f"input_blocks.{i}.0.op", f"down_blocks.{b}.downsamplers.0.conv"
            i += 1


def _middle_rows(layout: Layout) -> Iterator[Row]:
    seen: dict[str, int] = defaultdict(int)
    for i, kind in enumerate(layout.middle):
        target = f"mid_block.{kind}s.{seen[kind]}"
        if kind == "resnet":
            yield from _resnet(f"middle_block.{i}", target)
        else:
            yield f"middle_block.{i}", target
        seen[kind] += 1


def _up_rows(layout: Layout) -> Iterator[Row]:
    i = 0
    for b, level in enumerate(layout.up):
        for j, attention in enumerate(level.layers):
            yield from _resnet(f"output_blocks.{i}.0", f"up_blocks.{b}.resnets.{j}")
            if attention:
                yield f"output_blocks.{i}.1", f"up_blocks.{b}.attentions.{j}"
            i += 1
        if level.resampled:
            # The upsampler is the last part of the level's last block: third after an attention.
            part = 2 if level.layers[-1] else 1
            yield f"output_blocks.{i - 1}.{part}.conv", f"up_blocks.{b}.upsamplers.0.conv"


def _resnet(old: str, new: str) -> Iterator[Row]:
    for old_leaf, new_leaf in RESNET:
        yield f"{old}.{old_leaf}", f"{new}.{new_leaf}"


def _original_layout(names: Iterable[str]) -> Layout:
    kinds: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        if match := _ORIGINAL_BLOCK.match(name):
            path, index, kind = (group for group in match.groups() if group is not None)
            kinds[path][int(index)].add(_ORIGINAL_KIND[kind])
    middle = (kinds["middle"][i] for i in sorted(kinds["middle"]))
    return Layout(
        _levels(kinds["input"]),
        tuple("resnet" if "resnet" in kind else "attention" for kind in middle),
        _levels(kinds["output"]),
    )


def _levels(blocks: dict[int, set[str]]) -> tuple[Level, ...]:
    levels: list[Level] = []
    layers: list[bool] = []
    for index in sorted(blocks):
        kinds = blocks[index]
        if "resnet" in kinds:
            layers.append("attention" in kinds)
        if "resample" in kinds and layers:
            levels.append(Level(tuple(layers), resampled=True))
            layers = []
    if layers:
        levels.append(Level(tuple(layers), resampled=False))
    return tuple(levels)


def _diffusers_layout(names: Iterable[str]) -> Layout:
    parts: dict[tuple[str, int], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        if not (match := _DIFFUSERS_BLOCK.match(name)):
            continue
        if match[5]:
            parts["mid", 0][match[6]].add(int(match[7]))
        else:
            parts[match[1], int(match[2])][match[3]].add(int(match[4]))

    def levels(path: str) -> tuple[Level, ...]:
        return tuple(
            Level(
                tuple(j in block["attentions"] for j in sorted(block["resnets"])),
                resampled=bool(block["downsamplers"] or block["upsamplers"]),
            )
            for (where, _), block in sorted(parts.items())
            if where == path
        )

    middle = parts["mid", 0]
    order: list[str] = []
    for j in sorted(middle["resnets"]):
        order.append("resnet")
        if j in middle["attentions"]:
            order.append("attention")
    return Layout(levels("down"), tuple(order), levels("up"))
