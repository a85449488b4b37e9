"""From the first latents to the last: the model at every row of the step table."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcore.arguments import as_floats
from sdcore.errors import InvalidArgumentError
from sdcore.pipelines.conditioning import Conditioning, at_step
from sdcore.pipelines.finite import require_finite
from sdcore.pipelines.guidance import Guidance
from sdcore.pipelines.noise import Noise
from sdcore.pipelines.request import Request
from sdcore.pipelines.start import Start
from sdcore.pipelines.step_cache import StepCache
from sdcore.pipelines.stream import Step
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["denoise", "new_scheduler"]

Array = NDArray[np.float32]


def new_scheduler(pipe: DiffusionPipeline, request: Request) -> Scheduler:
    """A scheduler of this call's own, with its table: two calls never meet."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    options: dict[str, Any] = pipe.table_options(request)
    if request.eta is not None:
        if "eta" in inspect.signature(scheduler.make_table).parameters:
            options["eta"] = request.eta
        elif request.eta:
            raise InvalidArgumentError(f"[pipeline] {type(scheduler).__name__} has no eta")
    scheduler.set_timesteps(request.steps, begin=pipe.first_step(request), **options)
    return scheduler


def denoise(
    pipe: DiffusionPipeline,
    request: Request,
    scheduler: Scheduler,
    noise: Noise,
    start: Start,
) -> Iterator[Step]:
    """Yields after each row; a step's `latents`, replaced or not, are what the next begins with."""
    guidance = pipe.guidance(request)
    if scheduler.renoises_negative and type(guidance).predict is not Guidance.predict:
        raise InvalidArgumentError(
            f"[pipeline] {type(scheduler).__name__} takes plain guidance, not "
            f"{type(guidance).__name__}; use another scheduler"
        )
    conditions = pipe.conditions(guidance.asked(request), request)
    first = pipe.first_step(request)
    pipe.needs_only(pipe.denoiser)
    latents, rows = start.latents, pipe.rows(scheduler, request)
    deep, options = pipe.keeps_between_steps(request), pipe.denoiser_options(request)
    if (control := pipe.control(request)) is not None:
        options["control"] = control
    cache = StepCache(request.cache_threshold) if request.cache_threshold else None
    if cache is not None and scheduler.renoises_negative:
        raise InvalidArgumentError(
            f"[pipeline] cache_threshold does not go with {type(scheduler).__name__}"
        )
    conditioning: Conditioning | None = None
    for index, row in enumerate(rows):
        x = scheduler.scale_model_input(latents, row.timestep)
        # Samplers that ask twice a step have more rows than steps.
        step_number = first + index * (request.steps - first) // len(scheduler.table.rows)
        before, conditioning = conditioning, at_step(conditions, step_number)
        changed = before is not None and conditioning is not before
        if changed and cache is not None:  # what it learned was of another picture
            cache = StepCache(request.cache_threshold)
        if deep is not None:
            deep.begin_step(index, anew=changed)
        if control is not None:
            control.begin_step(index, len(rows))
        options |= pipe.step_options(request, index, len(rows))
        model = partial(_predict, pipe, row.timestep, conditioning, start, deep, **options)
        negative = None
        if scheduler.renoises_negative:
            out, negative = guidance.predict_both(model, x, index, len(rows))
        elif cache is None:
            out = guidance.predict(model, x, index, len(rows))
        else:
            spared = cache.enough(x, index, len(rows))
            fresh = None if spared else guidance.predict(model, x, index, len(rows))
            out = cache.output(x, fresh)
        z = noise.draw(latents.shape[1:]) if row.draws else None
        latents = scheduler.step(out, row.timestep, latents, z, negative)
        require_finite(latents, f"what step {index + 1} of {len(rows)} made")
        if start.kept is not None:
            following = rows[index + 1].timestep if index + 1 < len(rows) else None
            latents = start.kept.restore(latents, scheduler, following)
        step = Step(index, len(rows), row.timestep, latents, scheduler.denoised, pipe.to_pil)
        yield step
        latents = _replaced(step, latents)


def _replaced(step: Step, latents: Array) -> Array:
    """What the next step begins with: `latents`, or what the caller put into their place."""
    if step.latents is not latents:
        step.latents = as_floats(step.latents, "[pipeline] latents of a step")
        if step.latents.shape != latents.shape:
            raise InvalidArgumentError(
                f"[pipeline] latents of a step must be {list(latents.shape)}, got "
                f"{list(step.latents.shape)}"
            )
    return step.latents


def _predict(
    pipe: DiffusionPipeline,
    t: float,
    conditioning: Conditioning,
    start: Start,
    deep: Any,
    x: Array,
    rows: slice = slice(None),
    **more: Any,
) -> Array:
    if deep is not None:
        more["deep"] = (deep, (rows.start, rows.stop))
    told = {name: array[rows] for name, array in conditioning.items()}
    return pipe.predict(start.beside(x, rows.start or 0), t, told, **more)
