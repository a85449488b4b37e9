"""What is common to schedulers over a model's discrete training timesteps: noise levels, spacing of
timesteps, and the meaning of the model's output. Noise levels are float32 as in diffusers; what
follows from them is not rounded."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Array, Config, Scheduler, Term, choice, number

DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}


class DiscreteScheduler(Scheduler, defaults=DEFAULTS):
    """A scheduler whose timesteps are those of training."""

    process = "diffusion"

    def noise_level(self, t: NDArray[Any]) -> tuple[Array, Array]:
        alphas = alphas_cumprod(self.config)
        if t.dtype.kind not in "iu" or t.min() < 0 or t.max() >= len(alphas):
            raise InvalidArgumentError(
                f"[{type(self).__name__}] timesteps must be whole numbers from 0 to "
                f"{len(alphas) - 1}, got {t.tolist()}"
            )
        return np.sqrt(alphas[t]), np.sqrt(1 - alphas[t])


def alphas_cumprod(config: Config) -> Array:
    """ᾱ of every training timestep: the share of the image in the variance of a noisy sample."""
    betas = _betas(config)
    if config.rescale_betas_zero_snr:
        betas = _rescale_zero_snr(betas)
    return _cumulative_product(1 - betas)


def _betas(config: Config) -> Array:
    count = _train_timesteps(config)
    if config.trained_betas is None:
        start, end = _beta(config, "beta_start"), _beta(config, "beta_end")
        schedules: dict[str, Callable[[], Array]] = {
            "linear": lambda: _linspace(start, end, count),
            "scaled_linear": lambda: _linspace(start**0.5, end**0.5, count) ** 2,
            "squaredcos_cap_v2": lambda: _cosine_betas(count),
        }
        return choice(config, "beta_schedule", schedules)()
    betas = np.asarray(config.trained_betas, np.float32)
    if betas.shape != (count,) or not ((betas > 0) & (betas <= 1)).all():
        raise InvalidArgumentError(
            f"[scheduler] trained_betas must hold num_train_timesteps = {count} numbers above 0 "
            f"and up to 1, got shape {list(betas.shape)}, {betas.min():.6g} to {betas.max():.6g}"
        )
    return betas


def _beta(config: Config, field: str) -> float:
    value = number(config, field)
    if not 0 < value <= 1:
        raise InvalidArgumentError(f"[scheduler] {field} must lie above 0 and up to 1, got {value}")
    return value


def _linspace(start: float, end: float, count: int) -> Array:
    # torch.linspace in float32: from the nearer end, with one rounding (a fused multiply-add).
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(max(count - 1, 1)))
    i = np.arange(count)
    values = np.where(i < count // 2, first + step * i, last - step * (count - 1 - i))
    return values.astype(np.float32) if count > 1 else np.array([first])


def _cosine_betas(count: int, largest: float = 0.999) -> Array:
    # Nichol and Dhariwal 2021, equation 17.
    t = np.arange(count + 1) / count
    alpha = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: Array = np.minimum(1 - alpha[1:] / alpha[:-1], largest).astype(np.float32)
    return betas


def _rescale_zero_snr(betas: Array) -> Array:
    # Lin et al. 2023, algorithm 1: shift and scale sqrt(ᾱ) so that the last timestep is pure noise.
    root = np.sqrt(_cumulative_product(1 - betas))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    alphas = root**2
    rescaled: Array = 1 - np.concatenate([alphas[:1], alphas[1:] / alphas[:-1]])
    return rescaled


def _cumulative_product(values: Array) -> Array:
    # As torch.cumprod: float64 inside, float32 out.
    return np.cumprod(values, dtype=np.float64).astype(np.float32)


def spaced_timesteps(config: Config, steps: int, *, left_out: int = 0, cut: int = 0) -> list[int]:
    """The training timesteps of a run of so many steps, from noisy to clean (Lin et al. 2023,
    table 2)."""
    return [int(t) for t in spaced(config, steps, left_out=left_out, cut=cut).round()]


def spaced(config: Config, steps: int, *, left_out: int = 0, cut: int = 0) -> NDArray[np.float64]:
    """The same before rounding. Some methods space `left_out` more steps at the clean end and leave
    them out, or do without the noisiest `cut` timesteps."""
    check_steps(config, steps)
    total, points = _train_timesteps(config), steps + left_out
    top = total - cut
    offset = number(config, "steps_offset")
    spacings: dict[str, Callable[[], NDArray[Any]]] = {
        "leading": lambda: np.arange(points)[::-1] * (top // points) + offset,
        "linspace": lambda: np.linspace(0, top - 1, points)[::-1],
        # Rounding can leave arange one number too long, past the last step.
        "trailing": lambda: np.round(np.arange(top, 0, -total / steps)) - 1,
    }
    timesteps = choice(config, "timestep_spacing", spacings)()[:steps].astype(np.float64)
    if timesteps[0] >= total or timesteps[-1] < 0:
        raise InvalidArgumentError(
            f"[scheduler] steps_offset {offset:g} puts {steps} steps outside the "
            f"training timesteps 0 to {total - 1}; use fewer steps or another timestep_spacing"
        )
    return timesteps


def check_steps(config: Config, steps: int) -> None:
    total = _train_timesteps(config)
    if not _is_whole(steps) or not 1 <= steps <= total:
        raise InvalidArgumentError(
            f"[scheduler] the number of steps must be from 1 to {total}, "
            f"the timesteps the model was trained with; got {steps!r}"
        )


class Prediction(NamedTuple):
    """x0 and the noise eps as linear combinations of x and the model's output m."""

    x0: Term
    eps: Term


def prediction(config: Config, t: float, alpha: float) -> Prediction:
    """What the model's output at timestep t means, where x = sqrt(alpha) x0 + sqrt(1-alpha) eps."""
    return meaning(config, t, math.sqrt(alpha), math.sqrt(1 - alpha))


def meaning(config: Config, t: float, signal: float, sigma: float) -> Prediction:
    """The same where x = signal * x0 + sigma * eps."""
    if signal == 0 and config.prediction_type == "epsilon":
        raise InvalidArgumentError(
            f"[scheduler] timestep {t} is only noise (rescale_betas_zero_snr), and knowing the "
            "noise does not tell the image: prediction_type 'epsilon' cannot start there; use "
            "'v_prediction' if the model was trained so, or timestep_spacing 'leading'"
        )
    kinds: dict[str, Callable[[], Prediction]] = {
        "epsilon": lambda: Prediction(Term(x=1 / signal, m=-sigma / signal), Term(m=1)),
        "sample": lambda: Prediction(Term(m=1), Term(x=1 / sigma, m=-signal / sigma)),
        "v_prediction": lambda: Prediction(Term(x=signal, m=-sigma), Term(x=sigma, m=signal)),
    }
    if config.get("use_flow_sigmas"):
        flow = Prediction(Term(x=1, m=-sigma), Term(x=1, m=signal))
        kinds["flow_prediction"] = lambda: flow
    return choice(config, "prediction_type", kinds)()


class Bounds(TypedDict):
    """How far x0 may go: fields of a row."""

    clip: float
    quantile: float


def bounds(config: Config, *, clips: bool = True) -> Bounds:
    """Those that the configuration asks for; some classes know thresholding alone."""
    if config.thresholding:
        ratio = number(config, "dynamic_thresholding_ratio")
        if not 0 < ratio <= 1:
            raise InvalidArgumentError(
                f"[scheduler] dynamic_thresholding_ratio must lie above 0 and up to 1, got {ratio}"
            )
        return {"clip": number(config, "sample_max_value"), "quantile": ratio}
    clipped = clips and config.clip_sample
    return {
        "clip": number(config, "clip_sample_range") if clipped else math.inf,
        "quantile": 0.0,
    }


def posterior_variance(alpha: float, alpha_prev: float) -> float:
    """The variance of the noise between two levels, given the clean image (Ho et al. 2020,
    equation 7)."""
    return (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)


def _train_timesteps(config: Config) -> int:
    count = config.num_train_timesteps
    if not _is_whole(count) or count < 1:
        raise InvalidArgumentError(
            f"[scheduler] num_train_timesteps must be a positive whole number, got {count!r}"
        )
    return int(count)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
