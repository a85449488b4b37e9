"""Samplers by the names that users of A1111's web UI, k-diffusion, ComfyUI and
stable-diffusion.cpp know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdcore.arguments import nearest
from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.schedulers import Scheduler

# The classes that do the same on a flow.
_OF_FLOW = {
    "EulerDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler": "FlowMatchHeunDiscreteScheduler",
}
_PLAIN = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "noise_schedule": None,
}
# What a schedule sets, after all others are off.
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "normal": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "sgm_uniform": {"noise_schedule": "sgm_uniform"},
    "simple": {"noise_schedule": "simple"},
    "ddim_uniform": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "ays": {"noise_schedule": "ays"},
    "ays_sdxl": {"noise_schedule": "ays_sdxl"},
    "kl_optimal": {"noise_schedule": "kl_optimal"},
}
# As the web UI writes them into a picture.
_SCHEDULE_TITLES = {
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "ays": "Align Your Steps",
    "ays_sdxl": "Align Your Steps",
    "kl_optimal": "KL Optimal",
}
_PLAIN_TITLES = {"normal": "Normal", "ddim_uniform": "DDIM", "trailing": "Trailing"}
TITLES = {
    **_PLAIN_TITLES,
    **{name: title for name, title in _SCHEDULE_TITLES.items() if name != "ays_sdxl"},
}
AUTOMATIC = "Automatic"
_ENDINGS = {"ka": "karras", "exp": "exponential"}  # of the web UI's short names
_AUTOMATIC = {
    **dict.fromkeys(("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a"), "karras"),
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"), "exponential"),
}


@dataclass(frozen=True)
class Sampler:
    """What a name means: a scheduler class with some fields of its configuration."""

    title: str  # as the web UI writes it into a picture
    scheduler: str
    fields: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS = {
    "ddim": Sampler("DDIM", "DDIMScheduler"),
    "ddim_cfg_pp": Sampler("DDIM CFG++", "DDIMCFGPPScheduler"),
    "ddpm": Sampler("DDPM", "DDPMScheduler"),
    "dpm++2m": Sampler(
        "DPM++ 2M", "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}
    ),
    "dpm++2m_sde_heun": Sampler(
        "DPM++ 2M SDE Heun",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "dpm++2m_sde": Sampler(
        "DPM++ 2M SDE", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}
    ),
    "dpm++2s_a": Sampler("DPM++ 2S a", "DPMSolver2SAncestralScheduler"),
    "dpm++3m_sde": Sampler("DPM++ 3M SDE", "DPMSolver3MSDEScheduler"),
    "dpm++sde": Sampler("DPM++ SDE", "DPMSolverSDEScheduler"),
    "dpm2": Sampler("DPM2", "KDPM2DiscreteScheduler"),
    "dpm2_a": Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
    "deis": Sampler("DEIS", "DEISMultistepScheduler"),
    "euler": Sampler("Euler", "EulerDiscreteScheduler"),
    "euler_a": Sampler("Euler a", "EulerAncestralDiscreteScheduler"),
    "euler_a_cfg_pp": Sampler("Euler a CFG++", "EulerAncestralCFGPPScheduler"),
    "euler_cfg_pp": Sampler("Euler CFG++", "EulerCFGPPScheduler"),
    "heun": Sampler("Heun", "HeunDiscreteScheduler"),
    "lcm": Sampler("LCM", "LCMScheduler"),
    "lms": Sampler("LMS", "LMSDiscreteScheduler"),
    "plms": Sampler("PLMS", "PNDMScheduler", {"skip_prk_steps": True}),
    "sa_solver": Sampler("SA-Solver", "SASolverScheduler"),
    "tcd": Sampler("TCD", "TCDScheduler"),
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler"),
}


def find(name: str) -> Sampler:
    """`euler_a`, `Euler a`, `k_euler_ancestral`, or a scheduler class with or without its last
    word. Raises InvalidArgumentError, which lists what there is."""
    if (sampler := _found(name)) is not None:
        return sampler
    guess, known = nearest(name.lower(), SAMPLERS), f"se one of {', '.join(SAMPLERS)}"
    end = f"{guess} U{known}" if guess else f"; u{known}"
    raise InvalidArgumentError(f"[sampler] there is no sampler '{name:.80}'{end}")


def _found(name: str) -> Sampler | None:
    from sdcore import schedulers  # late, for a quick --help

    wanted = _key(name)
    for short, sampler in SAMPLERS.items():
        if wanted in (_key(short), _key(sampler.title), *_class_keys(sampler.scheduler)):
            return sampler
    for known in schedulers.names():
        if wanted in _class_keys(known):
            return Sampler(known.removesuffix("Scheduler"), known)
    return None


def _key(name: str) -> str:
    """Alike for all spellings: dpmpp_2s_ancestral is k-diffusion's, dpmpp_sde_gpu and uni_pc_bh2
    are ComfyUI's."""
    plain = name.strip().lower().removeprefix("k_").removesuffix("_gpu").removesuffix("_bh2")
    plain = plain.replace("dpmpp", "dpm++").replace("ancestral", "a")
    return plain.replace("_", "").replace(" ", "")


def _class_keys(name: str) -> tuple[str, str]:
    return _key(name), _key(name.removesuffix("Scheduler"))


def title(scheduler: Scheduler) -> str:
    """What the web UI calls this scheduler."""
    name, config = type(scheduler).__name__, scheduler.config
    name = next((plain for plain, flow in _OF_FLOW.items() if flow == name), name)
    for sampler in SAMPLERS.values():
        same = all(config.get(key) == value for key, value in sampler.fields.items())
        if sampler.scheduler == name and same:
            return sampler.title
    return name.removesuffix("Scheduler")


def _on_flow(found: Sampler, scheduler: Scheduler) -> Sampler:
    """The same method for a model of flow matching, whose own scheduler this is."""
    from sdcore import schedulers

    name = _OF_FLOW.get(found.scheduler, found.scheduler)
    kind = schedulers.get(name)
    if issubclass(kind, schedulers.flow.FlowScheduler):
        return Sampler(found.title, name, found.fields)
    if "flow_shift" not in kind.defaults:
        raise InvalidArgumentError(
            f"[sampler] {found.title or found.scheduler} is not for models of flow "
            "matching; use euler, heun, dpm++2m, dpm++2m_sde, dpm++2m_sde_heun, unipc, deis or "
            "sa_solver"
        )
    flow = {
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": scheduler.config.shift,
    }
    return Sampler(found.title, name, {**found.fields, **flow})


def make(
    scheduler: Scheduler,
    sampler: str | None,
    schedule: str | None,
    model: Mapping[str, Any] | None = None,
) -> Scheduler:
    """The model's own scheduler, or what the user asks for in place of it; `model` are fields that
    say what the model was trained to do."""
    from sdcore import schedulers

    found = Sampler("", type(scheduler).__name__) if sampler is None else find(sampler)
    if isinstance(scheduler, schedulers.flow.FlowScheduler):
        found = _on_flow(found, scheduler)
    fields = dict(found.fields)
    kind = schedulers.get(found.scheduler)
    if schedule is not None:
        levels = SCHEDULES[schedule]
        if unknown := [name for name in levels if name not in kind.defaults]:
            raise InvalidArgumentError(
                f"[sampler] schedule {schedule} is not for {found.title or found.scheduler}, "
                f"which has no {unknown[0]}; use sampler euler, heun, lms, dpm2, dpm++2m or unipc"
            )
        off = {name: value for name, value in _PLAIN.items() if name in kind.defaults}
        fields |= {**off, **levels}
    if unknown := [name for name in model or () if name not in kind.defaults]:
        raise InvalidArgumentError(
            f"[sampler] {kind.__name__} has no {unknown[0]}: --prediction and --zero-snr are for "
            "Stable Diffusion 1.x, 2.x and XL, with a sampler such as euler, ddim or dpm++2m"
        )
    fields |= {name: value for name, value in (model or {}).items() if name not in fields}
    return kind.from_config(scheduler.config, **fields)


def schedule_title(scheduler: Scheduler, asked: str | None = None) -> str | None:
    """What the web UI calls the noise levels of this scheduler; None for its plain ones, unless
    they were `asked` for."""
    for name, title in _SCHEDULE_TITLES.items():
        levels = SCHEDULES[name].items()
        if all(scheduler.config.get(key) == value for key, value in levels):
            return title
    return None if asked is None else _PLAIN_TITLES.get(asked)


def schedule_of(title: str, sampler: str) -> str | None:
    """The schedule that the web UI or stable-diffusion.cpp calls so; None if there is none, or
    `sampler` does not take it. Automatic is the one that a sampler is best known with."""
    found = find(sampler)
    if title == AUTOMATIC:
        return _AUTOMATIC.get(found.title)
    name = _schedule_names().get(_key(title))
    return name if name and takes(found.scheduler, name) else None


def is_schedule(title: str) -> bool:
    """Whether any schedule is called so."""
    return _key(title) in _schedule_names()


def takes(sampler: str, schedule: str) -> bool:
    """Whether a sampler has these noise levels."""
    from sdcore import schedulers

    has = schedulers.get(find(sampler).scheduler).defaults
    return all(level in has for level in SCHEDULES[schedule])


def schedule(title: str) -> str:
    """The schedule that is called so anywhere; raises InvalidArgumentError."""
    if not is_schedule(title):
        raise InvalidArgumentError(
            f"there is no schedule '{title:.80}'"
            + (nearest(title.lower(), SCHEDULES) or f"; use one of {', '.join(SCHEDULES)}")
        )
    return _schedule_names()[_key(title)]


def _schedule_names() -> dict[str, str]:
    return {
        **{"uniform": "normal", "discrete": "normal"},
        **{_key(name): name for name in SCHEDULES},
        **{_key(title): name for name, title in TITLES.items()},
    }


def parted(name: str) -> tuple[str, str | None]:
    """A sampler and its schedule in one, as programs used to write them: "DPM++ 2M SGM Uniform",
    "k_dpmpp_2m_ka", "ddim_trailing"."""
    if _found(name) is not None:
        return name, None
    for gap in re.finditer("[ _]", name):
        sampler, last = name[: gap.start()], name[gap.end() :]
        schedule = (_schedule_names() | _ENDINGS).get(_key(last))
        if schedule is not None and _found(sampler) is not None:
            return sampler, schedule
    return name, None


def of_family(schedule: str | None, family: str) -> str | None:
    """Align Your Steps has one name in the web UI, and levels for each family."""
    return f"{schedule}_sdxl" if schedule == "ays" and family.startswith("sdxl") else schedule
