"""`sdcore export`: one file that a C or C++ program draws with."""

from __future__ import annotations

import argparse

from sdcore.cli import adapters, model, scheduler
from sdcore.webui import samplers

NAME = "export"
HELP = "write a model with all that a C or C++ program draws with"
EXAMPLES = """\
examples:
  sdcore export model.safetensors model.gguf --steps 8,20,50
  sdcore export model.safetensors model.gguf --sampler "DPM++ 2M Karras" --type q8_0
  sdcore export model.safetensors model.gguf --lora style.safetensors:0.8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=model.found, metavar="MODEL", help="a model file, or a diffusers folder")
    add("target", metavar="OUT", help="a .gguf file")
    add(
        "--steps",
        type=_steps,
        metavar="N,…",
        help="numbers of steps that the program can draw in (default: the model's own)",
    )
    add("--dtype", choices=("auto", "f32", "bf16"), default="auto", help="what it draws in")
    add("--sampler", "--sampling-method", metavar="NAME", help="as of txt2img")
    add("--schedule", type=scheduler.schedule, metavar="NAME", help="as of txt2img")
    add("--type", help="quantize the model's matrices, such as q8_0 or q4_K")
    add("--vae", metavar="PATH", help="a VAE to use in place of the model's own")
    add("--no-t5xxl", action="store_true", help="leave T5 out, which SD 3 can do without")
    adapters.add_lora(parser)
    add("-f", "--overwrite", action="store_true", help="replace OUT if it exists")
    add("-v", "--verbose", action="store_true", help="say more, with tracebacks of faults")


def run(args: argparse.Namespace) -> None:
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.pipelines.export import check_target

    check_target(args.target, overwrite=args.overwrite)  # before the model is read
    pipe = DiffusionPipeline.open(
        args.source,
        vae=args.vae,
        quantize=args.type,
        text_encoder_3=False if args.no_t5xxl else None,
    )
    if args.sampler is not None or args.schedule is not None:
        sampler, schedule = samplers.parted(args.sampler) if args.sampler else (None, None)
        pipe.scheduler = samplers.make(pipe.scheduler, sampler, args.schedule or schedule)
    adapters.apply_lora(pipe, args.lora, "auto")
    steps = args.steps or [pipe.default_steps]
    pipe.export(args.target, steps, args.dtype, overwrite=args.overwrite)
    print(args.target)


def _steps(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers such as 8,20") from None
