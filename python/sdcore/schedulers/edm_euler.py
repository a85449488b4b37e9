"""Euler's method for models trained as EDM: Karras et al. 2022, algorithm 2 without churn."""

import itertools
import math

from sdcore.schedulers.base import Config, Row, Table, choice, number
from sdcore.schedulers.edm import EDMScheduler, edm_walk, preconditioned
from sdcore.schedulers.sigmas import moved, slope


def edm_euler_table(config: Config, steps: int) -> Table:
    lowest = number(config, "sigma_max" if steps == 1 else "sigma_min")
    final = choice(config, "final_sigmas_type", {"zero": 0.0, "sigma_min": lowest})
    levels = edm_walk(config, steps, final)
    rows = []
    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        x0, scale = preconditioned(config, sigma)
        rows.append(Row(t, x0, (moved(slope(x0, sigma), following - sigma),), input_scale=scale))
    top = number(config, "sigma_max")
    return Table(tuple(rows), math.hypot(top, 1), tuple(levels.sigmas[:-1]))


class EDMEulerScheduler(EDMScheduler, table=edm_euler_table):
    """First order, deterministic."""
