"""Noise levels that are placed along a curve from the noisiest to the cleanest."""

import math

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config

Levels = NDArray[np.float64]

# The fields that ask for a curve, as diffusers names them.
FLAGS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}


def curve(config: Config, steps: int, top: float, bottom: float) -> Levels | None:
    """The curve that one of `FLAGS` asks for; None where none does."""
    curves = {
        "use_karras_sigmas": karras,
        "use_exponential_sigmas": exponential,
        "use_beta_sigmas": beta,
        "use_lu_lambdas": exponential,  # Lu et al. 2022, DPM-Solver: even in lambda = -log(sigma)
    }
    asked = [flag for flag in curves if config.get(flag)]
    if len(asked) > 1:
        raise InvalidArgumentError(f"[scheduler] {' and '.join(asked)} are both True; choose one")
    return curves[asked[0]](steps, top, bottom) if asked else None


def karras(steps: int, top: float, bottom: float, rho: float = 7.0) -> Levels:
    """Karras et al. 2022, equation 5, with their rho."""
    start, end = top ** (1 / rho), bottom ** (1 / rho)
    levels: Levels = (start + np.linspace(0, 1, steps) * (end - start)) ** rho
    return levels


def exponential(steps: int, top: float, bottom: float) -> Levels:
    """Even in the logarithm."""
    return np.exp(np.linspace(math.log(top), math.log(bottom), steps))


def shifted(levels: Levels, shift: float) -> Levels:
    """Esser et al. 2024, equation 23: larger pictures need more noise to be as hidden."""
    moved: Levels = shift * levels / (1 + (shift - 1) * levels)
    return moved


def beta(steps: int, top: float, bottom: float, shape: float = 0.6) -> Levels:
    """Lee et al. 2024, "Beta Sampling is All You Need": quantiles of a Beta(0.6, 0.6), dense at
    both ends."""
    quantiles = np.array([beta_quantile(p, shape) for p in 1 - np.linspace(0, 1, steps)])
    levels: Levels = bottom + quantiles * (top - bottom)
    return levels


def beta_quantile(p: float, shape: float) -> float:
    """Where a symmetric beta distribution has the share `p` below."""
    if p > 0.5:
        return 1 - beta_quantile(1 - p, shape)
    low, high = 0.0, 0.5
    while low < (middle := (low + high) / 2) < high:
        below = _beta_share(middle, shape) < p
        low, high = (middle, high) if below else (low, middle)
    return high if p > 0 else 0.0


def _beta_share(x: float, shape: float) -> float:
    """The share below x <= 1/2: the incomplete beta function as a power series (DLMF 8.17.7)."""
    term, total, n = 1.0, 1 / shape, 0
    while abs(term) > 1e-18:
        n += 1
        term *= x * (n - shape) / n
        total += term / (n + shape)
    return float(total * x**shape * math.gamma(2 * shape) / math.gamma(shape) ** 2)
