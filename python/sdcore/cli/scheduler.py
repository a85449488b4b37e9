"""Flags for a scheduler, and the one that they ask for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError
from sdcore.webui import samplers

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.schedulers import Scheduler

__all__ = ["add_arguments", "apply", "schedule"]

# stable-diffusion.cpp's words, and diffusers'.
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
# diffusers' advice for models that begin from noise alone: the last timestep is one that is used.
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def add_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--sampler",
        "--sampling-method",
        metavar="NAME",
        help=f"one of {', '.join(samplers.SAMPLERS)}, or as other programs call it, with its "
        "schedule or without: DPM++ 2M Karras (default: the model's own)",
    )
    add(
        "--schedule",
        type=schedule,
        metavar="NAME",
        help=f"noise levels: {', '.join(samplers.SCHEDULES)} (default: the model's own)",
    )
    add(
        "--flow-shift",
        type=float,
        metavar="SHIFT",
        help="how far the levels of SD 3 lean to noise (default: the model's own, 3)",
    )
    add(
        "--prediction",
        choices=_PREDICTIONS,
        help="what the model predicts, where its file does not say so",
    )
    add(
        "--zero-snr",
        action="store_const",
        const=True,
        help="begin from noise alone, for models trained so whose file does not say it",
    )


def schedule(title: str) -> str:
    """A flag's value."""
    try:
        return samplers.schedule(title)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def apply(pipe: DiffusionPipeline, args: argparse.Namespace) -> Scheduler | None:
    """Gives the pipeline the scheduler that flags ask for; returns that of a second pass, where it
    has one of its own."""
    levels = args.schedule
    fields: dict[str, Any] = {}
    own = pipe.scheduler
    if args.flow_shift is not None:
        if "shift" not in own.defaults:
            raise InvalidArgumentError(
                "[txt2img] --flow-shift is for models of flow matching, such as Stable Diffusion 3"
            )
        own = pipe.scheduler = type(own).from_config(own.config, shift=args.flow_shift)
    if args.from_png is not None:
        levels = samplers.of_family(levels, pipe.family)
    if args.prediction is not None:
        fields["prediction_type"] = _PREDICTIONS[args.prediction]
    if args.zero_snr:
        fields |= _ZERO_SNR
    if args.sampler is not None or levels is not None or fields:
        pipe.scheduler = samplers.make(own, args.sampler, levels, fields)
    if args.hires_sampler is None and args.hires_schedule is None:
        return None
    sampler = args.hires_sampler or args.sampler
    larger = args.hires_schedule
    if args.from_png is not None:
        larger = samplers.of_family(larger, pipe.family)
    if larger is None and levels is not None:  # the same, where this sampler has it
        larger = levels if samplers.takes(sampler or type(own).__name__, levels) else None
    return samplers.make(own, sampler, larger, fields)
