"""A face turned, scaled and cut so that its eyes, nose and mouth lie where ArcFace expects them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.faces.resampling import warped

__all__ = ["SIDE", "TEMPLATE", "aligned", "similarity"]

SIDE = 112  # pixels
# insightface, python-package/insightface/utils/face_align.py, arcface_dst (once arcface_src): x and
# y of the eyes, the nose and the corners of the mouth.
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)


def aligned(pixels: NDArray[np.uint8], kps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`[112, 112, 3]` of a picture `[h, w, 3]` and five points `[5, 2]` in it, as norm_crop of
    insightface."""
    return warped(pixels, similarity(kps.astype(np.float64), TEMPLATE), SIDE)


def similarity(points: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[2, 3]`: the turn, scale and shift that bring points `[n, 2]` as near as can be to others,
    by least squares (Umeyama 1991). In the plane that is one complex factor."""
    z, w = (p[:, 0] + 1j * p[:, 1] for p in (points, to))
    around, about = z - z.mean(), w - w.mean()
    spread = (around.conj() @ around).real
    factor = (around.conj() @ about) / spread if spread > 0 else 0.0
    if factor == 0:
        raise InvalidArgumentError("[faces] the points of a face lie in one place")
    shift = w.mean() - factor * z.mean()
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    )
