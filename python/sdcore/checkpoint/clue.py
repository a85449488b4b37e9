"""Tensors by which something is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Clue:
    """A tensor whose name matches and whose shape has these sizes (None: any size). `only`: and
    there is no other tensor."""

    pattern: str
    shape: tuple[int | None, ...] | None = None
    only: bool = False

    def find(self, shapes: Shapes) -> str | None:
        search = re.compile(self.pattern).search
        found = None
        for name, shape in shapes.items():
            if search(name) and self._fits(shape):
                found = found or name
                if not self.only:
                    break
            elif self.only:
                return None
        return found

    def _fits(self, shape: tuple[int, ...]) -> bool:
        # Trailing ones come and go between writers, so only the sizes that are named must exist.
        if self.shape is None:
            return True
        padded = shape + (1,) * (len(self.shape) - len(shape))
        return all(want in (None, got) for want, got in zip(self.shape, padded, strict=False))
