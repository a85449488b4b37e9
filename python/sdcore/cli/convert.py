"""`sdcore convert`: any model file or folder into another kind."""

from __future__ import annotations

import argparse

from sdcore.cli.model import found
from sdcore.cli.rewriting import add_common_arguments, progress_bar

NAME = "convert"
HELP = "write a model file or folder as another kind"
EXAMPLES = """\
examples:
  sdcore convert model.ckpt model.safetensors --half
  sdcore convert model.safetensors folder          # as diffusers has it
  sdcore convert folder model.gguf
  sdcore convert model.safetensors unet.gguf --comfyui
  sdcore convert model.safetensors vae.safetensors --part vae
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from sdcore.checkpoint.conversion import DTYPES, FORMATS, PREDICTION_TYPES

    add = parser.add_argument
    add("source", metavar="IN", type=found, help="a model file, a diffusers folder, or 'pocket'")
    add("target", metavar="OUT", help="its ending says the kind; without one it is a folder")
    add("--format", choices=FORMATS, help="the kind, where the ending does not say it")
    add("--dtype", choices=DTYPES, help="store weights so (default: as they are)")
    add("--half", action="store_const", const="f16", dest="dtype", help="the same as --dtype f16")
    add("--ema", action="store_true", help="take the averaged weights of a training file")
    add("--prediction-type", choices=PREDICTION_TYPES, help="what the UNet predicts")
    add("--image-size", type=int, metavar="PIXELS", help="the size that the model draws best")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from sdcore.checkpoint.conversion import convert

    with progress_bar(args) as show:
        path = convert(
            args.source,
            args.target,
            format=args.format,
            dtype=args.dtype,
            ema=args.ema,
            prediction_type=args.prediction_type,
            image_size=args.image_size,
            for_comfyui=args.comfyui,
            part=args.part,
            variant=args.variant,
            overwrite=args.overwrite,
            progress=show,
        )
    print(path)
