"""What is common to schedulers of models trained as EDM, Karras et al. 2022, "Elucidating the
Design Space of Diffusion-Based Generative Models", table 1: x = x0 + sigma * eps, with data of the
standard deviation sigma_data."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Array, Config, Scheduler, Term, choice, number
from sdcore.schedulers.curves import exponential, karras
from sdcore.schedulers.discrete import check_steps
from sdcore.schedulers.sigmas import Walk

DEFAULTS = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}


class EDMScheduler(Scheduler, defaults=DEFAULTS):
    """A scheduler whose timesteps are logarithms of levels."""

    process = "edm"

    def noise_level(self, t: NDArray[Any]) -> tuple[Array, Array]:
        rows = [self._index(float(one)) for one in t]
        sigma = np.array([self.table.sigmas[row] for row in rows], np.float32)
        return np.ones_like(sigma), sigma


def edm_walk(config: Config, steps: int, final: float) -> Walk:
    """Levels along the curve that `sigma_schedule` names; then `final`."""
    check_steps(config, steps)
    low, top = number(config, "sigma_min"), number(config, "sigma_max")
    if not 0 < low < top:
        raise InvalidArgumentError(
            f"[edm] sigma_min must be positive and below sigma_max, got {low} and {top}"
        )
    if choice(config, "sigma_schedule", {"karras": True, "exponential": False}):
        levels = karras(steps, top, low, number(config, "rho"))
    else:
        levels = exponential(steps, top, low)
    sigmas = [float(level) for level in np.append(levels, final).astype(np.float32)]
    timesteps = [math.log(sigma) / 4 for sigma in sigmas[:-1]]
    return Walk(timesteps, sigmas, [1.0] * len(sigmas))


def preconditioned(config: Config, sigma: float) -> tuple[Term, float]:
    """x0 of x and the model's output at x times the second value."""
    data = number(config, "sigma_data")
    scale = 1 / math.hypot(sigma, data)
    sign = choice(config, "prediction_type", {"epsilon": 1.0, "v_prediction": -1.0})
    return Term(x=(data * scale) ** 2, m=sign * sigma * data * scale), scale
