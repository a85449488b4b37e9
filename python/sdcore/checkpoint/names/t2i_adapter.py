"""Names of T2I-Adapters: TencentARC's, which count blocks in one row, and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sdcore.checkpoint.names.table import NameTable, Row

_RESNETS = 2  # a level, in all published ones
_WIDER = re.compile(r"body\.(\d+)\.in_conv\.")  # the first block of a level of more channels
_BLOCK = re.compile(r"body\.(\d+)\.")
_LIGHT_BLOCK = re.compile(r"body\.(\d+)\.body\.(\d+)\.")
_DIFFUSERS_BLOCK = re.compile(r"adapter\.body\.(\d+)\.resnets\.(\d+)\.")


def original(names: Iterable[str]) -> NameTable:
    """The table for a file with original names, these."""
    names = list(names)
    if light := {(int(m[1]), int(m[2])) for name in names if (m := _LIGHT_BLOCK.match(name))}:
        return NameTable(_light(light))
    a_level = min((int(m[1]) for name in names if (m := _WIDER.match(name))), default=_RESNETS)
    blocks = {int(m[1]) for name in names if (m := _BLOCK.match(name))}
    return NameTable(_full({divmod(block, max(1, a_level)) for block in blocks}))


def to_original(names: Iterable[str]) -> NameTable:
    """The same table, found from diffusers' names."""
    names = list(names)
    resnets = {(int(m[1]), int(m[2])) for name in names if (m := _DIFFUSERS_BLOCK.match(name))}
    is_light = any(name.startswith("adapter.body.0.out_conv.") for name in names)
    return NameTable(_light(resnets) if is_light else _full(resnets))


def diffusers(_names: Iterable[str]) -> NameTable:
    """The table for a file that has diffusers' names already."""
    return NameTable([("adapter", "adapter")])


def _full(resnets: set[tuple[int, int]]) -> Iterator[Row]:
    yield "conv_in", "adapter.conv_in"
    a_level = 1 + max((k for _, k in resnets), default=0)
    for level, k in sorted(resnets):
        block = f"body.{level * a_level + k}"
        for conv in ("block1", "block2"):
            yield f"{block}.{conv}", f"adapter.body.{level}.resnets.{k}.{conv}"
        if k == 0:
            yield f"{block}.in_conv", f"adapter.body.{level}.in_conv"


def _light(resnets: set[tuple[int, int]]) -> Iterator[Row]:
    for level, k in sorted(resnets):
        yield f"body.{level}.body.{k}", f"adapter.body.{level}.resnets.{k}"
        if k == 0:
            for conv in ("in_conv", "out_conv"):
                yield f"body.{level}.{conv}", f"adapter.body.{level}.{conv}"
