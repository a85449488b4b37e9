"""Prompts of any length as rows of tokens for CLIP, cut as A1111's web UI cuts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdcore.prompts.attention import parse
from sdcore.prompts.words import Vector, Words, in_text
from sdcore.tokenizer import CLIPTokenizer

__all__ = ["Row", "chunks"]

Token = int | Vector  # an id, or a vector in place of a row of the text encoder's table


@dataclass(frozen=True)
class Row:
    """A chunk of a prompt: as many tokens as the text encoder takes, and a weight each."""

    ids: tuple[Token, ...]
    weights: tuple[float, ...]


def chunks(
    prompt: str, tokenizer: CLIPTokenizer, length: int, words: Words | None = None, width: int = 0
) -> list[Row]:
    """The rows of a prompt, each `length` tokens with begin, end and padding; `words` stand for
    vectors of that `width`, which stay together.

    A prompt that fits is one row. Longer ones, and those with BREAK, have more.
    """
    known = len(tokenizer.vocabulary)
    vectors: list[Vector] = []  # by id, beyond the vocabulary

    def number(token: Token) -> int:
        if isinstance(token, int):
            return token
        vectors.append(token)
        return known + len(vectors) - 1

    groups = [
        ([number(token) for token in tokens], piece.weight, piece.section)
        for piece in parse(prompt)
        for tokens in _tokens(piece.text, tokenizer, words or {}, width)
    ]
    return [
        Row(tuple(i if i < known else vectors[i - known] for i in ids), tuple(weights))
        for ids, weights in tokenizer.cut_rows(groups, length)
    ]


def _tokens(
    text: str, tokenizer: CLIPTokenizer, words: Words, width: int
) -> Iterator[Sequence[Token]]:
    """What goes into one chunk together, after nothing: sections without words count too."""
    yield ()
    for part in in_text(text, words):
        if isinstance(part, str):
            yield from ([token] for token in tokenizer.encode(part))
        else:
            yield part.vectors[width]
