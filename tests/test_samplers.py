"""Samplers and schedules under the names that other programs have for them."""

import numpy as np
import pytest

import sdcore
from sdcore.schedulers import get
from sdcore.webui import samplers


@pytest.mark.parametrize(
    ("schedule", "title"),
    [
        ("exponential", "Exponential"),
        ("beta", "Beta"),
        ("sgm_uniform", "SGM Uniform"),
        ("simple", "Simple"),
        ("ddim_uniform", None),
        ("ays", "Align Your Steps"),
        ("kl_optimal", "KL Optimal"),
    ],
)
@pytest.mark.parametrize("name", ["euler", "dpm++2m", "dpm++3m_sde", "sa_solver"])
def test_schedules_by_their_usual_names(name, schedule, title):
    given = get("EulerDiscreteScheduler")(beta_start=0.0005, use_karras_sigmas=True)
    made = samplers.make(given, name, schedule)
    made.set_timesteps(4)
    plain = samplers.make(given, name, "normal")
    plain.set_timesteps(4)
    assert made.table.sigmas != plain.table.sigmas
    assert (samplers.schedule_title(made), samplers.schedule_title(plain)) == (title, None)
    assert samplers.schedule_title(samplers.make(given, name, None)) == "Karras"


@pytest.mark.parametrize(
    ("name", "title"),
    [("euler", "Euler"), ("heun", "Heun"), ("dpm++2m", "DPM++ 2M"), ("unipc", "UniPC")],
)
def test_samplers_of_flow_matching(name, title):
    own = sdcore.FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = samplers.make(own, name, None)
    assert samplers.title(made) == title
    made.set_timesteps(4)
    # Between flow's ends, where x = (1 - t) * image + t * noise, shifted as the model has it.
    signal, noise = made.noise_level(made.timesteps[:1])
    np.testing.assert_allclose(signal + noise, 1, rtol=1e-6)
    again = samplers.make(made, name, None) if "flow" in type(made).__name__.lower() else made
    assert type(again) is type(made)


@pytest.mark.parametrize("name", ["ddim", "lcm", "euler_a", "plms"])
def test_samplers_that_are_not_for_flow_matching(name):
    with pytest.raises(sdcore.InvalidArgumentError, match="is not for models of flow matching"):
        samplers.make(sdcore.FlowMatchEulerDiscreteScheduler(), name, None)


@pytest.mark.parametrize(
    ("name", "title", "schedule"),
    [
        ("DPM++ 2M Karras", "DPM++ 2M", "karras"),
        ("DPM++ 2M SDE Heun Exponential", "DPM++ 2M SDE Heun", "exponential"),
        ("DPM++ 2M SGM Uniform", "DPM++ 2M", "sgm_uniform"),
        ("Euler a Align Your Steps", "Euler a", "ays"),
        ("k_dpmpp_2m_ka", "DPM++ 2M", "karras"),
        ("k_dpmpp_2m_sde_heun_exp", "DPM++ 2M SDE Heun", "exponential"),
        ("dpmpp_2m_karras", "DPM++ 2M", "karras"),
        ("ddim_trailing", "DDIM", "trailing"),
        ("k_ddim", "DDIM", None),
        ("DPM2 a", "DPM2 a", None),
    ],
)
def test_a_name_may_say_the_schedule_too(name, title, schedule):
    sampler, found = samplers.parted(name)
    assert (samplers.find(sampler).title, found) == (title, schedule)


@pytest.mark.parametrize("name", ["Restart", "DPM fast", "HeunPP2", "Restart Karras"])
def test_a_name_that_is_none_is_told_with_all_that_are(name):
    sampler, schedule = samplers.parted(name)
    assert schedule is None
    with pytest.raises(sdcore.InvalidArgumentError) as error:
        samplers.find(sampler)
    assert f"there is no sampler '{name}'" in str(error.value)
    assert f"se one of {', '.join(samplers.SAMPLERS)}" in str(error.value)


def test_two_solvers_of_one_class_differ():
    own = sdcore.EulerDiscreteScheduler()
    heun, plain = (samplers.make(own, name, None) for name in ("dpm++2m_sde_heun", "dpm++2m_sde"))
    assert (samplers.title(heun), samplers.title(plain)) == ("DPM++ 2M SDE Heun", "DPM++ 2M SDE")
    for made in (heun, plain):
        made.set_timesteps(5)
    assert heun.table.rows != plain.table.rows
