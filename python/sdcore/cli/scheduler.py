"""What flags say of sampling, as a scheduler."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError
from sdcore.webui import samplers

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

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


def apply(pipe: DiffusionPipeline, args: argparse.Namespace) -> None:
    """Gives the pipeline the scheduler that flags ask for."""
    levels, own = args.schedule, pipe.scheduler
    fields: dict[str, Any] = {}
    if args.flow_shift is not None:
        if "shift" not in own.defaults:
            raise InvalidArgumentError(
                "[txt2img] --flow-shift is for models of flow matching, such as Stable Diffusion 3"
            )
        pipe.scheduler = type(own).from_config(own.config, shift=args.flow_shift)
    if args.from_png is not None:
        levels = samplers.of_family(levels, pipe.family)
    if args.prediction is not None:
        fields["prediction_type"] = PREDICTIONS[args.prediction]
    if args.zero_snr:
        fields |= _ZERO_SNR
    if args.sampler is not None or levels is not None or fields:
        pipe.scheduler = samplers.make(pipe.scheduler, args.sampler, levels, fields)
