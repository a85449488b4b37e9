"""`sdcore serve`: the HTTP APIs of A1111's web UI and OpenAI."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from sdcore.cli import adapters, control, model, txt2img
from sdcore.errors import FileError, InvalidArgumentError, SDCoreError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.server.control_models import ControlModels
    from sdcore.server.models import Models
    from sdcore.server.vaes import Vaes

NAME = "serve"
HELP = "answer the HTTP APIs of A1111's web UI and OpenAI"
EXAMPLES = """\
examples:
  sdcore serve -m model.safetensors
  sdcore serve --models-dir models/ --lora-dir loras/ --controlnet-dir controlnets/
  sdcore serve -m model.gguf --host 0.0.0.0 --api-key-file key.txt

docs/server.md says which endpoints there are, and what to tell the programs that call them.
"""

log = logging.getLogger("sdcore")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    add = group.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen: this machine alone unless given; 0.0.0.0 for its network",
    )
    add("--port", type=int, default=7860, metavar="N", help="default: 7860, the web UI's; 0: any")
    add("--api-key", metavar="KEY", help="clients must send it (as Bearer, or in Basic)")
    add("--api-key-file", metavar="PATH", help="the same from a file, a key a line")
    add(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="pages that may call it from a browser, such as https://lite.koboldai.net, or *; may "
        "be repeated",
    )
    add("--models-dir", metavar="FOLDER", help="models that clients may choose from besides -m")
    add(
        "--vae-dir",
        metavar="FOLDER",
        help="VAEs that clients may choose from besides a model's own",
    )
    model.add_arguments(parser)
    adapters.add_arguments(parser)
    group = parser.add_argument_group("ControlNet")
    group.add_argument(
        "--controlnet-dir",
        metavar="FOLDER",
        help="ControlNets and IP-Adapters that clients may choose from",
    )
    control.add_place(group)
    machine = parser.add_argument_group("machine")
    add = machine.add_argument
    add("--dtype", choices=model.DTYPES, default="auto", help="default: the fastest")
    add("--vae-tiling", action="store_true", help="decode in less memory and more time")
    add("-t", "--threads", type=int, metavar="N", help="default: one a core")
    add("--no-hashing", action="store_true", help="leave the hashes of files out of the settings")
    add("--quiet", action="store_true", help="no warnings")
    add("-v", "--verbose", action="store_true", help="say more: each request, and tracebacks")


def run(args: argparse.Namespace) -> None:
    _require_packages()
    from sdcore.server.app import Server, create_app
    from sdcore.server.guard import is_loopback

    keys = _keys(args)
    for folder in filter(None, (args.lora_dir, args.embd_dir)):
        if not Path(folder).is_dir():  # each request would find it missing
            raise FileError(f"[serve] no such folder: '{folder}'")
    models, controls, vaes = _models(args), _controls(args), _vaes(args)
    models.pipeline(models.all[0])  # what is wrong with it is said at once
    flags = {
        "api": True,
        "listen": not is_loopback(args.host),
        "port": args.port,
        "cors_allow_origins": ",".join(args.cors) or None,
        "no_hashing": args.no_hashing,
    }
    app = create_app(models, controls, vaes, keys=keys, origins=args.cors, flags=flags)
    with _listener(args.host, args.port) as listener:
        host, port = listener.getsockname()[:2]
        if not keys and not is_loopback(args.host):
            log.warning("[serve] others can reach %s, and no --api-key is set", host)
        address = f"[{host}]" if ":" in host else host
        print(f"listening on http://{address}:{port} with {models.all[0].title}", flush=True)
        # Ctrl-C and SIGTERM are how a server ends: it has stopped cleanly when they come here.
        with contextlib.suppress(KeyboardInterrupt):
            Server(app, verbose=args.verbose).run(sockets=[listener])
    app.state.sdcore.jobs.join()


def _require_packages() -> None:
    for name in ("starlette", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(name) is None:
            raise SDCoreError(f"[serve] {name} is not installed: pip install 'sdcore[server]'")


def _keys(args: argparse.Namespace) -> list[str]:
    keys = [] if args.api_key is None else [args.api_key]
    if args.api_key_file is not None:
        lines = Path(args.api_key_file).read_text(encoding="utf-8").split("\n")
        keys += [line.strip() for line in lines if line.strip()]
    given = args.api_key is not None or args.api_key_file is not None
    if given and not all(keys or [""]):  # an empty key would let everybody in
        raise InvalidArgumentError("[serve] the API key is empty")
    return keys


def _models(args: argparse.Namespace) -> Models:
    from sdcore.server.models import Model, Models

    if not model.is_given(args) and args.models_dir is None:
        txt2img.take_pocket(args)
    first = None
    if model.is_given(args):
        path = model.path(args).absolute()
        vae = None if args.vae is None else Path(args.vae)
        first = Model(path.name, path, lambda vae=None: _ready(_with_vae(args, vae), args), vae)
    folder = None if args.models_dir is None else Path(args.models_dir)

    def opener(path: Path, vae: Path | None = None) -> DiffusionPipeline:
        return _ready(model.open_as(os.fspath(path), args, vae=vae), args)

    return Models(first, folder, opener)


def _with_vae(args: argparse.Namespace, vae: Path | None) -> DiffusionPipeline:
    """The model of the flags, perhaps with another VAE."""
    if vae is not None:
        args = argparse.Namespace(**vars(args) | {"vae": os.fspath(vae)})
    return model.open_pipeline(args)


def _controls(args: argparse.Namespace) -> ControlModels:
    from sdcore.server.control_models import ControlModels

    return ControlModels(None if args.controlnet_dir is None else Path(args.controlnet_dir))


def _vaes(args: argparse.Namespace) -> Vaes:
    from sdcore.server.vaes import Vaes

    folder, first = (None if path is None else Path(path) for path in (args.vae_dir, args.vae))
    return Vaes(folder, first)


def _ready(pipe: DiffusionPipeline, args: argparse.Namespace) -> DiffusionPipeline:
    if args.vae_tiling:
        pipe.vae_tiling = True
    adapters.apply(pipe, args)
    return pipe


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidArgumentError(
            f"[serve] cannot listen on {host}, port {port}: {why}; --host and --port say where"
        ) from None
    # asyncio would not do so for a socket made elsewhere, and every answer waited for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
