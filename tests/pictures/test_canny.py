"""Edges, against the algorithm written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import sdcore


def slowly(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """OpenCV's Canny with a filter of 3 and the L1 norm (modules/imgproc/src/canny.cpp)."""
    h, w, _ = pixels.shape
    p = np.pad(pixels.astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    slope = np.zeros((h + 2, w + 2, 2), int)
    for y in range(h):
        for x in range(w):
            window = p[y : y + 3, x : x + 3]
            each = [
                ((kernel * window[..., c]).sum(), (kernel.T * window[..., c]).sum())
                for c in range(3)
            ]
            slope[y + 1, x + 1] = max(each, key=lambda s: abs(s[0]) + abs(s[1]))
    norm = np.abs(slope).sum(-1)
    state = np.zeros((h + 2, w + 2), int)  # 1: perhaps, 2: surely
    for y in range(1, h + 1):
        for x in range(1, w + 1):
            m, (dx, dy) = norm[y, x], slope[y, x]
            angle = np.degrees(np.arctan2(abs(dy), abs(dx)))
            if angle < 22.5:
                peak = m > norm[y, x - 1] and m >= norm[y, x + 1]
            elif angle > 67.5:
                peak = m > norm[y - 1, x] and m >= norm[y + 1, x]
            else:
                s = -1 if (dx < 0) != (dy < 0) else 1
                peak = m > norm[y - 1, x - s] and m > norm[y + 1, x + s]
            state[y, x] = int(peak) * (int(m > low) + int(m > high))
    stack = list(zip(*np.nonzero(state == 2), strict=True))
    while stack:
        y, x = stack.pop()
        for v in (y - 1, y, y + 1):
            for u in (x - 1, x, x + 1):
                if state[v, u] == 1:
                    state[v, u] = 2
                    stack.append((v, u))
    return state[1:-1, 1:-1] == 2


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
    picture = small.resize((50, 37), Image.Resampling.BICUBIC)
    low, high = [(40, 90), (100, 200), (0, 255), (150, 150)][seed]
    lines = sdcore.canny(picture, low, high)
    assert lines.mode == "RGB" and lines.size == picture.size
    want = slowly(np.asarray(picture), low, high)
    assert 20 < want.sum() < want.size / 2
    assert np.array_equal(np.asarray(lines), np.repeat(want[..., None] * np.uint8(255), 3, axis=2))


def test_a_square_and_nothing() -> None:
    pixels = np.zeros((40, 40), np.uint8)
    assert not np.asarray(sdcore.canny(pixels)).any()
    pixels[10:30, 10:30] = 255
    lines = np.asarray(sdcore.canny(pixels))[..., 0] > 0
    assert lines[15].sum() == lines[:, 15].sum() == 2  # one pixel for each side
    assert not lines[12:28, 12:28].any() and not lines[:8].any()


@pytest.mark.parametrize("thresholds", [(200, 100), (-1, 5), (0, float("inf"))])
def test_what_is_wrong(thresholds: tuple[float, float]) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match="threshold"):
        sdcore.canny(np.zeros((4, 4), np.uint8), *thresholds)
