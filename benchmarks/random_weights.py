"""Checkpoints of full size with random weights, made in a minute and small in memory.

Linear layers get the type that is asked for, or q5_0 where rows do not divide into its blocks;
convolutions and embeddings are float16, as other programs leave them.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sdcore import _core, quantization
from sdcore.checkpoint import gguf_output
from sdcore.checkpoint.output import Outgoing, stored_size

Shapes = Mapping[str, Sequence[int]]

_POOL = 1 << 22
_NOT_LINEAR = ("embedding", "shared.", "relative_attention_bias", "scale_shift_table", "pos_embed")


def folder() -> Path:
    return Path(tempfile.gettempdir()) / "sdcore-benchmark"


def make(title: str, parts: Mapping[str, Shapes], type: str) -> Path:
    """A GGUF file of these parts, whose tensors have diffusers' names after their part; written
    unless it is there."""
    path = folder() / f"{title}-random-{type}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        outgoing = [
            _outgoing(f"{part}.{name}", shape, type)
            for part, shapes in parts.items()
            for name, shape in shapes.items()
        ]
        gguf_output.write(path, outgoing)
    return path


def _outgoing(name: str, shape: Sequence[int], type: str) -> Outgoing:
    if "position_embedding" in name:
        shape = shape[1:]
    scale, offset = 1 / math.sqrt(math.prod(shape[1:])), 0.0  # keeps the size of activations
    if len(shape) == 1:
        scale, offset = (0.01, 0.0) if name.endswith("bias") else (0.05, 1.0)
    stored = _stored(name, shape, type)

    def pieces() -> Iterator[bytes]:
        pool = _pool(stored, scale, offset)
        left = stored_size(stored, tuple(shape))
        while left:
            yield pool[: min(left, len(pool))]
            left -= min(left, len(pool))

    return Outgoing(name, stored, tuple(shape), pieces)


@functools.cache
def _pool(type: str, scale: float, offset: float) -> bytes:
    """Some millions of numbers as they are stored."""
    values = np.random.default_rng(0).standard_normal((_POOL // 256, 256), dtype=np.float32)
    values = values * np.float32(scale) + np.float32(offset)
    if type in ("f32", "f16"):
        return values.astype({"f32": np.float32, "f16": np.float16}[type]).tobytes()
    return bytes(_core.quantize(values, type).data)


def _stored(name: str, shape: Sequence[int], type: str) -> str:
    if len(shape) == 1:
        return "f32"
    if len(shape) != 2 or type == "f16" or any(other in name for other in _NOT_LINEAR):
        return "f16"
    blocks = {str(row["name"]): row["block_size"] for row in quantization.types()}
    return next((kind for kind in (type, "q5_0") if shape[-1] % blocks[kind] == 0), "f16")
