"""What pictures are to be, or not to be: texts, or what text encoders made of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.arguments import as_floats
from sdcore.errors import InvalidArgumentError
from sdcore.prompts import attention, editing, joining
from sdcore.prompts.editing import Span, at_step
from sdcore.prompts.lora_tags import LoraTag, split_tags

__all__ = ["Given", "Prompt", "Texts", "make_prompts"]

log = logging.getLogger("sdcore")

Array = NDArray[np.float32]
Texts = str | Sequence[str]

_MOST_PARTS = 16


@dataclass(frozen=True, eq=False)
class Given:
    """What the caller encoded: a row of each argument with states, by the denoiser's names."""

    rows: Mapping[str, Array]


@dataclass(frozen=True)
class Prompt:
    """What an image is to be, or not to be: a text for each text encoder. Encoders beyond the last
    text take the first. None at all, for a negative prompt, is not the same as an empty text:
    some models were trained on zeros in its place. Or `given`, which no encoder sees."""

    texts: tuple[str, ...]
    negative: bool = False
    written: str = field(default="", compare=False)  # as the caller wrote it, with the tags
    tags: tuple[LoraTag, ...] = field(default=(), compare=False)
    given: Given | None = None

    def text(self, encoder: int = 0) -> str:
        if not self.texts:
            return ""
        return self.texts[encoder if encoder < len(self.texts) else 0]

    def parts(self) -> list[tuple[Prompt, float]]:
        """What AND joins in it, and how much each counts. A text without AND goes with all parts of
        the others."""
        of_texts = [joining.parts(text) for text in self.texts if not self.negative]
        several = [of_text for of_text in of_texts if len(of_text) > 1]
        if not several:
            return [(self, 1.0)]
        if len({len(of_text) for of_text in several}) > 1:
            counts = " and ".join(str(len(of_text)) for of_text in several)
            raise InvalidArgumentError(
                f"[prompt] AND joins {counts} parts in the prompts of the text encoders: give each "
                "as many, or one"
            )
        if len(several[0]) > _MOST_PARTS:
            raise InvalidArgumentError(
                f"[prompt] AND joins {len(several[0])} parts, and the model is asked about each: "
                f"give at most {_MOST_PARTS}"
            )
        columns = [of * len(several[0]) if len(of) == 1 else of for of in of_texts]
        return [
            (replace(self, texts=tuple(part.text for part in row)), weight)
            for *row, (_, weight) in zip(*columns, several[0], strict=True)
        ]

    def timeline(self, span: Span) -> dict[int, Prompt]:
        """What it says, by the step of these, from 0, from which on it does; one is from 0."""
        texts = [editing.timeline(text, span) for text in self.texts]
        firsts = sorted({0, *(first for of_text in texts for first in of_text)})
        return {
            first: replace(self, texts=tuple(at_step(of_text, first) for of_text in texts))
            for first in firsts
        }

    @classmethod
    def read(cls, written: tuple[str, ...], negative: bool = False) -> Prompt:
        """A prompt with the tags taken out of its texts; a negative one has none."""
        first = written[0] if written else ""
        for text in dict.fromkeys(written):
            for what in (
                *attention.misread(text),
                *editing.misread(text),
                *joining.misread(text, negative),
            ):
                log.warning("[prompt] %s", what)
        if negative:
            return cls(written, negative, first)
        split = [split_tags(text) for text in written]
        tags = tuple(dict.fromkeys(tag for _, tags in split for tag in tags))
        made = cls(tuple(text for text, _ in split), negative, first, tags)
        made.parts()  # what is wrong with them is said now
        return made


def make_prompts(
    prompt: Texts | None,
    negative_prompt: Texts | None,
    times: int,
    extra: dict[str, Any],
    embeds: Mapping[str, str],
) -> tuple[list[Prompt], list[Prompt]]:
    """A prompt and a negative one an image, `times` images each. What belongs to them is taken out
    of `extra`; `embeds` are the arguments that take the place of a prompt, and what the denoiser
    calls them."""
    prompts = _prompts("prompt", prompt, extra, embeds)
    negatives = _prompts("negative_prompt", negative_prompt, extra, embeds, like=prompts)
    return (
        [one for one in prompts for _ in range(times)],
        [one for one in negatives for _ in range(times)],
    )


def _prompts(
    name: str,
    first: Texts | None,
    extra: dict[str, Any],
    embeds: Mapping[str, str],
    like: Sequence[Prompt] | None = None,
) -> list[Prompt]:
    """As many as `like`."""
    negative = like is not None
    more = [extra.pop(f"{name}_{i}", None) for i in (2, 3)]
    given = _given(extra, embeds, "negative_" if negative else "")
    if not given:
        texts = _texts(name, first, more, None if like is None else len(like))
        return [Prompt.read(row, negative) for row in texts]
    if first or any(more):
        raise InvalidArgumentError(f"[pipeline] {name} and {name}_embeds say the same: give one")
    prompts = [Prompt((), negative, given=one) for one in given]
    if like is not None and len(prompts) == 1:
        return prompts * len(like)
    if like is not None and len(prompts) != len(like):
        raise InvalidArgumentError(
            f"[pipeline] there are {len(like)} prompts and {len(prompts)} of {name}_embeds"
        )
    return prompts


def _texts(
    name: str, first: Texts | None, more: list[Any], count: int | None
) -> list[tuple[str, ...]]:
    """An entry a prompt: a text for each encoder that was given one."""
    while more and not more[-1]:
        more.pop()
    if first is None and count is not None:
        if not more:
            return [()] * count
        first = ""
    columns = [_listed(first, name)]
    for i, texts in enumerate(more, 2):
        columns.append(_listed(texts, f"{name}_{i}") if texts else columns[0])
    rows = max(map(len, columns)) if count is None else count
    for i, column in enumerate(columns):
        if len(column) == 1:  # one text for all prompts
            columns[i] = column = column * rows
        if len(column) != rows:
            what = f"{name}_{i + 1}" if i else name
            raise InvalidArgumentError(
                f"[pipeline] there are {rows} prompts and {len(column)} of {what}"
            )
    return list(zip(*columns, strict=True))


def _listed(texts: Texts | None, name: str) -> list[str]:
    listed = [texts] if isinstance(texts, str) else texts
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(isinstance(text, str) for text in listed)
    ):
        raise InvalidArgumentError(f"[pipeline] {name} must be a string or a list of strings")
    return list(listed)


def _given(extra: dict[str, Any], embeds: Mapping[str, str], side: str) -> list[Given]:
    """An entry a prompt; none at all where texts are to be encoded."""
    wanted = {side + name: of for name, of in embeds.items()}
    values = {name: extra.pop(name, None) for name in wanted}
    if all(value is None for value in values.values()):  # of none, too
        return []
    arrays = {name: _states(value, name) for name, value in values.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise InvalidArgumentError(f"[pipeline] each prompt needs a row of all, got {sizes}")
    rows = zip(*arrays.values(), strict=True)
    return [Given(dict(zip(wanted.values(), row, strict=True))) for row in rows]


def _states(value: Any, name: str) -> Array:
    sizes: tuple[str, ...] = ("n", "tokens", "channels")
    if name.endswith("pooled_prompt_embeds"):
        sizes = ("n", "channels")
    elif name.endswith("mask"):
        sizes = ("n", "tokens")
    array = as_floats(np.nan if value is None else value, f"[pipeline] {name}")
    if array.ndim != len(sizes) or 0 in array.shape:
        got = None if value is None else list(array.shape)
        raise InvalidArgumentError(f"[pipeline] {name} must be [{', '.join(sizes)}], got {got}")
    return array
