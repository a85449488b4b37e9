"""The devices that every test here runs on: the emulation where it is built in, and a GPU where
there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reference.common import TORCH_TYPES
from sdcore import InvalidArgumentError, _core

Array = np.ndarray[Any, Any]


def _is_there(device: str) -> bool:
    try:
        _core.Network(_core.Graph(), {}, device=device)
    except InvalidArgumentError:
        return False
    return True


DEVICES = [name for name in ("emulated", "emulated90", "cuda") if _is_there(name)]
# For what is the same on every architecture.
ONE_ARCHITECTURE = [name for name in DEVICES if name != "emulated90"]

# Errors of the stored result: one rounding to bf16 is at most 2^-9 of the value, to f16 2^-12.
STORE = {"f32": 2.0**-24, "bf16": 2.0**-9, "f16": 2.0**-12}
HALVES = ["bf16", "f16"]


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng([29, *key])


def normal(generator: np.random.Generator, *shape: int) -> Array:
    return generator.standard_normal(shape, dtype=np.float32)


def rounded(x: Array, dtype: str) -> Array:
    """The value that a kernel of this dtype sees, as float64."""
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor.to(TORCH_TYPES[dtype]).double().numpy()


def error(out: Array, ref: Array) -> float:
    return float(np.linalg.norm(out - ref) / max(np.linalg.norm(ref), 1e-30))


def bound(length: int, dtype: str) -> float:
    """A sum of `length` float32 products of random sign errs like a random walk of half ulps; what
    goes out as float32 was held in `dtype` before where something reads it."""
    return float(4 * np.sqrt(length) * 2.0**-24 + STORE[dtype])
