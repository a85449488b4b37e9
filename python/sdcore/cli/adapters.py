"""Flags for LoRA files, textual inversions and IP-Adapters, common to all commands that draw."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sdcore.cli.arrays import read_array
from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.pipelines.ip_adapter import IPAdapterPipeline

# stable-diffusion.cpp's words, and ours.
_MODES = {"auto": "auto", "immediately": "merge", "at_runtime": "side"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("LoRA and textual inversion")
    add = group.add_argument
    add_lora(group)
    add(
        "--lora-dir",
        "--lora-model-dir",
        metavar="FOLDER",
        help="where <lora:name:0.8> in a prompt looks for files",
    )
    add(
        "--lora-apply-mode",
        choices=_MODES,
        default="auto",
        help="into the weights, or beside them at run time; default: beside quantized ones only",
    )
    add(
        "--embd-dir",
        "--embeddings-dir",
        metavar="FOLDER",
        help="textual inversions: where the name of a file stands in a prompt, it is that word",
    )


def add_lora(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:WEIGHT]",
        help="a LoRA file or folder to apply (weight 1 if none is given); may be repeated",
    )


def add_ip_adapter(parser: argparse.ArgumentParser) -> None:
    """For commands that draw one request, which brings the picture."""
    group = parser.add_argument_group("IP-Adapter")
    add = group.add_argument
    add("--ip-adapter", metavar="PATH", help="an IP-Adapter: pictures like a picture")
    add(
        "--ip-adapter-image",
        action="append",
        metavar="PATH",
        help="the picture that it looks at; may be repeated",
    )
    add(
        "--ip-adapter-embeds",
        metavar="FILE.npy",
        help="in place of a picture what the adapter reads: for FaceID and InstantID insightface's "
        "embedding of a face (with --face-model they take a picture)",
    )
    add(
        "--ip-adapter-scale",
        "--ip-adapter-strength",
        type=float,
        metavar="SCALE",
        help="how much it makes of the picture, 0 to 1 (default: 1, of InstantID 0.8)",
    )
    add(
        "--clip_vision",
        "--clip-vision",
        "--image-encoder",
        metavar="PATH",
        help="its image encoder (default: the one in image_encoder/ beside it or in the model)",
    )


def apply(pipe: DiffusionPipeline, args: argparse.Namespace) -> None:
    pipe.lora_dir = args.lora_dir or pipe.lora_dir
    pipe.embedding_dir = args.embd_dir
    apply_lora(pipe, args.lora, _MODES[args.lora_apply_mode])


def apply_lora(pipe: DiffusionPipeline, given: Sequence[str], mode: str) -> None:
    weights = [_split(text) for text in given]
    for path, _ in weights:
        pipe.load_lora_weights(path)
    if not weights and mode == "auto":
        return
    pipe.set_adapters([Path(path).stem for path, _ in weights], [w for _, w in weights], mode)


def apply_ip_adapter(pipe: DiffusionPipeline, args: argparse.Namespace) -> None:
    if args.ip_adapter is None:
        return
    pipe.load_ip_adapter(args.ip_adapter, args.clip_vision)
    if args.ip_adapter_scale is not None:
        cast("IPAdapterPipeline", pipe).set_ip_adapter_scale(args.ip_adapter_scale)


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What a pipeline is called with."""
    given: dict[str, Any] = {}
    if args.ip_adapter_image:
        given["ip_adapter_image"] = args.ip_adapter_image
    if args.ip_adapter_embeds:
        embeds = read_array(args.ip_adapter_embeds, "--ip-adapter-embeds")
        given["ip_adapter_image_embeds"] = [embeds]
    return given


def tags(args: argparse.Namespace) -> str:
    """The flags as a prompt says them, so that a picture's settings hold them."""
    weights = [_split(text) for text in args.lora]
    return "".join(f" <lora:{Path(path).stem}:{weight:g}>" for path, weight in weights)


def _split(text: str) -> tuple[str, float]:
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        return path, float(weight)
    except ValueError:
        raise InvalidArgumentError(
            f"[lora] --lora is PATH or PATH:WEIGHT, got '{text}', where '{weight}' is no number"
        ) from None
