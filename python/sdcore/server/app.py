"""The routes, and the server that runs them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sdcore.server import control_api, extras, openai, sdapi, sdapi_state
from sdcore.server.answer import Answer
from sdcore.server.control_models import ControlModels
from sdcore.server.errors import HANDLERS
from sdcore.server.guard import Guard
from sdcore.server.models import Models
from sdcore.server.state import Options, State, state_of
from sdcore.server.vaes import Vaes

__all__ = ["Server", "create_app"]

_MOST_BYTES = 64 * 2**20  # of a request: two large pictures in base64
_PAGE = Path(__file__).with_name("page.html")

_GET = {
    "progress": sdapi_state.progress,
    "options": sdapi_state.get_options,
    "sd-models": sdapi_state.sd_models,
    "samplers": sdapi_state.sampler_list,
    "schedulers": sdapi_state.schedule_list,
    "upscalers": sdapi_state.upscalers,
    "loras": sdapi_state.loras,
    "embeddings": sdapi_state.embeddings,
    "memory": sdapi_state.memory,
    "cmd-flags": sdapi_state.cmd_flags,
    "scripts": sdapi_state.scripts,
    "script-info": sdapi_state.script_info,
    "sd-vae": sdapi_state.sd_vaes,
    "latent-upscale-modes": sdapi_state.latent_upscale_modes,
    "hypernetworks": sdapi_state.nothing,
    **dict.fromkeys(("face-restorers", "realesrgan-models"), sdapi_state.nothing),
    **dict.fromkeys(("prompt-styles", "extensions"), sdapi_state.nothing),
}
_POST = {
    "txt2img": sdapi.txt2img,
    "img2img": sdapi.img2img,
    "interrupt": sdapi_state.interrupt,
    "skip": sdapi_state.skip,
    "options": sdapi_state.set_options,
    "png-info": sdapi_state.png_info,
    "extra-single-image": extras.extra_single_image,
    "extra-batch-images": extras.extra_batch_images,
    "refresh-checkpoints": sdapi_state.refresh_checkpoints,
    "refresh-vae": sdapi_state.refresh_vae,
    "refresh-loras": sdapi_state.refresh_nothing,
    "unload-checkpoint": sdapi_state.unload_checkpoint,
    "reload-checkpoint": sdapi_state.reload_checkpoint,
}

_CONTROL = {
    "version": control_api.version,
    "settings": control_api.settings,
    "model_list": control_api.model_list,
    "module_list": control_api.module_list,
    "control_types": control_api.control_types,
}


def create_app(
    models: Models,
    controls: ControlModels | None = None,
    vaes: Vaes | None = None,
    *,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    most_bytes: int = _MOST_BYTES,
) -> Starlette:
    """The application; the first of `models` is the chosen one, `controls` are ControlNets and
    IP-Adapters, and `vaes` those that may take the place of a model's own. `origins` are those of
    pages that may call it from a browser; `flags` is what `cmd-flags` tells."""
    controls = controls or ControlModels()
    state = State(models, controls, vaes or Vaes(), Options(models.all[0].title), flags or {})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        state.jobs.close()

    middleware = [Middleware(Guard, keys=keys, origins=origins, most=most_bytes)]
    if origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
        )
        middleware.insert(0, cors)
    app = Starlette(
        routes=_routes(), middleware=middleware, exception_handlers=HANDLERS, lifespan=lifespan
    )
    app.state.sdcore = state
    return app


def _routes() -> list[Route]:
    return [
        Route("/", _page),
        Route("/health", _health),
        Route("/internal/ping", _ping),
        Route("/queue/status", sdapi_state.queue_status),
        Route("/v1/models", openai.models),
        Route("/v1/models/{id:path}", openai.model),
        Route("/v1/images/generations", openai.generations, methods=["POST"]),
        Route("/v1/images/edits", openai.edits, methods=["POST"]),
        *(Route(f"/controlnet/{name}", end) for name, end in _CONTROL.items()),
        Route("/controlnet/detect", control_api.detect, methods=["POST"]),
        *(Route(f"/sdapi/v1/{name}", end) for name, end in _GET.items()),
        *(Route(f"/sdapi/v1/{name}", end, methods=["POST"]) for name, end in _POST.items()),
    ]


async def _page(request: Request) -> Response:
    return FileResponse(_PAGE)


async def _health(request: Request) -> Response:
    jobs = state_of(request).jobs
    return Answer({"status": "ok", "busy": jobs.running is not None, "waiting": jobs.waiting})


async def _ping(request: Request) -> Response:
    """Whether there is a server, as pages and programs ask the web UI."""
    return Answer({})


class Server(uvicorn.Server):
    """Ends what is drawn before it waits for the requests that are waiting for it."""

    def __init__(self, app: Starlette, *, verbose: bool = False) -> None:
        level = "info" if verbose else "warning"
        super().__init__(uvicorn.Config(app, log_level=level, access_log=verbose))
        self._state: State = app.state.sdcore

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._state.jobs.close()
        await super().shutdown(sockets)
