"""DPM-Solver-2 on sigmas: Lu et al. 2022, "DPM-Solver", algorithm 1, in the form of k-diffusion's
DPM2: the slope halfway, by the logarithm of the level, is taken for the whole step."""

import itertools
import math

from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.sigmas import (
    SigmaScheduler,
    denoised,
    input_scale,
    moved,
    slope,
    timestep_of,
    training_sigmas,
    walk,
)

_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012}


def kdpm2_table(config: Config, steps: int) -> Table:
    """Two rows a step: to halfway, and from the beginning with the slope there."""
    levels, training = walk(config, steps), training_sigmas(config)
    rows, at = [], []

    def add(t: float, sigma: float, distance: float, *before: Term) -> None:
        x0 = denoised(config, t, sigma)
        term = moved(slope(x0, sigma), distance, begin=0 if before else 1)
        rows.append(Row(t, x0, (term, *before), input_scale=input_scale(sigma)))
        at.append(sigma)

    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        halfway = math.sqrt(sigma * following)
        if config.use_karras_sigmas:
            t = float(round(t))  # diffusers' convention
        add(t, sigma, halfway - sigma)
        if following > 0:
            add(timestep_of(halfway, training), halfway, following - sigma, Term(x=1))
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(at))


class KDPM2DiscreteScheduler(SigmaScheduler, table=kdpm2_table, rows_a_step=2, defaults=_DEFAULTS):
    """Second order, two evaluations a step."""
