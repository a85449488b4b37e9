"""DEIS: Zhang and Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator": the
noise as a polynomial of log(sigma), integrated over sigma."""

import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table
from sdcore.schedulers.discrete import bounds
from sdcore.schedulers.dpmsolver_multistep import FEW_STEPS, even_flow
from sdcore.schedulers.multistep import exponential_integrals, merged, noise_terms
from sdcore.schedulers.sigmas import SigmaScheduler, Walk, flow_walk, scaled_walk

_DEFAULTS = {
    "solver_order": 2,
    "algorithm_type": "deis",
    "solver_type": "logrho",
    "lower_order_final": True,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
}


def deis_table(config: Config, steps: int, *, begin: int = 0) -> Table:
    if config.solver_order not in (1, 2, 3):
        raise InvalidArgumentError(
            f"[deis] solver_order must be from 1 to 3, got {config.solver_order!r}"
        )
    levels = level_walk(config, steps)
    rows = []
    for i, t in enumerate(levels.timesteps[begin:], begin):
        order = _order(config, levels, i, i - begin)
        logs = [math.log(sigma) for sigma in levels.sigmas[i - order + 1 : i + 2][::-1]]
        signal = levels.signals[i + 1]
        # d sigma = exp(u) du with u = log(sigma).
        weights = signal * exponential_integrals(logs[1:], logs[1], logs[0], 1.0)
        terms = merged(signal / levels.signals[i], noise_terms(levels, i, list(weights)))
        x0, _ = levels.meaning(config, i)
        rows.append(Row(t, x0, terms, **bounds(config, clips=False)))
    return levels.table(rows, begin)


def level_walk(config: Config, steps: int) -> Walk:
    """Levels that end above no noise: a curve's last step stays where it is."""
    if config.use_flow_sigmas:
        levels = even_flow(config, steps)
        return flow_walk(config, steps, levels, levels[-1])
    return scaled_walk(config, steps)


def _order(config: Config, levels: Walk, i: int, known: int) -> int:
    left = len(levels.timesteps) - i
    few = config.lower_order_final and len(levels.timesteps) < FEW_STEPS
    return int(min(config.solver_order, known + 1, left if few else 3))


class DEISMultistepScheduler(SigmaScheduler, table=deis_table, defaults=_DEFAULTS):
    """Second order or third, one evaluation a step."""
