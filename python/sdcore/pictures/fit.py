"""Pictures made to be of a size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sdcore.pictures.given import opaque
from sdcore.pictures.masks import coverage

__all__ = [
    "RESIZE_MODES",
    "Size",
    "fitted",
    "fitted_mask",
    "in_multiples",
    "resized",
    "resized_numbers",
    "usual_size",
]

Array = NDArray[np.float32]
Size = tuple[int, int]  # width and height

# What becomes of a picture of another shape, in the order of the web UI's numbers: it is stretched,
# loses what sticks out, or is put into the middle, and its outermost pixels go on to the border.
RESIZE_MODES = ("stretch", "crop", "fill")


def resized(image: Image.Image, size: Size, mode: str = "stretch") -> Image.Image:
    """`mode` is one of RESIZE_MODES."""
    if mode == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if mode == "stretch":
        # First in width, then in height: since version 13 it depends on the sizes which of them
        # Pillow begins with, and so does its rounding.
        wide = image.resize((size[0], image.height), Image.Resampling.LANCZOS)
        return wide.resize(size, Image.Resampling.LANCZOS)
    times = min(new / old for new, old in zip(size, image.size, strict=True))
    inside = [max(round(side * times), 1) for side in image.size]
    pixels = np.asarray(image.resize((inside[0], inside[1]), Image.Resampling.LANCZOS))
    across, down = (new - old for new, old in zip(size, inside, strict=True))
    more = [(down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)]
    return Image.fromarray(np.pad(pixels, more[: pixels.ndim], mode="edge"))


def resized_numbers(numbers: Array, size: Size, mode: str) -> Array:
    """The same of `[h, w]` or `[h, w, c]`."""
    planes = np.atleast_3d(numbers).transpose(2, 0, 1)
    made = [np.asarray(resized(Image.fromarray(plane), size, mode)) for plane in planes]
    return made[0] if numbers.ndim == 2 else np.stack(made, axis=-1)


def in_multiples(size: Size, multiple: int) -> Size:
    """A size cut to sides that are multiples, as diffusers cuts a picture's."""
    width, height = (max(side // multiple, 1) * multiple for side in size)
    return width, height


def usual_size(size: Size, usual: Size, multiple: int) -> Size:
    """The area of `usual` in the shape of `size`, with sides that are multiples."""
    times = math.sqrt(math.prod(usual) / math.prod(size))
    width, height = (max(round(side * times / multiple), 1) * multiple for side in size)
    return width, height


def fitted(picture: Image.Image, width: int, height: int, mode: str = "stretch") -> Array:
    """[3, height, width] in [-1, 1], resized as diffusers does. What is transparent is white."""
    picture = resized(opaque(picture), (width, height), mode)
    pixels: Array = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255 * 2 - 1
    return pixels


def fitted_mask(picture: Image.Image, width: int, height: int, mode: str = "stretch") -> Array:
    """[1, height, width]: 1 where to paint, 0 elsewhere."""
    gray = resized(coverage(picture), (width, height), mode)
    return (np.asarray(gray, np.float32)[None] / 255 >= 0.5).astype(np.float32)
