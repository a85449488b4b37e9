"""Names of the UNet: CompVis' (LDM) and diffusers'.

The original numbers its blocks in one row through all levels, so where a block sits follows from
how many layers each level has. That layout is read off the names themselves, in either naming.
Diffusers' script writes distilled models of fewer layers with the numbers of whole ones: with gaps,
and with what samples up in a block of its own.
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
    rf"(input|output)_blocks\.(\d+)\.(\d+)\.({'|'.join(_ORIGINAL_KIND)})\."
    r"|(middle)_block\.(\d+)\.(in_layers|transformer_blocks|proj_in)\."
)
_DIFFUSERS_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\."
    r"|(mid)_block\.(resnets|attentions)\.(\d+)\."
)


@dataclass(frozen=True)
class Level:
    """One resolution: its resnets by their original numbers, true where an attention follows, and
    the original path of what resamples after them."""

    layers: tuple[tuple[int, bool], ...]
    resampler: str | None


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
    return NameTable([*_way_down(layout), *_rows(layout.up, "output", "up")])


def _way_down(layout: Layout) -> Iterator[Row]:
    yield from OUTER
    yield from _rows(layout.down, "input", "down")
    yield from _middle_rows(layout)


def _rows(levels: Iterable[Level], old: str, new: str) -> Iterator[Row]:
    for b, level in enumerate(levels):
        for j, (i, attention) in enumerate(level.layers):
            yield from _resnet(f"{old}_blocks.{i}.0", f"{new}_blocks.{b}.resnets.{j}")
            if attention:
                yield f"{old}_blocks.{i}.1", f"{new}_blocks.{b}.attentions.{j}"
        if level.resampler is not None:
            yield level.resampler, f"{new}_blocks.{b}.{new}samplers.0.conv"


def _middle_rows(layout: Layout) -> Iterator[Row]:
    seen: dict[str, int] = defaultdict(int)
    for i, kind in enumerate(layout.middle):
        target = f"mid_block.{kind}s.{seen[kind]}"
        if kind == "resnet":
            yield from _resnet(f"middle_block.{i}", target)
        else:
            yield f"middle_block.{i}", target
        seen[kind] += 1


def _resnet(old: str, new: str) -> Iterator[Row]:
    for old_leaf, new_leaf in RESNET:
        yield f"{old}.{old_leaf}", f"{new}.{new_leaf}"


def _original_layout(names: Iterable[str]) -> Layout:
    kinds: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in names:
        if match := _ORIGINAL_BLOCK.match(name):
            path, index, *part, kind = (group for group in match.groups() if group is not None)
            kinds[path][int(index)][_ORIGINAL_KIND[kind]] = part[0] if part else ""
    middle = (kinds["middle"][i] for i in sorted(kinds["middle"]))
    return Layout(
        _levels(kinds["input"], "input_blocks.{}.{}.op"),
        tuple("resnet" if "resnet" in kind else "attention" for kind in middle),
        _levels(kinds["output"], "output_blocks.{}.{}.conv"),
    )


def _levels(blocks: dict[int, dict[str, str]], resampler: str) -> tuple[Level, ...]:
    """Of blocks by number: what each is made of, and at which place in it."""
    levels: list[Level] = []
    layers: list[tuple[int, bool]] = []
    for index in sorted(blocks):
        kinds = blocks[index]
        if "resnet" in kinds:
            layers.append((index, "attention" in kinds))
        if "resample" in kinds and layers:
            levels.append(Level(tuple(layers), resampler.format(index, kinds["resample"])))
            layers = []
    if layers:
        levels.append(Level(tuple(layers), None))
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

    def blocks(path: str) -> list[dict[str, set[int]]]:
        return [block for (where, _), block in sorted(parts.items()) if where == path]

    middle = parts["mid", 0]
    order: list[str] = []
    for j in sorted(middle["resnets"]):
        order.append("resnet")
        if j in middle["attentions"]:
            order.append("attention")
    return Layout(
        tuple(_numbered_down(blocks("down"))), tuple(order), tuple(_numbered_up(blocks("up")))
    )


def _numbered_down(blocks: Iterable[dict[str, set[int]]]) -> Iterator[Level]:
    i = 1  # input_blocks.0 is conv_in
    for block in blocks:
        layers = tuple((i + n, j in block["attentions"]) for n, j in _in_order(block))
        i += len(layers)
        if block["downsamplers"]:
            yield Level(layers, f"input_blocks.{i}.0.op")
            i += 1
        else:
            yield Level(layers, None)


def _numbered_up(blocks: Iterable[dict[str, set[int]]]) -> Iterator[Level]:
    i = 0
    for block in blocks:
        layers = tuple((i + n, j in block["attentions"]) for n, j in _in_order(block))
        i += len(layers)
        if block["upsamplers"]:
            # The last part of the level's last block: third after an attention.
            part = 2 if layers and layers[-1][1] else 1
            yield Level(layers, f"output_blocks.{i - 1}.{part}.conv")
        else:
            yield Level(layers, None)


def _in_order(block: dict[str, set[int]]) -> Iterator[tuple[int, int]]:
    return enumerate(sorted(block["resnets"]))
