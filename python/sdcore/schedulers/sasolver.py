"""SA-Solver: Xue et al. 2023, "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion
Models", algorithm 1. With lambda = -log(sigma), noise is added at the rate tau.

The corrector replaces the sample that a step ended with by a better one. Both begin with the same
multiple of the step's own sample and the same noise, so their difference is of x0's alone, as in
UniPC."""

import math

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.deis import level_walk
from sdcore.schedulers.discrete import bounds
from sdcore.schedulers.multistep import exponential_integrals
from sdcore.schedulers.sigmas import SigmaScheduler, Walk

_DEFAULTS = {
    "predictor_order": 2,
    "corrector_order": 2,
    "tau_func": None,
    "algorithm_type": "data_prediction",
    "lower_order_final": True,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "lambda_min_clipped": -math.inf,
    "variance_type": None,
}
Weights = NDArray[np.float64]


def sasolver_table(config: Config, steps: int, *, begin: int = 0) -> Table:
    _check(config)
    levels = level_walk(config, steps)
    rows = []
    for i, t in enumerate(levels.timesteps[begin:], begin):
        kept, noise = _decay(levels, i)
        weights = np.zeros(max(config.predictor_order + 1, config.corrector_order))
        _add(weights, _predicted(config, levels, i, i - begin))
        if i > begin:
            known = i - 1 - begin
            _add(weights, kept * _corrected(config, levels, i - 1, known))
            _add(weights[1:], -kept * _predicted(config, levels, i - 1, known))
        depth = max(int(np.flatnonzero(weights).max(initial=0)) + 1, 1)
        first, *others = (Term(x0=float(weight)) for weight in weights[:depth])
        x0, _ = levels.meaning(config, i)
        limits = bounds(config, clips=False)
        # diffusers draws at every step, whether it takes any noise or none.
        terms = (first._replace(x=kept), *others)
        rows.append(Row(t, x0, terms, noise, **limits, always_draws=True))
    return levels.table(rows, begin)


def _add(weights: Weights, others: Weights) -> None:
    weights[: len(others)] += others


def _tau(t: float) -> float:
    # The paper's choice: noise in the middle of the way.
    return 1.0 if 200 <= t <= 800 else 0.0


def _decay(levels: Walk, i: int) -> tuple[float, float]:
    """What is left of x after step i, and the noise that it adds."""
    tau, ratio = _tau(levels.timesteps[i]), levels.sigmas[i + 1] / levels.sigmas[i]
    signal, sigma = levels.signals[i + 1], levels.signals[i + 1] * levels.sigmas[i + 1]
    kept = ratio ** (tau**2 + 1) * signal / levels.signals[i]
    return kept, sigma * math.sqrt(1 - ratio ** (2 * tau**2))


def _predicted(config: Config, levels: Walk, i: int, known: int) -> Weights:
    """What each x0 has in step i, newest first."""
    order = min(config.predictor_order, known + 1, _left(config, levels, i))
    weights = _integrals(levels, i, range(i, i - order, -1))
    if order == 2:
        h, past = _lambda(levels, i + 1) - _lambda(levels, i), _lambda(levels, i - 1)
        shift = _rest(levels, i, h**2 / 2) / (_lambda(levels, i) - past)
        weights += [shift, -shift]
    return weights


def _corrected(config: Config, levels: Walk, i: int, known: int) -> Weights:
    """The same with x0 at the end of step i as the newest."""
    order = min(config.corrector_order, known + 2, _left(config, levels, i) + 1)
    weights = _integrals(levels, i, range(i + 1, i + 1 - order, -1))
    if order == 2:
        h = _lambda(levels, i + 1) - _lambda(levels, i)
        shift = _rest(levels, i, h**2 / 2) / h
        weights += [shift, -shift]
    return weights


def _left(config: Config, levels: Walk, i: int) -> int:
    return len(levels.timesteps) - i if config.lower_order_final else 4


def _lambda(levels: Walk, i: int) -> float:
    return -math.log(levels.sigmas[i])


def _integrals(levels: Walk, i: int, places: range) -> Weights:
    start, end = _lambda(levels, i), _lambda(levels, i + 1)
    rate = 1 + _tau(levels.timesteps[i]) ** 2
    nodes = [_lambda(levels, place) for place in places]
    # exp(rate * lambda) grows as the signal's share of the end does.
    around = [node - end for node in nodes]
    return levels.signals[i + 1] * rate * exponential_integrals(around, start - end, 0.0, rate)


def _rest(levels: Walk, i: int, half: float) -> float:
    """The paper's change of the second order's weights, exact for slow noise."""
    rate = 1 + _tau(levels.timesteps[i]) ** 2
    h = _lambda(levels, i + 1) - _lambda(levels, i)
    exact = (h * rate - 1 + math.exp(-rate * h)) / rate**2
    return levels.signals[i + 1] * rate * (half - exact)


def _check(config: Config) -> None:
    for field, most in (("predictor_order", 3), ("corrector_order", 4)):
        if config[field] not in range(1, most + 1):
            raise InvalidArgumentError(
                f"[sasolver] {field} must be from 1 to {most}, got {config[field]!r}"
            )
    for field in ("tau_func", "variance_type"):
        if config[field] is not None:
            raise InvalidArgumentError(f"[sasolver] {field} is not supported; leave it out")
    if config.algorithm_type != "data_prediction":
        raise InvalidArgumentError(
            f"[sasolver] algorithm_type {config.algorithm_type!r} is not supported; use "
            "'data_prediction'"
        )
    if config.lambda_min_clipped != -math.inf:
        raise InvalidArgumentError(
            f"[sasolver] lambda_min_clipped {config.lambda_min_clipped} is not supported; leave it "
            "out"
        )


class SASolverScheduler(SigmaScheduler, table=sasolver_table, defaults=_DEFAULTS):
    """Second order or third, one evaluation a step; noise in the middle of the way."""
