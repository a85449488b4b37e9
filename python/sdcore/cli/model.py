"""Flags that say which model to open, common to all commands that run one. Those of parts in files
of their own have stable-diffusion.cpp's names."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcore.errors import SDCoreError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

# Flags, and the arguments of DiffusionPipeline.open; T5's depend on the family.
_PARTS = {"vae": "vae", "clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_T5 = "text_encoder_3"
_ALL = ("vae", "text_encoder", "text_encoder_2", _T5)

DTYPES = ("auto", "f32", "bf16", "f16")


class _OneVAE(argparse.Action):
    """The VAE, which has two flags and is given by one of them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string}: a VAE is given already, and one decodes")
        setattr(namespace, self.dest, values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "-m",
        "--model",
        metavar="PATH",
        type=found,
        help="a .safetensors, .gguf, .ckpt, .pt, .pth or .bin file, or a diffusers folder",
    )
    add(
        "--diffusion-model",
        metavar="PATH",
        help="the UNet or transformer alone; its other parts come from -m or the flags below",
    )
    add("--vae", metavar="PATH", action=_OneVAE, help="a VAE to use in place of the model's own")
    add(
        *("--taesd", "--tae"),
        dest="vae",
        metavar="PATH",
        action=_OneVAE,
        help="the same: a tiny autoencoder, which is many times as fast and draws less finely",
    )
    add("--clip_l", "--clip-l", metavar="PATH", help="the same for the first CLIP text encoder")
    add("--clip_g", "--clip-g", metavar="PATH", help="the second CLIP text encoder")
    add("--t5xxl", metavar="PATH", help="the T5 text encoder")
    add("--no-t5xxl", action="store_true", help="leave T5 out, which SD 3 can do without")
    add(
        "--t5xxl-tokenizer",
        metavar="PATH",
        help="its vocabulary, where its file has none: tokenizer.json, spiece.model or a folder",
    )
    add(
        "--config",
        metavar="FOLDER",
        help="a diffusers folder whose configs and scheduler count, where the file says them wrong",
    )
    add("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:1 (default: cpu)")
    add("--vae-on-cpu", action="store_true", help="keep the VAE on the CPU")
    add("--clip-on-cpu", action="store_true", help="keep the text and image encoders on the CPU")
    parser.set_defaults(control_net_cpu=False)  # of commands that open none (control.py)
    add(
        "--stream-weights",
        action="store_true",
        help="send weights through the GPU layer by layer (default: those that find no room there)",
    )
    add("--type", help="quantize the model's matrices while opening it, such as q8_0 or q4_K")


def found(path: str) -> str:
    """A path of a model; "pocket" is the one inside the package."""
    if path != "pocket":
        return path
    from sdcore.pipelines.loading import find_model  # late, for a quick --help

    return os.fspath(find_model(path))


def is_given(args: argparse.Namespace) -> bool:
    return args.model is not None or args.diffusion_model is not None


def path(args: argparse.Namespace) -> Path:
    """What to call the model."""
    return Path(args.diffusion_model or args.model)


def open_pipeline(args: argparse.Namespace) -> DiffusionPipeline:
    """Raises as `DiffusionPipeline.open`, with flags where that names its arguments."""
    others = {"vae": None} | parts(args)
    if args.config is not None:
        others["config"] = args.config
    return open_as(args.diffusion_model or args.model, args, **others)


def open_as(source: str, args: argparse.Namespace, **others: Any) -> DiffusionPipeline:
    """A model where and as the flags say that models run; `others` say what else it is made of."""
    from sdcore.pipelines import DiffusionPipeline  # late, for a quick --help

    try:
        return DiffusionPipeline.open(
            source,
            device=_devices(args, source),
            dtype=_dtypes(args, source),
            threads=args.threads,
            quantize=args.type,
            stream_weights=args.stream_weights or None,
            **others,
        )
    except SDCoreError as error:
        raise type(error)(in_flags(str(error), source)) from error


def _devices(args: argparse.Namespace, source: str) -> str | dict[str, str]:
    """The argument of DiffusionPipeline.open."""
    if not (args.vae_on_cpu or args.clip_on_cpu or args.control_net_cpu):
        return str(args.device)
    stay = {"vae": args.vae_on_cpu, "controlnet": args.control_net_cpu}

    def stays(name: str) -> bool:
        clip = name.startswith(("text_encoder", "image_encoder"))
        return bool(stay.get(name, args.clip_on_cpu and clip))

    return {name: "cpu" if stays(name) else args.device for name in _names(source)}


def _dtypes(args: argparse.Namespace, source: str) -> str | dict[str, str]:
    """Likewise. A picture may say one for each part of another model."""
    if isinstance(args.dtype, str):
        return args.dtype
    return {name: args.dtype[name] for name in _names(source) if name in args.dtype}


def _names(source: str) -> Sequence[str]:
    """Those that the parts of a model have."""
    from sdcore import checkpoint
    from sdcore.pipelines import DiffusionPipeline

    kind = checkpoint.open_model(source).kind
    assert kind is not None  # open_model saw to it
    family = DiffusionPipeline.registry.get(kind.family)
    return (*family.networks, *family.beside) if family is not None else ()


def parts(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of DiffusionPipeline.open for the parts that lie in other files."""
    if not is_given(args):
        return {}
    found: dict[str, Any] = {}
    if args.diffusion_model is not None and args.model is not None:
        found |= others(args.diffusion_model, args.model)
    given = {argument: vars(args)[flag] for flag, argument in _PARTS.items()}
    if args.t5xxl is not None or args.t5xxl_tokenizer is not None:
        t5 = _t5_of(args.diffusion_model or args.model)
        given |= {t5: args.t5xxl, t5.replace("text_encoder", "tokenizer"): args.t5xxl_tokenizer}
    if args.no_t5xxl:
        given[_t5_of(args.diffusion_model or args.model)] = False
    given = {argument: value for argument, value in given.items() if value is not None}
    if args.diffusion_model is not None and args.model is not None:
        found |= _vocabularies(args.model, given)
    return found | given


def others(denoiser: str, whole: str) -> dict[str, str]:
    """What the denoiser's file lacks and needs, and the whole model has."""
    from sdcore import checkpoint
    from sdcore.pipelines import DiffusionPipeline

    opened, there = checkpoint.open_model(denoiser), checkpoint.open(whole).components
    assert opened.kind is not None  # open_model saw to it
    family = DiffusionPipeline.registry.get(opened.kind.family)
    wanted = _ALL if family is None else family.networks
    return {
        name: whole
        for name in _ALL
        if name in wanted and name not in opened.components and name in there
    }


def _vocabularies(whole: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole model's, for text encoders in files of their own that bring none."""
    from sdcore import checkpoint

    found: dict[str, Any] = {}
    for name, path in checkpoint.open(whole).tokenizer_paths.items():
        file = parts.get(name.replace("tokenizer", "text_encoder"))
        if file:
            alone = checkpoint.open(file)
            if not (alone.tokenizer_paths or "tokenizer.ggml.tokens" in alone.metadata):
                found[name] = path
    return found


def _t5_of(source: str) -> str:
    """Which text encoder of the model is T5, or would be in a family that has it."""
    from sdcore import checkpoint
    from sdcore.models.t5 import T5EncoderModel
    from sdcore.pipelines import DiffusionPipeline

    kind = checkpoint.open(source).kind
    if kind is not None and kind.family == "t5":  # T5 itself, given as a model
        return "text_encoder"
    if kind is None or kind.family not in DiffusionPipeline.registry:
        return _T5
    networks = DiffusionPipeline.registry[kind.family].networks
    return next((name for name, network in networks.items() if network is T5EncoderModel), _T5)


def in_flags(message: str, source: str) -> str:
    """An error about a model's parts with flags where it names arguments."""
    try:
        t5 = _t5_of(source)
    except SDCoreError:  # which is what the message says
        t5 = _T5
    flags = {argument: flag for flag, argument in _PARTS.items()} | {"config": "config"}
    for name in (_T5, t5):
        flags |= {name: "t5xxl", name.replace("text_encoder", "tokenizer"): "t5xxl-tokenizer"}
    return re.sub(
        r"\b((?:vae|text_encoder|tokenizer|config)(?:_[23])?)=",
        lambda match: f"--{flags[match[1]]}" if match[1] in flags else match[0],
        message,
    )
