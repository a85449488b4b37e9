"""Samplers by the names that users of A1111's web UI and stable-diffusion.cpp know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.schedulers import Scheduler

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "normal": {"use_karras_sigmas": False, "use_exponential_sigmas": False},
    "karras": {"use_karras_sigmas": True, "use_exponential_sigmas": False},
}


@dataclass(frozen=True)
class Sampler:
    """What a name means: a scheduler class with some fields of its configuration."""

    title: str  # as the web UI writes it into a picture
    scheduler: str
    fields: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS = {
    "ddim": Sampler("DDIM", "DDIMScheduler"),
    "ddpm": Sampler("DDPM", "DDPMScheduler"),
    "dpm++2m": Sampler(
        "DPM++ 2M", "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}
    ),
    "dpm++2m_sde": Sampler(
        "DPM++ 2M SDE", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}
    ),
    "dpm2": Sampler("DPM2", "KDPM2DiscreteScheduler"),
    "euler": Sampler("Euler", "EulerDiscreteScheduler"),
    "euler_a": Sampler("Euler a", "EulerAncestralDiscreteScheduler"),
    "heun": Sampler("Heun", "HeunDiscreteScheduler"),
    "lcm": Sampler("LCM", "LCMScheduler"),
    "lms": Sampler("LMS", "LMSDiscreteScheduler"),
    "plms": Sampler("PLMS", "PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler"),
}


def find(name: str) -> Sampler:
    """`euler_a`, `Euler a`, or a scheduler class with or without its last word."""
    from sdcore import schedulers  # late, for a quick --help

    wanted = _key(name)
    for short, sampler in SAMPLERS.items():
        if wanted in (_key(short), _key(sampler.title), *_class_keys(sampler.scheduler)):
            return sampler
    for known in schedulers.names():
        if wanted in _class_keys(known):
            return Sampler(known.removesuffix("Scheduler"), known)
    raise InvalidArgumentError(
        f"[txt2img] there is no sampler '{name}'; use one of {', '.join(SAMPLERS)}"
    )


def _key(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def _class_keys(name: str) -> tuple[str, str]:
    return _key(name), _key(name.removesuffix("Scheduler"))


def title(scheduler: Scheduler) -> str:
    """What the web UI calls this scheduler."""
    name, config = type(scheduler).__name__, scheduler.config
    for sampler in SAMPLERS.values():
        same = all(config.get(key) == value for key, value in sampler.fields.items())
        if sampler.scheduler == name and same:
            return sampler.title
    return name.removesuffix("Scheduler")


def make(scheduler: Scheduler, sampler: str | None, schedule: str | None) -> Scheduler:
    """The model's own scheduler, or what the user asks for in place of it."""
    from sdcore import schedulers

    found = Sampler("", type(scheduler).__name__) if sampler is None else find(sampler)
    fields = {**found.fields, **(SCHEDULES[schedule] if schedule is not None else {})}
    kind = schedulers.get(found.scheduler)
    if schedule == "karras" and "use_karras_sigmas" not in kind.defaults:
        raise InvalidArgumentError(
            f"[txt2img] --schedule karras is not for {found.title or found.scheduler}, which draws "
            "at training's own levels; use --sampler euler, heun, lms, dpm2, dpm++2m or unipc"
        )
    return kind.from_config(scheduler.config, **fields)
