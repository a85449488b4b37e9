"""What CLIP makes of prompts: weighted and of any length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.models.clip import CLIPTextModel, TextStates
from sdcore.pipelines.request import Request, whole
from sdcore.prompts.chunks import Row, Token, chunks
from sdcore.prompts.words import Vector, Words
from sdcore.tokenizer import CLIPTokenizer

__all__ = ["Encoder", "beside", "clip_skip", "encode_rows", "encode_texts"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """A text encoder with its tokenizer, words that are in no vocabulary, and whether it is to
    pool."""

    tokenizer: CLIPTokenizer
    model: CLIPTextModel
    words: Words = field(default_factory=dict)
    pools: bool = False

    def rows(self, text: str) -> list[Row]:
        config = self.model.config
        length, width = config.max_position_embeddings, config.hidden_size
        return chunks(text, self.tokenizer, length, self.words, width)


def encode_texts(
    texts: Sequence[Sequence[str]],
    encoders: Sequence[Encoder],
    *,
    skip: int = 0,
    final_norm: bool = True,
) -> list[tuple[TextStates, ...]]:
    """The states of each prompt by encoder, `[77 · chunks, d]`, of a text for each; and what an
    encoder pools of the first chunk. `skip` and `final_norm` are the model's. A text of one chunk
    without weights has exactly the states of its tokens."""
    rows = [_even(prompt, encoders) for prompt in texts]
    return encode_rows(rows, encoders, skip=skip, final_norm=final_norm)


def encode_rows(
    rows: Sequence[Sequence[Sequence[Row]]],
    encoders: Sequence[Encoder],
    *,
    skip: int = 0,
    final_norm: bool = True,
) -> list[tuple[TextStates, ...]]:
    """The same of rows of tokens: of each prompt those for each encoder, as many for each."""
    made = [
        _encode([of_prompt[i] for of_prompt in rows], encoder, skip, final_norm)
        for i, encoder in enumerate(encoders)
    ]
    return [tuple(of_encoder[i] for of_encoder in made) for i in range(len(rows))]


def beside(states: Sequence[TextStates]) -> Array:
    """The states of several encoders side by side."""
    return np.concatenate([one.hidden_states for one in states], axis=-1)


def clip_skip(request: Request) -> int:
    """The argument of that name: layers to leave out besides those that the model does."""
    value = request.extra.get("clip_skip")
    return 0 if value is None else whole(value, "clip_skip", 0)


def _even(texts: Sequence[str], encoders: Sequence[Encoder]) -> list[list[Row]]:
    """The rows for each encoder, as many for each: empty ones follow where a text is shorter."""
    rows = [encoder.rows(text) for encoder, text in zip(encoders, texts, strict=True)]
    most = max(map(len, rows), default=0)
    return [
        [*own, *encoder.rows("") * (most - len(own))]
        for encoder, own in zip(encoders, rows, strict=True)
    ]


def _encode(
    rows: Sequence[Sequence[Row]],
    encoder: Encoder,
    skip: int,
    final_norm: bool,
) -> list[TextStates]:
    unique = list(dict.fromkeys(row.ids for of_text in rows for row in of_text))
    vectors = dict.fromkeys(t for ids in unique for t in ids if isinstance(t, Vector))
    beyond: Mapping[Token, int] = {
        vector: encoder.model.config.vocab_size + i for i, vector in enumerate(vectors)
    }
    out = encoder.model.encode(
        np.array([[beyond.get(token, token) for token in ids] for ids in unique]),
        skip=skip,
        final_norm=final_norm,
        pooled=encoder.pools,
        more=np.stack([vector.values for vector in vectors]) if vectors else None,
    )
    place: Mapping[tuple[Token, ...], int] = {ids: i for i, ids in enumerate(unique)}

    def states(row: Row) -> Array:
        return _core.weigh_states(out.hidden_states[place[row.ids]], row.weights)

    return [
        TextStates(
            np.concatenate([states(row) for row in of_text]),
            None if out.pooled is None else out.pooled[place[of_text[0].ids]],
        )
        for of_text in rows
    ]
