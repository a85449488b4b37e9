"""DPM-Solver++ (SDE): k-diffusion's `sample_dpmpp_sde`, a step of second order through the middle
(Lu et al. 2022, "DPM-Solver++"), with ancestral noise.

The noise of both halves is one Brownian motion's: what was drawn to the middle is part of what is
added at the end. The motion is made of plain numbers one after another; k-diffusion's tree of them
(torchsde) draws others, so that a seed gives another picture there."""

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

_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012, "noise_sampler_seed": None}


def dpmsolver_sde_table(config: Config, steps: int) -> Table:
    """Two rows a step: to the middle, and from the beginning with what was seen there."""
    levels, training = walk(config, steps), training_sigmas(config)
    rows, at = [], []

    def add(t: float, sigma: float, terms: tuple[Term, ...], noise: float) -> None:
        x0, scale = denoised(config, t, sigma), input_scale(sigma)
        rows.append(Row(t, x0, terms, noise, input_scale=scale))
        at.append(sigma)

    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        if following == 0:
            add(t, sigma, (Term(x0=1.0),), 0.0)
            continue
        middle = math.sqrt(sigma * following)
        below, noise = ancestral(sigma, middle)
        add(t, sigma, (Term(x=below / sigma, x0=1 - below / sigma),), noise)
        below, noise = ancestral(sigma, following)
        # Time is sigma: the motion's way to the middle, and from there, of all of it.
        before = math.sqrt((sigma - middle) / (sigma - following))
        after = math.sqrt((middle - following) / (sigma - following))
        terms = (Term(x0=1 - below / sigma), Term(x=below / sigma, z=noise * before))
        add(timestep_of(middle, training), middle, terms, noise * after)
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(at))


class DPMSolverSDEScheduler(
    SigmaScheduler, table=dpmsolver_sde_table, rows_a_step=2, defaults=_DEFAULTS
):
    """Second order, two evaluations a step; adds noise at each but the last."""
