"""Prompts of any length as rows of tokens for CLIP, cut as A1111's web UI cuts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sdcore.prompts.attention import parse
from sdcore.prompts.words import Vector, Words, in_text

__all__ = ["Row", "chunks"]

Token = int | Vector  # an id, or a vector in place of a row of the text encoder's table

COMMA = ",</w>"
# A chunk that is full goes back to its last comma, if that is not further than this.
BACKTRACK = 20


class Tokenizer(Protocol):
    """What is asked of a CLIPTokenizer."""

    tokens: list[str]
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Row:
    """A chunk of a prompt: as many tokens as the text encoder takes, and a weight each."""

    ids: tuple[Token, ...]
    weights: tuple[float, ...]

    @property
    def weighted(self) -> bool:
        return any(weight != 1.0 for weight in self.weights)


@dataclass
class _Chunk:
    ids: list[Token] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    comma: int | None = None  # the last one's place

    def cut(self, at: int) -> _Chunk:
        """Takes off what lies behind."""
        rest = _Chunk(self.ids[at:], self.weights[at:])
        del self.ids[at:], self.weights[at:]
        return rest


def chunks(
    prompt: str, tokenizer: Tokenizer, length: int, words: Words | None = None, width: int = 0
) -> list[Row]:
    """The rows of a prompt, each `length` tokens with begin, end and padding; `words` stand for
    vectors of that `width`, which stay together.

    A prompt that fits is one row. Longer ones, and those with BREAK, have more.
    """
    room = length - 2
    done: list[_Chunk] = []
    chunk, section = _Chunk(), 0
    comma = tokenizer.tokens.index(COMMA) if COMMA in tokenizer.tokens else None
    for piece in parse(prompt):
        while section < piece.section:
            done.append(chunk)
            chunk, section = _Chunk(), section + 1
        for tokens in _tokens(piece.text, tokenizer, words or {}, width):
            if tokens == [comma]:
                chunk.comma = len(chunk.ids)
            elif (
                len(chunk.ids) == room
                and chunk.comma is not None
                and room - chunk.comma <= BACKTRACK
            ):
                done.append(chunk)
                chunk = chunk.cut(chunk.comma + 1)
            if len(chunk.ids) + len(tokens) > room:
                done.append(chunk)
                chunk = _Chunk()
            chunk.ids += tokens
            chunk.weights += [piece.weight] * len(tokens)
    if chunk.ids or not done:
        done.append(chunk)
    return [_row(chunk, tokenizer, length) for chunk in done]


def _tokens(text: str, tokenizer: Tokenizer, words: Words, width: int) -> Iterator[Sequence[Token]]:
    """What goes into one chunk together."""
    for part in in_text(text, words):
        if isinstance(part, str):
            yield from ([token] for token in tokenizer.encode(part))
        else:
            yield part.vectors[width]


def _row(chunk: _Chunk, tokenizer: Tokenizer, length: int) -> Row:
    ids = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id]
    padding = length - len(ids)
    weights = [1.0, *chunk.weights, *[1.0] * (padding + 1)]
    return Row(tuple(ids + [tokenizer.pad_token_id] * padding), tuple(weights))
