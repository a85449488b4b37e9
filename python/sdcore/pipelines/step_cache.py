"""Leaving out evaluations of the model where it would hardly say anything new (Zhou et al. 2025,
EasyCache): how fast its output turned with its input tells how far it will have gone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepCache"]

Array = NDArray[np.float32]

# Shares of the steps between which any are left out: the first ones decide what is drawn, and the
# last one finishes it.
_BEGIN, _END = 0.15, 0.95


class StepCache:
    """What one run keeps. Each image is judged by itself, so that a picture of a batch is the
    picture made alone; the model is spared where all agree."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._x: Array | None = None  # of the last step
        self._out: Array | None = None
        # Of each image: outputs that tell of the picture that it is now to become, up to the two
        # that make a rate; the change of output by change of input; what is expected of it since
        # its last output; and whether it does without the model now.
        self._seen: NDArray[np.int64] = np.zeros(1, np.int64)
        self._rate: NDArray[np.float64] = np.zeros(1)
        self._drift: NDArray[np.float64] = np.zeros(1)
        self._left: NDArray[np.bool_] = np.zeros(1, bool)

    def forget(self, images: NDArray[np.bool_]) -> None:
        """Of these, another picture is asked for from here on."""
        self._seen = np.where(images, 0, self._seen)

    def enough(self, x: Array, index: int, steps: int) -> bool:
        """Whether no image needs the model at this step, at which it would be given x."""
        self._left = np.zeros(len(x), bool)
        if self._x is not None and self._out is not None:
            moved = _norms(x - self._x) / np.maximum(_norms(self._out), 1e-12)
            self._drift = self._drift + self._rate * moved
            inside = _BEGIN * steps <= index < _END * steps
            self._left = (self._seen > 1) & (self._drift < self._threshold) & inside
        return bool(self._left.all())

    def output(self, x: Array, out: Array | None) -> Array:
        """What the model gave, of which images that did not need it keep their last; None: it was
        spared."""
        if out is None:
            assert self._out is not None
            found = self._out
        else:
            if self._x is not None and self._out is not None:
                rate = _norms(out - self._out) / np.maximum(_norms(x - self._x), 1e-12)
                self._rate = np.where(self._left, self._rate, rate)
                found = np.where(self._left[:, None, None, None], self._out, out)
            else:
                found = out
            self._drift = np.where(self._left, self._drift, 0.0)
            self._seen = np.where(self._left, self._seen, np.minimum(self._seen + 1, 2))
        self._x, self._out = x, found
        return found


def _norms(x: Array) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(x.reshape(len(x), -1).astype(np.float64), axis=1)
    return norms
