"""Signed distances, in pixels, of everything that the pocket world can draw.

A distance takes offsets from the thing's centre (`y` grows downwards) and its radius, and is below
zero inside. Formulas follow Inigo Quilez, "2D distance functions" (iquilezles.org/articles), some
of them simplified: near an edge they are exact, which is all that smooth edges need.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def circle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.hypot(x, y) - r


def square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88 * r


def diamond(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return (np.abs(x) + np.abs(y) - 1.12 * r) * np.sqrt(0.5)


def triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    inner, y = 0.64 * r, y - 0.30 * r  # sits in the middle of its bounding box
    return np.maximum(y, np.sqrt(0.75) * np.abs(x) - 0.5 * y) - inner


def star(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return spikes(x, y - 0.06 * r, 1.14 * r, 5, 0.42)


def heart(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    x, y, half = np.abs(x), y + 0.06 * r, 0.61 * r
    lobe = np.sqrt(0.5) * half
    return np.minimum((x + np.abs(y)) * np.sqrt(0.5), np.hypot(x - lobe, y + lobe)) - half


def cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    x, y, thin = np.abs(x), np.abs(y), 0.32 * r
    return np.minimum(np.maximum(x - thin, y - r), np.maximum(y - thin, x - r))


def ring(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.76 * r) - 0.24 * r


def spikes(x: np.ndarray, y: np.ndarray, r: float, count: int, depth: float) -> np.ndarray:
    """A star of `count` points, one of them up; inner corners lie at `depth` of the radius."""
    half = np.pi / count
    angle = np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    # The line from the outer corner (r, 0) to the inner one.
    dx, dy = depth * r * np.cos(half) - r, depth * r * np.sin(half)
    return ((along - r) * dy - across * dx) / np.hypot(dx, dy)


def sun(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.minimum(circle(x, y, 0.68 * r), spikes(x, y, r, 12, 0.66))


def moon(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(circle(x, y, r), -circle(x - 0.42 * r, y + 0.1 * r, 0.8 * r))


def wall(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x) - 0.78 * r, np.abs(y - 0.42 * r) - 0.58 * r)


def roof(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(y + 0.12 * r, (np.abs(x) * 0.85 - y - r) * 0.76)


def door(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x + 0.3 * r) - 0.17 * r, np.abs(y - 0.66 * r) - 0.34 * r)


def window(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x - 0.34 * r), np.abs(y - 0.42 * r)) - 0.19 * r


def trunk(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x) - 0.13 * r, np.abs(y - 0.6 * r) - 0.4 * r)


def crown(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return circle(x, y + 0.3 * r, 0.66 * r)


def hills(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Everything below a rolling line; `x` moves the rolling, `r` is its height."""
    return (r * np.sin(x * 0.055) + 0.4 * r * np.sin(x * 0.13 + 1.0) - y) * 0.9


def sea(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return -y


SHAPES: dict[str, Distance] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "diamond": diamond,
    "star": star,
    "heart": heart,
    "cross": cross,
    "ring": ring,
}
