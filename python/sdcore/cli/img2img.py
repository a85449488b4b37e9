"""`sdcore img2img`: a picture and a prompt to files of pictures."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdcore.cli import from_png, txt2img
from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from PIL import Image

    from sdcore.pipelines import DiffusionPipeline

NAME = "img2img"
HELP = "redraw a picture, or a part of it, from a prompt"
EXAMPLES = """\
examples:
  sdcore img2img -m model.safetensors -i photo.png "an oil painting" --strength 0.6
  sdcore img2img -m model.safetensors -i photo.png --mask mask.png "a red hat"
  sdcore img2img -m model.gguf -i a.png --mask b.png "a hat" --control-net c.pth --control-inpaint
  sdcore img2img -m model.safetensors -i photo.png --outpaint left=128,right=128 "a wide beach"
"""
_RESIZE_MODES = ("stretch", "crop", "fill")  # of sdcore.pictures.fit, without waiting for NumPy
_TOO_LARGE = 2.25  # times the area that a model was trained at: 1.5 a side it still draws well
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
    add(
        "--resize-mode",
        choices=_RESIZE_MODES,
        help="what becomes of a picture of another shape than -W and -H: stretch it, crop it, or "
        "fill up the rest with its outermost pixels (default: stretch)",
    )
    add("--depth-map", metavar="PATH", help="white where near, for models that draw by depth")
    txt2img.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from_png.take(args)
    from sdcore.pictures.given import as_picture  # late, for a quick --help

    picture = as_picture(args.init_img, "image")
    arguments: dict[str, Any] = {"image": picture}
    if args.outpaint is not None:
        arguments |= _outpainted(args, picture)
    if args.mask is not None:
        arguments["mask_image"] = args.mask
    for name in ("strength", "resize_mode", "depth_map"):
        if vars(args)[name] is not None:
            arguments[name] = vars(args)[name]

    def ready(pipe: DiffusionPipeline) -> None:
        _take_size(args, picture.size, pipe)
        if args.control_inpaint is not None:
            args.control_inpaint = _condition(args, arguments, pipe)

    txt2img.draw(args, ready, **arguments)


def _take_size(args: argparse.Namespace, size: tuple[int, int], pipe: DiffusionPipeline) -> None:
    """The picture's own, or in its shape what the model draws well, where no size is asked for;
    sides that are painted on have theirs."""
    if args.outpaint is not None or (args.width, args.height) != (None, None):
        return
    from sdcore.pictures.fit import in_multiples, usual_size

    multiple, usual = pipe.size_multiple, pipe.default_size
    drawn = in_multiples(size, multiple)
    if math.prod(size) > _TOO_LARGE * math.prod(usual):
        drawn = usual_size(size, usual, multiple)
    args.width, args.height = drawn
    if drawn != size and not args.quiet:
        was, now = (f"{width}x{height}" for width, height in (size, drawn))
        print(f"size: {now}, of a picture of {was}; -W and -H say another", file=sys.stderr)


def _condition(
    args: argparse.Namespace, arguments: Mapping[str, Any], pipe: DiffusionPipeline
) -> Any:
    """What a ControlNet for inpainting sees, of the size that is drawn."""
    from sdcore.pictures.fit import in_multiples
    from sdcore.pictures.inpaint_condition import inpaint_condition

    image, sides = arguments["image"], (args.width, args.height)
    own = pipe.default_size if any(sides) else in_multiples(image.size, pipe.size_multiple)
    width, height = (asked or usual for asked, usual in zip(sides, own, strict=True))
    mode = args.resize_mode or "stretch"
    return inpaint_condition(image, arguments["mask_image"], width, height, mode)


def _outpainted(args: argparse.Namespace, picture: Image.Image) -> dict[str, Any]:
    if args.mask is not None:
        raise InvalidArgumentError("[img2img] --outpaint makes a mask of its own: leave out --mask")
    from sdcore.pictures.outpaint import outpaint

    larger, mask = outpaint(picture, **_sides(args.outpaint))
    return {"image": larger, "mask_image": mask, "strength": 1.0}


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
