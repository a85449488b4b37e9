"""What is common to schedulers of flow matching, where x = (1 - sigma) * x0 + sigma * eps and the
model gives eps - x0: Lipman et al. 2022, "Flow Matching"; Esser et al. 2024, "Scaling Rectified
Flow Transformers"."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Array, Config, Scheduler, Term, choice, number
from sdcore.schedulers.curves import FLAGS, curve, shifted
from sdcore.schedulers.discrete import check_steps

DEFAULTS = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
    "shift_terminal": None,
    **FLAGS,
}
Values = NDArray[np.float64]


class FlowScheduler(Scheduler, defaults=DEFAULTS):
    """A scheduler whose timesteps are levels times `num_train_timesteps`."""

    process = "flow"

    def noise_level(self, t: NDArray[Any]) -> tuple[Array, Array]:
        rows = [self._index(float(one)) for one in t]
        sigma = np.array([self.table.sigmas[row] for row in rows], np.float32)
        return 1 - sigma, sigma


def flow_levels(
    config: Config, steps: int, *, sigmas: Sequence[float] | None = None, mu: float | None = None
) -> tuple[list[float], list[float]]:
    """A timestep for each step, and the levels that it leads between: one more. `sigmas` are levels
    to begin from in place of even ones; `mu` is how far `use_dynamic_shifting` shifts them."""
    check_steps(config, steps)
    levels = _even(config, steps) if sigmas is None else _given(sigmas, steps)
    levels = _shifted(config, levels, mu)
    if config.shift_terminal is not None:
        rest = (1 - number(config, "shift_terminal")) / (1 - levels[-1])
        levels = 1 - (1 - levels) * rest
    along = curve(config, steps, float(levels[0]), float(levels[-1]))
    rounded = (levels if along is None else along).astype(np.float32)
    if not (rounded > 0).all() or any(a <= b for a, b in itertools.pairwise(rounded)):
        raise InvalidArgumentError(
            f"[scheduler] levels must fall from each to the next and stay above 0, got "
            f"{', '.join(f'{level:g}' for level in rounded)}; use another shift"
        )
    timesteps = rounded * np.float32(config.num_train_timesteps)
    return timesteps.tolist(), [*rounded.tolist(), 0.0]


def velocity_x0(sigma: float) -> Term:
    """x0 of x and the model's output."""
    return Term(x=1, m=-sigma)


def _even(config: Config, steps: int) -> Values:
    # diffusers takes the ends from training's levels, already shifted, so a fixed shift moves the
    # last one twice.
    total = config.num_train_timesteps
    ends = (np.array([total, 1], np.float32) / np.float32(total)).astype(np.float32)
    if not config.use_dynamic_shifting:
        shift = _shift(config)
        ends = np.float32(shift) * ends / (1 + np.float32(shift - 1) * ends)
    even: Values = np.linspace(float(ends[0]) * total, float(ends[1]) * total, steps) / total
    return even


def _given(sigmas: Sequence[float], steps: int) -> Values:
    if len(sigmas) != steps:
        raise InvalidArgumentError(
            f"[scheduler] there are {len(sigmas)} sigmas for {steps} steps; give one a step"
        )
    return np.asarray(sigmas, np.float32).astype(np.float64)


def _shifted(config: Config, levels: Values, mu: float | None) -> Values:
    if not config.use_dynamic_shifting:
        shift = _shift(config)
    elif mu is None:
        raise InvalidArgumentError(
            "[scheduler] use_dynamic_shifting=True needs set_timesteps(n, mu=…), which the size of "
            "the picture gives"
        )
    else:
        kinds = {"exponential": math.exp(mu), "linear": mu}
        shift = choice(config, "time_shift_type", kinds)
    return shifted(levels, shift)


def _shift(config: Config) -> float:
    shift = number(config, "shift")
    if shift <= 0:
        raise InvalidArgumentError(f"[scheduler] shift must be positive, got {shift}")
    return shift
