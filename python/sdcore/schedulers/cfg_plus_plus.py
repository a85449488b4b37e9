"""CFG++: Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance". The clean
picture is the guided one, and the way back to noise is along what the model gives for the negative
prompt. So guidance is a share between the two, 0 to 1."""

import itertools

from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.ddim import DDIMScheduler, ddim_table
from sdcore.schedulers.euler import EulerDiscreteScheduler, check
from sdcore.schedulers.euler_ancestral import EulerAncestralDiscreteScheduler
from sdcore.schedulers.sigmas import (
    Walk,
    ancestral,
    denoised,
    final_level,
    input_scale,
    slope,
    walk,
)


def euler_cfg_pp_table(config: Config, steps: int) -> Table:
    """The paper's algorithm in Karras' terms: x' = x0 + following * slope of the negative."""
    check(config)
    return _table(config, walk(config, steps, final=final_level(config)), noisy=False)


def euler_ancestral_cfg_pp_table(config: Config, steps: int) -> Table:
    """The same down to the level that leaves room for the posterior's noise."""
    return _table(config, walk(config, steps), noisy=True)


def _table(config: Config, levels: Walk, noisy: bool) -> Table:
    rows = []
    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        below, noise = ancestral(sigma, following) if noisy else (following, 0.0)
        x0 = denoised(config, t, sigma)
        back = slope(x0, sigma)
        term = Term(x=below * back.x, x0=1, m=below * back.m)
        rows.append(Row(t, x0, (term,), noise, input_scale=input_scale(sigma)))
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(levels.sigmas[:-1]))


class DDIMCFGPPScheduler(DDIMScheduler, table=ddim_table):
    """The paper's own form: DDIM."""

    renoises_negative = True


class EulerCFGPPScheduler(EulerDiscreteScheduler, table=euler_cfg_pp_table):
    """First order, deterministic."""

    renoises_negative = True


class EulerAncestralCFGPPScheduler(
    EulerAncestralDiscreteScheduler, table=euler_ancestral_cfg_pp_table
):
    """First order; every step but the last adds noise."""

    renoises_negative = True
