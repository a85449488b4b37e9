"""Prompts that change from step to step, in the words of A1111's web UI.

    [from:to:when]   `from` to begin with, then `to`
    [to:when]        nothing, then `to`
    [from::when]     `from`, then nothing
    [a|b|c]          one after the other, a new one at every step; [a|] is every other step

`when` with a point is a share of the steps and without one a number of steps, after which it
changes (the web UI's modules/prompt_parser.py). Brackets may stand within brackets. Parts hold no
further `:` outside of brackets; what is no edit stays as it is written, and so does `\\:` or `\\|`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from sdcore.prompts.attention import quoted

__all__ = ["Span", "at_step", "misread", "timeline"]

T = TypeVar("T")

_MARKS = re.compile(r"\\.|[\[\]():|]", re.DOTALL)
_WHEN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_NO_WHEN = re.compile(r"[+-]?[0-9][0-9.,]*%?|[.,][0-9]+")  # what may have been meant as one


@dataclass(frozen=True)
class Span:
    """The steps that a prompt is read for: how many there are, and in a second pass over a picture
    (hires) how many the first one made, on which its own follow: shares are those above 1 there."""

    steps: int
    before: int | None = None

    def until(self, when: str) -> int:
        """How many of the steps have passed at `when`."""
        value = float(when)
        if "." in when or abs(value) < 1:
            value = (value - (self.before is not None)) * self.steps
        else:
            value -= self.before or 0
        return int(max(0.0, min(float(self.steps), value)))


@dataclass(frozen=True)
class _Edit:
    """Brackets at `begin` and `end`, and the parts of which one at a time is in their place."""

    begin: int
    end: int
    parts: Sequence[tuple[int, int]]
    when: str | None  # None: they take turns


@dataclass(slots=True)
class _Open:
    """A bracket that is not closed yet, and the signs that are in no other within it."""

    at: int
    sign: str
    colons: list[int] = field(default_factory=list)
    bars: list[int] = field(default_factory=list)
    inside: int = -1  # where the last bracket within it ends
    sound: bool = True  # whether what is in it may stand in an edit

    def close(self, prompt: str, end: int) -> _Edit | str | None:
        """What it is that ends here: an edit, why it is none although it looks like one, or words
        in brackets."""
        if self.sign == "(":
            self.sound &= len(self.colons) <= 1
            return None
        if not self.colons:
            if not self.bars:
                return None
            if not self.sound:
                return "brackets in it have a ':' too many"
            return _Edit(self.at, end, _between(self.at, *self.bars, end), None)
        last = self.colons[-1]
        when = prompt[last + 1 : end].strip() if self.inside < last else "[…]"
        sound, self.sound = self.sound, False
        if _WHEN.fullmatch(when):
            if not sound or len(self.colons) > 2:
                return "it, or brackets in it, have a ':' too many"
            self.sound = True
            *parts, _ = _between(self.at, *self.colons, end)
            return _Edit(self.at, end, [(end, end), *parts][-2:], when)
        if self.bars:
            return "words that take turns have no ':' outside of brackets"
        if len(self.colons) == 2 or _NO_WHEN.fullmatch(when):
            return f"'{when:.40}' is no step to change at"
        return None


def _between(*signs: int) -> list[tuple[int, int]]:
    return [(a + 1, b) for a, b in pairwise(signs)]


def timeline(prompt: str, span: Span) -> dict[int, str]:
    """What the prompt says, by the step, from 0, from which on it does; the first one is from 0."""
    edits = sorted(_read(prompt)[0], key=lambda edit: edit.begin)
    changes = [None if edit.when is None else span.until(edit.when) for edit in edits]
    firsts = {0, *(first for first in changes if first is not None and first < span.steps)}
    if None in changes:
        firsts.update(range(span.steps))
    texts: dict[int, str] = {}
    last = None
    for first in sorted(firsts):
        text = _at(first, prompt, edits, changes)
        if text != last:
            texts[first] = last = text
    return texts


def at_step(by_step: Mapping[int, T], step: int) -> T:
    """What holds at a step, of values by the first step at which they do; one is from 0."""
    return by_step[max(first for first in by_step if first <= step)]


def misread(prompt: str) -> list[str]:
    """What a person may have meant as edits, and `timeline` takes for text, in words of its own."""
    return _read(prompt)[1]


def _read(prompt: str) -> tuple[list[_Edit], list[str]]:
    """The edits, in the order of their ends, and what `misread` says."""
    edits: list[_Edit] = []
    faults: list[str] = []
    opened: list[_Open] = []
    square = colon = -1  # the last [, and the last sign where that is a :
    for match in _MARKS.finditer(prompt):
        sign, at = match[0], match.start()
        before, colon = colon, at if sign == ":" else -1
        if sign in "([":
            opened.append(_Open(at, sign))
            square = at if sign == "[" else square
        elif len(sign) > 1:
            continue
        elif sign in ":|":
            if opened:
                (opened[-1].colons if sign == ":" else opened[-1].bars).append(at)
        elif not opened or (opened[-1].sign == "(") != (sign == ")"):
            opened.clear()  # brackets that cross: none of them holds a whole prompt
            if (
                sign == "]"
                and 0 <= square < before
                and _WHEN.fullmatch(prompt[before + 1 : at].strip())
            ):
                faults.append(f"{quoted(prompt, square, at)}: brackets in it cross, so it is words")
        else:
            bracket = opened.pop()
            found = bracket.close(prompt, at)
            if isinstance(found, _Edit):
                edits.append(found)
            elif found is not None:
                faults.append(f"{quoted(prompt, bracket.at, at)}: {found}, so it is words")
            if opened:
                opened[-1].inside = at
                opened[-1].sound &= bracket.sound
    return edits, faults


def _at(step: int, prompt: str, edits: Sequence[_Edit], changes: Sequence[int | None]) -> str:
    """What the prompt says at a step, of edits in the order of their beginnings and the steps at
    which they change."""
    begins = [edit.begin for edit in edits]
    said: list[str] = []
    after: list[tuple[int, int]] = []  # what follows the parts that are being read
    at, end, i = 0, len(prompt), 0
    while True:
        i = bisect_left(begins, at, i)
        if i < len(edits) and begins[i] < end:
            edit, change = edits[i], changes[i]
            said.append(prompt[at : edit.begin])
            after.append((edit.end + 1, end))
            turn = step % len(edit.parts) if change is None else int(step >= change)
            at, end = edit.parts[turn]
            continue
        said.append(prompt[at:end])
        if not after:
            return "".join(said)
        at, end = after.pop()
