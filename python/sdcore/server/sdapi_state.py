"""The rest of `/sdapi/v1`: how far a job is, what there is to choose from, and switching models."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from sdcore import _core, checkpoint
from sdcore.checkpoint.hashes import known_lora_hash, known_sha256
from sdcore.errors import InvalidArgumentError, SDCoreError
from sdcore.image_io import Infotext, parameters_of
from sdcore.pictures.upscale import LATENT_MODES, UPSCALERS
from sdcore.pipelines.adapters import loras_in
from sdcore.pipelines.memory import available
from sdcore.server import options
from sdcore.server.answer import Answer
from sdcore.server.drawing import preview
from sdcore.server.fields import Fields
from sdcore.server.jobs import Job
from sdcore.server.pictures import in_base64, stored_picture
from sdcore.server.state import finished, json_fields, state_of
from sdcore.server.units import SCRIPT
from sdcore.webui import samplers
from sdcore.webui.hashes import short_hash

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

_NOTHING: dict[str, Any] = {}


async def progress(request: Request) -> Response:
    """Idle is progress 0 and job_count 0."""
    state = state_of(request)
    job = state.jobs.running
    if job is None:
        count = state.jobs.waiting
        return Answer(_progress(None, count))
    body = _progress(job, job.runs)
    if request.query_params.get("skip_current_image", "false").lower() not in ("true", "1"):
        body["current_image"] = await run_in_threadpool(_current, job)
    return Answer(body)


def _progress(job: Job | None, count: int) -> dict[str, Any]:
    step = None if job is None else job.step
    done = 0.0 if job is None else max(job.progress, 0.01)
    return {
        "progress": done,
        "eta_relative": 0.0 if job is None else job.elapsed / done - job.elapsed,
        "state": {
            "skipped": job is not None and job.skipped,
            "interrupted": job is not None and job.interrupted,
            "stopping_generation": False,
            "job": "" if job is None else f"{job.kind} {job.id}",
            "job_timestamp": "0" if job is None else job.since,
            "job_count": count,
            "job_no": 0 if job is None else job.run,
            "sampling_step": 0 if step is None else step.index + 1,
            "sampling_steps": 0 if step is None else step.total,
        },
        "current_image": None,
        "textinfo": None,
    }


def _current(job: Job) -> str | None:
    image = preview(job)
    return None if image is None else in_base64(image)


async def interrupt(request: Request) -> Response:
    state_of(request).jobs.interrupt()
    return Answer(_NOTHING)


async def skip(request: Request) -> Response:
    state_of(request).jobs.skip()
    return Answer(_NOTHING)


async def queue_status(request: Request) -> Response:
    jobs = state_of(request).jobs
    return Answer({"queue_size": jobs.waiting, "running": jobs.running is not None})


# -- options and models ----------------------------------------


async def get_options(request: Request) -> Response:
    return Answer(dataclasses.asdict(state_of(request).options))


async def set_options(request: Request) -> Response:
    """Another checkpoint or VAE is open when this answers, or nothing has changed."""
    state, values = state_of(request), await json_fields(request)
    chosen, unknown = await run_in_threadpool(options.changed, state, values)
    now = state.options  # whose model may be gone by now
    if (chosen.sd_model_checkpoint, chosen.sd_vae) != (now.sd_model_checkpoint, now.sd_vae):
        model = state.chosen(chosen)
        job = state.jobs.submit("open", lambda job: state.models.pipeline(model))
        await finished(request, job)
    state.options = chosen
    return Answer({"ignored": unknown} if unknown else None)


async def sd_models(request: Request) -> Response:
    return Answer(await run_in_threadpool(_sd_models, request))


def _sd_models(request: Request) -> list[dict[str, Any]]:
    """With the hashes of those that pictures have been drawn with."""
    return [
        {
            "title": model.title,
            "model_name": model.name,
            "hash": short_hash(model.path, known=True),
            "sha256": known_sha256(model.path),
            "filename": model.title,
            "config": None,
        }
        for model in state_of(request).models.all
    ]


async def refresh_checkpoints(request: Request) -> Response:
    await run_in_threadpool(state_of(request).models.refresh)
    return Answer(None)


async def sd_vaes(request: Request) -> Response:
    names = state_of(request).vaes.all
    return Answer([{"model_name": name, "filename": name} for name in names])


async def refresh_vae(request: Request) -> Response:
    await run_in_threadpool(state_of(request).vaes.refresh)
    return Answer(None)


async def refresh_nothing(request: Request) -> Response:
    """Of what is looked up anew whenever it is asked for."""
    return Answer(None)


async def unload_checkpoint(request: Request) -> Response:
    """The next request opens it again."""
    state = state_of(request)
    await finished(request, state.jobs.submit("close", lambda job: state.models.close()))
    return Answer(_NOTHING)


async def reload_checkpoint(request: Request) -> Response:
    state = state_of(request)
    model = state.chosen()
    await finished(request, state.jobs.submit("open", lambda job: state.models.pipeline(model)))
    return Answer(_NOTHING)


# -- what there is ----------------------------------------


async def nothing(request: Request) -> Response:
    """A list of what is not built."""
    return Answer([])


async def scripts(request: Request) -> Response:
    """ControlNets are one, where there are any."""
    names = _scripts(request)
    return Answer({"txt2img": names, "img2img": names})


async def script_info(request: Request) -> Response:
    kinds = {"is_alwayson": True, "args": []}
    return Answer(
        [
            {"name": name, "is_img2img": is_img2img, **kinds}
            for name in _scripts(request)
            for is_img2img in (False, True)
        ]
    )


def _scripts(request: Request) -> list[str]:
    return [] if state_of(request).controls.folder is None else [SCRIPT]


async def sampler_list(request: Request) -> Response:
    """Those that the open model can be drawn with."""
    pipe = state_of(request).models.open_pipeline
    return Answer(
        [
            {"name": sampler.title, "aliases": [name, sampler.scheduler], "options": {}}
            for name, sampler in samplers.SAMPLERS.items()
            if pipe is None or _takes(pipe, name)
        ]
    )


def _takes(pipe: DiffusionPipeline, sampler: str) -> bool:
    try:
        samplers.make(pipe.scheduler, sampler, None)
    except InvalidArgumentError:
        return False
    return True


async def schedule_list(request: Request) -> Response:
    labels = {"automatic": samplers.AUTOMATIC, **samplers.TITLES}
    unknown = dict.fromkeys(("aliases", "default_rho", "need_inner_model"))
    return Answer([{"name": name, "label": label, **unknown} for name, label in labels.items()])


async def upscalers(request: Request) -> Response:
    """Those of a second pass; "None" is Lanczos there, as in the web UI."""
    return Answer(
        [
            {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": None}
            for name in ("None", *UPSCALERS)
        ]
    )


async def latent_upscale_modes(request: Request) -> Response:
    return Answer([{"name": name} for name in LATENT_MODES])


async def loras(request: Request) -> Response:
    return Answer(await run_in_threadpool(_loras, request))


def _loras(request: Request) -> list[dict[str, Any]]:
    pipe = state_of(request).models.open_pipeline
    folder = None if pipe is None else pipe.lora_dir
    if folder is None:
        return []
    return [
        {
            "name": path.stem,
            "alias": path.stem,
            "path": path.relative_to(folder).as_posix(),
            "hash": known_lora_hash(path),
            "metadata": _metadata(os.fspath(path)),
        }
        for path in loras_in(folder)
    ]


def _metadata(path: str) -> dict[str, str]:
    try:
        return {key: str(value) for key, value in checkpoint.open(path).metadata.items()}
    except SDCoreError:  # it is said when a prompt asks for it
        return {}


async def embeddings(request: Request) -> Response:
    return Answer(await run_in_threadpool(_embeddings, request))


def _embeddings(request: Request) -> dict[str, Any]:
    pipe = state_of(request).models.open_pipeline
    found: dict[str, Any] = {"loaded": {}, "skipped": {}}
    for name, read in ({} if pipe is None else pipe.words).items():
        if (word := read()) is None:
            found["skipped"][name] = _embedding(None, None)
        else:
            width, vectors = next(iter(word.vectors.items()))
            found["loaded"][word.name] = _embedding(width, len(vectors))
    return found


def _embedding(width: int | None, vectors: int | None) -> dict[str, Any]:
    unknown = dict.fromkeys(("step", "sd_checkpoint", "sd_checkpoint_name"))
    return {**unknown, "shape": width, "vectors": vectors}


async def cmd_flags(request: Request) -> Response:
    return Answer(dict(state_of(request).flags))


async def memory(request: Request) -> Response:
    total, free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), available()
    ram = {"total": total} if free is None else {"free": free, "used": total - free, "total": total}
    cuda: dict[str, Any] = {"error": "there is no GPU"}
    if _core.device_names():
        free, total = _core.device_memory(_core.device_names()[0])[:2]
        cuda = {"system": {"free": free, "used": total - free, "total": total}}
    return Answer({"ram": ram, "cuda": cuda})


async def png_info(request: Request) -> Response:
    values = await json_fields(request)
    return Answer(await run_in_threadpool(_png_info, values))


def _png_info(values: dict[str, Any]) -> dict[str, Any]:
    image = stored_picture(Fields(values).any("image"), "image")
    text = parameters_of(image) or ""
    info = Infotext.parse(text)
    parameters: dict[str, Any] = {}
    if info.settings:
        prompts = {"Prompt": info.prompt, "Negative prompt": info.negative_prompt}
        parameters = {**prompts, **info.settings}
    items = {key: value for key, value in image.info.items() if isinstance(value, str)}
    items.pop("parameters", None)
    return {"info": text, "items": items, "parameters": parameters}
