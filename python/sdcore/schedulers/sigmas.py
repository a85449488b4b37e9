"""What is common to samplers that walk down noise levels sigma of their own choice, where
x = x0 + sigma * eps (Karras et al. 2022), or that divided by sqrt(1 + sigma²)."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Array, Config, Row, Table, Term, choice, number
from sdcore.schedulers.curves import FLAGS, Levels, curve
from sdcore.schedulers.discrete import (
    DiscreteScheduler,
    Prediction,
    alphas_cumprod,
    meaning,
    prediction,
    spaced,
    spaced_timesteps,
)
from sdcore.schedulers.placements import placed

DEFAULTS = {
    "timestep_spacing": "linspace",
    **FLAGS,
    "noise_schedule": None,
    "sigma_min": None,
    "sigma_max": None,
}


class SigmaScheduler(DiscreteScheduler, defaults=DEFAULTS):
    """A scheduler whose sample is signal * (x0 + sigma * eps)."""

    def _placed_by(self, options: dict[str, Any]) -> Config:
        timesteps, sigmas = (options.pop(name, None) for name in ("timesteps", "sigmas"))
        if timesteps is None and sigmas is None:
            return self.config
        name, along = type(self).__name__, _placing(self.config)
        if timesteps is not None and sigmas is not None:
            raise InvalidArgumentError(f"[{name}] timesteps and sigmas say the same: give one")
        if along and (timesteps is not None or along == "use_flow_sigmas"):
            raise InvalidArgumentError(f"[{name}] steps are placed by hand or by {along}: not both")
        given: dict[str, Any]
        if timesteps is not None:
            given = {"noise_schedule": _levels_at(name, self.config, timesteps)}
        else:
            given = {"noise_schedule": _down_to_nothing(name, sigmas), "final_sigmas_type": "zero"}
        own = {field: value for field, value in given.items() if field in self.defaults}
        return Config({**self.config.given, **own}, self.defaults)

    def noise_level(self, t: NDArray[Any]) -> tuple[Array, Array]:
        # The level of a row is its own, whatever timestep stands beside it.
        rows = [self._index(float(one)) for one in t]
        signals = self.table.signals or [1.0] * len(self.table.rows)
        signal = np.array([signals[row] for row in rows], np.float32)
        return signal, signal * np.array([self.table.sigmas[row] for row in rows], np.float32)


def _placing(config: Config) -> str | None:
    """The field that places levels elsewhere than at timesteps, if one does."""
    fields = (*FLAGS, "use_lu_lambdas", "use_flow_sigmas")
    return next((field for field in fields if config.get(field)), None)


def _down_to_nothing(name: str, sigmas: Any) -> tuple[float, ...]:
    values = tuple(float(sigma) for sigma in sigmas)
    if len(values) < 2 or values[-1] != 0:
        raise InvalidArgumentError(
            f"[{name}] sigmas are the level of each step and 0 in the end, got "
            + ", ".join(f"{sigma:g}" for sigma in values)
        )
    return values[:-1]


def _levels_at(name: str, config: Config, timesteps: Any) -> tuple[float, ...]:
    training, values = training_sigmas(config), [float(t) for t in timesteps]
    if not values or not 0 <= min(values) <= max(values) < len(training):
        raise InvalidArgumentError(
            f"[{name}] timesteps must be from 0 to {len(training) - 1}, got "
            + ", ".join(f"{t:g}" for t in values)
        )
    return tuple(np.interp(values, np.arange(len(training)), training).tolist())


class Walk(NamedTuple):
    """A timestep for each step, and the levels that it leads between: one more."""

    timesteps: list[float]
    sigmas: list[float]
    signals: list[float]

    def init_noise_sigma(self, config: Config) -> float:
        """What the first noise is multiplied by. Below pure noise a rest of the image is in it,
        which spacings that begin at the top leave out."""
        top = max(self.sigmas)
        return math.hypot(top, 1) if config.timestep_spacing == "leading" else top

    def meaning(self, config: Config, i: int) -> Prediction:
        """Of the model's output at step i, where it is given x as it is."""
        signal = self.signals[i]
        return meaning(config, self.timesteps[i], signal, signal * self.sigmas[i])

    def table(self, rows: list[Row], begin: int = 0) -> Table:
        """Rows of one evaluation a step, from the step `begin` on, of samples in this scale."""
        levels = self.sigmas[begin:-1], self.signals[begin:-1]
        return Table(tuple(rows), 1.0, *map(tuple, levels))


def walk(config: Config, steps: int, *, final: float = 0.0) -> Walk:
    """Levels of a sampler on x0 + sigma * eps: those at the spaced timesteps, or a curve between
    the first and the last of them, or those that `noise_schedule` names; then `final`."""
    training = training_sigmas(config)
    timesteps = spaced(config, steps).astype(np.float32).tolist()
    sigmas: Levels = np.interp(timesteps, np.arange(len(training)), training)
    along = _curve(config, steps, float(sigmas[0]), float(sigmas[-1]))
    named = placed(config, steps, training)
    chosen = named if named is not None else along
    if chosen is not None:
        sigmas, timesteps = chosen, _timesteps_of(chosen, training)
    return _walk(timesteps, sigmas, final, lambda _: 1.0)


def scaled_walk(
    config: Config,
    steps: int,
    *,
    whole: Callable[[float], int] = round,
    final: float | None = None,
    cut: int = 0,
) -> Walk:
    """Levels of a sampler in the scale of training: whole timesteps, spaced with one more below
    them, or a curve over all of training's levels, or those that `noise_schedule` names; then
    `final`, or the last level again. `whole` is how Karras' curve comes to timesteps that the model
    knows; the others are cut, by diffusers' convention."""
    training = training_sigmas(config)
    timesteps: list[Any] = spaced_timesteps(config, steps, left_out=1, cut=cut)
    sigmas: Levels = np.interp(timesteps, np.arange(len(training)), training)
    along = _curve(config, steps, float(training[-1]), float(training[0]))
    named = placed(config, steps, training)
    if named is not None:
        sigmas, timesteps = named, _timesteps_of(named, training)
    elif along is not None:
        whole = whole if config.use_karras_sigmas or config.get("use_lu_lambdas") else int
        sigmas, timesteps = along, [whole(t) for t in _timesteps_of(along, training)]
    elif final is None:
        final = float(training[0])
    return _walk(timesteps, sigmas, sigmas[-1] if final is None else final, input_scale)


def flow_walk(config: Config, steps: int, levels: Levels, final: float) -> Walk:
    """Levels of flow matching, x = (1 - level) * x0 + level * eps, in the terms of the others."""
    timesteps: list[float] = [int(level * config.num_train_timesteps) for level in levels]
    rounded = np.append(levels, final).astype(np.float32).astype(float)
    signals = 1 - rounded
    return Walk(timesteps, (rounded / signals).tolist(), signals.tolist())


def final_level(config: Config) -> float:
    """Where a class that has `final_sigmas_type` ends: at no noise, or training's least."""
    lowest = float(training_sigmas(config)[0])
    return choice(config, "final_sigmas_type", {"zero": 0.0, "sigma_min": lowest})


def _walk(
    timesteps: list[float], sigmas: Levels, final: float, signal: Callable[[float], float]
) -> Walk:
    levels = [float(sigma) for sigma in np.append(sigmas, final).astype(np.float32)]
    if any(a <= b for a, b in itertools.pairwise(levels[:-1])):
        raise InvalidArgumentError(
            f"[scheduler] {len(timesteps)} steps give noise levels that do not fall from each to "
            "the next; use fewer steps or another timestep_spacing"
        )
    return Walk(timesteps, levels, [signal(level) for level in levels])


def training_sigmas(config: Config) -> Levels:
    """The level of every training timestep."""
    alphas = alphas_cumprod(config).astype(float)
    if config.rescale_betas_zero_snr:
        alphas[-1] = 2**-24  # diffusers' stand-in for pure noise, whose sigma is infinite
    sigmas: Levels = np.sqrt((1 - alphas) / alphas)
    return sigmas


def _curve(config: Config, steps: int, top: float, bottom: float) -> Levels | None:
    if config.sigma_max is not None:
        top = number(config, "sigma_max")
    if config.sigma_min is not None:
        bottom = number(config, "sigma_min")
    return curve(config, steps, top, bottom)


def _timesteps_of(sigmas: Levels, training: Levels) -> list[float]:
    return [timestep_of(sigma, training) for sigma in sigmas]


def timestep_of(sigma: float, training: Levels) -> float:
    """Where a level lies among training's, between two of them by its logarithm."""
    levels = np.log(training)
    log = np.log(np.float64(sigma))
    below = int(np.clip(np.searchsorted(levels, log, side="right") - 1, 0, len(levels) - 2))
    way = (log - levels[below]) / (levels[below + 1] - levels[below])
    way = np.clip(way, 0, 1)
    return float((1 - way) * below + way * (below + 1))


def input_scale(sigma: float) -> float:
    """x times this is what the model was trained on."""
    return 1 / math.hypot(sigma, 1)


def denoised(config: Config, t: float, sigma: float) -> Term:
    """x0 of x = x0 + sigma * eps and the model's output at x times `input_scale`."""
    scale = input_scale(sigma)
    x0, _ = prediction(config, t, scale**2)
    return Term(x=x0.x * scale, m=x0.m)


def slope(x0: Term, sigma: float) -> Term:
    """dx/dsigma = (x - x0) / sigma, of x and m: exact where x0 is not clipped."""
    return Term(x=(1 - x0.x) / sigma, m=-x0.m / sigma)


def ancestral(sigma: float, following: float) -> tuple[float, float]:
    """The level that a noisy step goes down to, and the noise that brings it up to `following`:
    the posterior's, as in DDPM."""
    return following**2 / sigma, following * math.sqrt(1 - (following / sigma) ** 2)


def moved(along: Term, distance: float, begin: float = 1.0) -> Term:
    """begin * x + distance * slope"""
    return Term(x=begin + distance * along.x, x0=distance * along.x0, m=distance * along.m)
