"""Weights in a prompt, in the words of A1111's web UI.

(a)       a, times 1.1; ((a)) times 1.21
[a]       a, divided by 1.1
(a:1.3)   a, times 1.3
\\( \\) \\[ \\] \\\\   the signs themselves
BREAK     what follows goes into a chunk of its own
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Piece", "parse"]

_ROUND, _SQUARE = 1.1, 1 / 1.1
_SIGNS = re.compile(
    r"\\[\\()\[\]]|\\|\(|\[|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:"
)
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
