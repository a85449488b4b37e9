"""Several prompts for one picture, as A1111's web UI joins them: `a cat :1.2 AND a dog`."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Part", "misread", "parts"]

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"[+-]?(?:\d{1,4}(?:\.\d*)?|\.\d+)", re.ASCII)
_NO_WEIGHT = re.compile(r"[+-]?[.,]?\d[\d.,]*")  # what may have been meant as one


class Part(NamedTuple):
    text: str
    weight: float = 1.0


def parts(prompt: str) -> list[Part]:
    """What AND joins, and how much each part counts: the number after a `:` at its end, or 1. The
    web UI also takes such a number where there is no AND; here that is words."""
    texts = _AND.split(prompt)
    return list(map(_part, texts)) if len(texts) > 1 else [Part(prompt)]


def misread(prompt: str, negative: bool) -> list[str]:
    """What a person may have meant so and is text, in words of its own: in negative prompts all."""
    texts = _AND.split(prompt)
    if len(texts) == 1:
        return []
    if negative:
        return ["AND is a word in a negative prompt"]
    tails = [text.rpartition(":")[2].strip() for text in texts if ":" in text]
    return [
        f":{tail:.40} is no weight of what AND joins, so it is words"
        for tail in tails
        if _NO_WEIGHT.fullmatch(tail) and not _WEIGHT.fullmatch(tail)
    ]


def _part(text: str) -> Part:
    before, colon, weight = text.rpartition(":")
    if colon and _WEIGHT.fullmatch(weight.strip()):
        return Part(before.rstrip(), float(weight))
    return Part(text)
