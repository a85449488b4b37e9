"""Linear multistep: Adams and Bashforth's method on unevenly spaced levels (k-diffusion's LMS)."""

import math

import numpy as np

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.sigmas import SigmaScheduler, denoised, input_scale, moved, slope, walk


def lms_table(config: Config, steps: int, *, order: int = 4, begin: int = 0) -> Table:
    """Integrates the polynomial through the last `order` slopes."""
    if order not in (1, 2, 3, 4):
        raise InvalidArgumentError(f"[lms] order must be from 1 to 4, got {order!r}")
    levels = walk(config, steps)
    rows: list[Row] = []
    slopes: list[Term] = []
    for i, t in enumerate(levels.timesteps[begin:], begin):
        sigma = levels.sigmas[i]
        x0 = denoised(config, t, sigma)
        slopes.insert(0, slope(x0, sigma))
        known = levels.sigmas[max(i - order + 1, begin) : i + 1][::-1]
        terms = [
            moved(along, weight, begin=1 if age == 0 else 0)
            for age, (along, weight) in enumerate(
                zip(slopes, _weights(known, sigma, levels.sigmas[i + 1]), strict=False)
            )
        ]
        rows.append(Row(t, x0, tuple(terms), input_scale=input_scale(sigma)))
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(levels.sigmas[begin:-1]))


def _weights(known: list[float], start: float, end: float) -> list[float]:
    """∫ of Lagrange's polynomials over the step; Gauss's rule of two points is exact to cubics."""
    middle, half = (start + end) / 2, (end - start) / 2
    points = middle + half / math.sqrt(3) * np.array([-1.0, 1.0])
    weights = []
    for j, own in enumerate(known):
        others = [other for k, other in enumerate(known) if k != j]
        values = np.prod([(points - other) / (own - other) for other in others], axis=0)
        weights.append(float(half * np.sum(values * np.ones(2))))
    return weights


class LMSDiscreteScheduler(SigmaScheduler, table=lms_table):
    """Fourth order, one evaluation a step."""
