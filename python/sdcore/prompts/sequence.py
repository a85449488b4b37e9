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
    groups = [
        (tokenizer.encode(read(piece.text)), piece.weight, piece.section) for piece in parse(prompt)
    ]
    ids, weights, used, cut = tokenizer.cut_row(groups, length)
    if cut:
        warn_of_cut(length, tokenizer.decode(cut))
    return Row(tuple(ids), tuple(weights)), used
