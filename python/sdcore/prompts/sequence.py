"""Prompts as one row of tokens, for T5."""

from __future__ import annotations

from collections.abc import Callable

from sdcore.prompts.attention import parse
from sdcore.prompts.chunks import Row
from sdcore.tokenizer import T5Tokenizer
from sdcore.tokenizer.reading import warn_of_cut

__all__ = ["sequence"]


def sequence(
    prompt: str, tokenizer: T5Tokenizer, length: int, read: Callable[[str], str] = str
) -> tuple[Row, int]:
    """A row of `length` tokens, and how many of them are the prompt's and its end's. BREAK is a
    space here; `read` is what a model does to all texts before. What is too long is cut, with a
    warning."""
    ids: list[int] = []
    weights: list[float] = []
    for piece in parse(prompt):
        tokens = tokenizer.encode(read(piece.text))
        ids += tokens
        weights += [piece.weight] * len(tokens)
    if cut := ids[length - 1 :]:
        warn_of_cut(length, tokenizer.decode(cut))
    ids, weights = ids[: length - 1], weights[: length - 1]
    padding = length - len(ids) - 1
    row = Row(
        (*ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding),
        (*weights, *[1.0] * (padding + 1)),
    )
    return row, len(ids) + 1
