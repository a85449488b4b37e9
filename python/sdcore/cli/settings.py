"""The settings that a picture is given to carry, as A1111's web UI writes them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdcore import __version__
from sdcore.cli import adapters, control, family, from_png, model, photomaker
from sdcore.cli.from_png import LEVELS, OURS, ZERO_SNR, model_name
from sdcore.webui.settings import described, number

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline, PipelineOutput

__all__ = ["text"]

_TAKES_A_WHILE = 1 << 30  # bytes to hash


def text(out: PipelineOutput, pipe: DiffusionPipeline, args: argparse.Namespace, index: int) -> str:
    """What picture `index` is given to carry."""
    from sdcore.image_io import Infotext

    second = Path(args.refiner).resolve() if args.refiner else None
    tags, used = adapters.tags(args), out.parameters
    settings = described(
        out,
        pipe,
        model_name(model.path(args).resolve()),
        index=index,
        schedule=args.schedule,
        hires_schedule=args.hires_schedule,
        layer=args.clip_skip,
        refiner=model_name(second) if second else None,
        vae=Path(args.vae).name if args.vae else None,
        hashes=_hashes(out, args),
    ) | {
        "Hires prompt": used["hires_prompt"] + tags if used.get("hires_prompt") else None,
        "IP-Adapter": Path(args.ip_adapter).name if args.ip_adapter else None,
        "IP-Adapter scale": args.ip_adapter_scale if args.ip_adapter else None,
        **family.settings(args),
        **control.settings(args),
        **photomaker.settings(args),
        "Prediction type": args.prediction,
        "Shift": None if args.flow_shift is None else number(args.flow_shift),
        LEVELS: ZERO_SNR if args.zero_snr else None,
        "Weight type": args.type,
        "Version": f"{OURS}{__version__}",
    }
    return str(Infotext(used["prompt"] + tags, used["negative_prompt"], settings))


def _hashes(out: PipelineOutput, args: argparse.Namespace) -> dict[str, str | None]:
    """Those of the files, which are hashed now, once and for all: the pictures are drawn."""
    if args.no_hashing:
        return {}
    from sdcore.webui.hashes import hashes_of, short_hash  # late, for a quick --help

    files = {name: Path(vars(args)[name]) for name in ("refiner", "vae") if vars(args)[name]}
    for path in (model.path(args), *files.values()):
        large = path.is_file() and path.stat().st_size > _TAKES_A_WHILE
        if large and not args.quiet and short_hash(path, known=True) is None:
            print(f"hashing {path.name}, this once (not with --no-hashing)", file=sys.stderr)
    found = hashes_of(out, model.path(args), **files)
    from_png.compare_hash(args, found["Model hash"])
    return found
