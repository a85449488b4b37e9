"""A run in stages, each from what the one before left: a pipeline over a schedule or some of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcore.pipelines.denoise import denoise, new_scheduler
from sdcore.pipelines.request import Request
from sdcore.pipelines.stream import Step
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["Stage", "in_turn"]

Array = NDArray[np.float32]


def _as_it_is(request: Request, latents: Array) -> Request:
    return request


@dataclass(frozen=True)
class Stage:
    """`pipe` is as the call sees it. `goes_on` makes of the request what begins from the latents
    [n, c, h, w] of the stage before."""

    pipe: DiffusionPipeline
    request: Request
    scheduler: Scheduler
    goes_on: Callable[[Request, Array], Request] = _as_it_is

    @classmethod
    def of(cls, pipe: DiffusionPipeline, request: Request) -> Stage:
        """With the LoRAs of the request's prompts at work. What is wrong with it is said now."""
        call = pipe._for_call(request.lora_tags(), request.lora_scale)
        return cls(call, request, new_scheduler(call, request))

    @property
    def steps(self) -> int:
        """How many it makes."""
        return len(self.pipe.rows(self.scheduler, self.request))

    def begin(self, latents: Array | None = None) -> Iterator[Step]:
        """Its steps, from what the stage before left; from the request alone without."""
        request = self.request if latents is None else self.goes_on(self.request, latents)
        noise = request.noise()
        start = self.pipe.start(request, self.scheduler, noise)
        return denoise(self.pipe, request, self.scheduler, noise, start)


def in_turn(stages: Sequence[Stage], *, apart: bool = False) -> Iterator[Step]:
    """The steps of all stages, counted through. The first one begins here and now. Kept `apart`,
    the models of the other stages give back their memory before one runs."""
    total = sum(stage.steps for stage in stages)
    if apart:
        _leave_alone(stages[0], stages)
    first = stages[0].begin()

    def steps() -> Iterator[Step]:
        before, latents, run = 0, None, first
        for stage in stages:
            if latents is not None:
                if apart:
                    _leave_alone(stage, stages)
                run = stage.begin(latents)
            for step in run:
                step.index += before
                step.total = total
                yield step
                latents = step.latents
            before += stage.steps

    return steps()


def _leave_alone(stage: Stage, stages: Sequence[Stage]) -> None:
    for other in stages:
        if other.pipe.denoiser is not stage.pipe.denoiser:
            other.pipe.release()
