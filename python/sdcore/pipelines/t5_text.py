"""What T5 makes of prompts: weighted, and as long as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.models.t5 import T5EncoderModel
from sdcore.pipelines.request import Request, whole
from sdcore.prompts.sequence import sequence
from sdcore.tokenizer import T5Tokenizer

__all__ = ["encode_captions", "sequence_length"]

Array = NDArray[np.float32]

_MAX_SEQUENCE = 512


def sequence_length(request: Request, default: int) -> int:
    """The argument max_sequence_length: tokens for T5."""
    tokens = request.extra.get("max_sequence_length")
    tokens = default if tokens is None else whole(tokens, "max_sequence_length", 1)
    if tokens > _MAX_SEQUENCE:
        raise InvalidArgumentError(
            f"[pipeline] max_sequence_length must be at most {_MAX_SEQUENCE}, got {tokens}"
        )
    return tokens


def encode_captions(
    texts: Sequence[str],
    tokenizer: T5Tokenizer,
    model: T5EncoderModel,
    tokens: int,
    *,
    masked: bool = False,
    read: Callable[[str], str] = str,
) -> tuple[Array, Array]:
    """The states of each prompt, `[n, tokens, d]`, and their mask `[n, tokens]`, ones but for the
    padding, which T5 itself regards where `masked` says so.

    A weight scales what a token's state is beyond that of an empty prompt at its place: ComfyUI's
    way. (The web UI's, the mean of all states, is near zero for T5.)
    """
    found = [sequence(text, tokenizer, tokens, read) for text in texts]
    weights = np.array([row.weights for row, _ in found], np.float32)
    if weighted := bool((weights != 1).any()):
        found.append(sequence("", tokenizer, tokens))
    ids = np.array([row.ids for row, _ in found])
    mask = np.array([np.arange(tokens) < count for _, count in found], np.float32)
    states = model(ids, mask) if masked else model(ids)
    if not weighted:
        return states, mask
    *own, empty = states
    weighed = [
        _core.weigh_beyond(one, empty, row) for one, row in zip(own, weights.tolist(), strict=True)
    ]
    return np.stack(weighed), mask[:-1]
