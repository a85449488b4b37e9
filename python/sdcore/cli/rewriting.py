"""What the commands that write a model anew have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    from sdcore.checkpoint.folder import NETWORKS

    add = parser.add_argument
    add("--comfyui", action="store_true", help="the denoiser alone, as ComfyUI-GGUF reads it")
    add("--part", choices=(*NETWORKS, "controlnet"), help="one network alone")
    add("--variant", metavar="NAME", help="the files of a folder to take, such as fp16")
    add("-f", "--overwrite", action="store_true", help="replace OUT if it exists")
    add("--quiet", action="store_true", help="no progress bar and no warnings")
    add("-v", "--verbose", action="store_true", help="say more, with tracebacks of faults")


@contextmanager
def progress_bar(args: argparse.Namespace) -> Iterator[Callable[[int, int], None]]:
    """What takes the bytes that are done and all of them, and shows them on a terminal."""
    from tqdm import tqdm

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

        yield show
