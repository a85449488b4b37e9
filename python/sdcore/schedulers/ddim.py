"""DDIM: Song, Meng, Ermon 2020, "Denoising Diffusion Implicit Models", equation 12."""

import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term
from sdcore.schedulers.discrete import (
    DiscreteScheduler,
    alphas_cumprod,
    bounds,
    posterior_variance,
    prediction,
    spaced_timesteps,
)


def ddim_table(config: Config, steps: int, *, eta: float = 0.0) -> Table:
    """eta = 0 is deterministic, eta = 1 adds as much noise as DDPM."""
    if not 0 <= eta <= 1:
        raise InvalidArgumentError(f"[ddim] eta must lie in [0, 1], got {eta}")
    timesteps = spaced_timesteps(config, steps)
    alphas, limits = alphas_cumprod(config).astype(float), bounds(config)
    final = 1.0 if config.set_alpha_to_one else alphas[0]
    # The step back is this even where the spacing is uneven: diffusers' convention.
    stride = config.num_train_timesteps // steps

    rows = []
    for t in timesteps:
        alpha, alpha_prev = alphas[t], alphas[t - stride] if t >= stride else final
        std = eta * math.sqrt(posterior_variance(alpha, alpha_prev))
        direction = math.sqrt(max(1 - alpha_prev - std**2, 0))
        x0, eps = prediction(config, t, alpha)
        # eps comes from the unclipped x0, so clipping does not change the direction.
        term = Term(x=direction * eps.x, x0=math.sqrt(alpha_prev), m=direction * eps.m)
        rows.append(Row(t, x0_from=x0, terms=(term,), noise=std, **limits))
    return Table(tuple(rows))


class DDIMScheduler(DiscreteScheduler, table=ddim_table, defaults={"set_alpha_to_one": True}):
    """`set_timesteps(n, eta=1.0)` adds noise at every step."""
