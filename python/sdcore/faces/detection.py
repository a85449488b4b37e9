"""SCRFD (Guo et al. 2021): where faces are, and their eyes, noses and mouths.

What its outputs mean, and every constant, is insightface's
(python-package/insightface/model_zoo/scrfd.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import CheckpointError, UnsupportedModelError
from sdcore.faces.resampling import resized
from sdcore.models.base import RunOptions
from sdcore.onnx import OnnxModel, OnnxNetwork

__all__ = ["Detections", "Detector", "suppressed"]

Floats = NDArray[np.float32]

STRIDES = (8, 16, 32)  # pixels from place to place, of each level
PLACES = 2  # faces that a place may be of
POINTS = 5
_MEAN, _STD = 127.5, 128.0  # of RGB
_OVERLAP = 0.4  # of two boxes, above which one is the other's face again


@dataclass(frozen=True)
class Detections:
    """Faces with the surest first: boxes `[n, 4]` (left, top, right, bottom), scores `[n]` and
    points `[n, 5, 2]`, in pixels of the picture. `best` is the highest score of any place."""

    boxes: Floats
    scores: Floats
    points: Floats
    best: float


class Detector:
    """`detector(pixels, size, threshold)` finds the faces of a picture `[h, w, 3]`."""

    def __init__(self, model: OnnxModel, size: int, options: RunOptions) -> None:
        """`size` is the side of the square that pictures are fitted into, for a network that does
        not bring its own."""
        shape = model.inputs[0].shape if model.inputs else ()
        own = shape[2:] if len(shape) == 4 else ()
        self.fixed = None not in own
        height, width = (side or size for side in own or (size, size))
        if len(model.outputs) != 3 * len(STRIDES):
            raise UnsupportedModelError(
                f"[faces] '{model.path}' has {len(model.outputs)} outputs: sdcore runs SCRFD with "
                f"keypoints, which has {3 * len(STRIDES)} (scrfd_10g_bnkps.onnx, det_10g.onnx)"
            )
        self._path, self._outputs = model.path, model.outputs
        network = OnnxNetwork(model, height, width, options)
        self._networks = {(height, width): network}
        self._first = network

    def __call__(self, pixels: NDArray[np.uint8], size: int, threshold: float) -> Detections:
        """A network of one size takes that in place of `size`."""
        height, width = self._first.size if self.fixed else (size, size)
        network = self._networks.get((height, width))
        if network is None:
            network = self._networks[height, width] = self._first.at(height, width)
        fitted, scale = letterboxed(pixels, height, width)
        blob = (fitted.astype(np.float32) - np.float32(_MEAN)) / np.float32(_STD)
        found = network(blob.transpose(2, 0, 1)[None])
        ends = [found[name] for name in self._outputs]
        return decoded(ends, height, width, scale, threshold, self._path)

    def release(self) -> None:
        for network in list(self._networks.values()):
            network.release()


def letterboxed(
    pixels: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[np.uint8], float]:
    """The whole picture in the upper left of a black one, and how much larger it is there."""
    rows, columns = pixels.shape[:2]
    ratio = rows / columns
    if ratio > height / width:
        inner = height, max(int(height / ratio), 1)
    else:
        inner = max(int(width * ratio), 1), width
    whole = np.zeros((height, width, 3), np.uint8)
    whole[: inner[0], : inner[1]] = resized(pixels, inner[1], inner[0])
    return whole, inner[0] / rows


def decoded(
    ends: list[Floats], height: int, width: int, scale: float, threshold: float, path: str
) -> Detections:
    """The faces that the outputs tell: scores, distances from a place to the sides of its box, and
    from it to the points, each for all levels."""
    if not all(np.isfinite(end).all() for end in ends):
        raise CheckpointError(f"[faces] '{path}' is damaged: it gives numbers that are none")
    levels = list(_levels(ends, height, width, threshold, path))
    boxes, scores, points = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    best = max(float(end.max(initial=0)) for end in ends[: len(STRIDES)])
    order = np.argsort(-scores, kind="stable")
    boxes, points = boxes[order] / np.float32(scale), points[order] / np.float32(scale)
    kept = suppressed(boxes)
    return Detections(boxes[kept], scores[order][kept], points[kept], best)


def _levels(
    ends: list[Floats], height: int, width: int, threshold: float, path: str
) -> Iterator[tuple[Floats, Floats, Floats]]:
    for i, stride in enumerate(STRIDES):
        rows, columns = height // stride, width // stride
        count = rows * columns * PLACES
        scores, sides, shifts = (ends[i + part * len(STRIDES)] for part in range(3))
        sizes = {"scores": (scores, 1), "boxes": (sides, 4), "points": (shifts, 2 * POINTS)}
        for name, (array, each) in sizes.items():
            if array.size != count * each or array.shape[-1] != each:
                raise UnsupportedModelError(
                    f"[faces] '{path}' gives {name} {list(array.shape)} for steps of {stride} "
                    f"pixels, and SCRFD [{count}, {each}]"
                )
        y, x = np.divmod(np.repeat(np.arange(rows * columns), PLACES), columns)
        at = (np.stack([x, y], 1) * stride).astype(np.float32)
        sure = scores.reshape(-1) >= threshold
        distances = sides.reshape(-1, 4)[sure] * np.float32(stride)
        at = at[sure]
        boxes = np.concatenate([at - distances[:, :2], at + distances[:, 2:]], 1)
        points = at[:, None] + shifts.reshape(-1, POINTS, 2)[sure] * np.float32(stride)
        yield boxes, scores.reshape(-1)[sure], points


def suppressed(boxes: Floats) -> NDArray[Any]:
    """Which of the boxes are kept: none that covers so much of a surer one, which comes before it.
    Pixels at both sides count, as in insightface."""
    left, top, right, bottom = boxes.T
    areas = (right - left + 1) * (bottom - top + 1)
    kept = []
    rest = np.arange(len(boxes))
    while len(rest):
        first, rest = rest[0], rest[1:]
        kept.append(first)
        width = np.minimum(right[first], right[rest]) - np.maximum(left[first], left[rest]) + 1
        height = np.minimum(bottom[first], bottom[rest]) - np.maximum(top[first], top[rest]) + 1
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        rest = rest[shared / (areas[first] + areas[rest] - shared) <= _OVERLAP]
    return np.array(kept, np.int64)
