"""DDPM: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", equations 6 and 7."""

import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term, choice
from sdcore.schedulers.discrete import (
    DiscreteScheduler,
    alphas_cumprod,
    bounds,
    posterior_variance,
    prediction,
    spaced_timesteps,
)


def ddpm_table(config: Config, steps: int) -> Table:
    """The ancestral sampler: each step draws from the posterior of the level before."""
    timesteps = spaced_timesteps(config, steps)
    alphas, limits = alphas_cumprod(config).astype(float), bounds(config)
    large = _takes_large_variance(config)

    rows = []
    for t, previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        alpha, alpha_prev = alphas[t], alphas[previous] if previous >= 0 else 1.0
        alpha_step = alpha / alpha_prev
        beta_step = 1 - alpha_step
        term = Term(
            x=math.sqrt(alpha_step) * (1 - alpha_prev) / (1 - alpha),
            x0=math.sqrt(alpha_prev) * beta_step / (1 - alpha),
        )
        # The floor is diffusers': the last step draws its noise, if next to none of it.
        posterior = max(posterior_variance(alpha, alpha_prev), 1e-20)
        noise = math.sqrt(beta_step if large else posterior) if t > 0 else 0.0
        x0, _ = prediction(config, t, alpha)
        rows.append(Row(t, x0_from=x0, terms=(term,), noise=noise, **limits))
    return Table(tuple(rows))


def _takes_large_variance(config: Config) -> bool:
    if str(config.variance_type).startswith("learned"):
        raise InvalidArgumentError(
            f"[ddpm] variance_type {config.variance_type!r} needs a model that predicts variances, "
            "which is not supported; use 'fixed_small' or 'fixed_large'"
        )
    kinds = {"fixed_small": False, "fixed_small_log": False, "fixed_large": True}
    return choice(config, "variance_type", kinds)


class DDPMScheduler(DiscreteScheduler, table=ddpm_table, defaults={"variance_type": "fixed_small"}):
    """Every step but the last adds noise."""
