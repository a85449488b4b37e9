"""Latent consistency models: Luo et al. 2023, algorithm 3."""

import math

import numpy as np

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term, number
from sdcore.schedulers.discrete import (
    DiscreteScheduler,
    alphas_cumprod,
    bounds,
    check_steps,
    prediction,
)

_SIGMA_DATA = 0.5

# Those of diffusers' LCMScheduler, and of its TCDScheduler.
DISTILLED_DEFAULTS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_scaling": 10.0,
}


def lcm_table(
    config: Config,
    steps: int,
    *,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
) -> Table:
    """Each step guesses the image and takes it back to the next level with new noise. `strength` is
    the share of the timesteps, from the cleanest, that the steps are spread over."""
    original = original_inference_steps or config.original_inference_steps
    timesteps = distilled_timesteps(config, steps, original, "lcm", strength)
    alphas, limits = alphas_cumprod(config).astype(float), bounds(config)
    scaling = number(config, "timestep_scaling")

    rows = []
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        x0, _ = prediction(config, t, alphas[t])
        # The guess is x itself where there is no noise: the boundary condition, equation 9.
        distance = math.hypot(t * scaling, _SIGMA_DATA)
        kept, taken = (_SIGMA_DATA / distance) ** 2, t * scaling / distance
        alpha = 1.0 if following is None else alphas[following]
        term = Term(x=math.sqrt(alpha) * kept, x0=math.sqrt(alpha) * taken)
        rows.append(Row(t, x0, (term,), math.sqrt(1 - alpha), **limits))
    return Table(tuple(rows))


def distilled_timesteps(
    config: Config, steps: int, original: int, place: str, strength: float = 1.0
) -> list[int]:
    """Some of the timesteps that the model was distilled on, of the share `strength` of them."""
    check_steps(config, steps)
    total = config.num_train_timesteps
    if not steps <= original <= total:
        raise InvalidArgumentError(
            f"[{place}] original_inference_steps must be from {steps}, the number of steps, to "
            f"{total}, got {original}"
        )
    used = used_timesteps(original, strength)
    if steps > used:
        raise InvalidArgumentError(
            f"[{place}] a strength of {strength:g} leaves {used} of {original} timesteps for "
            f"{steps} steps; give more strength or fewer steps"
        )
    distilled = np.arange(used, 0, -1) * (total // original) - 1
    chosen = np.floor(np.linspace(0, used, steps, endpoint=False)).astype(int)
    return [int(t) for t in distilled[chosen]]


def used_timesteps(original: int, strength: float) -> int:
    """How many of the timesteps, the last ones, so much strength is."""
    return int(original * strength)


class LCMScheduler(DiscreteScheduler, table=lcm_table, defaults=DISTILLED_DEFAULTS):
    """For models distilled to draw in 1 to 8 steps."""
