"""Weights in a prompt, in the words of A1111's web UI, which csrc/text/emphasis.h lists."""

from __future__ import annotations

import re
from typing import NamedTuple

from sdcore import _core
from sdcore.tokenizer.reading import as_bytes

__all__ = ["Piece", "misread", "parse", "quoted"]

_SIGNS = re.compile(
    r"\\[\\()\[\]]|\\|\(|\[|:\s*(?P<weight>[+-]?(?:\d{1,4}(?:\.\d*)?|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:"
)
# What stands where a weight would, in one word.
_NO_WEIGHT = re.compile(r"[^\s:,()\[\]]*|[+-]?\d*[.,]\d+")


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
    """What a person may have meant as weights and `parse` takes for text, in words of its own."""
    found = []
    rounds: list[int] = []  # where brackets that are open begin
    colon = -1  # the last : with no bracket after it
    for match in _SIGNS.finditer(prompt):
        sign, at = match[0], match.start()
        if sign == ":":
            colon = at
        if sign[-1] not in "()[]":
            continue
        tail = prompt[colon + 1 : at] if colon >= 0 else None
        colon = -1
        if sign == "(":
            rounds.append(at)
        elif sign.endswith(")") and sign[0] != "\\" and rounds:
            begin = rounds.pop()
            if tail is None or match["weight"] is not None or tail.startswith("/"):
                continue
            word = tail.strip()
            if _NO_WEIGHT.fullmatch(word):
                group = quoted(prompt, begin, at)
                found.append(f"{group}: '{word}' is no weight, so it is words, times 1.1")
    if rounds:
        found.append(f"a ( is never closed, and weighs all that follows: {prompt[rounds[0] :]:.40}")
    return found


def quoted(prompt: str, begin: int, end: int) -> str:
    """What stands in brackets, or its end."""
    inside = "" if end - begin <= 40 else "…"
    return f"{prompt[begin]}{inside}{prompt[max(begin + 1, end - 39) : end + 1]}"
