"""The picture of a face's keypoints that InstantID's ControlNet was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sdcore.arguments import whole
from sdcore.errors import InvalidArgumentError

__all__ = ["face_keypoints"]

Ints = NDArray[np.int64]
Point = tuple[int, int]

_NOSE = 2
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
_BREADTH = 4  # pixels from a limb's middle to its side
_FAINT = 0.6  # the limbs' share of their colour
# Half a row of cv2.circle of radius 10, from its middle row outwards.
_CIRCLE = (10, 9, 9, 9, 9, 8, 8, 7, 6, 4, 0)
# OpenCV's sines of whole degrees have seven digits.
_SINES = np.sin(np.radians(np.arange(451))).round(7).astype(np.float32).astype(np.float64)
_ONE = 1 << 16  # a pixel, where OpenCV walks along an edge


def face_keypoints(kps: ArrayLike, size: tuple[int, int]) -> Image.Image:
    """What InstantID's ControlNet sees (`draw_kps` of its pipeline): the keypoints of a face in a
    picture of this width and height, in RGB on black.

    `kps` is `[5, 2]`, x and y in pixels of the left eye, the right eye, the nose and the left and
    the right corner of the mouth, as insightface gives them (`face["kps"]`): left and right of the
    picture. Every pixel is as OpenCV draws it, but for some at the picture's border where a limb
    crosses it: OpenCV cuts an outline there before it draws it.
    Raises InvalidArgumentError for another shape, and for points far outside the picture.
    """
    width, height = (whole(side, "face_keypoints: size", 1) for side in size)
    points = np.asarray(kps)
    if points.dtype != np.float32:  # insightface's, in which sums are rounded as there
        points = points.astype(np.float64)
    if points.shape != (len(_COLOURS), 2) or not np.isfinite(points).all():
        raise InvalidArgumentError(
            "[picture] face_keypoints: kps must be [5, 2] finite numbers, x and y of the eyes, "
            f"the nose and the corners of the mouth, got {list(points.shape)}"
        )
    sides = np.array([width, height])
    if (points < -sides).any() or (points > 2 * sides).any():
        raise InvalidArgumentError(
            f"[picture] face_keypoints: kps must be pixels of the picture, {width}x{height}, got "
            f"points from {points.min(0).tolist()} to {points.max(0).tolist()}"
        )
    pixels = np.zeros((height, width, 3), np.uint8)
    for i in (0, 1, 3, 4):
        faint = np.array(_COLOURS[i]) * _FAINT
        for y, left, right in _limb(points[i], points[_NOSE]):
            _paint(pixels, y, left, right, faint)
    for point, colour in zip(points, _COLOURS, strict=True):
        x, y = (int(value) for value in point)
        for i, half in enumerate(_CIRCLE):
            for row in (y - i, y + i):
                _paint(pixels, row, x - half, x + half, colour)
    return Image.fromarray(pixels)


def _paint(pixels: NDArray[np.uint8], y: int, left: int, right: int, colour: ArrayLike) -> None:
    """A row from `left` to `right`, as far as it lies in the picture."""
    if 0 <= y < len(pixels):
        pixels[y, max(left, 0) : max(right + 1, 0)] = np.asarray(colour, np.uint8)


def _limb(first: NDArray[Any], last: NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """Rows of an ellipse from point to point, as y and the x of both ends."""
    dx, dy = first - last
    half, angle = int((dx**2 + dy**2) ** 0.5 / 2), int(math.degrees(math.atan2(dy, dx)))
    x, y = (first + last) / 2
    outline = _ellipse((int(x), int(y)), half, angle % 360)
    top = min(y for _, y in outline)
    count = max(y for _, y in outline) - top + 1
    ends = np.full(count, np.iinfo(np.int64).max), np.full(count, np.iinfo(np.int64).min)
    for a, b in zip(outline, [*outline[1:], outline[0]], strict=True):
        for ys, xs in (_line(a, b), _edge(a, b)):
            np.minimum.at(ends[0], ys - top, xs)
            np.maximum.at(ends[1], ys - top, xs)
    for i, (left, right) in enumerate(zip(*ends, strict=True)):
        yield top + i, int(left), int(right)


def _ellipse(centre: Point, half: int, angle: int) -> list[Point]:
    """The corners of cv2.ellipse2Poly, one a degree."""
    cos, sin = _SINES[450 - angle], _SINES[angle]
    x, y = half * _SINES[450:89:-1], _BREADTH * _SINES[:361]
    xs = np.rint(centre[0] + x * cos - y * sin).astype(int)
    ys = np.rint(centre[1] + x * sin + y * cos).astype(int)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _line(a: Point, b: Point) -> tuple[Ints, Ints]:
    """The pixels of a line, y and x, as cv2.line has them: from left to right, and of two that are
    as near the first."""
    (x, y), (to_x, to_y) = sorted((a, b), key=lambda point: point[0])
    across, down, way = to_x - x, abs(to_y - y), 1 if to_y > y else -1
    steps = np.arange(max(across, down) + 1)
    longer, shorter = max(across, down, 1), min(across, down)
    beside = -((longer - 2 * shorter * steps) // (2 * longer))
    if down > across:
        return y + way * steps, x + beside
    return y + way * beside, x + steps


def _edge(a: Point, b: Point) -> tuple[Ints, Ints]:
    """Where cv2.fillConvexPoly ends a row between its corners: y and x, without the last row."""
    (x, y), (to_x, to_y) = sorted((a, b), key=lambda point: point[1])
    rows = to_y - y
    if not rows:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    slope = math.trunc((2 * _ONE * (to_x - x) + rows) / (2 * rows))  # as C divides
    steps = np.arange(rows)
    return y + steps, (x * _ONE + steps * slope + _ONE // 2) // _ONE
