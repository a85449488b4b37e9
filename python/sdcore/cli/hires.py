"""Flags for a second pass: the picture drawn again, larger."""

from __future__ import annotations

import argparse
from typing import Any

from sdcore.cli import family, scheduler
from sdcore.pictures.upscale import LATENT_MODES, UPSCALERS

__all__ = ["OPTIONS", "add_arguments"]

# Those that are the pipeline's arguments.
OPTIONS = (
    *("hires_scale", "hires_width", "hires_height", "hires_strength", "hires_steps"),
    *("hires_prompt", "hires_negative_prompt", "hires_guidance_scale", "hires_scheduler"),
    "hires_upscaler",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("second pass")
    add = group.add_argument
    add("--hires-scale", type=float, metavar="TIMES", help="draw again so many times larger")
    add(
        "--hires-width",
        type=int,
        metavar="PIXELS",
        help="or this large; of one side the other follows, and of two what sticks out is cut",
    )
    add("--hires-height", type=int, metavar="PIXELS", help="likewise")
    add(
        "--hires-upscaler",
        metavar="NAME",
        help=f"what enlarges the picture, {' or '.join(UPSCALERS)}, or its latents: "
        f"{', '.join(LATENT_MODES)} (default: Lanczos)",
    )
    add("--hires-strength", type=float, metavar="SHARE", help="of that pass (default: 0.7)")
    add("--hires-steps", type=int, metavar="N", help="of that pass (default: as --steps)")
    text: dict[str, Any] = {"metavar": "TEXT", "type": family.text}
    add("--hires-prompt", help="what it is told (default: the prompt)", **text)
    add("--hires-negative-prompt", help="and what to keep out (default: likewise)", **text)
    add(
        "--hires-cfg-scale",
        dest="hires_guidance_scale",
        type=float,
        metavar="SCALE",
        help="how closely it follows that (default: as --cfg-scale)",
    )
    add("--hires-sampler", metavar="NAME", help="its sampler (default: as --sampler)")
    add(
        "--hires-schedule",
        type=scheduler.schedule,
        metavar="NAME",
        help="and its noise levels (default: as --schedule, where its sampler has them)",
    )
