"""`/v1/images` and `/v1/models`: OpenAI's API, with the model's own settings as further fields."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sdcore.errors import SDCoreError
from sdcore.pictures.given import opaque
from sdcore.pictures.inpaint import masked
from sdcore.pictures.masks import binary
from sdcore.server.answer import Answer
from sdcore.server.drawing import Drawn, Picture, Wanted
from sdcore.server.errors import error_body
from sdcore.server.fields import FieldError, Fields
from sdcore.server.jobs import BusyError, Job
from sdcore.server.models import Model
from sdcore.server.pictures import in_base64, picture
from sdcore.server.state import (
    Plan,
    State,
    disconnected,
    finished,
    json_fields,
    start_drawing,
    state_of,
)
from sdcore.webui import samplers

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.pipelines.stream import Step

__all__ = ["edits", "generations", "model", "models"]

_MOST_PICTURES, _MOST_PARTIAL = 10, 3  # OpenAI's
# Models of OpenAI's that clients name unless told otherwise: they mean the chosen one.
_THEIRS = ("dall-e-", "gpt-image-", "chatgpt-image-")
_FORMATS = ("png", "jpeg", "webp")
# Hints to OpenAI's models that say nothing to these.
_HINTS = ("quality", "style", "moderation", "user", "input_fidelity")


@dataclass(frozen=True)
class _Asked:
    """A request that has been read."""

    model: Model
    plan: Plan
    file_format: str
    quality: int
    partial: int | None  # pictures on the way of a stream; None: no stream


async def generations(request: Request) -> Response:
    values = await json_fields(request)
    asked = await run_in_threadpool(_read, state_of(request), Fields(values))
    return await _answer(request, "image_generation", asked)


async def edits(request: Request) -> Response:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "send multipart/form-data with a file named image")
    async with request.form() as form:
        images = [x for name in ("image", "image[]") for x in form.getlist(name)]
        files = [*images[:2], form.get("mask")]
        data = [await x.read() if isinstance(x, UploadFile) else None for x in files]
        named = {name: value for name, value in form.items() if isinstance(value, str)}
    if len(images) != 1 or data[0] is None:
        raise FieldError("image", "must be one file")
    mask = data[-1] or None
    asked = await run_in_threadpool(_read, state_of(request), Fields(named), data[0], mask)
    return await _answer(request, "image_edit", asked)


async def models(request: Request) -> Response:
    known = state_of(request).models
    await run_in_threadpool(known.refresh)
    return Answer({"object": "list", "data": [_listed(model) for model in known.all]})


async def model(request: Request) -> Response:
    """One of the list, by any of its names."""
    find = state_of(request).models.find
    return Answer(_listed(await run_in_threadpool(find, request.path_params["id"])))


def _listed(model: Model) -> dict[str, Any]:
    about = {"object": "model", "created": model.modified, "owned_by": "sdcore"}
    return {"id": model.title, **about}


# -- reading ----------------------------------------


def _read(
    state: State, fields: Fields, image: bytes | None = None, mask: bytes | None = None
) -> _Asked:
    name = fields.text("model")
    known = any(name in (model.title, model.name) for model in state.models.all)
    theirs = name.startswith(_THEIRS) and not known
    model = state.chosen() if not name or theirs else state.chosen(name=name)
    file_format = fields.text("output_format", "png")
    if file_format not in _FORMATS:
        raise FieldError("output_format", f"must be one of {', '.join(_FORMATS)}")
    if fields.text("response_format", "b64_json") != "b64_json":
        raise FieldError(
            "response_format", "must be b64_json: pictures are sent, and not kept to be fetched"
        )
    if fields.text("background", "auto") not in ("auto", "opaque"):
        raise FieldError("background", "must be auto or opaque: these models draw no transparency")
    quality = fields.whole("output_compression", 0, 100)
    partial = fields.whole("partial_images", 0, _MOST_PARTIAL) or 0
    streamed = fields.flag("stream")
    plan = _plan(fields, image, mask)
    fields.ignore(*_HINTS)
    if unknown := fields.unasked():
        raise FieldError(unknown[0], "is no field of this server; docs/server.md lists them")
    return _Asked(
        model,
        plan,
        file_format,
        100 if quality is None else quality,
        partial if streamed else None,
    )


def _plan(fields: Fields, image: bytes | None, mask: bytes | None) -> Plan:
    if not (prompt := fields.text("prompt")):
        raise FieldError("prompt", "must say what to draw")
    title = fields.text("scheduler")
    sampler, schedule = samplers.parted(fields.text("sampler"))
    if sampler:
        samplers.find(sampler)
    seed = fields.whole("seed", -1)
    width, height = _size(fields.text("size", "auto"))
    wanted = Wanted(
        prompt=prompt,
        negative_prompt=fields.text("negative_prompt"),
        seed=None if seed == -1 else seed,
        runs=fields.whole("n", 1, _MOST_PICTURES) or 1,
        sampler=sampler or None,
        schedule=schedule or title or None,
        layer=fields.whole("clip_skip", 1),
    )
    arguments: dict[str, Any] = {
        "width": width,
        "height": height,
        "num_inference_steps": fields.whole("steps", 1) or fields.whole("num_inference_steps", 1),
        "guidance_scale": _first(fields.number("cfg_scale"), fields.number("guidance_scale")),
    }
    if image is None:
        return lambda pipe: replace(wanted, arguments=arguments)
    strength = fields.number("strength")
    begin = opaque(picture(image, "image"))
    arguments |= {"image": begin} if strength is None else {"image": begin, "strength": strength}
    if mask is None:
        return lambda pipe: replace(wanted, arguments=arguments)
    shape = _mask(picture(mask, "mask"))

    def plan(pipe: DiffusionPipeline) -> Wanted:
        m = pipe.size_multiple
        sides = [max(side // m * m, m) for side in begin.size]
        size = (width or sides[0], height or sides[1])
        parts = masked(begin, shape, size)
        sizes = {"width": size[0], "height": size[1]}
        around = {**arguments, **sizes, "image": parts.image, "mask_image": parts.mask}
        return replace(wanted, arguments=around, finish=parts.restore)

    return plan


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _size(text: str) -> tuple[int | None, int | None]:
    """None for the model's own, or the picture's."""
    if text == "auto":
        return None, None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(text) < 12):
        raise FieldError("size", f"must be WIDTHxHEIGHT or auto, got {text!r:.80}")
    return int(width), int(height)


def _mask(mask: Image.Image) -> Image.Image:
    """OpenAI's masks are transparent where to paint; those without transparency white."""
    if not mask.has_transparency_data:
        return binary(mask)
    return ImageOps.invert(mask.convert("RGBA").getchannel("A").point(_at_all))


def _at_all(alpha: int) -> int:
    return 0 if alpha == 0 else 255


# -- answering ----------------------------------------


async def _answer(request: Request, kind: str, asked: _Asked) -> Response:
    state = state_of(request)
    if asked.partial is not None:
        return await _streamed(request, kind, asked)
    job = start_drawing(state, kind, asked.model, asked.plan)
    drawn: Drawn = await finished(request, job)
    if not drawn.pictures:
        raise BusyError("[server] interrupted before a picture was ready")
    data = await run_in_threadpool(lambda: [_item(asked, one) for one in drawn.pictures])
    about = _about(asked, drawn.pictures[0])
    return Answer({"created": int(time.time()), "data": data, **about})


def _item(asked: _Asked, one: Picture) -> dict[str, Any]:
    data = in_base64(one.image, one.text, asked.file_format, asked.quality)
    return {"b64_json": data, "seed": one.seed}


def _about(asked: _Asked, one: Picture) -> dict[str, Any]:
    size = f"{one.image.width}x{one.image.height}"
    return {"output_format": asked.file_format, "size": size, "background": "opaque"}


async def _streamed(request: Request, kind: str, asked: _Asked) -> Response:
    """Server-sent events: pictures on the way, and each one that is ready."""
    state, loop = state_of(request), asyncio.get_running_loop()
    events: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
    job = start_drawing(state, kind, asked.model, asked.plan)
    sent = 0

    def on_step(step: Step) -> None:
        """In the drawing thread: evenly over the steps of the first picture."""
        nonlocal sent
        due = (step.index + 1) * ((asked.partial or 0) + 1) // step.total
        if job.run == 0 and sent < due <= (asked.partial or 0):
            item = {"b64_json": in_base64(step.preview()[0], "", asked.file_format, asked.quality)}
            event = (f"{kind}.partial_image", {**item, "partial_image_index": sent})
            sent += 1
            loop.call_soon_threadsafe(events.put_nowait, event)

    if asked.partial:
        job.on_step = on_step
    job.future.add_done_callback(lambda _: _wake(loop, events))

    async def lines() -> AsyncIterator[str]:
        # Not left to Starlette, which in some versions sees who has gone only when it sends.
        gone = asyncio.ensure_future(disconnected(request))
        gone.add_done_callback(lambda _: state.jobs.cancel(job))
        try:
            while (event := await events.get()) is not None:
                yield _line(*event)
            for name, body in await run_in_threadpool(_last, kind, asked, job):
                yield _line(name, body)
        finally:
            gone.cancel()

    return StreamingResponse(lines(), media_type="text/event-stream")


def _wake(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Any]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, None)


def _last(kind: str, asked: _Asked, job: Job) -> list[tuple[str, dict[str, Any]]]:
    """The events of a job that is over."""
    error: Exception = BusyError("[server] interrupted before a picture was ready")
    try:
        drawn: Drawn | None = None if job.future.cancelled() else job.future.result()
    except (SDCoreError, MemoryError) as failed:
        drawn, error = None, failed
    if drawn is None or not drawn.pictures:
        return [("error", {"error": error_body(error)})]
    return [
        (f"{kind}.completed", {**_item(asked, one), **_about(asked, one)}) for one in drawn.pictures
    ]


def _line(name: str, body: dict[str, Any]) -> str:
    data = json.dumps({"type": name, "created_at": int(time.time()), **body})
    return f"event: {name}\ndata: {data}\n\n"
