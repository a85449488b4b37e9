"""How well a pipeline draws what captions ask for, in shares of 1, by the evaluator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

import captions
import world
from evaluator import judge

KINDS = ("one", "two", "two", "three")  # of the evaluation, in turns


@dataclass(frozen=True)
class Score:
    """Shares of objects with the right colour and shape, and of pictures whose objects stand as
    asked: all of them, and those of two objects alone."""

    color: float
    shape: float
    place: float
    relation: float

    def __str__(self) -> str:
        return (
            f"colour {self.color:.1%}, shape {self.shape:.1%}, "
            f"relation of two {self.relation:.1%}, place {self.place:.1%}"
        )


def held_out(count: int, seed: int = 2026) -> list[tuple[world.Scene, str]]:
    """Scenes that training never saw, and a caption of each."""
    random = np.random.default_rng(seed)
    scenes = [world.sample(random, held_out=True, kind=KINDS[i % len(KINDS)]) for i in range(count)]
    return [(scene, captions.caption(scene, random)) for scene in scenes]


def score(pictures: Iterable[np.ndarray], scenes: Sequence[world.Scene]) -> Score:
    """Of pictures [h, w, 3] uint8, one a scene."""
    verdicts = [judge(p, s) for p, s in zip(pictures, scenes, strict=True)]
    objects = sum(v.objects for v in verdicts)
    pairs = [v.relation for v, s in zip(verdicts, scenes, strict=True) if s.kind == "two"]
    return Score(
        color=sum(v.colors for v in verdicts) / objects,
        shape=sum(v.shapes for v in verdicts) / objects,
        place=sum(v.relation for v in verdicts) / len(verdicts),
        relation=sum(pairs) / max(1, len(pairs)),
    )


def draw(
    pipe, prompts: Sequence[str], batch: int = 8, seed: int = 0, **options: object
) -> list[np.ndarray]:
    """A picture [h, w, 3] uint8 of each prompt; the i-th has noise of its own, `seed` + i."""
    pictures: list[np.ndarray] = []
    for start in range(0, len(prompts), batch):
        chunk = list(prompts[start : start + batch])
        out = pipe(chunk, seed=seed + start, **options)
        pictures += [np.asarray(image) for image in out.images]
    return pictures
