"""`sdcore quantize`: a model as a smaller GGUF file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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
    from sdcore.checkpoint.folder import NETWORKS

    add = parser.add_argument
    add("source", metavar="IN", help="a model file, or a diffusers folder")
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
    add("--comfyui", action="store_true", help="the denoiser alone, as ComfyUI-GGUF reads it")
    add("--part", choices=NETWORKS, help="one network alone")
    add("--variant", metavar="NAME", help="the files of a folder to take, such as fp16")
    add("-f", "--overwrite", action="store_true", help="replace OUT if it exists")
    add("--quiet", action="store_true", help="no progress bar and no warnings")
    add("-v", "--verbose", action="store_true", help="say more, with tracebacks of faults")


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from sdcore.checkpoint.imatrix import read_imatrix
    from sdcore.checkpoint.quantization import quantize_model

    with tqdm(
        desc=Path(args.target).name,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=args.quiet or not sys.stderr.isatty(),
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

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
