"""PNDM: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", equations 9
(the step) and 12 (the multistep weights), begun with Runge and Kutta's method, or, as PLMS, with
steps of lower order."""

import itertools
import math
from dataclasses import replace

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Table, Term, choice
from sdcore.schedulers.discrete import (
    DiscreteScheduler,
    alphas_cumprod,
    prediction,
    spaced_timesteps,
)

# Adams and Bashforth's weights for as many outputs as are known, the newest first.
_WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def pndm_table(config: Config, steps: int, *, begin: int = 0) -> Table:
    """Begins with three Runge-Kutta steps of four evaluations, or with `skip_prk_steps` makes the
    first step twice: again from where it began, with the mean of both outputs."""
    timesteps = spaced_timesteps(config, steps)
    if config.rescale_betas_zero_snr:
        raise InvalidArgumentError(
            "[pndm] rescale_betas_zero_snr=True is not supported; use DDIMScheduler"
        )
    walk = _Walk(config, steps)
    make = _plms_rows if config.skip_prk_steps else _prk_rows
    return Table(tuple(make(walk, timesteps[begin:])))


class _Walk:
    """The single step, between any two timesteps."""

    def __init__(self, config: Config, steps: int) -> None:
        self.config, self.alphas = config, alphas_cumprod(config).astype(float)
        self.final = 1.0 if config.set_alpha_to_one else self.alphas[0]
        # The step back is this even where the spacing is uneven: diffusers' convention.
        self.stride = config.num_train_timesteps // steps

    def step(self, start: int, end: int) -> Term:
        """x' of x and the model's output."""
        return _step(self.config, self.alphas[start], self.alphas[end] if end >= 0 else self.final)

    def row(self, t: int, *terms: Term) -> Row:
        x0, _ = prediction(self.config, t, self.alphas[t])
        return Row(t, x0, terms)


def _plms_rows(walk: _Walk, timesteps: list[int]) -> list[Row]:
    rows = []
    for i, t in enumerate([*timesteps[:2], *timesteps[1:]]):
        start = t + walk.stride if i == 1 else t
        step = walk.step(start, start - walk.stride)
        if i == 1:
            rows.append(walk.row(t, Term(m=step.m / 2), Term(x=step.x, m=step.m / 2)))
        else:  # row 1 is no step of its own
            rows.append(walk.row(t, *_terms(step, [j for j in range(i, -1, -1) if j != 1], i)))
    return rows


def _prk_rows(walk: _Walk, timesteps: list[int]) -> list[Row]:
    """Equation 13: Runge and Kutta's method of fourth order three times, then the multistep."""
    if len(timesteps) < 4:
        raise InvalidArgumentError(
            f"[pndm] skip_prk_steps=False needs 4 steps or more, got {len(timesteps)}; set "
            "skip_prk_steps=True, as Stable Diffusion's own configuration does"
        )
    half = walk.stride // 2
    rows: list[Row] = []
    for start, end in itertools.pairwise(timesteps[:4]):
        middle, whole = walk.step(start, end + half), walk.step(start, end)
        first = walk.step(start, start - half)
        rows += [
            walk.row(start, first),
            walk.row(end + half, Term(m=middle.m), Term(x=middle.x)),
            walk.row(end + half, Term(m=whole.m), Term(), Term(x=whole.x)),
            walk.row(end, *(Term(m=whole.m * share) for share in _RUNGE_KUTTA)),
        ]
        rows[-1] = _with_x(rows[-1], whole.x)
    for t in timesteps[3:]:
        i = len(rows)
        known = [*range(i, 11, -1), 8, 4, 0]  # the first evaluation of each Runge-Kutta step
        rows.append(walk.row(t, *_terms(walk.step(t, t - walk.stride), known, i)))
    return rows


# The newest evaluation first.
_RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


def _with_x(row: Row, weight: float) -> Row:
    """A row that begins where its oldest did."""
    *others, oldest = row.terms
    return replace(row, terms=(*others, oldest._replace(x=weight)))


def _step(config: Config, alpha: float, alpha_prev: float) -> Term:
    """x' of x and the model's output."""
    along = (alpha - alpha_prev) / (
        alpha * math.sqrt(1 - alpha_prev) + math.sqrt(alpha * (1 - alpha) * alpha_prev)
    )
    eps = {"epsilon": Term(m=1), "v_prediction": Term(x=math.sqrt(1 - alpha), m=math.sqrt(alpha))}
    noise = choice(config, "prediction_type", eps)
    return Term(x=math.sqrt(alpha_prev / alpha) + along * noise.x, m=along * noise.m)


def _terms(step: Term, known: list[int], i: int) -> list[Term]:
    """Row i takes the multistep weights of what the `known` rows gave, the newest first."""
    known = known[:4]
    weights = dict(zip(known, _WEIGHTS[len(known)], strict=True))
    terms = [Term(m=step.m * weights.get(i - age, 0.0)) for age in range(i - known[-1] + 1)]
    return [terms[0]._replace(x=step.x), *terms[1:]]


class PNDMScheduler(
    DiscreteScheduler,
    table=pndm_table,
    defaults={"skip_prk_steps": False, "set_alpha_to_one": False},
):
    """Fourth order, one evaluation a step after the first; with skip_prk_steps, PLMS in other
    programs."""
