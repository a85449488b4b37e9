"""What the denoiser is told about the pictures it is to make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sdcore.pipelines.request import Encoded, Prompt

__all__ = ["Conditioning", "at_step", "by_length", "encode_unique", "stacked"]

# Arguments of the denoiser besides sample and timestep, by diffusers' names, with a row an image.
# Where rows differ in length, an array [n] of arrays.
Conditioning = Mapping[str, NDArray[np.float32]]


def encode_unique(
    prompts: Sequence[Prompt],
    encode: Callable[[Sequence[Prompt]], Conditioning],
    known: Encoded,
) -> Conditioning:
    """`encode` of prompts, each one once however many images share it and passes are drawn: what it
    gives is kept in `known`. Those that the caller has encoded are as given."""
    unique = list(dict.fromkeys(prompts))
    texts = [prompt for prompt in unique if prompt.given is None and prompt not in known]
    encoded = encode(texts) if texts else {}
    for i, prompt in enumerate(texts):
        known[prompt] = {name: rows[i] for name, rows in encoded.items()}
    told = [known[prompt] if prompt.given is None else prompt.given.rows for prompt in unique]
    names = next((row for row, p in zip(told, unique, strict=True) if p.given is None), told[0])
    places = [unique.index(prompt) for prompt in prompts]
    return {name: stacked([row[name] for row in told])[places] for name in names}


def stacked(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Rows as one array; where their lengths differ, an array [n] of them."""
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    rows = np.empty(len(arrays), dtype=object)
    for i, array in enumerate(arrays):
        rows[i] = array
    return rows


def by_length(
    conditioning: Conditioning,
) -> Iterator[tuple[slice | NDArray[np.intp], Conditioning]]:
    """The rows that can go into one batch, and what belongs to them. Shorter ones are not padded:
    a picture would not be the one made alone."""
    uneven = [name for name, rows in conditioning.items() if rows.dtype == object]
    if not uneven:
        yield slice(None), conditioning
        return
    lengths = [
        tuple(row.shape for row in rows)
        for rows in zip(*(conditioning[name] for name in uneven), strict=True)
    ]
    for length in dict.fromkeys(lengths):
        rows = np.array([i for i, other in enumerate(lengths) if other == length])
        yield rows, {name: stacked(list(array[rows])) for name, array in conditioning.items()}


def at_step(conditions: Mapping[int, Conditioning], step: int) -> Conditioning:
    """What holds at a step, of conditionings by the first step at which they do; one is from 0."""
    return conditions[max(first for first in conditions if first <= step)]
