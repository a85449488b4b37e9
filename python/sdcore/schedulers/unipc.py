"""UniPC: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework", algorithms 5 to 8, on
the predicted x0. With lambda = -log(sigma), a step is h = lambda' - lambda long.

The corrector replaces the sample that a step ended with by a better one. Both begin with the same
multiple of the step's own sample, so their difference is of x0's alone: x_c = x + Σ c_j x0_j, which
needs nothing but what a table can reach."""

import math

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term, choice, number
from sdcore.schedulers.curves import shifted
from sdcore.schedulers.discrete import bounds
from sdcore.schedulers.sigmas import SigmaScheduler, Walk, final_level, flow_walk, scaled_walk

_DEFAULTS = {
    "solver_order": 2,
    "solver_type": "bh2",
    "predict_x0": True,
    "lower_order_final": True,
    "disable_corrector": (),
    "final_sigmas_type": "zero",
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
}


def unipc_table(config: Config, steps: int, *, begin: int = 0) -> Table:
    _check(config)
    levels = _walk(config, steps)
    rows = []
    for i, t in enumerate(levels.timesteps[begin:], begin):
        x0, _ = levels.meaning(config, i)
        terms = _terms(config, levels, i, i - begin)
        rows.append(Row(t, x0, terms, **bounds(config, clips=False)))
    return levels.table(rows, begin)


def _walk(config: Config, steps: int) -> Walk:
    final = 0.0 if final_level(config) == 0 else None
    if not config.use_flow_sigmas:
        return scaled_walk(config, steps, final=final)
    if config.use_karras_sigmas:
        sigmas = np.array(scaled_walk(config, steps, final=0.0).sigmas[:-1])
        levels = sigmas / (sigmas + 1)
    else:
        even = np.linspace(1, 1 / config.num_train_timesteps, steps + 1)[:-1]
        levels = shifted(even, number(config, "flow_shift"))
        levels[0] = min(levels[0], 1 - 1e-6)  # lambda is infinite at 1; diffusers' stand-in
    return flow_walk(config, steps, levels, levels[-1] if final is None else final)


def _terms(config: Config, levels: Walk, i: int, known: int) -> tuple[Term, ...]:
    kept = levels.sigmas[i + 1] / levels.sigmas[i] * levels.signals[i + 1] / levels.signals[i]
    weights = np.zeros(config.solver_order + 1)
    predicted = _weights(config, levels, i, known, corrected=False)
    weights[: len(predicted)] = predicted
    if known > 0 and i - 1 not in config.disable_corrector:
        better = _weights(config, levels, i - 1, known - 1, corrected=True)
        better[1:] -= _weights(config, levels, i - 1, known - 1, corrected=False)
        weights[: len(better)] += kept * better
    depth = max(int(np.flatnonzero(weights).max(initial=0)) + 1, 1)
    first, *others = (Term(x0=float(weight)) for weight in weights[:depth])
    return (first._replace(x=kept), *others)


def _weights(
    config: Config, levels: Walk, i: int, known: int, *, corrected: bool
) -> NDArray[np.float64]:
    """What each x0 has in step i, newest first; the corrector's first is x0 at the step's end."""
    order = _order(config, levels, i, known)
    sigma, following = levels.sigmas[i : i + 2]
    signal, phi = levels.signals[i + 1], following / sigma - 1  # expm1(-h)
    if following == 0 or following == sigma:
        return np.array([-signal * phi])  # the slopes do not matter
    h = math.log(sigma / following)
    # Where the other slopes are taken, in steps from here: those before, and the end.
    places = [math.log(sigma / past) / h for past in levels.sigmas[i - order + 1 : i][::-1]]
    # The last three are DPM-Solver's: diffusers takes them so where a configuration changes hands.
    kinds = {"bh1": -h, "bh2": phi, "midpoint": phi, "heun": phi, "logrho": phi}
    size = choice(config, "solver_type", kinds)
    if corrected:
        places = [1.0, *places]
    slopes = -signal * size * _rhos(places, h, size) / np.array(places)
    weights = np.append(-signal * phi - slopes.sum(), slopes)
    return np.concatenate([weights[1:2], weights[:1], weights[2:]]) if corrected else weights


def _rhos(places: list[float], h: float, size: float) -> NDArray[np.float64]:
    """The weights of slopes that make the step exact for polynomials (equation 10)."""
    if len(places) < 2:
        return np.full(len(places), 0.5)  # the paper's choice, near enough and simpler
    phi, factorial = np.expm1(-h) / -h - 1, 1
    moments = []
    for k in range(1, len(places) + 1):
        moments.append(phi * factorial / size)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    powers = np.array([np.power(places, k) for k in range(len(places))])
    return np.linalg.solve(powers, moments)


def _order(config: Config, levels: Walk, i: int, known: int) -> int:
    left = len(levels.timesteps) - i if config.lower_order_final else config.solver_order
    return int(min(config.solver_order, left, known + 1))


def _check(config: Config) -> None:
    if config.solver_order not in (1, 2, 3):
        raise InvalidArgumentError(
            f"[unipc] solver_order must be from 1 to 3, got {config.solver_order!r}"
        )
    if not config.predict_x0:
        raise InvalidArgumentError("[unipc] predict_x0=False is not supported; set predict_x0=True")
    for field in ("use_dynamic_shifting", "shift_terminal"):
        if config[field]:
            raise InvalidArgumentError(f"[unipc] {field} is not supported; leave it out")


class UniPCMultistepScheduler(SigmaScheduler, table=unipc_table, defaults=_DEFAULTS):
    """Second order or third, one evaluation a step."""
