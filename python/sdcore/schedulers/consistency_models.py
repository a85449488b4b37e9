"""Consistency models: Song et al. 2023, "Consistency Models", algorithm 1."""

import math

import numpy as np
from numpy.typing import NDArray

from sdcore.schedulers.base import Config, Row, Table, Term, number
from sdcore.schedulers.discrete import check_steps
from sdcore.schedulers.edm import EDMScheduler

_DEFAULTS = {"num_train_timesteps": 40, "s_noise": 1.0, "clip_denoised": True}


def consistency_table(config: Config, steps: int) -> Table:
    """Each step guesses the image and takes it back to the next level with new noise."""
    check_steps(config, steps)
    low, data = number(config, "sigma_min"), number(config, "sigma_data")
    clip = 1.0 if config.clip_denoised else math.inf
    sigmas = _levels(config, steps)
    rows = []
    for sigma, following in zip(sigmas, [*sigmas[1:], low], strict=True):
        scale = 1 / math.hypot(sigma, data)
        # The guess is x itself at the least noise: the boundary condition, equation 5.
        kept = data**2 / ((sigma - low) ** 2 + data**2)
        x0 = Term(x=kept, m=(sigma - low) * data * scale)
        noise = number(config, "s_noise") * math.sqrt(max(following**2 - low**2, 0))
        t = 250 * math.log(sigma + 1e-44)
        rows.append(Row(t, x0, (Term(x0=1),), noise, clip, input_scale=scale))
    return Table(tuple(rows), number(config, "sigma_max"), tuple(sigmas))


def _levels(config: Config, steps: int) -> list[float]:
    """Some of the levels that the model was trained at, along Karras' curve."""
    total = config.num_train_timesteps
    places = np.arange(steps) * (total // steps) / max(total - 1, 1)
    rho = number(config, "rho")
    low, top = (number(config, f"sigma_{end}") ** (1 / rho) for end in ("min", "max"))
    levels: NDArray[np.float32] = ((top + places * (low - top)) ** rho).astype(np.float32)
    return [float(level) for level in levels]


class CMStochasticIterativeScheduler(EDMScheduler, table=consistency_table, defaults=_DEFAULTS):
    """For consistency models: one step, or several that add noise in between."""

    process = "consistency"
