"""What flags say of sampling, as a scheduler."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError
from sdcore.webui import samplers

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.schedulers import Scheduler

__all__ = ["PREDICTIONS", "apply", "schedule"]

# stable-diffusion.cpp's words, and diffusers'.
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
# diffusers' advice for models that begin from noise alone: the last timestep is one that is used.
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


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
        fields["prediction_type"] = PREDICTIONS[args.prediction]
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
