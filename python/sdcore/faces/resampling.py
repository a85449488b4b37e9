"""Pictures resized and turned as OpenCV does it, which the networks for faces were trained with.

Both are bilinear in whole numbers (opencv, modules/imgproc: resize.cpp and imgwarp.cpp of version
4): shares of 1/2048 in one, places of 1/32 of a pixel in the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["resized", "warped"]

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]

_SHARES = 2048
_PARTS = 32  # of a pixel, to which a place is rounded
_FINE = 1024  # of a pixel, in which places are added up


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """`[h, w, 3]` in another size, without a filter, as cv2.resize: no smoother when smaller."""
    top, bottom, low = _between(pixels.shape[0], height)
    left, right, near = _between(pixels.shape[1], width)

    def row(y: Ints) -> Ints:
        whole = pixels[y]
        shares = near[:, None]
        sums: Ints = whole[:, left] * (_SHARES - shares) + whole[:, right] * shares
        return sums >> 4

    shares = low[:, None, None]
    upper, lower = ((_SHARES - shares) * row(top)) >> 16, (shares * row(bottom)) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _between(size: int, wanted: int) -> tuple[Ints, Ints, Ints]:
    """Of each new place the two old ones that it lies between, and the share of the second."""
    scale = size / wanted
    place = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = np.rint((place - first.astype(np.float32)) * np.float32(_SHARES)).astype(np.int64)
    return first.clip(0, size - 1), (first + 1).clip(0, size - 1), share


def warped(pixels: Pixels, matrix: NDArray[np.float64], side: int) -> Pixels:
    """`[side, side, 3]`: what lies at `matrix` (`[2, 3]`, from the old place to the new) of
    `[h, w, 3]`, and black beyond it, as cv2.warpAffine."""
    inverse = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))
    steps = np.arange(side)

    def places(row: NDArray[np.float64]) -> Ints:
        along = np.rint(row[0] * steps * _FINE)
        down = np.rint((row[1] * steps + row[2]) * _FINE)
        whole = (along + down[:, None]).clip(-(2**31), 2**31 - 1).astype(np.int64)
        parts: Ints = (whole + _FINE // _PARTS // 2) // (_FINE // _PARTS)
        return parts

    x, y = places(inverse[0]), places(inverse[1])
    left, top, fx, fy = x // _PARTS, y // _PARTS, x % _PARTS, y % _PARTS
    height, width = pixels.shape[:2]
    total = np.zeros((side, side, 3), np.int64)
    for dy, share_y in ((0, _PARTS - fy), (1, fy)):
        for dx, share_x in ((0, _PARTS - fx), (1, fx)):
            at_y, at_x = top + dy, left + dx
            inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            found = pixels[at_y.clip(0, height - 1), at_x.clip(0, width - 1)]
            total += found * (share_y * share_x * inside)[..., None]
    return ((total + _PARTS**2 // 2) // _PARTS**2).astype(np.uint8)
