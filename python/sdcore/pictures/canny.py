"""Edges of a picture, for the ControlNets that were trained on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.arguments import finite
from sdcore.errors import InvalidArgumentError
from sdcore.pictures.given import ImageLike, as_picture

__all__ = ["canny"]

Ints = NDArray[np.int16]  # none is above 2040
Mask = NDArray[np.bool_]

_FLAT = np.tan(np.pi / 8)  # of a direction that is nearer to level than to a diagonal


def canny(image: ImageLike, low_threshold: float = 100, high_threshold: float = 200) -> Image.Image:
    """White lines of one pixel on black: Canny's edges (1986), as OpenCV's `Canny` draws them.

    An edge begins where a colour changes by more than `high_threshold` and goes on while it does by
    more than `low_threshold`, in the units of Sobel's filter: a sharp step of 1 in 255 is 4.
    Raises InvalidArgumentError unless 0 <= low_threshold <= high_threshold.
    """
    low, high = finite(low_threshold, "low_threshold"), finite(high_threshold, "high_threshold")
    if not 0 <= low <= high:
        raise InvalidArgumentError(
            f"[picture] canny: low_threshold must be from 0 to high_threshold, got {low:g} and "
            f"{high:g}"
        )
    pixels = np.asarray(as_picture(image, "image").convert("RGB"), np.int16)
    across, down = _slopes(pixels)
    steepness = np.abs(across) + np.abs(down)
    ridge = _ridge(across, down, steepness)
    lines = _connected(ridge & (steepness > high), ridge & (steepness > low))
    return Image.fromarray(np.where(lines, 255, 0).astype(np.uint8)).convert("RGB")


def _slopes(pixels: Ints) -> tuple[Ints, Ints]:
    """Sobel's filter to the right and down, of the colour that changes most at a pixel."""
    p = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = p[:-2] + 2 * p[1:-1] + p[2:]
    columns = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    across, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    most = np.argmax(np.abs(across) + np.abs(down), axis=2)[..., None]
    return (
        np.take_along_axis(across, most, axis=2)[..., 0],
        np.take_along_axis(down, most, axis=2)[..., 0],
    )


def _ridge(across: Ints, down: Ints, steepness: Ints) -> Mask:
    """Where it is steeper than on both sides along the slope; of two alike, the first."""
    padded = np.pad(steepness, 1)
    h, w = steepness.shape

    def beside(y: int, x: int) -> Ints:
        return padded[1 + y : 1 + y + h, 1 + x : 1 + x + w]

    flat = np.abs(down) < _FLAT * np.abs(across)
    steep = _FLAT * np.abs(down) > np.abs(across)
    falls = (across ^ down) < 0
    level = (steepness > beside(0, -1)) & (steepness >= beside(0, 1))
    upright = (steepness > beside(-1, 0)) & (steepness >= beside(1, 0))
    diagonal = np.where(
        falls,
        (steepness > beside(-1, 1)) & (steepness > beside(1, -1)),
        (steepness > beside(-1, -1)) & (steepness > beside(1, 1)),
    )
    return np.where(flat, level, np.where(steep, upright, diagonal))


def _connected(sure: Mask, likely: Mask) -> Mask:
    """What is likely and touches, in the end, what is sure."""
    left = np.pad(likely & ~sure, 1).reshape(-1)
    width = likely.shape[1] + 2
    around = np.array([y * width + x for y in (-1, 0, 1) for x in (-1, 0, 1)])
    found = np.pad(sure, 1).reshape(-1)
    front = np.flatnonzero(found)
    while front.size:
        near = (front[:, None] + around).reshape(-1)
        front = np.unique(near[left[near]])
        left[front] = False
        found[front] = True
    return found.reshape(-1, width)[1:-1, 1:-1]
