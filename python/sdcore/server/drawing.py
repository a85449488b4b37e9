"""From what a client wants to pictures, whatever API it speaks."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore import __version__
from sdcore.errors import CancelledError, InvalidArgumentError
from sdcore.image_io import Infotext
from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.server.jobs import Job
from sdcore.server.models import Model
from sdcore.server.units import Unit, settings_of
from sdcore.webui import samplers
from sdcore.webui.hashes import hashes_of
from sdcore.webui.settings import clip_skip, described

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline, PipelineOutput
    from sdcore.schedulers import Scheduler

__all__ = ["Drawn", "Picture", "Wanted", "draw", "preview"]

log = logging.getLogger("sdcore")

# Latents a side that a preview decodes, whatever the picture's size: fewer with a full VAE.
_PREVIEW_LATENTS, _PREVIEW_LATENTS_TINY = 32, 64

# What the web UI draws at training's own timesteps, whatever schedule a client sends along.
_OF_TRAINING = ("DDIM", "DDIM CFG++", "PLMS")


@dataclass(frozen=True)
class Wanted:
    """`runs` times `batch` pictures; `arguments` are the pipeline's. Schedules are as a client
    names them; without one it is the sampler's usual one. A second pass has the first one's
    sampler and schedule unless it has its own."""

    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    subseed: int | None = None
    runs: int = 1
    batch: int = 1
    sampler: str | None = None
    schedule: str | None = None
    hires_sampler: str | None = None
    hires_schedule: str | None = None
    layer: int | None = None  # of CLIP, in the web UI's counting
    arguments: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Image.Image], Image.Image] | None = None  # what becomes of each picture
    units: Sequence[Unit] = ()  # ControlNets and IP-Adapters, which `arguments` are for too
    seen: Sequence[Image.Image] = ()  # what these are shown, for the answer
    refiner: Model | None = None  # for which `arguments` has the switch


@dataclass(frozen=True)
class Picture:
    """One that was drawn, and the settings that it carries."""

    image: Image.Image
    seed: int
    text: str


@dataclass(frozen=True)
class Drawn:
    """`first` and `subseed` are those that the first picture has, or would have had; `used` are the
    pipeline's parameters, and `sampler` the web UI's name of it. `comments` say what was not as
    asked for, and `seen` are the pictures that ControlNets and IP-Adapters saw."""

    model: Model
    first: int
    subseed: int
    sampler: str
    pictures: list[Picture]
    used: Mapping[str, Any]
    comments: list[str]
    seen: Sequence[Image.Image]


def draw(
    job: Job,
    pipe: DiffusionPipeline,
    model: Model,
    wanted: Wanted,
    refiner: DiffusionPipeline | None = None,
    *,
    hashing: bool = True,
) -> Drawn:
    """Runs in the drawing thread. An interrupted job has the pictures that were ready."""
    first, subseed = (
        secrets.randbelow(2**32) if seed is None else seed for seed in (wanted.seed, wanted.subseed)
    )
    job.runs = wanted.runs
    pictures: list[Picture] = []
    used: Mapping[str, Any] = {}
    with contextlib.ExitStack() as stack:
        comments = stack.enter_context(_comments())
        larger, hires_schedule = _of_second_pass(pipe, wanted)
        more = {"hires_scheduler": larger, "refiner": refiner}
        more = {name: value for name, value in more.items() if value is not None}
        wanted = replace(wanted, arguments={**wanted.arguments, **more})
        schedule = stack.enter_context(_scheduled(pipe, wanted))
        if refiner is not None:
            stack.enter_context(_scheduled(refiner, wanted))
        wanted = _with_own_eta(pipe, wanted)
        for job.run in range(wanted.runs):
            if job.interrupted:
                break
            done = job.run * wanted.batch
            out = _run(job, pipe, wanted, seed=first + done, subseed=subseed + done)
            if out is None:
                continue
            used = out.parameters
            names = {"schedule": schedule, "hires_schedule": hires_schedule}
            hashes = _hashes(out, model, wanted.refiner) if hashing else {}
            for index, image in enumerate(out.images):
                text = _text(out, pipe, model, wanted, index=index, hashes=hashes, **names)
                ready = image if wanted.finish is None else wanted.finish(image)
                pictures.append(Picture(ready, out.seeds[index], text))
        sampler = samplers.title(pipe.scheduler)
    return Drawn(model, first, subseed, sampler, pictures, used, comments, wanted.seen)


def _run(job: Job, pipe: DiffusionPipeline, wanted: Wanted, **seeds: int) -> PipelineOutput | None:
    """One batch; None where it was stopped."""
    job.step, job.stream, job.skipped = None, None, False
    options: dict[str, Any] = {**wanted.arguments, **seeds}
    if wanted.layer is not None and (left_out := clip_skip(pipe, wanted.layer)):
        options["clip_skip"] = left_out
    job.stream = stream = pipe.stream(
        wanted.prompt,
        wanted.negative_prompt or None,
        num_images_per_prompt=wanted.batch,
        **options,
    )
    with contextlib.suppress(CancelledError):
        for step in stream:
            job.see(step)
            if job.interrupted or job.skipped:
                return None
        return stream.result()
    return None


def _with_own_eta(pipe: DiffusionPipeline, wanted: Wanted) -> Wanted:
    """Without the eta that clients send whatever the sampler is, where this one has none. 1 is what
    ancestral ones do."""
    eta = wanted.arguments.get("eta")
    if eta is None or pipe.scheduler.takes_eta:
        return wanted
    if eta != 1:
        log.warning("[server] eta: %s has none", samplers.title(pipe.scheduler))
    arguments = {name: value for name, value in wanted.arguments.items() if name != "eta"}
    return replace(wanted, arguments=arguments)


@contextlib.contextmanager
def _scheduled(pipe: DiffusionPipeline, wanted: Wanted) -> Iterator[str | None]:
    """The pipeline with the scheduler that is wanted; gives the schedule's name."""
    own, name = pipe.scheduler, wanted.sampler
    schedule = None
    if name is not None or wanted.schedule is not None:
        title = wanted.schedule or samplers.AUTOMATIC
        # Of the model's own sampler, and on a flow, the usual one is the model's own.
        automatic = name is not None and "shift" not in own.defaults
        schedule = _schedule(title, name or type(own).__name__, automatic=automatic)
        schedule = samplers.of_family(schedule, pipe.family)
        pipe.scheduler = samplers.make(own, name, schedule)
    try:
        yield schedule
    finally:
        pipe.scheduler = own


def _of_second_pass(pipe: DiffusionPipeline, wanted: Wanted) -> tuple[Scheduler | None, str | None]:
    """Its scheduler and the schedule's name, where it has its own."""
    own, asked = pipe.scheduler, wanted.hires_schedule
    if wanted.hires_sampler is None and asked is None:
        return None, None
    name = wanted.hires_sampler or wanted.sampler
    title = asked or wanted.schedule or samplers.AUTOMATIC
    sampler = name or type(own).__name__
    if asked is None and samplers.schedule_of(title, sampler) is None:
        title = samplers.AUTOMATIC  # this sampler has not the first one's
    automatic = name is not None and "shift" not in own.defaults
    schedule = _schedule(title, sampler, automatic=automatic)
    schedule = samplers.of_family(schedule, pipe.family)
    return samplers.make(own, name, schedule), schedule


def _schedule(title: str, sampler: str, *, automatic: bool) -> str | None:
    if title.lower() == samplers.AUTOMATIC.lower():
        return samplers.schedule_of(samplers.AUTOMATIC, sampler) if automatic else None
    found = samplers.schedule_of(title, sampler)
    if found is not None:
        return found
    name, known = samplers.find(sampler).title, samplers.is_schedule(title)
    if known and name in _OF_TRAINING:
        log.warning("[server] scheduler: %s has no %s, and keeps to its own levels", name, title)
        return None
    has = [samplers.TITLES[one] for one in samplers.TITLES if samplers.takes(sampler, one)]
    raise InvalidArgumentError(
        f"[sampler] there is no schedule '{title:.80}' for {name}; its schedules are Automatic, "
        f"{', '.join(has)}"
    )


def _hashes(out: PipelineOutput, model: Model, refiner: Model | None) -> Mapping[str, str | None]:
    return hashes_of(out, model.path, None if refiner is None else refiner.path, model.vae)


def _text(
    out: PipelineOutput, pipe: DiffusionPipeline, model: Model, wanted: Wanted, **more: Any
) -> str:
    settings = described(
        out,
        pipe,
        model.name,
        layer=wanted.layer if wanted.layer != 1 else None,
        refiner=None if wanted.refiner is None else wanted.refiner.name,
        vae=None if model.vae is None else model.vae.name,
        **more,
    )
    settings.pop("Resize mode", None)  # each unit says its own
    settings |= {**settings_of(wanted.units), "Version": f"sdcore {__version__}"}
    used = out.parameters
    return str(Infotext(used["prompt"], used["negative_prompt"], settings))


@contextlib.contextmanager
def _comments() -> Iterator[list[str]]:
    """What is logged as a warning meanwhile by this thread: a LoRA that is nowhere, and the like,
    of which the client should hear too."""
    lines: list[str] = []
    thread = threading.get_ident()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                lines.append(record.getMessage())

    handler = Collect(logging.WARNING)
    logger = logging.getLogger("sdcore")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def preview(job: Job) -> Image.Image | None:
    """A small picture of how far a job is. None before the first step, and where the VAE would have
    to make room. Whoever looks at the same step sees the same picture."""
    with job.looking:
        step = job.step
        if step is None or step.pipe.unload:
            return None
        if job.shown is None or job.shown[0] is not step:
            job.shown = step, _small(step.pipe, step.denoised[:1])
        return job.shown[1]


def _small(pipe: DiffusionPipeline, latents: NDArray[np.float32]) -> Image.Image:
    """Latents are shrunk before they are decoded, so that looking costs little."""
    tiny = isinstance(pipe.vae, AutoencoderTiny)
    times = -(-max(latents.shape[2:]) // (_PREVIEW_LATENTS_TINY if tiny else _PREVIEW_LATENTS))
    if times > 1:
        n, c, h, w = (*latents.shape[:2], *(side // times for side in latents.shape[2:]))
        cut = latents[:, :, : h * times, : w * times].reshape(n, c, h, times, w, times)
        latents = cut.mean((3, 5), dtype=np.float32)
    return pipe.to_pil(latents)[0]
