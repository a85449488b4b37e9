"""What the denoiser is told about the pictures it is to make."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdcore.pipelines.request import Encoded, Prompt

__all__ = [
    "Conditioning",
    "Told",
    "changed",
    "encode_unique",
    "joined",
    "picked",
    "stacked",
    "together",
]

T = TypeVar("T")

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


class Told(Mapping[str, NDArray[np.float32]]):
    """A conditioning for as long as a run asks about it, and what is made of it once."""

    def __init__(self, conditioning: Conditioning) -> None:
        self._arrays = dict(conditioning)
        self._made: dict[Hashable, Any] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, which is asked the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def rows(self, rows: slice | NDArray[np.intp]) -> Told:
        """That of some images, by a range of them or their places."""
        every = np.arange(len(next(iter(self.values()), ())))
        places = every[rows]
        if np.array_equal(places, every):
            return self
        return self.once(
            ("rows", places.tobytes()),
            lambda: Told({name: array[rows] for name, array in self.items()}),
        )

    def without(self, name: str) -> Told:
        return self.once(
            ("without", name),
            lambda: Told({other: array for other, array in self.items() if other != name}),
        )

    def by_length(self) -> Sequence[tuple[slice | NDArray[np.intp], Told]]:
        """The rows that can go into one batch, and what belongs to them. Shorter ones are not
        padded: a picture would not be the one made alone."""
        uneven = [name for name, rows in self.items() if rows.dtype == object]
        if not uneven:
            return [(slice(None), self)]
        return self.once("by length", lambda: list(self._by_length(uneven)))

    def _by_length(self, uneven: Sequence[str]) -> Iterator[tuple[NDArray[np.intp], Told]]:
        lengths = [
            tuple(row.shape for row in rows)
            for rows in zip(*(self[name] for name in uneven), strict=True)
        ]
        for length in dict.fromkeys(lengths):
            rows = np.array([i for i, other in enumerate(lengths) if other == length])
            yield rows, Told({name: stacked(list(array[rows])) for name, array in self.items()})


def joined(groups: Iterable[tuple[Any, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """What the groups of a batch give, in one: which rows they are, and theirs."""
    made = list(groups)
    if len(made) == 1:
        return made[0][1]
    out = np.empty((sum(len(part) for _, part in made), *made[0][1].shape[1:]), np.float32)
    for rows, part in made:
        out[rows] = part
    return out


def picked(conditioning: Conditioning, places: Sequence[int]) -> Conditioning:
    """These rows of it, in this order."""
    return {name: stacked([rows[i] for i in places]) for name, rows in conditioning.items()}


def changed(before: Conditioning, after: Conditioning, images: int) -> NDArray[np.bool_]:
    """Of which images something is told that was not told before; rows are those of all images
    once or more."""
    found = np.zeros(images, bool)
    if before is after:
        return found
    for name, rows in after.items():
        for i, row in enumerate(rows):
            found[i % images] |= not np.array_equal(before[name][i], row)
    return found


def together(conditions: Mapping[int, Conditioning], images: int) -> list[NDArray[np.intp]]:
    """The images in groups that are told something new at the same steps."""
    told = [conditions[first] for first in sorted(conditions)]
    news = np.array([changed(*pair, images) for pair in pairwise(told)])
    groups: dict[bytes, list[int]] = {}
    for image in range(images):
        groups.setdefault(news[:, image].tobytes() if len(news) else b"", []).append(image)
    return [np.array(group) for group in groups.values()]
