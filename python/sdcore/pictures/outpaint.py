"""A picture made larger at its sides, where a model is to go on painting."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdcore.arguments import whole
from sdcore.errors import InvalidArgumentError
from sdcore.pictures.given import ImageLike, as_picture, opaque

__all__ = ["outpaint"]

_SIDES = ("left", "top", "right", "bottom")


def outpaint(
    image: ImageLike,
    *,
    left: int = 0,
    top: int = 0,
    right: int = 0,
    bottom: int = 0,
    overlap: int = 8,
) -> tuple[Image.Image, Image.Image]:
    """The picture with so many more pixels at its sides, and a mask that is white over them: what
    `pipe(…, image=…, mask_image=…, strength=1.0)` paints.

    The mask also covers `overlap` pixels of the picture beside them, so that no seam is left. The
    new sides hold the picture's nearest pixels, which a strength below 1 begins from. Raises
    InvalidArgumentError where no side grows.
    """
    picture = opaque(as_picture(image, "image"))
    more = [
        whole(pixels, f"outpaint: {side}", 0)
        for side, pixels in zip(_SIDES, (left, top, right, bottom), strict=True)
    ]
    if not any(more):
        raise InvalidArgumentError("[picture] outpaint: give left, top, right or bottom pixels")
    kept = [whole(overlap, "outpaint: overlap", 0) if grows else 0 for grows in more]
    width, height = picture.size
    if kept[0] + kept[2] >= width or kept[1] + kept[3] >= height:
        raise InvalidArgumentError(
            f"[picture] outpaint: an overlap of {overlap} leaves nothing of {width}x{height}"
        )
    rows, columns = (more[1], more[3]), (more[0], more[2])
    larger = np.pad(np.asarray(picture), (rows, columns, (0, 0)), mode="edge")
    mask = np.full(larger.shape[:2], 255, np.uint8)
    x, y = more[0], more[1]
    mask[y + kept[1] : y + height - kept[3], x + kept[0] : x + width - kept[2]] = 0
    return Image.fromarray(larger), Image.fromarray(mask)
