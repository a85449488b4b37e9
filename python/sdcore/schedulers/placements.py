"""Noise levels as other programs place them, by their names: `noise_schedule`, a field of ours."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, choice
from sdcore.schedulers.curves import Levels

# Sabour et al. 2024, "Align Your Steps": the levels of ten steps, found by optimisation.
_ALIGNED = {
    "ays": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "ays_sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}


def placed(config: Config, steps: int, training: Levels) -> Levels | None:
    """The levels that `noise_schedule` names, or is; None where it names none. `training` are the
    model's own, rising."""
    if config.noise_schedule is None:
        return None
    if isinstance(config.noise_schedule, tuple):
        if len(config.noise_schedule) != steps:
            raise InvalidArgumentError(
                f"[scheduler] there are {steps} steps, and {len(config.noise_schedule)} placed by "
                "hand: give as many"
            )
        return np.array(config.noise_schedule)
    schedules: dict[str, Callable[[], Levels]] = {
        # k-diffusion: even timesteps, levels between two by their logarithm.
        "normal": lambda: _at(training, np.linspace(1, 0, steps)),
        # Stability's generative-models: the same with one more below, left out.
        "sgm_uniform": lambda: _at(training, np.linspace(1, 0, steps + 1)[:-1]),
        # ComfyUI: training's own levels, evenly counted from the top.
        "simple": lambda: training[_counted(len(training), steps)],
        # ComfyUI: even in the angle whose tangent is the level.
        "kl_optimal": lambda: np.tan(
            np.linspace(math.atan(training[-1]), math.atan(training[0]), steps)
        ),
        **{name: partial(_aligned, name, steps) for name in _ALIGNED},
    }
    return choice(config, "noise_schedule", schedules)()


def _at(training: Levels, places: Levels) -> Levels:
    top = len(training) - 1
    return np.exp(np.interp(places * top, np.arange(top + 1), np.log(training)))


def _counted(total: int, steps: int) -> list[int]:
    return [total - 1 - int(i * total / steps) for i in range(steps)]


def _aligned(name: str, steps: int) -> Levels:
    known = np.log(_ALIGNED[name])
    places = np.linspace(0, len(known) - 1, steps + 1)[:-1]
    return np.exp(np.interp(places, np.arange(len(known)), known))
