"""Weights in a prompt, in the words of A1111's web UI, which csrc/text/emphasis.h lists."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

from sdcore import _core
from sdcore.tokenizer.reading import as_bytes

__all__ = ["Piece", "misread", "parse", "warn"]

log = logging.getLogger("sdcore")

_SIGNS = re.compile(
    r"\\[\\()\[\]]|\\|\(|\[|:\s*(?P<weight>[+-]?(?:\d{1,4}(?:\.\d*)?|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:"
)
# What stands where a weight would, in one word.
_NO_WEIGHT = re.compile(r":(?!/)\s*([^\s:,()\[\]]+|[+-]?\d*[.,]\d+)?\s*$")


class Piece(NamedTuple):
    """Text under one weight. `section` counts the BREAKs before it."""

    text: str
    weight: float = 1.0
    section: int = 0


def parse(prompt: str) -> list[Piece]:
    """The pieces of a prompt, at least one; neighbours that differ in nothing are one piece. A
    bracket that is never closed counts to the end."""
    return [Piece(*piece) for piece in _core.parse_emphasis(as_bytes(prompt))]


def misread(prompt: str) -> list[str]:
    """What a person may have meant as weights and `parse` takes for words, in words of its own."""
    found, opened = [], []
    for match in _SIGNS.finditer(prompt):
        sign = match[0]
        if sign == "(":
            opened.append(match.end())
        elif sign.endswith(")") and not sign.startswith("\\") and opened:
            inside = prompt[opened.pop() : match.start()]
            tail = _NO_WEIGHT.search(inside) if match["weight"] is None else None
            if tail:
                group = f"({inside})" if len(inside) < 40 else f"(…{inside[-39:]})"
                found.append(f"{group}: '{tail[1] or ''}' is no weight, so it is words, times 1.1")
    if opened:
        found.append(
            f"a ( is never closed, and weighs all that follows: {prompt[opened[0] - 1 :]:.40}"
        )
    return found


def warn(prompt: str) -> None:
    """Says in warnings what `misread` finds."""
    for what in misread(prompt):
        log.warning("[prompt] %s", what)
