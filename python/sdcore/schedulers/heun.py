"""Heun's method: Karras et al. 2022, algorithm 1."""

import itertools
import math

from sdcore.schedulers.base import Config, Row, Table, Term, number
from sdcore.schedulers.sigmas import SigmaScheduler, denoised, input_scale, moved, slope, walk

_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def heun_table(config: Config, steps: int) -> Table:
    """Two rows a step: to the next level, and again from the beginning with the mean of the slopes
    at both ends."""
    levels = walk(config, steps)
    clip = number(config, "clip_sample_range") if config.clip_sample else math.inf
    timesteps, sigmas = levels.timesteps, levels.sigmas

    def along(i: int) -> Term:
        if config.clip_sample:
            return Term(x=1 / sigmas[i], x0=-1 / sigmas[i])
        return slope(denoised(config, timesteps[i], sigmas[i]), sigmas[i])

    def row(i: int, *terms: Term) -> Row:
        x0 = denoised(config, timesteps[i], sigmas[i])
        return Row(timesteps[i], x0, terms, clip=clip, input_scale=input_scale(sigmas[i]))

    rows = []
    at = []
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        step = following - sigma
        rows.append(row(i, moved(along(i), step)))
        at.append(sigma)
        if following > 0:
            rows.append(row(i + 1, moved(along(i + 1), step / 2, 0), moved(along(i), step / 2)))
            at.append(following)
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(at))


class HeunDiscreteScheduler(SigmaScheduler, table=heun_table, rows_a_step=2, defaults=_DEFAULTS):
    """Second order, two evaluations a step."""
