"""Step tables as an exported file has them: for each number of steps a whole one, and what differs
in the tables of runs that begin from a picture. csrc/pipeline/schedules.h lists the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcore import gguf
from sdcore.schedulers import Scheduler
from sdcore.schedulers.base import Row, Term
from sdcore.schedulers.lcm import used_timesteps

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["schedules"]

# A row, and the factors of image and noise in what it is given.
Leveled = tuple[Row, float, float]


def schedules(pipe: DiffusionPipeline, numbers: Sequence[int]) -> dict[str, Any]:
    """The metadata of runs in each of these numbers of steps."""
    default = pipe.default_steps if pipe.default_steps in numbers else numbers[0]
    metadata: dict[str, Any] = {"sdcore.default.steps": default}
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    for steps in numbers:
        metadata |= _schedule(pipe, scheduler, steps)
    return metadata


def _schedule(pipe: DiffusionPipeline, scheduler: Scheduler, steps: int) -> dict[str, Any]:
    whole = _leveled(scheduler, steps)
    sigma = float(scheduler.init_noise_sigma)
    strengths, starts = [], []
    own: list[Leveled] = []
    for strength, options in _options(pipe, steps):
        begun = _leveled(scheduler, steps, **options)
        shared = _shared(whole, begun)
        strengths.append(strength)
        starts += [len(begun) - shared, len(whole) - shared]
        own += begun[: len(begun) - shared]
    terms = max(len(row.terms) for row, *_ in [*whole, *own])
    key = f"sdcore.table.{steps}"
    return {
        f"{key}.init_noise_sigma": sigma,
        f"{key}.terms": terms,
        f"{key}.rows": _rows(whole, terms),
        f"{key}.strengths": gguf.Typed(strengths, "f64"),
        f"{key}.starts": gguf.Typed(starts, "u32"),
        f"{key}.start_rows": _rows(own, terms),
    }


def _options(pipe: DiffusionPipeline, steps: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """The ways to begin from a picture: the least strength of each, and what its table is made with
    beside the number of steps. The more strength, the more steps are made from a picture or, where
    they are spread, the more timesteps are used."""
    if pipe.spreads_steps:
        total = pipe.scheduler.config.original_inference_steps
        for used in range(steps, total + 1):
            least = _least(partial(used_timesteps, total), used)
            yield least, {"strength": least}
        return
    yield 0.0, {"begin": steps - 1}  # one step is made at least
    for made in range(2, steps + 1):
        least = _least(partial(pipe.steps_from_picture, steps), made)
        yield least, {"begin": steps - made}


def _least(count: Callable[[float], int], wanted: int) -> float:
    """The least strength that counts as so many; of all numbers, for rounding moves it a little."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if count(middle) >= wanted:
            high = middle
        else:
            low = middle
    return high


def _leveled(scheduler: Scheduler, steps: int, **options: Any) -> list[Leveled]:
    scheduler.set_timesteps(steps, **options)
    return [
        (row, float(signal), float(sigma))
        for row, signal, sigma in zip(scheduler.table.rows, *scheduler.levels(), strict=True)
    ]


def _shared(whole: Sequence[Leveled], begun: Sequence[Leveled]) -> int:
    """How many of the last rows are the same."""
    count = 0
    for one, other in zip(reversed(whole), reversed(begun), strict=False):
        if one != other:
            break
        count += 1
    return count


def _rows(rows: Sequence[Leveled], terms: int) -> NDArray[np.float32]:
    if not rows:
        return np.empty(0, np.float32)
    return np.concatenate([_row(*leveled, terms) for leveled in rows])


def _row(row: Row, signal: float, sigma: float, terms: int) -> NDArray[np.float32]:
    padded = [*row.terms, *[Term()] * (terms - len(row.terms))]
    x0 = row.x0_from.x, row.x0_from.m
    bounds, noise = (row.clip, row.quantile), (row.noise, row.draws)
    head = (row.timestep, row.input_scale, *x0, *bounds, *noise, signal, sigma)
    return np.array([*head, *np.ravel(padded)], np.float32)
