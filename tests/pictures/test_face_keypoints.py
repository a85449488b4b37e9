"""The picture of a face's keypoints, against OpenCV's algorithms written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

import sdcore

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
ONE = 1 << 16


def published(kps: np.ndarray, width: int, height: int) -> np.ndarray:
    """draw_kps of InstantID's pipeline_stable_diffusion_xl_instantid.py."""
    image = np.zeros([height, width, 3])
    for a, b in [[0, 2], [1, 2], [3, 2], [4, 2]]:
        x, y = kps[[a, b]][:, 0], kps[[a, b]][:, 1]
        length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        centre = int(np.mean(x)), int(np.mean(y))
        polygon = ellipse_to_poly(centre, (int(length / 2), 4), int(angle))
        fill_convex_poly(image, polygon, COLOURS[a])
    image = (image * 0.6).astype(np.uint8)
    for (x, y), colour in zip(kps, COLOURS, strict=True):
        circle(image, int(x), int(y), 10, colour)
    return image


# What follows is modules/imgproc/src/drawing.cpp of OpenCV 4, for whole coordinates.


def sine(degrees: int) -> float:
    return float(np.float32(round(math.sin(math.radians(degrees)), 7)))


def ellipse_to_poly(
    centre: tuple[int, int], axes: tuple[int, int], angle: int
) -> list[tuple[int, int]]:
    while angle < 0:
        angle += 360
    alpha, beta = sine(450 - angle), sine(angle)
    points: list[tuple[int, int]] = []
    for i in range(361):
        x, y = axes[0] * sine(450 - i), axes[1] * sine(i)
        point = (
            round(centre[0] + x * alpha - y * beta),
            round(centre[1] + x * beta + y * alpha),
        )
        if not points or points[-1] != point:
            points.append(point)
    return points


def put(image: np.ndarray, x: int, y: int, colour: tuple[int, int, int]) -> None:
    if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
        image[y, x] = colour


def line(image: np.ndarray, a: tuple[int, int], b: tuple[int, int], colour: tuple) -> None:
    """LineIterator of 8 neighbours, from left to right."""
    if b[0] < a[0]:
        a, b = b, a
    (x, y), dx, dy = a, b[0] - a[0], abs(b[1] - a[1])
    down = 1 if b[1] >= a[1] else -1
    steep = dy > dx
    if steep:
        dx, dy = dy, dx
    err = dx - 2 * dy
    for _ in range(dx + 1):
        put(image, x, y, colour)
        beside = err < 0
        err += -2 * dy + (2 * dx if beside else 0)
        x += 1 if not steep or beside else 0
        y += down if steep or beside else 0


def fill_convex_poly(image: np.ndarray, v: list[tuple[int, int]], colour: tuple) -> None:
    for a, b in zip([v[-1], *v], v, strict=False):
        line(image, a, b, colour)
    n, left = len(v), len(v)
    y = min(y for _, y in v)
    bottom = min(max(y for _, y in v), image.shape[0] - 1)
    first = next(i for i, point in enumerate(v) if point[1] == y)
    edges = [{"at": first, "way": way, "x": -ONE, "dx": 0, "end": y} for way in (1, n - 1)]
    while y <= bottom:
        for edge in edges:
            if y < edge["end"]:
                continue
            at = edge["at"]
            while left > 0:
                left -= 1
                to = (at + edge["way"]) % n
                rows = v[to][1] - y
                if rows > 0:
                    doubled = 2 * ONE * (v[to][0] - v[at][0]) + rows
                    edge["dx"] = abs(doubled) // (2 * rows) * (1 if doubled >= 0 else -1)
                    edge["x"], edge["end"], edge["at"] = v[at][0] * ONE, v[to][1], to
                    break
                at = to
            else:
                left -= 1
        if left < 0:
            break
        ends = sorted((edge["x"] + ONE // 2) >> 16 for edge in edges)
        for x in range(ends[0], ends[1] + 1):
            put(image, x, y, colour)
        for edge in edges:
            edge["x"] += edge["dx"]
        y += 1


def circle(image: np.ndarray, x: int, y: int, radius: int, colour: tuple) -> None:
    err, dx, dy, plus, minus = 0, radius, 0, 1, 2 * radius - 1
    while dx >= dy:
        for half, rows in ((dx, (y - dy, y + dy)), (dy, (y - dx, y + dx))):
            for row in rows:
                for column in range(x - half, x + half + 1):
                    put(image, column, row, colour)
        dy += 1
        err += plus
        plus += 2
        if err > 0:
            err -= minus
            dx -= 1
            minus -= 2


FACE = np.array([[70, 60], [130, 64], [104, 96], [78, 131], [126, 133]], np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    kps = (FACE - 100) @ rotation * rng.uniform(0.8, 1.3) + 100 + rng.normal(0, 4, (5, 2))
    kps = kps.astype([np.float32, np.float64][seed % 2])
    picture = sdcore.face_keypoints(kps, (190, 201))
    assert picture.mode == "RGB" and picture.size == (190, 201)
    want = published(kps, 190, 201)
    assert len(np.unique(want.reshape(-1, 3), axis=0)) == 10  # black, 4 limbs, 5 points
    assert np.array_equal(np.asarray(picture), want)


def test_points_at_one_place_and_outside() -> None:
    same = np.full((5, 2), 20)
    assert np.array_equal(sdcore.face_keypoints(same, (40, 41)), published(same, 40, 41))
    shift = np.array([200, 0])
    want = published(FACE + shift // 2, 400, 150)[:, 200:]
    assert np.array_equal(sdcore.face_keypoints(FACE - shift // 2, (200, 150)), want)


def test_limbs_are_faint_and_points_are_not() -> None:
    pixels = np.asarray(sdcore.face_keypoints(FACE.tolist(), (200, 200)))
    for (x, y), colour in zip(FACE.astype(int), COLOURS, strict=True):
        assert tuple(pixels[y, x]) == colour
    middle = ((FACE[0] + FACE[2]) / 2).astype(int)
    assert tuple(pixels[middle[1], middle[0]]) == (153, 0, 0)  # the eye's colour, not the nose's


@pytest.mark.parametrize(
    ("kps", "message"),
    [
        (FACE[:4], r"kps must be \[5, 2\] finite numbers, .* got \[4, 2\]"),
        (FACE * np.nan, "finite numbers"),
        (FACE * 10, r"kps must be pixels of the picture, 200x150, got points from \[700\.0, 600"),
    ],
)
def test_what_is_wrong(kps: np.ndarray, message: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=message):
        sdcore.face_keypoints(kps, (200, 150))
