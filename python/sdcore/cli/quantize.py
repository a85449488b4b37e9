"""`sdcore quantize`: a model as a smaller GGUF file."""

from __future__ import annotations

import argparse

from sdcore.cli.model import found
from sdcore.cli.rewriting import add_common_arguments, progress_bar

NAME = "quantize"
HELP = "write a model as a smaller GGUF file"
EXAMPLES = """\
examples:
  sdcore quantize model.safetensors model-q8_0.gguf --type q8_0
  sdcore quantize model.safetensors model-q8_0.gguf --type q8_0 --convolutions
  sdcore quantize folder model-q4_K.gguf --type q4_K --tensor-type 'ff\\.net=q5_K'
  sdcore quantize model.safetensors model-q3.gguf --type q3_K --imatrix model.imatrix.gguf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="IN", type=found, help="a model file, a diffusers folder, or 'pocket'")
    add("target", metavar="OUT", help="the .gguf file")
    add("--type", required=True, help="of the large matrices, such as q8_0, q4_K or iq3_s")
    add(
        "--tensor-type", action="append", default=[], type=_rule, metavar="PATTERN=TYPE",
        help="of tensors with this regular expression in their name in OUT; the first that fits",
    )  # fmt: skip
    add("--imatrix", metavar="FILE", help="which weights matter, as llama.cpp's GGUF")
    add(
        "--convolutions", action="store_true",
        help="quantize these too: a smaller file, and less memory, which stable-diffusion.cpp does "
        "not read",
    )  # fmt: skip
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from sdcore.checkpoint.imatrix import read_imatrix
    from sdcore.checkpoint.quantization import quantize_model

    with progress_bar(args) as show:
        path = quantize_model(
            args.source,
            args.target,
            args.type,
            tensor_types=args.tensor_type,
            importance=read_imatrix(args.imatrix) if args.imatrix else None,
            convolutions=args.convolutions,
            for_comfyui=args.comfyui,
            part=args.part,
            variant=args.variant,
            overwrite=args.overwrite,
            progress=show,
        )
    print(path)


def _rule(text: str) -> tuple[str, str]:
    pattern, equals, type = text.rpartition("=")
    if not equals or not pattern:
        raise argparse.ArgumentTypeError(f"must be PATTERN=TYPE, got '{text}'")
    return pattern, type
