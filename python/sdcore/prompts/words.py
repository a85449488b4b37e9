"""Words of a user's own in a prompt: names that stand for vectors of the text encoders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vector", "Word", "Words", "in_text", "key"]


@dataclass(frozen=True, eq=False)
class Vector:
    """A token that is in no vocabulary: what a text encoder of that width takes for it, [d]."""

    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Word:
    """A name, and the vectors that stand for it, by their width: one kind a text encoder."""

    name: str
    vectors: Mapping[int, tuple[Vector, ...]]


# What a name turns out to mean when it is met, by `key` of the name; None for its letters.
Words = Mapping[str, Callable[[], Word | None]]


def key(name: str) -> str:
    """A name as it is looked up: the tokenizer knows no case either."""
    return " ".join(name.lower().split())


def in_text(text: str, words: Words) -> Iterator[str | Word]:
    """The text in parts, words apart: the longest name where several fit, never within another
    word. ComfyUI's `embedding:name` is the name."""
    begin = 0
    for match in _pattern(words).finditer(text) if words else ():
        word = words.get(key(match[1]), lambda: None)()
        if word is None:
            continue
        yield text[begin : match.start()]
        yield word
        begin = match.end()
    yield text[begin:]


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(f"(?:embedding:)?({'|'.join(map(_spelled, longest_first))})", re.IGNORECASE)


def _spelled(name: str) -> str:
    before = r"(?<!\w)" if re.match(r"\w", name) else ""
    after = r"(?!\w)" if re.search(r"\w$", name) else ""
    return before + r"\s+".join(map(re.escape, name.split())) + after
