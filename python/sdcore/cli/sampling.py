"""Flags for how a model is asked: noise, steps, guidance, and what is spared."""

from __future__ import annotations

import argparse

from sdcore.cli import scheduler
from sdcore.webui.settings import RNGS

__all__ = ["OPTIONS", "add_arguments"]

# Those that are the pipeline's arguments.
OPTIONS = (
    *("rng", "subseed", "subseed_strength", "eta"),
    *("guidance_rescale", "guidance_start", "guidance_end", "pag_scale"),
    *("cache_interval", "cache_threshold", "token_merging_ratio"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("--steps", "--num-inference-steps", type=int, metavar="N", help="default: the model's own")
    add(
        "--clip-skip",
        type=int,
        metavar="N",
        help="the layer of CLIP to read, from the last, 1 (default: the model's own)",
    )
    scheduler.add_arguments(group)
    _add_noise(group)
    _add_guidance(group)
    _add_spared(group)


def _add_noise(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--rng",
        choices=RNGS,
        help="the device that seeds are known from: PyTorch's cpu (default), as in diffusers and "
        "ComfyUI, or cuda, as in the web UI",
    )
    add("--subseed", type=int, metavar="SEED", help="noise to mix in, for variations")
    add("--subseed-strength", type=float, metavar="SHARE", help="its share, 0 to 1 (default: 0)")
    add("--eta", type=float, metavar="ETA", help="noise that DDIM and TCD add, 0 to 1")


def _add_guidance(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--cfg-scale",
        "--guidance-scale",
        type=float,
        metavar="SCALE",
        help="how closely to follow the prompt; 1 ignores the negative prompt",
    )
    add(
        "--guidance-rescale",
        type=float,
        metavar="SHARE",
        help="how far guidance is kept from raising contrast, 0 to 1 (default: 0)",
    )
    add("--guidance-start", type=float, metavar="SHARE", help="no guidance before (default: 0)")
    add("--guidance-end", type=float, metavar="SHARE", help="and none after (default: 1)")
    add(
        "--pag-scale", type=float, metavar="SCALE", help="perturbed-attention guidance (default: 0)"
    )


def _add_spared(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--cache-threshold", type=float, metavar="CHANGE", help="spare steps that change less")
    add("--cache-interval", type=int, metavar="N", help="run all of a UNet every N steps only")
    add(
        "--token-merging-ratio",
        type=float,
        metavar="SHARE",
        help="merge alike tokens in a UNet's self-attention, 0 to 0.75 (default: 0)",
    )
