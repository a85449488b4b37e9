"""Names of tiny autoencoders: madebyollin's (TAESD) and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sdcore.checkpoint.names.table import NameTable

_LAYER = re.compile(r"(?:(encoder|decoder)\.)?(\d+)\.")
_HALVES = ("encoder.layers", "decoder.layers")


def is_tiny(names: Iterable[str]) -> bool:
    """Whether these, in diffusers' naming, are of a tiny autoencoder in place of a full one."""
    return any(name.startswith(_HALVES) for name in names)


def original(names: Iterable[str]) -> NameTable:
    """The table for a file of the original layers, these: numbered, under the half that they are
    of, or of one half alone."""
    names = list(names)
    # Layer 0 of the decoder is its clamp, which has no weights; diffusers counts from the next.
    alone = "encoder" if any(name.startswith("0.") for name in names) else "decoder"
    rows = []
    for name in names:
        if found := _LAYER.match(name):
            half = found[1] or alone
            rows.append((found[0][:-1], f"{half}.layers.{int(found[2]) - (half == 'decoder')}"))
    return NameTable(rows)


def diffusers(_names: Iterable[str]) -> NameTable:
    """The table for a file that has diffusers' names already."""
    return NameTable((root, root) for root in _HALVES)
