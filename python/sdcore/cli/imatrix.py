"""`sdcore imatrix`: which weights matter, from running prompts, for `sdcore quantize`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdcore.cli import model
from sdcore.errors import FileError, InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.checkpoint.imatrix import ImportanceMatrix

NAME = "imatrix"
HELP = "find out by running prompts which weights matter, for sdcore quantize"
EXAMPLES = """\
examples:
  sdcore imatrix -m model.safetensors -o model.imatrix.gguf "a cat" "a lighthouse at dawn"
  sdcore imatrix -m model.safetensors -o model.imatrix.gguf --prompts prompts.txt --steps 8
  sdcore imatrix -o both.imatrix.gguf --in-file one.imatrix.gguf --in-file other.imatrix.gguf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model.add_arguments(parser)
    add = parser.add_argument
    add("words", nargs="*", metavar="PROMPT", help="what to draw; each is run once")
    add("--prompts", metavar="FILE", help="more of them, one a line")
    add("-o", "--output", required=True, metavar="FILE", help="the .gguf file to write")
    add(
        "--in-file", action="append", default=[], metavar="FILE",
        help="a matrix to go on from; several are added up, with no prompts too",
    )  # fmt: skip
    add("-W", "--width", type=int, metavar="PIXELS", help="default: the model's own")
    add("-H", "--height", type=int, metavar="PIXELS", help="default: the model's own")
    add("--steps", type=int, metavar="N", help="default: the model's own")
    add("--cfg-scale", "--guidance-scale", type=float, metavar="SCALE", help="default: likewise")
    add("-n", "--negative-prompt", default="", metavar="TEXT", help="what to keep out")
    add("-s", "--seed", type=int, default=0, help="of the first prompt, then one more each")
    add("--dtype", choices=("auto", "f32", "bf16"), default="auto", help="default: the fastest")
    add("-t", "--threads", type=int, metavar="N", help="default: one a core")
    add("-f", "--overwrite", action="store_true", help="replace FILE if it exists")
    add("--quiet", action="store_true", help="no progress bar and no warnings")
    add("-v", "--verbose", action="store_true", help="say more, with tracebacks of faults")


def run(args: argparse.Namespace) -> None:
    from sdcore.checkpoint.imatrix import ImportanceMatrix, read_imatrix, write_imatrix

    prompts = [*args.words, *_lines(args.prompts)]
    if prompts and not model.is_given(args):
        args.parser.error("no model given: name one with -m")
    if not prompts and not args.in_file:
        args.parser.error("nothing to do: give prompts, or matrices with --in-file")
    target = Path(args.output)
    if target.suffix.lower() != ".gguf":
        raise InvalidArgumentError(
            f"[imatrix] importance matrices are .gguf files, got '{target.name}'"
        )
    if not target.resolve().parent.is_dir():
        raise FileError(f"[imatrix] there is no folder '{target.resolve().parent}'")
    if target.exists() and not args.overwrite:
        raise FileError(f"[imatrix] '{target}' exists already: -f replaces it")
    matrix = ImportanceMatrix()
    for path in args.in_file:
        matrix.merge(read_imatrix(path))
    if prompts:
        matrix.merge(_collected(prompts, args))
    write_imatrix(target, matrix)
    print(target)


def _lines(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"[imatrix] '{path}' is not UTF-8 text: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _collected(prompts: list[str], args: argparse.Namespace) -> ImportanceMatrix:
    from tqdm import tqdm

    from sdcore import checkpoint
    from sdcore.checkpoint.imatrix import ImportanceMatrix
    from sdcore.checkpoint.quantization import written_name
    from sdcore.pipelines.importance import collect_importance

    pipe = model.open_pipeline(args)
    opened = checkpoint.open(model.path(args))
    # Of parts in other files the quantized file will have nothing.
    components = [name for name in opened.components if name not in model.parts(args)]
    matrix = ImportanceMatrix()
    with tqdm(total=len(prompts), leave=False, unit="prompt",
              disable=args.quiet or not sys.stderr.isatty()) as bar:  # fmt: skip
        for index, prompt in enumerate(prompts):
            matrix.merge(
                collect_importance(
                    pipe,
                    [prompt],
                    lambda component, name: written_name(opened, component, name),
                    components,
                    negative_prompt=args.negative_prompt or None,
                    width=args.width,
                    height=args.height,
                    num_inference_steps=args.steps,
                    guidance_scale=args.cfg_scale,
                    seed=args.seed + index,
                )
            )
            bar.update()
    return matrix
