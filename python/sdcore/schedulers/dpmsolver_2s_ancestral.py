"""DPM-Solver++ (2S) with noise added after every step: k-diffusion's `sample_dpmpp_2s_ancestral`
(Lu et al. 2022, "DPM-Solver++", algorithm 1)."""

import itertools
import math

from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.sigmas import (
    SigmaScheduler,
    ancestral,
    denoised,
    input_scale,
    timestep_of,
    training_sigmas,
    walk,
)

_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012}


def dpmsolver_2s_ancestral_table(config: Config, steps: int) -> Table:
    """Two rows a step: halfway to the level below the next, and from the beginning to there with
    x0 as it was seen halfway, then up with noise."""
    levels, training = walk(config, steps), training_sigmas(config)
    rows, at = [], []

    def add(t: float, sigma: float, terms: tuple[Term, ...], noise: float = 0.0) -> None:
        x0, scale = denoised(config, t, sigma), input_scale(sigma)
        rows.append(Row(t, x0, terms, noise, input_scale=scale))
        at.append(sigma)

    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        below, noise = ancestral(sigma, following)
        if below == 0:
            add(t, sigma, (Term(x0=1.0),))
            continue
        halfway = math.sqrt(sigma * below)
        add(t, sigma, (Term(x=halfway / sigma, x0=1 - halfway / sigma),))
        terms = (Term(x0=1 - below / sigma), Term(x=below / sigma))
        add(timestep_of(halfway, training), halfway, terms, noise)
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(at))


class DPMSolver2SAncestralScheduler(
    SigmaScheduler, table=dpmsolver_2s_ancestral_table, rows_a_step=2, defaults=_DEFAULTS
):
    """Second order, two evaluations a step; every step but the last adds noise."""
