"""Writing GGUF files of any size: see `sdcore.gguf.write` for tensors that are there already."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdcore import _core, gguf
from sdcore.checkpoint.output import Outgoing, Progress, whole_file, write_padding, write_pieces
from sdcore.checkpoint.tensor import FOREIGN_SIZES
from sdcore.errors import InvalidArgumentError

ALIGNMENT_KEY = "general.alignment"
ALIGNMENT = 32
# Types that the format does not have, and what holds their values.
HELD_AS = {
    "bool": "i8", "u8": "i16", "u16": "i32", "u32": "i64", "f8_e4m3": "f16", "f8_e5m2": "f16",
    "f8_e4m3fnuz": "f16", "f8_e5m2fnuz": "f16", "f8_e8m0": "bf16",
}  # fmt: skip
# llama.cpp's numbers for general.file_type, which says what most of a file is stored as.
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_K": 10,
    "q3_K": 12, "q4_K": 15, "q5_K": 17, "q6_K": 18, "iq2_xxs": 19, "iq2_xs": 20, "iq3_xxs": 23,
    "iq1_s": 24, "iq4_nl": 25, "iq3_s": 26, "iq2_s": 28, "iq4_xs": 30, "iq1_m": 31, "bf16": 32,
    "tq1_0": 36, "tq2_0": 37, "mxfp4": 38,
}  # fmt: skip
QUANTIZATION_VERSION = 2  # ggml's, of how its blocks are laid out


def file_type(tensors: Iterable[Outgoing]) -> int | None:
    """The number of the type that takes the most bytes, where it has one."""
    bytes_of: Counter[str] = Counter()
    for tensor in tensors:
        bytes_of[tensor.type] += tensor.nbytes
    return FILE_TYPES.get(max(bytes_of, key=lambda type: bytes_of[type])) if bytes_of else None


def write(
    path: str | os.PathLike[str],
    tensors: Sequence[Outgoing],
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes tensors one after another, in this order; the metadata is as `sdcore.gguf.write`
    takes it."""
    for tensor in tensors:
        if tensor.type in FOREIGN_SIZES:
            raise InvalidArgumentError(
                f"[gguf] the format has no type for {tensor.type} of '{tensor.name}'"
            )
    keys = gguf.metadata_to_core(metadata or {})
    head = _core.gguf_header(keys, [(t.name, t.type, t.shape) for t in tensors])
    boundary = keys[ALIGNMENT_KEY][1] if ALIGNMENT_KEY in keys else ALIGNMENT
    with whole_file(path) as file:
        file.write(head)
        for tensor in tensors:
            write_pieces(file, tensor, progress)
            write_padding(file, tensor.nbytes, boundary)
