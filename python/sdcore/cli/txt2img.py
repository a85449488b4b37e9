"""`sdcore txt2img`: a prompt to files of pictures."""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcore.cli import (
    adapters,
    control,
    faces,
    family,
    from_png,
    hires,
    model,
    photomaker,
    refiner,
    sampling,
    scheduler,
    settings,
)
from sdcore.cli.output import check_outputs, make_folder, output_paths
from sdcore.errors import InvalidArgumentError
from sdcore.webui import samplers
from sdcore.webui.settings import clip_skip

if TYPE_CHECKING:
    from tqdm import tqdm

    from sdcore.pipelines import DiffusionPipeline, PipelineOutput, Stream

NAME = "txt2img"
HELP = "draw pictures from a prompt"
EXAMPLES = """\
examples:
  sdcore txt2img -m model.safetensors "a red circle"
  sdcore txt2img -m model.gguf -p "a cat" -n "blurry" --steps 30 --cfg-scale 7.5 -s 42
  sdcore txt2img -m folder "a cat" -W 768 -H 512 -b 4 -o cats/
  sdcore txt2img -m model.gguf "a cat" -b 4 -o "cat-%03d-{seed}.png"
  sdcore txt2img -m sdxl.gguf --refiner refiner.gguf "a cat" --steps 40
  sdcore txt2img -m model.gguf --ip-adapter ip.safetensors --ip-adapter-image photo.png "a cat"
  sdcore txt2img -m sdxl.gguf "a man img" --photo-maker photomaker-v1.bin --pm-id-image photo.png
  sdcore txt2img -m model.gguf "a house" --control-net canny.safetensors --control-image edges.png
  sdcore txt2img -m model.gguf "a (red:1.2) [cat:dog:0.4] in a [green|blue] hat"
  sdcore txt2img --diffusion-model sd3.gguf -m sd3-folder "a cat" --skip-layers 7,8,9
"""
_ABOUT_POCKET = (
    "no model given: this is pocket, the small one inside sdcore, which knows coloured shapes and "
    "simple landscapes; name another with -m"
)
_DEFAULT_SIZE = 512  # pixels a side, for guessing a file's size before the model is known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("words", nargs="?", metavar="PROMPT", help="what to draw (or -p)")
    add("-p", "--prompt", help="what to draw")
    add("-n", "--negative-prompt", metavar="TEXT", help="what to keep out")
    add(
        "--from-png",
        metavar="PATH",
        help="draw a picture again from the settings inside it; other flags go before them",
    )
    model.add_arguments(parser)
    _add_picture(parser.add_argument_group("picture"))
    sampling.add_arguments(parser)
    hires.add_arguments(parser)
    refiner.add_arguments(parser)
    family.add_arguments(parser)
    adapters.add_arguments(parser)
    adapters.add_ip_adapter(parser)
    control.add_arguments(parser)
    photomaker.add_arguments(parser)
    faces.add_arguments(parser)
    _add_output(parser.add_argument_group("output"))
    _add_machine(parser.add_argument_group("machine"))


def _add_picture(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-W", "--width", type=int, metavar="PIXELS", help="default: the model's own")
    add("-H", "--height", type=int, metavar="PIXELS", help="default: the model's own")
    add(
        "-b",
        "--batch-count",
        type=int,
        default=1,
        metavar="N",
        help="batches, drawn one after the other (default: 1)",
    )
    add(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="pictures of a batch, drawn at once: faster on GPUs, in more memory (default: 1)",
    )
    add(
        "-s",
        "--seed",
        type=int,
        help="seed of the first picture, each next one has one more; -1 draws one (default)",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="file, .png, .jpg or .webp, folder, or pattern with {seed} or %%03d (default: the "
        "prompt and the seed)",
    )
    add("--no-hashing", action="store_true", help="leave the hashes of files out of the settings")
    add("-f", "--overwrite", action="store_true", help="replace files that exist")
    add("--quiet", action="store_true", help="no progress bar, no seed and no warnings")
    add("-v", "--verbose", action="store_true", help="say more, with tracebacks of faults")


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dtype", choices=model.DTYPES, help="default: auto, the fastest; f16 on GPUs only")
    add("--vae-tiling", action="store_true", help="decode in less memory and more time")
    add("-t", "--threads", type=int, metavar="N", help="default: one a core")


def run(args: argparse.Namespace) -> None:
    from_png.take(args)
    draw(args)


def draw(
    args: argparse.Namespace,
    ready: Callable[[DiffusionPipeline], None] = lambda pipe: None,
    **arguments: Any,
) -> None:
    """`arguments` are what else the pipeline is called with; `ready` fills in flags that depend on
    it, once it is open."""
    prompt = _prompt(args)
    if args.sampler is not None:
        args.sampler, schedule = samplers.parted(args.sampler)
        args.schedule = args.schedule or schedule
    if args.hires_sampler is not None:
        args.hires_sampler, schedule = samplers.parted(args.hires_sampler)
        args.hires_schedule = args.hires_schedule or schedule
    if not model.is_given(args):
        take_pocket(args)
    args.dtype = args.dtype or "auto"
    control.check(args)
    photomaker.check(args)
    seeds = _seeds(args)
    paths = output_paths(args.output, prompt, seeds)
    pixels = (args.width or _DEFAULT_SIZE) * (args.height or _DEFAULT_SIZE)
    make_folder(args.output)
    check_outputs(paths, overwrite=args.overwrite, bytes_each=3 * abs(pixels))

    pipe = _open(args)
    ready(pipe)
    arguments |= adapters.arguments(args)
    left = iter(paths)
    for out in _drawn(pipe, prompt, seeds, args, arguments):
        for index, path in zip(range(len(out.images)), left, strict=False):
            _save(out, index, path, pipe, args)
            print(path, flush=True)


def _drawn(
    pipe: DiffusionPipeline,
    prompt: str,
    seeds: Sequence[int],
    args: argparse.Namespace,
    arguments: Mapping[str, Any],
) -> Iterator[PipelineOutput]:
    """Batch by batch. With a refiner all as far as the model draws them, and only then the refiner:
    the two are never in memory together."""
    second, size = refiner.open_pipeline(args), args.batch_size
    pipes = [pipe] if second is None else [pipe, second]
    family.check(args, *pipes)
    arguments = {**arguments, **family.arguments(args, *pipes)}
    batches = [seeds[i : i + size] for i in range(0, len(seeds), size)]
    if second is None:
        for batch in batches:
            yield _rest(_begun(pipe, prompt, batch, args, arguments), args)
        return
    arguments |= {"refiner": second, "refiner_switch": refiner.switch(args)}
    streams = []
    for batch in batches:
        streams.append(stream := _begun(pipe, prompt, batch, args, arguments))
        _steps(stream, args, last=sum(stream.stages[:-1])).close()
    pipe.release()
    for stream in streams:
        yield _rest(stream, args, sum(stream.stages[:-1]))


def take_pocket(args: argparse.Namespace) -> None:
    """The model when none is given: the one inside the package, in a build that has it."""
    from sdcore.pipelines import loading

    if not loading.POCKET.is_file():
        args.parser.error("no model given: name one with -m (none comes with this build of sdcore)")
    args.model = loading.POCKET
    if not getattr(args, "quiet", False):
        print(_ABOUT_POCKET, file=sys.stderr)


def _prompt(args: argparse.Namespace) -> str:
    if (args.words is None) == (args.prompt is None):
        what = "two prompts" if args.prompt is not None else "no prompt"
        args.parser.error(f"{what} given: write one, alone or after -p")
    prompt = args.words if args.prompt is None else args.prompt
    args.negative_prompt = family.text(args.negative_prompt or "")
    return family.text(prompt)


def _seeds(args: argparse.Namespace) -> list[int]:
    first = -1 if args.seed is None else args.seed
    for name, count in (("count", args.batch_count), ("size", args.batch_size)):
        if count < 1:
            raise InvalidArgumentError(f"[txt2img] --batch-{name} must be at least 1, got {count}")
    if first < -1:
        raise InvalidArgumentError(f"[txt2img] --seed must be at least 0, or -1, got {first}")
    # Drawn here, not by the pipeline, because the files' names are checked before it is opened.
    first = secrets.randbelow(2**32) if first == -1 else first
    return [first + i for i in range(args.batch_count * args.batch_size)]


def _open(args: argparse.Namespace) -> DiffusionPipeline:
    if args.sampler is not None:
        samplers.find(args.sampler)  # a wrong name is said before the model is read
    if args.hires_sampler is not None:
        samplers.find(args.hires_sampler)
    pipe = model.open_pipeline(args)
    from_png.compare_kernels(pipe, args)
    args.hires_scheduler = scheduler.apply(pipe, args)
    if args.vae_tiling:
        pipe.vae_tiling = True
    adapters.apply_ip_adapter(pipe, args)
    adapters.apply(pipe, args)
    control.apply(pipe, args)
    photomaker.apply(pipe, args)
    faces.apply(pipe, args)
    return pipe


def _begun(
    pipe: DiffusionPipeline,
    prompt: str,
    seeds: Sequence[int],
    args: argparse.Namespace,
    arguments: Mapping[str, Any],
) -> Stream:
    """A batch, before its first step."""
    given = {name: vars(args)[name] for name in (*sampling.OPTIONS, *hires.OPTIONS)}
    options = {name: value for name, value in given.items() if value is not None}
    if args.clip_skip is not None:
        options["clip_skip"] = clip_skip(pipe, args.clip_skip)
    stream = pipe.stream(
        prompt,
        args.negative_prompt or None,
        height=args.height,
        width=args.width,
        num_inference_steps=args.steps,
        guidance_scale=args.cfg_scale,
        num_images_per_prompt=len(seeds),
        seed=seeds[0],
        **options,
        **control.arguments(args, pipe),
        **photomaker.arguments(args, pipe),
        **arguments,
    )
    for seed in () if args.quiet else seeds:  # after what was given is checked
        print(f"seed: {seed}", file=sys.stderr, flush=True)
    return stream


def _steps(
    stream: Stream, args: argparse.Namespace, first: int = 0, last: int | None = None
) -> tqdm[Any]:
    """Makes those from `first` on, up to `last` or all that are left, under a bar."""
    from tqdm import tqdm

    bar = tqdm(
        total=sum(stream.stages),
        initial=first,
        bar_format="{n_fmt}/{total_fmt} |{bar:30}| {rate_inv_fmt}, {remaining} left{postfix}",
        disable=True if args.quiet else None,  # None: unless stderr is a terminal
    )
    for _ in itertools.islice(stream, None if last is None else last - first):
        bar.update()
    return bar


def _rest(stream: Stream, args: argparse.Namespace, first: int = 0) -> PipelineOutput:
    with _steps(stream, args, first) as bar:
        bar.set_postfix_str("decoding")
        return stream.result()


def _save(
    out: PipelineOutput, index: int, path: Path, pipe: DiffusionPipeline, args: argparse.Namespace
) -> None:
    from sdcore.image_io import save_picture

    text = settings.text(out, pipe, args, index)
    save_picture(out.images[index], path, text, overwrite=args.overwrite)
