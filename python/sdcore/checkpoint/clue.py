"""Tensors by which something is known."""

from __future__ import annotations

import re
from dataclasses import dataclass


class Shapes(dict[str, tuple[int, ...]]):
    """By the tensors' names. What matches a pattern is looked for once: many clues share theirs."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self._matching: dict[str, list[str]] = {}

    def matching(self, pattern: str) -> list[str]:
        if pattern not in self._matching:
            self._matching[pattern] = list(filter(re.compile(pattern).search, self))
        return self._matching[pattern]


@dataclass(frozen=True)
class Clue:
    """A tensor whose name matches and whose shape has these sizes (None: any size). `only`: and
    there is no other tensor."""

    pattern: str
    shape: tuple[int | None, ...] | None = None
    only: bool = False

    def find(self, shapes: Shapes) -> str | None:
        found = [name for name in shapes.matching(self.pattern) if self._fits(shapes[name])]
        return found[0] if found and not (self.only and len(found) < len(shapes)) else None

    def _fits(self, shape: tuple[int, ...]) -> bool:
        # Trailing ones come and go between writers, so only the sizes that are named must exist.
        if self.shape is None:
            return True
        padded = shape + (1,) * (len(self.shape) - len(shape))
        return all(want in (None, got) for want, got in zip(self.shape, padded, strict=False))
