"""Flags for ControlNets and T2I-Adapters and the pictures that they see, under
stable-diffusion.cpp's names and diffusers'."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcore.cli import faces
from sdcore.cli.arrays import PICTURES, read_array
from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = ["KEYS", "add_arguments", "apply", "arguments", "check", "settings", "take"]

_STRENGTH = 0.9  # stable-diffusion.cpp's

# Flags with a value for all ControlNets or one each, and the arguments of the pipeline.
_EACH = {
    "control_mode": "control_mode",
    "control_context": "control_context",
    "control_mask": "control_mask",
    "control_strength": "controlnet_conditioning_scale",
    "control_start": "control_guidance_start",
    "control_end": "control_guidance_end",
}
_NETS = "ControlNet"  # what a picture's settings call them


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split()]


# What a picture's settings call the rest: flags, and how their values are read.
KEYS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "Control strength": ("control_strength", _numbers),
    "Control start": ("control_start", _numbers),
    "Control end": ("control_end", _numbers),
    "Control mode": ("control_mode", lambda text: [int(part) for part in text.split()]),
    "Control context": ("control_context", str.split),
    "Canny": ("canny", lambda text: text == str(True)),
    "Control inpaint": ("control_inpaint", lambda text: text == str(True)),
    "Guess mode": ("guess_mode", lambda text: text == str(True)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ControlNet and T2I-Adapter")
    _add_repeated(group)
    _add_single(group)
    add_place(group)


def _add_repeated(group: argparse._ArgumentGroup) -> None:
    """Flags with a value for each ControlNet."""

    def add(*names: str, help: str, **options: Any) -> None:
        group.add_argument(*names, action="append", help=help, **options)

    add(
        "--control-net",
        "--controlnet",
        metavar="PATH",
        help="a ControlNet or T2I-Adapter, a file or folder; may be repeated, as may those below",
    )
    add("--control-image", metavar="PATH", help="the picture that it sees: edges, depth, a pose")
    add(
        "--control-mask",
        metavar="PATH",
        help="of Stable Diffusion 3's for inpainting: white where to paint",
    )
    add(
        "--control-strength",
        "--controlnet-conditioning-scale",
        "--adapter-conditioning-scale",
        type=float,
        metavar="SCALE",
        help=f"how closely to follow it (default: {_STRENGTH}, of InstantID's 0.8)",
    )
    add(
        "--control-start",
        "--control-guidance-start",
        type=float,
        metavar="SHARE",
        help="not in the steps before (default: 0)",
    )
    add(
        "--control-end",
        "--control-guidance-end",
        "--adapter-conditioning-factor",
        type=float,
        metavar="SHARE",
        help="nor in those after (default: 1)",
    )
    add(
        "--control-mode",
        type=int,
        metavar="KIND",
        help="of a ControlNet-Union: 0 pose, 1 depth, 2 soft edges or scribble, 3 canny or lines, "
        "4 normals, 5 segments, 6 tile, 7 repaint; of Stability's for 3.5 large, where its file "
        "does not say it: 0 blurred, 1 canny, 2 depth",
    )
    add(
        "--control-context",
        choices=("text", "face"),
        help="what it reads beside its picture; face is what InstantID's was trained on (default: "
        "with InstantID's --ip-adapter the first reads the face)",
    )


def _add_single(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--face-keypoints",
        metavar="X,Y ...",
        help="in place of the first --control-image: the five points of a face, in pixels of the "
        "picture, or a .npy file of them (insightface's kps), or with --face-model a picture of "
        "the face; takes -W and -H",
    )
    group.add_argument(
        "--canny",
        action="store_const",
        const=True,
        help="let ControlNets see the edges of their pictures, as those for Canny's edges want",
    )
    group.add_argument(
        "--control-inpaint",
        action="store_const",
        const=True,
        help="in place of a --control-image, before the others: the picture of img2img, and -1 "
        "where its mask is white, as ControlNets for inpainting want",
    )
    group.add_argument(
        "--guess-mode",
        action="store_const",
        const=True,
        help="without a prompt: let it guess what its picture shows",
    )


def add_place(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--control-net-cpu", action="store_true", help="keep ControlNets on the CPU")


def check(args: argparse.Namespace) -> None:
    """Raises InvalidArgumentError where what is given is not enough."""
    nets, images = args.control_net or [], args.control_image or []
    keypoints = args.face_keypoints is not None
    inpaint = args.control_inpaint is not None
    if len(images) + (keypoints + inpaint) * bool(nets) != len(nets):
        what = "but for that of --face-keypoints " * keypoints
        what += "but for that of --control-inpaint " * inpaint
        raise InvalidArgumentError(
            f"[control] {what}each --control-net takes one --control-image, got {len(nets)} and "
            f"{len(images)}"
        )
    if keypoints and (args.width is None or args.height is None):
        raise InvalidArgumentError(
            "[control] --face-keypoints are pixels of the picture: say its size, -W and -H"
        )
    if inpaint and not (vars(args).get("mask") or vars(args).get("outpaint")):
        raise InvalidArgumentError(
            "[control] --control-inpaint is of a picture and its mask: it goes with img2img and "
            "--mask, or --outpaint"
        )
    for flag in (*_EACH, "face_keypoints", "canny", "control_inpaint", "guess_mode"):
        given = vars(args)[flag]
        name = flag.replace("_", "-")
        if given is not None and not nets:
            raise InvalidArgumentError(f"[control] --{name} needs a --control-net")
        if flag in _EACH and given is not None and len(given) not in (1, len(nets)):
            raise InvalidArgumentError(
                f"[control] --{name} is given once for all, or once for each --control-net, got "
                f"{len(given)} and {len(nets)}"
            )


def apply(pipe: DiffusionPipeline, args: argparse.Namespace) -> None:
    if not args.control_net:
        return
    from sdcore.pipelines.controlled import ControlledPipeline

    pipe.load_controlnet(args.control_net)
    if args.control_strength is None and isinstance(pipe, ControlledPipeline):
        scales = pipe.usual_control_scales(_given(args), _STRENGTH)
        args.control_strength = scales if len(set(scales)) > 1 else scales[:1]


def arguments(args: argparse.Namespace, pipe: DiffusionPipeline) -> dict[str, Any]:
    """Of the pipeline, where it is the one that has the ControlNets."""
    if not getattr(pipe, "controlnet", ()):
        return {}
    found = {"control_image": _seen(args, pipe), **_given(args)}
    if args.guess_mode:
        found["guess_mode"] = True
    return found


def _seen(args: argparse.Namespace, pipe: DiffusionPipeline) -> list[Any]:
    seen: list[Any] = list(args.control_image or [])
    if args.canny:
        from sdcore.pictures.canny import canny

        seen = [canny(image) for image in seen]
    if args.control_inpaint is not None:
        seen.insert(0, args.control_inpaint)
    if args.face_keypoints is not None:
        from sdcore.pictures.face_keypoints import face_keypoints

        size = args.width, args.height
        seen.insert(0, face_keypoints(_keypoints(args.face_keypoints, size, pipe), size))
    return seen


def _keypoints(text: str, size: tuple[int, int], pipe: DiffusionPipeline) -> Any:
    if text.endswith(".npy"):
        return read_array(text, "--face-keypoints")
    if Path(text).suffix.lower() in PICTURES:
        return faces.keypoints(text, size, pipe)
    try:
        numbers = [float(number) for number in text.replace(",", " ").split()]
        return list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise InvalidArgumentError(
            '[control] --face-keypoints is "X,Y X,Y X,Y X,Y X,Y", a .npy file or a picture, got '
            f"'{text}'"
        ) from None


def _given(args: argparse.Namespace) -> dict[str, Any]:
    values = {argument: vars(args)[flag] for flag, argument in _EACH.items()}
    return {name: v if len(v) > 1 else v[0] for name, v in values.items() if v}


def settings(args: argparse.Namespace) -> dict[str, str | None]:
    """What a picture is given to carry."""
    if not args.control_net:
        return {}

    def text(values: list[Any] | None) -> str | None:
        return " ".join(map(str, values)) if values else None

    return {
        _NETS: ", ".join(_name(path) for path in args.control_net),
        "Control strength": text(args.control_strength),
        "Control start": text(args.control_start),
        "Control end": text(args.control_end),
        "Control mode": text(args.control_mode),
        "Control context": text(args.control_context),
        "Canny": str(True) if args.canny else None,
        "Control inpaint": None if args.control_inpaint is None else str(True),
        "Guess mode": str(True) if args.guess_mode else None,
    }


def _name(path: str) -> str:
    file = Path(path).resolve()
    return file.name if file.is_dir() else file.stem


def take(args: argparse.Namespace, settings: Mapping[str, object]) -> None:
    """ControlNets have names in a picture, and neither paths nor the pictures that they saw."""
    if settings.get(_NETS) and not args.control_net:
        raise InvalidArgumentError(
            f"[from-png] '{args.from_png}' was drawn with the ControlNet '{settings[_NETS]}': name "
            "its file with --control-net, and the picture that it saw with --control-image"
        )
