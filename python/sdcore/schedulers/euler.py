"""Euler's method: Karras et al. 2022, algorithm 2 without churn."""

import itertools
import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, choice
from sdcore.schedulers.sigmas import (
    SigmaScheduler,
    denoised,
    final_level,
    input_scale,
    moved,
    slope,
    walk,
)


def euler_table(config: Config, steps: int) -> Table:
    check(config)
    levels = walk(config, steps, final=final_level(config))
    rows = []
    for t, (sigma, following) in zip(
        levels.timesteps, itertools.pairwise(levels.sigmas), strict=True
    ):
        if config.timestep_type == "continuous" and config.prediction_type == "v_prediction":
            t = math.log(sigma) / 4  # Karras et al. 2022, table 1
        x0 = denoised(config, t, sigma)
        term = moved(slope(x0, sigma), following - sigma)
        rows.append(Row(t, x0, (term,), input_scale=input_scale(sigma)))
    return Table(tuple(rows), levels.init_noise_sigma(config), tuple(levels.sigmas[:-1]))


def check(config: Config) -> None:
    """Refuses what Euler's method here does not do."""
    if config.interpolation_type != "linear":
        raise InvalidArgumentError(
            f"[euler] interpolation_type {config.interpolation_type!r} is not supported; "
            "use 'linear'"
        )
    choice(config, "timestep_type", {"discrete": False, "continuous": True})


class EulerDiscreteScheduler(
    SigmaScheduler,
    table=euler_table,
    defaults={
        "interpolation_type": "linear",
        "timestep_type": "discrete",
        "final_sigmas_type": "zero",
    },
):
    """First order, deterministic."""
