"""Flags for finding the faces that adapters read, common to all commands that draw one request."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError, UnsupportedModelError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = ["add_arguments", "apply", "keypoints"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("faces").add_argument(
        "--face-model",
        metavar="FOLDER",
        help="insightface's antelopev2 or buffalo_l: InstantID, FaceID and PhotoMaker 2 then take "
        "pictures of faces in place of embeddings",
    )


def apply(pipe: DiffusionPipeline, args: argparse.Namespace) -> None:
    if args.face_model is None:
        return
    from sdcore.pipelines.faces import FacesPipeline  # late, for a quick --help

    if not isinstance(pipe, FacesPipeline):
        raise UnsupportedModelError(
            "[faces] --face-model is for models with a UNet, Stable Diffusion 1.x, 2.x and XL"
        )
    pipe.load_face_model(args.face_model)


def keypoints(path: str, size: tuple[int, int], pipe: DiffusionPipeline) -> Any:
    """Those `[5, 2]` of the largest face of a picture that is fitted into a size, width and height,
    with black at its sides where it is of another shape."""
    from PIL import ImageOps

    from sdcore.pictures.given import as_picture, opaque
    from sdcore.pipelines.faces import largest

    model = getattr(pipe, "face_model", None)
    if model is None:
        raise InvalidArgumentError(
            f"[faces] --face-keypoints '{path}' is a picture, and what finds the face in it is not "
            "there: give --face-model too"
        )
    picture = ImageOps.pad(opaque(as_picture(path, "--face-keypoints")), size)
    return largest(model.get(picture)).kps
