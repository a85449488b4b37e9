"""DPM-Solver++ (3M SDE): k-diffusion's `sample_dpmpp_3m_sde`, the multistep method of third order
with noise. With lambda = -log(sigma), a step is h = lambda' - lambda long."""

import math

import numpy as np

from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.sigmas import SigmaScheduler, denoised, input_scale, walk

_DEFAULTS = {"beta_start": 0.00085, "beta_end": 0.012}


def dpmsolver_3m_sde_table(config: Config, steps: int, *, begin: int = 0) -> Table:
    levels = walk(config, steps)
    rows = []
    for i, t in enumerate(levels.timesteps[begin:], begin):
        sigma, following = levels.sigmas[i : i + 2]
        left = (following / sigma) ** 2  # noise makes up for forgetting x twice as fast
        first, *others = _weights(levels.sigmas[max(begin, i - 2) : i + 2])
        terms = (Term(x=left, x0=first), *(Term(x0=weight) for weight in others))
        x0, noise = denoised(config, t, sigma), following * math.sqrt(1 - left)
        rows.append(Row(t, x0, terms, noise, input_scale=input_scale(sigma)))
    sigmas = tuple(levels.sigmas[begin:-1])
    return Table(tuple(rows), levels.init_noise_sigma(config), sigmas)


def _weights(sigmas: list[float]) -> list[float]:
    """What each x0 has in the step between the last two levels, newest first."""
    *_, sigma, following = sigmas
    whole = 1 - (following / sigma) ** 2
    if following == 0 or len(sigmas) == 2:
        return [whole]
    h = math.log(sigma / following)
    first = 1 - whole / (2 * h)
    r0 = math.log(sigmas[-3] / sigma) / h
    slope = np.array([1, -1, 0]) / r0
    if len(sigmas) == 3:
        return list((np.array([whole, 0, 0]) + first * slope)[:2])
    r1 = math.log(sigmas[-4] / sigmas[-3]) / h
    bend = (slope - np.array([0, 1, -1]) / r1) / (r0 + r1)
    second = first / (2 * h) - 0.5
    return list(np.array([whole, 0, 0]) + first * (slope + r0 * bend) - second * bend)


class DPMSolver3MSDEScheduler(SigmaScheduler, table=dpmsolver_3m_sde_table, defaults=_DEFAULTS):
    """Third order, one evaluation a step; every step but the last adds noise."""
