"""What callers give, as it is wanted, or an error that names it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError

__all__ = ["as_floats", "as_path", "finite", "nearest", "own_dtype", "whole"]

# PyTorch's names of dtypes.
_DTYPES = {"float32": "f32", "float16": "f16", "half": "f16", "bfloat16": "bf16"}


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


def as_path(value: Any, name: str) -> str | os.PathLike[str]:
    """A path; raises InvalidArgumentError."""
    if not isinstance(value, str | os.PathLike):
        raise InvalidArgumentError(f"{name} must be a path, got {value!r:.80}")
    return value


def as_floats(value: Any, name: str) -> NDArray[np.float32]:
    """An array of any shape; raises InvalidArgumentError."""
    if callable(getattr(value, "detach", None)):  # torch's, whose bfloat16 NumPy does not know
        value = value.detach().cpu().float()
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise InvalidArgumentError(
            f"{name} must be an array of numbers, got a {kind} that is none"
        ) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about a name that is not known: what it may have meant, if anything."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def own_dtype(dtype: Any) -> Any:
    """Our name of a dtype of PyTorch's, or of its name; what else there is as it is."""
    return _DTYPES.get(str(dtype).removeprefix("torch."), dtype)  # as torch writes them
