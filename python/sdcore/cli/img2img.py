"""`sdcore img2img`: a picture and a prompt to PNG files."""

from __future__ import annotations

import argparse
from typing import Any

from sdcore.cli import settings, txt2img

NAME = "img2img"
HELP = "redraw a picture, or a part of it, from a prompt"
EXAMPLES = """\
examples:
  sdcore img2img -m model.safetensors -i photo.png "an oil painting" --strength 0.6
  sdcore img2img -m model.safetensors -i photo.png --mask mask.png "a red hat"
"""


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
    add("--depth-map", metavar="PATH", help="white where near, for models that draw by depth")
    txt2img.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    settings.take(args)
    arguments: dict[str, Any] = {"image": args.init_img}
    if args.strength is not None:
        arguments["strength"] = args.strength
    if args.mask is not None:
        arguments["mask_image"] = args.mask
    if args.depth_map is not None:
        arguments["depth_map"] = args.depth_map
    txt2img.draw(args, **arguments)
