"""Numbers read off the shapes of a network's tensors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from sdcore.checkpoint.family import Tensors

__all__ = ["count", "side", "size"]


def size(tensors: Tensors, pattern: str, axis: int, missing: int = 0) -> int:
    """The size that most tensors of these names have. So one that is missing or odd changes no
    config, and the network that needs it can name it."""
    match = re.compile(pattern).fullmatch
    sizes = Counter(
        tensor.shape[axis]
        for name, tensor in tensors.items()
        if match(name) and axis < len(tensor.shape)
    )
    return sizes.most_common(1)[0][0] if sizes else missing


def count(names: Iterable[str], pattern: str) -> int:
    """How many of something numbered there are: the highest number and one."""
    match = re.compile(pattern).match
    return max((int(found[1]) + 1 for name in names if (found := match(name))), default=0)


def side(tensors: Tensors, pattern: str) -> int:
    """Of a square of positions, `[1, side * side, c]` or without the leading one."""
    match = re.compile(pattern).fullmatch
    rows = [t.shape[-2] for name, t in tensors.items() if match(name) and len(t.shape) > 1]
    return math.isqrt(rows[0]) if rows else 0
