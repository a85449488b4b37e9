"""DPM-Solver++ (2M): Lu et al. 2022, "DPM-Solver++", algorithm 2 and appendix; with noise, its SDE
form. With lambda = -log(sigma), a step is h = lambda' - lambda long."""

import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term, choice
from sdcore.schedulers.discrete import clip_bound, prediction
from sdcore.schedulers.sigmas import ScaledSigmaScheduler, Walk, input_scale, scaled_walk

_DEFAULTS = {
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "lambda_min_clipped": -math.inf,
    "variance_type": None,
    "clip_sample": False,  # no field of this class: x0 is as the model says
}
# Steps fewer than this end with one of first order, if lower_order_final: diffusers' number.
_FEW_STEPS = 15


def dpmsolver_table(config: Config, steps: int) -> Table:
    # Only the cosine schedule cuts its timesteps: diffusers' convention.
    whole = int if config.beta_schedule == "squaredcos_cap_v2" else round
    levels = scaled_walk(config, steps, whole=whole)
    _check(config)
    rows = []
    for i, (t, sigma) in enumerate(zip(*levels, strict=False)):
        x0, _ = prediction(config, t, input_scale(sigma) ** 2)
        terms, noise = _step(config, levels, i)
        rows.append(Row(t, x0, terms, noise))
    return Table(tuple(rows), sigmas=tuple(levels.sigmas[:-1]))


def _step(config: Config, levels: Walk, i: int) -> tuple[tuple[Term, ...], float]:
    """The terms of row i and its noise."""
    sigma, following = levels.sigmas[i : i + 2]
    ratio, signal = following / sigma, input_scale(following)  # exp(-h), the next signal
    with_noise = choice(config, "algorithm_type", {"dpmsolver++": False, "sde-dpmsolver++": True})
    # What is left of x after the step; the noise makes up for forgetting it twice as fast.
    left = ratio**2 if with_noise else ratio
    noise = following * signal * math.sqrt(1 - left) if with_noise else 0.0
    x, x0 = signal / input_scale(sigma) * left, signal * (1 - left)
    if i == 0 or _is_first_order(config, levels, i):
        return (Term(x=x, x0=x0),), noise
    h, before = math.log(sigma / following), math.log(levels.sigmas[i - 1] / sigma)
    weight = signal * _second(config, left, 2 * h if with_noise else h) * h / before
    return (Term(x=x, x0=x0 + weight), Term(x0=-weight)), noise


def _is_first_order(config: Config, levels: Walk, i: int) -> bool:
    few = config.lower_order_final and len(levels.timesteps) < _FEW_STEPS
    toward_zero = levels.sigmas[i + 1] == 0
    last = i == len(levels.timesteps) - 1
    return config.solver_order == 1 or toward_zero or (last and (config.euler_at_final or few))


def _second(config: Config, left: float, h: float) -> float:
    """The weight of the slope of x0: two approximations of one integral."""
    midpoint, heun = (1 - left) / 2, 1 - (1 - left) / h if h else 0.0
    # The last three are UniPC's: diffusers takes them so where a configuration changes hands.
    kinds = {
        "midpoint": midpoint,
        "heun": heun,
        "bh1": midpoint,
        "bh2": midpoint,
        "logrho": midpoint,
    }
    return choice(config, "solver_type", kinds)


def _check(config: Config) -> None:
    if config.solver_order not in (1, 2):
        raise InvalidArgumentError(
            f"[dpmsolver] solver_order must be 1 or 2, got {config.solver_order!r}"
        )
    for field in ("use_lu_lambdas", "use_flow_sigmas"):
        if config[field]:
            raise InvalidArgumentError(f"[dpmsolver] {field}=True is not supported; set it False")
    if config.lambda_min_clipped != -math.inf:
        raise InvalidArgumentError(
            f"[dpmsolver] lambda_min_clipped {config.lambda_min_clipped} is not supported; "
            "leave it out"
        )
    if config.variance_type is not None:
        raise InvalidArgumentError(
            f"[dpmsolver] variance_type {config.variance_type!r} needs a model that predicts "
            "variances, which is not supported; leave it out"
        )
    clip_bound(config)  # refuses thresholding


class DPMSolverMultistepScheduler(ScaledSigmaScheduler, table=dpmsolver_table, defaults=_DEFAULTS):
    """Second order, one evaluation a step; `algorithm_type="sde-dpmsolver++"` adds noise."""
