"""Trajectory consistency distillation: Zheng et al. 2024, "Trajectory Consistency Distillation",
algorithm 2, strategic stochastic sampling."""

import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.discrete import DiscreteScheduler, alphas_cumprod, prediction
from sdcore.schedulers.lcm import DISTILLED_DEFAULTS, distilled_timesteps


def tcd_table(
    config: Config, steps: int, *, eta: float = 0.3, original_inference_steps: int | None = None
) -> Table:
    """Each step goes below the next level and comes up to it with noise: `eta` is how far, in
    shares of its timestep. 0 adds none."""
    if not 0 <= eta <= 1:
        raise InvalidArgumentError(f"[tcd] eta must lie in [0, 1], got {eta}")
    total = config.num_train_timesteps
    original = config.original_inference_steps
    if original_inference_steps is not None:
        original = total  # diffusers' reading: any number asks for all of them
    timesteps = distilled_timesteps(config, steps, original, "tcd")
    alphas = alphas_cumprod(config).astype(float)
    rows = []
    for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
        below = alphas[math.floor((1 - eta) * following)]
        x0, eps = prediction(config, t, alphas[t])
        term = Term(
            x=math.sqrt(1 - below) * eps.x, x0=math.sqrt(below), m=math.sqrt(1 - below) * eps.m
        )
        noise = 0.0
        if eta > 0 and following > 0:
            up = alphas[following] / below
            term = Term(*(math.sqrt(up) * weight for weight in term))
            noise = math.sqrt(1 - up)
        rows.append(Row(t, x0, (term,), noise))
    return Table(tuple(rows))


class TCDScheduler(DiscreteScheduler, table=tcd_table, defaults=DISTILLED_DEFAULTS):
    """For models distilled to draw in 1 to 8 steps, and well in more."""
