"""What numbers among a caller's arguments must be."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from sdcore.errors import InvalidArgumentError

__all__ = ["finite", "whole"]


def finite(value: Any, name: str) -> float:
    """A number that is neither infinite nor none at all."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidArgumentError(f"[pipeline] {name} must be a finite number, got {value!r}")
    return float(value)


def whole(value: Any, name: str, low: int) -> int:
    """A whole number of at least `low`."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not fits or value < low:
        raise InvalidArgumentError(
            f"[pipeline] {name} must be a whole number >= {low}, got {value!r}"
        )
    return int(value)
