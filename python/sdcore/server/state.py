"""What the routes share, and how a request becomes a job and waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sdcore.server.control_models import ControlModels
from sdcore.server.drawing import Drawn, Wanted, draw
from sdcore.server.jobs import BusyError, Job, Jobs
from sdcore.server.models import Model, Models
from sdcore.server.vaes import AUTOMATIC, Vaes

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = [
    "Options",
    "Plan",
    "State",
    "disconnected",
    "finished",
    "json_fields",
    "start_drawing",
    "state_of",
]

# What is wanted of a pipeline, when it is known which one.
Plan = Callable[["DiffusionPipeline"], Wanted]


@dataclass(frozen=True)
class Options:
    """What clients set for all requests after, in the web UI's words."""

    sd_model_checkpoint: str
    sd_vae: str = AUTOMATIC
    CLIP_stop_at_last_layers: int = 1
    samples_format: str = "png"
    jpeg_quality: int = 80
    randn_source: str = "CPU"


@dataclass
class State:
    models: Models
    controls: ControlModels
    vaes: Vaes
    options: Options
    flags: Mapping[str, Any]  # how the server was started, in the web UI's words
    jobs: Jobs = field(default_factory=Jobs)

    @property
    def no_hashing(self) -> bool:
        """Whether pictures go without the hashes of files."""
        return bool(self.flags.get("no_hashing"))

    def chosen(self, options: Options | None = None, name: str | None = None) -> Model:
        """The model of these options, or of the one that is called so, with their VAE."""
        options = options or self.options
        model = self.models.find(name or options.sd_model_checkpoint)
        return model.with_vae(self.vaes.find(options.sd_vae)[1])


def state_of(request: Request) -> State:
    state: State = request.app.state.sdcore
    return state


async def json_fields(request: Request) -> dict[str, Any]:
    """The JSON object of a request; what a page of another site may send unasked is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise HTTPException(415, f"the content-type must be application/json, got '{kind:.80}'")
    body = await request.body()
    try:
        values = await run_in_threadpool(_parsed, body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the request is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise HTTPException(400, "the request must be a JSON object")
    return values


def _parsed(body: bytes) -> Any:
    """Python would also take NaN, and infinity for 1e999."""
    return json.loads(body, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"there is no number {text:.20}")
    return value


def start_drawing(state: State, kind: str, model: Model, plan: Plan) -> Job:
    """Queues what `plan` makes of the model's pipeline."""

    def work(job: Job) -> Drawn:
        models = state.models
        wanted = plan(models.pipeline(model))
        refiner = None if wanted.refiner is None else models.refiner(wanted.refiner)
        with models.beside.at_work(wanted.units) as pipe:
            return draw(job, pipe, model, wanted, refiner, hashing=not state.no_hashing)

    return state.jobs.submit(kind, work)


async def finished(request: Request, job: Job) -> Any:
    """The job's result; it is cancelled where the client goes."""
    jobs = state_of(request).jobs
    done = asyncio.wrap_future(job.future)
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise HTTPException(499, "the client has gone")  # nobody reads it
        if done.cancelled() or (jobs.closed and job.interrupted):
            raise BusyError("[server] the server is shutting down")
        return done.result()
    finally:
        gone.cancel()
        if not done.done():
            jobs.cancel(job)
            done.add_done_callback(_look_away)


async def disconnected(request: Request) -> None:
    """Waits until the client has gone; the request's body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _look_away(done: asyncio.Future[Any]) -> None:
    """Nobody is left to be told of what went wrong."""
    with contextlib.suppress(asyncio.CancelledError):
        done.exception()
