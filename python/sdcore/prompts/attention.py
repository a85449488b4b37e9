"""Weights in a prompt, in the words of A1111's web UI.

(a)       a, times 1.1; ((a)) times 1.21
[a]       a, divided by 1.1
(a:1.3)   a, times 1.3
\\( \\) \\[ \\] \\\\   the signs themselves
BREAK     what follows goes into a chunk of its own
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Piece", "misread", "parse", "warn"]

log = logging.getLogger("sdcore")

_ROUND, _SQUARE = 1.1, 1 / 1.1
_SIGNS = re.compile(
    r"\\[\\()\[\]]|\\|\(|\[|:\s*(?P<weight>[+-]?(?:\d{1,4}(?:\.\d*)?|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:"
)
# What stands where a weight would, in one word.
_NO_WEIGHT = re.compile(r":(?!/)\s*([^\s:,()\[\]]+|[+-]?\d*[.,]\d+)?\s*$")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass
class Piece:
    """Text under one weight. `section` counts the BREAKs before it."""

    text: str
    weight: float = 1.0
    section: int = 0


def parse(prompt: str) -> list[Piece]:
    """The pieces of a prompt, at least one; neighbours that differ in nothing are one piece. A
    bracket that is never closed counts to the end."""
    pieces: list[Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where each began
    section = 0

    def multiply(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            piece.weight *= factor

    for match in _SIGNS.finditer(prompt):
        sign, weight = match[0], match["weight"]
        if sign in opened:
            opened[sign].append(len(pieces))
        elif weight is not None and opened["("]:
            multiply(opened["("].pop(), float(weight))
        elif sign == ")" and opened["("]:
            multiply(opened["("].pop(), _ROUND)
        elif sign == "]" and opened["["]:
            multiply(opened["["].pop(), _SQUARE)
        elif sign.startswith("\\"):
            pieces.append(Piece(sign[1:], section=section))
        else:
            first, *others = _BREAK.split(sign)
            pieces.append(Piece(first, section=section))
            for text in others:
                section += 1
                pieces.append(Piece(text, section=section))
    for starts, factor in ((opened["("], _ROUND), (opened["["], _SQUARE)):
        for start in starts:
            multiply(start, factor)
    return list(_joined(pieces)) or [Piece("")]


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


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    last: Piece | None = None
    for piece in pieces:
        if last and (piece.weight, piece.section) == (last.weight, last.section):
            last.text += piece.text
            continue
        if last:
            yield last
        last = piece
    if last:
        yield last
