"""What the denoiser is told about the pictures it is to make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sdcore.pipelines.request import Prompt

__all__ = ["Conditioning", "at_step", "by_length", "encode_unique", "stacked"]

# Arguments of the denoiser besides sample and timestep, by diffusers' names, with a row an image.
# Where rows differ in length, an array [n] of arrays.
Conditioning = Mapping[str, NDArray[np.float32]]


def encode_unique(
    prompts: Sequence[Prompt], encode: Callable[[Sequence[Prompt]], Conditioning]
) -> Conditioning:
    """`encode` of prompts, each one once however many images share it; those that the caller has
    encoded are as given."""
    unique = list(dict.fromkeys(prompts))
    texts = [prompt for prompt in unique if prompt.given is None]
    encoded = encode(texts) if texts else {}
    names = encoded or next(prompt.given.rows for prompt in unique if prompt.given)
    rows: dict[str, list[NDArray[np.float32]]] = {}
    for name in names:
        of_text = iter(encoded.get(name, ()))
        rows[name] = [
            next(of_text) if prompt.given is None else prompt.given.rows[name] for prompt in unique
        ]
    places = [unique.index(prompt) for prompt in prompts]
    return {name: stacked(arrays)[places] for name, arrays in rows.items()}


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
