"""From the first latents to the last: the model at every row of the step table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcore.arguments import as_floats, finite
from sdcore.errors import InvalidArgumentError
from sdcore.pipelines.composition import composition
from sdcore.pipelines.conditioning import Conditioning, Told, changed, joined, together
from sdcore.pipelines.finite import require_finite
from sdcore.pipelines.guidance import Guidance, Model
from sdcore.pipelines.noise import Draws
from sdcore.pipelines.request import Request
from sdcore.pipelines.start import Start
from sdcore.pipelines.step_cache import StepCache
from sdcore.pipelines.stream import Step
from sdcore.prompts.editing import at_step
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["denoise", "new_scheduler"]

Array = NDArray[np.float32]
# What the denoiser keeps between steps for images that are told something new at the same ones.
Deep = list[tuple[NDArray[np.intp], Any]]


def new_scheduler(pipe: DiffusionPipeline, request: Request) -> Scheduler:
    """A scheduler of this call's own, with its table: two calls never meet."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    options: dict[str, Any] = {**pipe.table_options(request), **request.placed}
    if request.eta is not None:
        if scheduler.takes_eta:
            options["eta"] = request.eta
        elif request.eta:
            raise InvalidArgumentError(f"[pipeline] {type(scheduler).__name__} has no eta")
    scheduler.set_timesteps(request.steps, begin=pipe.first_step(request), **options)
    return scheduler


def denoise(
    pipe: DiffusionPipeline,
    request: Request,
    scheduler: Scheduler,
    noise: Draws,
    start: Start,
) -> Iterator[Step]:
    """Yields after each row; a step's `latents`, replaced or not, are what the next begins with."""
    guidance = pipe.guidance(request)
    _check_renoising(scheduler, guidance, request)
    composed = composition(pipe, request, guidance.in_turns)
    conditions = pipe.conditions((composed or guidance).asked(request), request)
    first = pipe.first_step(request)
    pipe.needs_only(pipe.denoiser)
    latents, rows = start.latents, pipe.rows(scheduler, request)
    options, images = pipe.denoiser_options(request), len(latents)
    deep = _deep(pipe, request, conditions, images)
    if (control := pipe.control(request)) is not None:
        options["control"] = control
    cache = StepCache(request.cache_threshold) if request.cache_threshold else None
    conditioning: Conditioning | None = None
    for index, row in enumerate(rows):
        x = scheduler.scale_model_input(latents, row.timestep)
        # Samplers that ask twice a step have more rows than steps.
        step_number = first + index * (request.steps - first) // len(scheduler.table.rows)
        before, conditioning = conditioning, at_step(conditions, step_number)
        anew = changed(before or conditioning, conditioning, images)
        if conditioning is not before:  # the one before goes, with what was made of it
            told = Told(conditioning)
        if cache is not None:
            cache.forget(anew)
        for group, kept in deep:
            kept.begin_step(index, anew=bool(anew[group[0]]))
        if control is not None:
            control.begin_step(index, len(rows))
        options |= pipe.step_options(request, index, len(rows))
        model: Model = partial(_predict, pipe, row.timestep, told, start, deep, **options)
        if composed is not None:
            model = composed.joined(model)
        negative = None
        if scheduler.renoises_negative:
            out, negative = guidance.predict_both(model, x, index, len(rows))
        else:
            out = _output(guidance, model, x, index, len(rows), cache)
        z = noise.draw(latents.shape[1:]) if row.draws else None
        latents = scheduler.step(out, row.timestep, latents, z, negative).prev_sample
        require_finite(latents, f"what step {index + 1} of {len(rows)} made")
        if start.kept is not None:
            following = rows[index + 1].timestep if index + 1 < len(rows) else None
            latents = start.kept.restore(latents, scheduler, following)
        step = Step(
            *(index, len(rows), row.timestep, latents, scheduler.denoised, pipe, guidance.scale)
        )
        yield step
        latents = _replaced(step, latents)
        if step.guidance_scale != guidance.scale:
            guidance = guidance.at(finite(step.guidance_scale, "guidance_scale"))
            if cache is not None:
                cache.forget(np.ones(images, bool))


def _check_renoising(scheduler: Scheduler, guidance: Guidance, request: Request) -> None:
    """Schedulers that put the noise of the negative prompt back need that output at every step."""
    if not scheduler.renoises_negative:
        return
    name = type(scheduler).__name__
    if type(guidance).predict is not Guidance.predict:
        raise InvalidArgumentError(
            f"[pipeline] {name} takes plain guidance, not {type(guidance).__name__}; use another "
            "scheduler"
        )
    if request.cache_threshold:
        raise InvalidArgumentError(f"[pipeline] cache_threshold does not go with {name}")


def _deep(
    pipe: DiffusionPipeline, request: Request, conditions: Mapping[int, Conditioning], images: int
) -> Deep:
    """Empty where nothing is kept."""
    if pipe.keeps_between_steps(request) is None:
        return []
    groups = together(conditions, images)
    return [(group, pipe.keeps_between_steps(request)) for group in groups]


def _output(
    guidance: Guidance, model: Model, x: Array, index: int, steps: int, cache: StepCache | None
) -> Array:
    """The guided output of a step, from the cache where that is good enough."""
    if cache is None:
        return guidance.predict(model, x, index, steps)
    spared = cache.enough(x, index, steps)
    return cache.output(x, None if spared else guidance.predict(model, x, index, steps))


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
    told: Told,
    start: Start,
    deep: Deep,
    x: Array,
    rows: slice = slice(None),
    **more: Any,
) -> Array:
    told, x = told.rows(rows), start.beside(x, rows.start or 0)
    if not deep:
        return pipe.predict(x, t, told, **more)
    image = np.arange(len(x)) % sum(len(group) for group, _ in deep)
    places = [(np.flatnonzero(np.isin(image, group)), kept) for group, kept in deep]
    return joined(
        (at, pipe.predict(x[at], t, told.rows(at), deep=(kept, (rows.start, rows.stop)), **more))
        for at, kept in places
    )
