"""DPM-Solver and DPM-Solver++, multistep: Lu et al. 2022, "DPM-Solver" and "DPM-Solver++",
algorithm 2 and appendix; with noise, their SDE forms. With lambda = -log(sigma), a step is
h = lambda' - lambda long. The ++ methods integrate x0, the others the noise."""

import math

import numpy as np

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term, choice, number
from sdcore.schedulers.curves import Levels, shifted
from sdcore.schedulers.discrete import bounds
from sdcore.schedulers.multistep import merged, noise_terms
from sdcore.schedulers.sigmas import (
    SigmaScheduler,
    Walk,
    final_level,
    flow_walk,
    scaled_walk,
    training_sigmas,
)

_DEFAULTS = {
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "lambda_min_clipped": -math.inf,
    "variance_type": None,
}
# Steps fewer than this end with lower orders, if lower_order_final: diffusers' number.
FEW_STEPS = 15


def dpmsolver_table(config: Config, steps: int, *, begin: int = 0) -> Table:
    _check(config)
    levels = _walk(config, steps)
    rows = []
    for i, t in enumerate(levels.timesteps[begin:], begin):
        terms, noise = solver_step(config, levels, i, i - begin)
        x0, _ = levels.meaning(config, i)
        rows.append(Row(t, x0, terms, noise, **bounds(config, clips=False)))
    return levels.table(rows, begin)


def _walk(config: Config, steps: int) -> Walk:
    final = final_level(config)
    if config.use_flow_sigmas:
        return flow_walk(config, steps, even_flow(config, steps), final)
    # Only the cosine schedule cuts its timesteps: diffusers' convention.
    whole = int if config.beta_schedule == "squaredcos_cap_v2" else round
    return scaled_walk(config, steps, whole=whole, final=final, cut=noisiest(config))


def even_flow(config: Config, steps: int) -> Levels:
    """Levels of a flow, evenly spaced and then shifted; neither end is among them."""
    levels = np.linspace(1 - 1 / config.num_train_timesteps, 0, steps + 1)[:-1]
    return shifted(levels, number(config, "flow_shift"))


def noisiest(config: Config) -> int:
    """How many timesteps have a lambda below `lambda_min_clipped`."""
    least = config.lambda_min_clipped
    return int(np.searchsorted(-np.log(training_sigmas(config)[::-1]), least))


def solver_step(config: Config, levels: Walk, i: int, known: int) -> tuple[tuple[Term, ...], float]:
    """The terms of row i, before which `known` others ran, and its noise."""
    order = _order(config, levels, i, known)
    (sigma, following), (start, signal) = levels.sigmas[i : i + 2], levels.signals[i : i + 2]
    kind = choice(config, "algorithm_type", _KINDS)
    noisy = kind.startswith("sde")
    # exp(-h); what is left of x after the step; noise makes up for forgetting it twice as fast.
    ratio = following / sigma
    left = ratio**2 if noisy else ratio
    moments = (1 - left, *_moments(config, kind, ratio, order))
    if kind.endswith("++"):
        weights = _outputs(levels, i, [signal * moment for moment in moments])
        terms = tuple(Term(x0=weight) for weight in weights)
        noise = following * signal * math.sqrt(1 - left) if noisy else 0.0
        return merged(signal / start * left, terms), noise
    growth = -signal * following * (2 if noisy else 1)
    moments = (1 / ratio - 1, *moments[1:])
    weights = _outputs(levels, i, [growth * moment for moment in moments])
    noise = signal * following * math.sqrt(1 / ratio**2 - 1) if noisy else 0.0
    return merged(signal / start, noise_terms(levels, i, weights)), noise


def _moments(config: Config, kind: str, ratio: float, order: int) -> list[float]:
    """∫ over the step of its first and second powers, beyond order 1."""
    if order == 1:
        return []
    h = -math.log(ratio)
    if kind.endswith("++"):
        span = 2 * h if kind.startswith("sde") else h
        whole = -math.expm1(-span)
        exact = 1 - whole / span
        # Of the noisy method diffusers has this with the other sign.
        second = (0.5 if span == h else -0.5) - (span - whole) / span**2
    else:
        whole = math.expm1(h)
        exact = whole / h - 1
        second = (whole - h) / h**2 - 0.5
    # Two approximations of the slope's integral; the third order takes the exact one. The last
    # three are UniPC's and DEIS': diffusers takes them so where a configuration changes hands.
    solvers = dict.fromkeys(("midpoint", "bh1", "bh2", "logrho"), whole / 2) | {"heun": exact}
    slope = choice(config, "solver_type", solvers)
    return [slope] if order == 2 else [exact, second]


def _outputs(levels: Walk, i: int, moments: list[float]) -> list[float]:
    """The weights of what the last steps gave, newest first, for their differences weighed so."""
    if len(moments) == 1:
        return moments
    h = math.log(levels.sigmas[i] / levels.sigmas[i + 1])
    r0 = math.log(levels.sigmas[i - 1] / levels.sigmas[i]) / h
    newest = np.array([1, 0, 0])
    slope = np.array([1, -1, 0]) / r0
    if len(moments) == 2:
        return list((moments[0] * newest + moments[1] * slope)[:2])
    r1 = math.log(levels.sigmas[i - 2] / levels.sigmas[i - 1]) / h
    bend = (slope - np.array([0, 1, -1]) / r1) / (r0 + r1)
    return list(moments[0] * newest + moments[1] * (slope + r0 * bend) + moments[2] * bend)


def _order(config: Config, levels: Walk, i: int, known: int) -> int:
    steps = len(levels.timesteps)
    few = config.lower_order_final and steps < FEW_STEPS
    if i == steps - 1 and (config.euler_at_final or few or levels.sigmas[i + 1] == 0):
        return 1
    if levels.sigmas[i + 1] == levels.sigmas[i]:  # the end of some curves
        return 1
    most = 2 if i == steps - 2 and few else 3
    return int(min(config.solver_order, known + 1, most))


# The last is DEIS': diffusers takes it so where a configuration changes hands.
_KINDS = {
    kind: kind for kind in ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
} | {"deis": "dpmsolver++"}


def _check(config: Config) -> None:
    if config.solver_order not in (1, 2, 3):
        raise InvalidArgumentError(
            f"[dpmsolver] solver_order must be from 1 to 3, got {config.solver_order!r}"
        )
    kind = choice(config, "algorithm_type", _KINDS)
    if not kind.endswith("++") and config.final_sigmas_type == "zero":
        raise InvalidArgumentError(
            f"[dpmsolver] algorithm_type {kind!r} cannot end at no noise; use "
            "final_sigmas_type='sigma_min'"
        )
    if kind == "sde-dpmsolver" and config.solver_order == 3:
        raise InvalidArgumentError(
            "[dpmsolver] algorithm_type 'sde-dpmsolver' has no third order; set solver_order=2"
        )
    if config.use_dynamic_shifting:
        raise InvalidArgumentError(
            "[dpmsolver] use_dynamic_shifting=True is not supported; set flow_shift"
        )
    if config.variance_type is not None:
        raise InvalidArgumentError(
            f"[dpmsolver] variance_type {config.variance_type!r} needs a model that predicts "
            "variances, which is not supported; leave it out"
        )


class DPMSolverMultistepScheduler(SigmaScheduler, table=dpmsolver_table, defaults=_DEFAULTS):
    """Second order or third, one evaluation a step; `algorithm_type="sde-dpmsolver++"` adds
    noise."""
