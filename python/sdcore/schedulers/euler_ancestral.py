"""Euler's method with noise added after every step: the posterior's, as in DDPM (k-diffusion's
"ancestral" sampling)."""

import itertools

from sdcore.schedulers.base import Config, Row, Table
from sdcore.schedulers.sigmas import (
    SigmaScheduler,
    ancestral,
    denoised,
    input_scale,
    moved,
    slope,
    walk,
)


def euler_ancestral_table(config: Config, steps: int) -> Table:
    levels = walk(config, steps)
    rows = []
    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        below, noise = ancestral(sigma, following)
        x0 = denoised(config, t, sigma)
        term = moved(slope(x0, sigma), below - sigma)
        rows.append(Row(t, x0, (term,), noise, input_scale=input_scale(sigma)))
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(levels.sigmas[:-1]))


class EulerAncestralDiscreteScheduler(SigmaScheduler, table=euler_ancestral_table):
    """First order; every step but the last adds noise."""
