"""Euler's method with noise added after every step: the posterior's, as in DDPM (k-diffusion's
"ancestral" sampling)."""

import math

from sdcore.schedulers.base import Config, Row, Table
from sdcore.schedulers.sigmas import SigmaScheduler, denoised, input_scale, moved, slope, walk


def euler_ancestral_table(config: Config, steps: int) -> Table:
    levels = walk(config, steps)
    rows = []
    for t, sigma, following in zip(*levels, levels.sigmas[1:], strict=False):
        # Steps below the next level, and adds noise up to it.
        noise = following * math.sqrt(1 - (following / sigma) ** 2)
        below = following**2 / sigma
        x0 = denoised(config, t, sigma)
        term = moved(slope(x0, sigma), below - sigma)
        rows.append(Row(t, x0, (term,), noise, input_scale=input_scale(sigma)))
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(levels.sigmas[:-1]))


class EulerAncestralDiscreteScheduler(SigmaScheduler, table=euler_ancestral_table):
    """First order; every step but the last adds noise."""
