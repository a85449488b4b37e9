"""Flags for what only some families take: further prompts, SDXL's sizes, SD 3's skipped layers.

Their values stay as they are written, so that a picture's settings say them in the same words.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = ["KEYS", "add_arguments", "arguments", "check", "settings", "text"]


@dataclass(frozen=True)
class _Flag:
    """`key` is what a picture's settings call it; `read` raises ValueError where a value is none;
    `off` flags have no value and mean False."""

    name: str
    argument: str  # of the pipeline
    key: str
    read: Callable[[str], Any]
    metavar: str
    help: str
    off: bool = False


def _size(text: str) -> tuple[int, int]:
    """As the pipeline wants it, height first."""
    width, height = map(int, text.lower().split("x"))
    return height, width


def _pair(text: str) -> tuple[int, int]:
    first, second = map(int, text.split(","))
    return first, second


def _numbers(text: str) -> list[int]:
    """stable-diffusion.cpp writes them in brackets."""
    return [int(part) for part in text.strip("[] ").split(",")]


_FLAGS = (
    _Flag("prompt-2", "prompt_2", "Prompt 2", str, "TEXT", "for the second text encoder"),
    _Flag("prompt-3", "prompt_3", "Prompt 3", str, "TEXT", "for T5, the third one of SD 3"),
    _Flag("negative-prompt-2", "negative_prompt_2", "Negative prompt 2", str, "TEXT", "likewise"),
    _Flag("negative-prompt-3", "negative_prompt_3", "Negative prompt 3", str, "TEXT", "likewise"),
    _Flag(
        "original-size",
        "original_size",
        "Original size",
        _size,
        "WIDTHxHEIGHT",
        "what SDXL is told the picture was made from (default: its size)",
    ),
    _Flag(
        "target-size",
        "target_size",
        "Target size",
        _size,
        "WIDTHxHEIGHT",
        "and what for (default: its size)",
    ),
    _Flag(
        "crop-top-left",
        "crops_coords_top_left",
        "Crop top left",
        _pair,
        "TOP,LEFT",
        "and where it was cut (default: 0,0)",
    ),
    _Flag(
        "aesthetic-score",
        "aesthetic_score",
        "Aesthetic score",
        float,
        "SCORE",
        "what SDXL's refiner is told (default: 6)",
    ),
    _Flag(
        "negative-aesthetic-score",
        "negative_aesthetic_score",
        "Negative aesthetic score",
        float,
        "SCORE",
        "and of the negative prompt (default: 2.5)",
    ),
    _Flag(
        "max-sequence-length",
        "max_sequence_length",
        "Max sequence length",
        int,
        "TOKENS",
        "for T5, at most 512 (default: the model's own)",
    ),
    _Flag(
        "skip-layers",
        "skip_guidance_layers",
        "Skip layers",
        _numbers,
        "LAYERS",
        "skip-layer guidance of SD 3.5, such as 7,8,9",
    ),
    _Flag(
        "slg-scale",
        "skip_layer_guidance_scale",
        "SLG scale",
        float,
        "SCALE",
        "its strength (default: 2.8)",
    ),
    _Flag(
        "skip-layer-start",
        "skip_layer_guidance_start",
        "SLG start",
        float,
        "SHARE",
        "share of the steps before it (default: 0.01)",
    ),
    _Flag(
        "skip-layer-end",
        "skip_layer_guidance_stop",
        "SLG end",
        float,
        "SHARE",
        "and at its end (default: 0.2)",
    ),
    _Flag(
        "img-cfg-scale",
        "image_guidance_scale",
        "Image CFG scale",
        float,
        "SCALE",
        "how closely models for editing keep to the picture (default: 1.5)",
    ),
    _Flag(
        "no-clean-caption",
        "clean_caption",
        "Clean caption",
        str,
        "",
        "give PixArt the prompt as it is, in small letters",
        off=True,
    ),
    _Flag(
        "no-resolution-binning",
        "use_resolution_binning",
        "Resolution binning",
        str,
        "",
        "draw with PixArt at the size itself, not at the nearest of its training",
        off=True,
    ),
)

# What a picture's settings call them, and the names under which flags lie.
KEYS: Mapping[str, str] = {flag.key: flag.argument for flag in _FLAGS}


def text(argument: str) -> str:
    """An argument that is not UTF-8 comes with surrogates, which nothing downstream can write."""
    return os.fsencode(argument).decode("utf-8", "replace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what only some models take")
    for flag in _FLAGS:
        kind: dict[str, Any] = {"metavar": flag.metavar, "type": text}
        if flag.off:
            kind = {"action": "store_const", "const": str(False)}
        group.add_argument(f"--{flag.name}", dest=flag.argument, help=flag.help, **kind)


def arguments(args: argparse.Namespace, *pipes: DiffusionPipeline) -> dict[str, Any]:
    """Those that are given and that one of the pipelines takes."""
    return {
        flag.argument: _value(flag, given)
        for flag in _FLAGS
        if (given := vars(args)[flag.argument]) is not None
        and any(flag.argument in pipe.extra_arguments for pipe in pipes)
    }


def check(args: argparse.Namespace, *pipes: DiffusionPipeline) -> None:
    """Raises InvalidArgumentError where a flag is given that none of the pipelines takes."""
    from sdcore.checkpoint import FAMILIES

    for flag in _FLAGS:
        given = vars(args)[flag.argument] is not None
        if given and not any(flag.argument in pipe.extra_arguments for pipe in pipes):
            titles = " or ".join(FAMILIES[pipe.family].title for pipe in pipes)
            raise InvalidArgumentError(f"[txt2img] --{flag.name} is not for {titles}")


def settings(args: argparse.Namespace) -> dict[str, str | None]:
    return {flag.key: vars(args)[flag.argument] for flag in _FLAGS}


def _value(flag: _Flag, given: str) -> Any:
    if flag.off:
        return given != str(False)
    try:
        return flag.read(given)
    except ValueError:
        raise InvalidArgumentError(
            f"[txt2img] --{flag.name} must be {flag.metavar}, got '{given:.80}'"
        ) from None
