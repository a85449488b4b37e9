"""PLMS: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", equations 9
(the step) and 12 (the multistep weights), begun with steps of lower order."""

import math

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term, choice
from sdcore.schedulers.discrete import (
    DiscreteScheduler,
    alphas_cumprod,
    prediction,
    run_timesteps,
)

# Adams and Bashforth's weights for as many outputs as are known, the newest first.
_WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def plms_table(config: Config, steps: int) -> Table:
    """The first step is made twice: again from where it began, with the mean of both outputs."""
    timesteps = run_timesteps(config, steps)
    _check(config)
    alphas = alphas_cumprod(config).astype(float)
    final = 1.0 if config.set_alpha_to_one else alphas[0]
    # The step back is this even where the spacing is uneven: diffusers' convention.
    stride = config.num_train_timesteps // steps

    rows = []
    for i, t in enumerate([*timesteps[:2], *timesteps[1:]]):
        again = i == 1
        start = t + stride if again else t
        alpha, alpha_prev = alphas[start], alphas[start - stride] if start >= stride else final
        x0, _ = prediction(config, t, alphas[t])
        rows.append(Row(t, x0, _terms(config, i, _step(config, alpha, alpha_prev))))
    return Table(tuple(rows))


def _check(config: Config) -> None:
    if not config.skip_prk_steps:
        raise InvalidArgumentError(
            "[pndm] skip_prk_steps=False, which begins with Runge-Kutta steps, is not supported; "
            "set skip_prk_steps=True, as Stable Diffusion's own configuration does"
        )
    if config.rescale_betas_zero_snr:
        raise InvalidArgumentError(
            "[pndm] rescale_betas_zero_snr=True is not supported; use DDIMScheduler"
        )


def _step(config: Config, alpha: float, alpha_prev: float) -> Term:
    """x' of x and the model's output."""
    along = (alpha - alpha_prev) / (
        alpha * math.sqrt(1 - alpha_prev) + math.sqrt(alpha * (1 - alpha) * alpha_prev)
    )
    eps = {"epsilon": Term(m=1), "v_prediction": Term(x=math.sqrt(1 - alpha), m=math.sqrt(alpha))}
    noise = choice(config, "prediction_type", eps)
    return Term(x=math.sqrt(alpha_prev / alpha) + along * noise.x, m=along * noise.m)


def _terms(config: Config, i: int, step: Term) -> tuple[Term, ...]:
    if i == 1:
        return (Term(m=step.m / 2), Term(x=step.x, m=step.m / 2))
    known = [age for age in range(i + 1) if i - age != 1][:4]  # row 1 is no step of its own
    weights = dict(zip(known, _WEIGHTS[len(known)], strict=True))
    terms = [Term(m=step.m * weights.get(age, 0.0)) for age in range(known[-1] + 1)]
    return (terms[0]._replace(x=step.x), *terms[1:])


class PNDMScheduler(
    DiscreteScheduler,
    table=plms_table,
    defaults={"skip_prk_steps": False, "set_alpha_to_one": False},
):
    """Fourth order, one evaluation a step after the first; PLMS in other programs."""
