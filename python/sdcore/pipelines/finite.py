"""Whether networks still give numbers: what is made of anything else is black, without a word."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import NumericalError

__all__ = ["require_finite"]


def require_finite(numbers: NDArray[np.float32], what: str) -> None:
    """Raises NumericalError."""
    if not np.isfinite(numbers).all():
        raise NumericalError(
            f"[pipeline] {what} is not all finite numbers: weights are damaged, a scale is far too "
            "large, or they overflow in the type of activations, which dtype='f32' (--dtype f32) "
            "would mend"
        )
