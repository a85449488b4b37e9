"""Writing GGUF files of any size: see `sdcore.gguf.write` for tensors that are there already."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sdcore import _core, gguf
from sdcore.checkpoint.output import Outgoing, Progress, whole_file, write_padding, write_pieces

ALIGNMENT_KEY = "general.alignment"
ALIGNMENT = 32
# Types that the format does not have, and what holds their values.
HELD_AS = {
    "bool": "i8", "u8": "i16", "u16": "i32", "u32": "i64", "f8_e4m3": "f16", "f8_e5m2": "f16",
}  # fmt: skip


def write(
    path: str | os.PathLike[str],
    tensors: Sequence[Outgoing],
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes tensors one after another, in this order; the metadata is as `sdcore.gguf.write`
    takes it."""
    keys = gguf.metadata_to_core(metadata or {})
    head = _core.gguf_header(keys, [(t.name, t.type, t.shape) for t in tensors])
    boundary = keys[ALIGNMENT_KEY][1] if ALIGNMENT_KEY in keys else ALIGNMENT
    with whole_file(path) as file:
        file.write(head)
        for tensor in tensors:
            write_pieces(file, tensor, progress)
            write_padding(file, tensor.nbytes, boundary)
