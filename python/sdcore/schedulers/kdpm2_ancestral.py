"""DPM-Solver-2 with noise added after every step (k-diffusion's DPM2 a): see `kdpm2`."""

import itertools
import math

from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.sigmas import (
    SigmaScheduler,
    ancestral,
    denoised,
    input_scale,
    moved,
    slope,
    timestep_of,
    training_sigmas,
    walk,
)

_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012}


def kdpm2_ancestral_table(config: Config, steps: int) -> Table:
    """Two rows a step: halfway to the level below the next, and from the beginning to there with
    the slope halfway, then up with noise."""
    levels, training = walk(config, steps), training_sigmas(config)
    rows, at = [], []

    def add(t: float, sigma: float, term: Term, *before: Term, noise: float = 0.0) -> None:
        x0, scale = denoised(config, t, sigma), input_scale(sigma)
        rows.append(Row(t, x0, (term, *before), noise, input_scale=scale))
        at.append(sigma)

    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        below, noise = ancestral(sigma, following)
        halfway = math.sqrt(sigma * below)
        if config.use_karras_sigmas:
            t = float(round(t))  # diffusers' convention
        add(t, sigma, moved(slope(denoised(config, t, sigma), sigma), halfway - sigma))
        if following > 0:
            t = timestep_of(halfway, training)
            along = slope(denoised(config, t, halfway), halfway)
            add(t, halfway, moved(along, below - sigma, 0), Term(x=1), noise=noise)
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(at))


class KDPM2AncestralDiscreteScheduler(
    SigmaScheduler, table=kdpm2_ancestral_table, rows_a_step=2, defaults=_DEFAULTS
):
    """Second order, two evaluations a step; every step but the last adds noise."""
