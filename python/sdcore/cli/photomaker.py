"""Flags for PhotoMaker and the pictures of a person, under stable-diffusion.cpp's names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcore.cli.arrays import PICTURES
from sdcore.errors import FileError, InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = [
    "KEYS",
    "add_arguments",
    "apply",
    "arguments",
    "check",
    "settings",
    "take",
]

_FLAGS = ("pm_id_image", "pm_id_images_dir", "pm_id_embed_path", "pm_style_strength")
_NAME = "PhotoMaker"  # what a picture's settings call it
KEYS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "PhotoMaker style strength": ("pm_style_strength", float),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("PhotoMaker").add_argument
    add(
        "--photo-maker",
        metavar="PATH",
        help='a PhotoMaker for SDXL: the prompt has a person, as in "a photo of a man img"',
    )
    add(
        "--pm-id-image",
        action="append",
        metavar="PATH",
        help="a picture of the person; may be repeated",
    )
    add("--pm-id-images-dir", metavar="FOLDER", help="pictures of the person: all that are in it")
    add(
        "--pm-id-embed-path",
        metavar="FILE.npy",
        help="of version 2: insightface's embeddings of the faces, a row a picture (with "
        "--face-model they are made of the pictures)",
    )
    add(
        "--pm-style-strength",
        type=float,
        metavar="PERCENT",
        help="of the steps that know the text alone: more is less of the person (default: 20)",
    )


def check(args: argparse.Namespace) -> None:
    """Raises InvalidArgumentError where what is given is not enough or too much."""
    given = [flag for flag in _FLAGS if vars(args)[flag] is not None]
    if args.photo_maker is None:
        if given:
            name = given[0].replace("_", "-")
            raise InvalidArgumentError(f"[photomaker] --{name} needs a --photo-maker")
        return
    if args.pm_id_image is None and args.pm_id_images_dir is None:
        raise InvalidArgumentError(
            "[photomaker] --photo-maker needs pictures of a person: --pm-id-image or "
            "--pm-id-images-dir"
        )
    strength = args.pm_style_strength
    if strength is not None and not 0 <= strength <= 100:
        raise InvalidArgumentError(
            f"[photomaker] --pm-style-strength is a percentage, 0 to 100, got {strength:g}"
        )


def apply(pipe: DiffusionPipeline, args: argparse.Namespace) -> None:
    """After LoRAs, which are put to work alone."""
    if args.photo_maker is not None:
        pipe.load_photomaker_adapter(args.photo_maker)


def arguments(args: argparse.Namespace, pipe: DiffusionPipeline) -> dict[str, Any]:
    """Of the pipeline, where it is the one that has PhotoMaker."""
    if getattr(pipe, "id_encoder", None) is None:
        return {}
    found: dict[str, Any] = {"input_id_images": _pictures(args)}
    if args.pm_id_embed_path is not None:
        found["id_embeds"] = _embeds(Path(args.pm_id_embed_path))
    if args.pm_style_strength is not None:
        steps = args.steps or pipe.default_steps
        found["start_merge_step"] = int(args.pm_style_strength / 100 * steps)
    return found


def _pictures(args: argparse.Namespace) -> list[Path]:
    named = [Path(path) for path in args.pm_id_image or []]
    if args.pm_id_images_dir is None:
        return named
    folder = Path(args.pm_id_images_dir)
    if not folder.is_dir():
        raise FileError(f"[photomaker] no such folder: '{folder}'")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise FileError(
            f"[photomaker] the folder '{folder}' has no pictures ({', '.join(PICTURES)})"
        )
    return [*named, *found]


def _embeds(path: Path) -> Any:
    import numpy as np  # late, for a quick --help

    try:
        return np.atleast_2d(np.asarray(np.load(path, allow_pickle=False), np.float32))
    except (OSError, ValueError, TypeError) as error:
        raise FileError(
            f"[photomaker] cannot read '{path}' as numpy's .npy file of numbers: {error}"
        ) from None


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What a picture is given to carry."""
    if args.photo_maker is None:
        return {}
    return {
        _NAME: Path(args.photo_maker).name,
        "PhotoMaker style strength": args.pm_style_strength,
    }


def take(args: argparse.Namespace, settings: Mapping[str, object]) -> None:
    """It has a name in a picture, and neither a path nor the pictures of the person."""
    if settings.get(_NAME) and args.photo_maker is None:
        raise InvalidArgumentError(
            f"[from-png] '{args.from_png}' was drawn with the PhotoMaker '{settings[_NAME]}': name "
            "its file with --photo-maker, and pictures of the person with --pm-id-image"
        )
