"""`sdcore img2img`: a picture and a prompt to PNG files."""

from __future__ import annotations

import argparse
from typing import Any

from sdcore.cli import settings, txt2img
from sdcore.errors import InvalidArgumentError

NAME = "img2img"
HELP = "redraw a picture, or a part of it, from a prompt"
EXAMPLES = """\
examples:
  sdcore img2img -m model.safetensors -i photo.png "an oil painting" --strength 0.6
  sdcore img2img -m model.safetensors -i photo.png --mask mask.png "a red hat"
  sdcore img2img -m model.safetensors -i photo.png --outpaint left=128,right=128 "a wide beach"
"""
_SIDES = ("left", "top", "right", "bottom")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    picture = parser.add_argument_group("what to begin from")
    add = picture.add_argument
    add("-i", "--init-img", required=True, metavar="PATH", help="the picture")
    add(
        "--strength",
        "--denoising-strength",
        type=float,
        metavar="SHARE",
        help="share of the steps to make, 0 to 1: more changes more (default: 0.75)",
    )
    add("--mask", metavar="PATH", help="white where to redraw, black where to keep")
    add(
        "--outpaint",
        metavar="SIDES",
        help="paint on past the picture, so many pixels at each side: left=64,right=128 "
        "(strength 1 unless given)",
    )
    add("--depth-map", metavar="PATH", help="white where near, for models that draw by depth")
    txt2img.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    settings.take(args)
    arguments: dict[str, Any] = {"image": args.init_img}
    if args.outpaint is not None:
        arguments |= _outpainted(args)
    if args.mask is not None:
        arguments["mask_image"] = args.mask
    for name in ("strength", "depth_map"):
        if vars(args)[name] is not None:
            arguments[name] = vars(args)[name]
    txt2img.draw(args, **arguments)


def _outpainted(args: argparse.Namespace) -> dict[str, Any]:
    if args.mask is not None:
        raise InvalidArgumentError("[img2img] --outpaint makes a mask of its own: leave out --mask")
    from sdcore.pipelines import outpaint  # late, for a quick --help

    picture, mask = outpaint(args.init_img, **_sides(args.outpaint))
    return {"image": picture, "mask_image": mask, "strength": 1.0}


def _sides(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(","):
        side, _, pixels = part.partition("=")
        if side not in _SIDES or side in found or not pixels.isdecimal():
            raise InvalidArgumentError(
                "[img2img] --outpaint is pixels at left, top, right or bottom, such as "
                f"left=64,right=128; got '{text}'"
            )
        found[side] = int(pixels)
    return found
