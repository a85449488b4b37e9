"""DPM-Solver++, multistep, for models trained as EDM: see `dpmsolver_multistep`."""

import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, choice, number
from sdcore.schedulers.discrete import bounds
from sdcore.schedulers.dpmsolver_multistep import solver_step
from sdcore.schedulers.edm import EDMScheduler, edm_walk, preconditioned

_DEFAULTS = {
    "solver_order": 2,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
}


def edm_dpmsolver_table(config: Config, steps: int, *, begin: int = 0) -> Table:
    final = {"zero": 0.0, "sigma_min": number(config, "sigma_min")}
    levels = edm_walk(config, steps, choice(config, "final_sigmas_type", final))
    noisy = choice(config, "algorithm_type", {"dpmsolver++": False, "sde-dpmsolver++": True})
    if config.solver_order not in ((1, 2) if noisy else (1, 2, 3)):
        raise InvalidArgumentError(
            f"[edm_dpmsolver] solver_order must be from 1 to {2 if noisy else 3}, got "
            f"{config.solver_order!r}"
        )
    rows = []
    for i, t in enumerate(levels.timesteps[begin:], begin):
        terms, noise = solver_step(config, levels, i, i - begin)
        x0, scale = preconditioned(config, levels.sigmas[i])
        limits = bounds(config, clips=False)
        rows.append(Row(t, x0, terms, noise, input_scale=scale, **limits))
    top = math.hypot(number(config, "sigma_max"), 1)
    return Table(tuple(rows), top, tuple(levels.sigmas[begin:-1]))


class EDMDPMSolverMultistepScheduler(EDMScheduler, table=edm_dpmsolver_table, defaults=_DEFAULTS):
    """Second order or third, one evaluation a step; `algorithm_type="sde-dpmsolver++"` adds
    noise."""
