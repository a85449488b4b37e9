"""A second model for the last part of the steps: SDXL's refiner, or any SDXL."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sdcore.cli import model, scheduler
from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = ["add_arguments", "open_pipeline", "switch"]

_SWITCH = 0.8  # of sdcore.pipelines.refined, without waiting for NumPy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("refiner")
    add = group.add_argument
    add(
        "--refiner",
        metavar="PATH",
        type=model.found,
        help="SDXL's refiner, or another SDXL: it draws the last part of the steps",
    )
    add(
        "--refiner-switch",
        type=float,
        metavar="SHARE",
        help=f"how much of the schedule comes before it, 0 to 1 (default: {_SWITCH})",
    )


def switch(args: argparse.Namespace) -> float:
    share = _SWITCH if args.refiner_switch is None else float(args.refiner_switch)
    if not 0 < share < 1:
        raise InvalidArgumentError(
            f"[refiner] --refiner-switch must lie between 0 and 1, got {share:g}"
        )
    return share


def open_pipeline(args: argparse.Namespace) -> DiffusionPipeline | None:
    """What goes on where the model stops, if anything is to. Parts that its file lacks are those of
    the model's file, and a VAE that is asked for is for both."""
    if args.refiner is None:
        return None
    switch(args)
    if getattr(args, "mask", None) is not None:
        raise InvalidArgumentError("[refiner] --refiner does not go with --mask")
    parts = model.others(args.refiner, args.model or args.diffusion_model)
    if args.vae is not None:
        parts["vae"] = args.vae
    second = model.open_as(args.refiner, args, **parts)
    scheduler.apply(second, args)
    if args.vae_tiling:
        second.vae_tiling = True
    return second
