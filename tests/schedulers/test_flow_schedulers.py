"""Flow matching against diffusers' own step()."""

import itertools

import numpy as np
import pytest
import torch
from chaining import STEPS, chain, reference_class

from sdcore import schedulers
from sdcore.errors import InvalidArgumentError

EULER, HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
CURVES = (
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows_agree_with_diffusers(steps, shift, monkeypatch):
    for curve, stochastic in itertools.product(CURVES, (False, True)):
        config = {"shift": shift, **curve, "stochastic_sampling": stochastic}
        chain(EULER, config, steps, monkeypatch)
    if steps > 1:  # diffusers' Heun takes no single step
        chain(HEUN, {"shift": shift}, steps, monkeypatch)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("terminal", [None, 0.1])
def test_shifts_that_follow_the_size_agree_with_diffusers(kind, terminal, monkeypatch):
    config = {"use_dynamic_shifting": True, "time_shift_type": kind, "shift_terminal": terminal}
    for steps, mu in itertools.product((2, 5, 20), (0.5, 1.15)):
        chain(EULER, config, steps, monkeypatch, {"mu": mu})
        sigmas = np.linspace(1, 1 / steps, steps)
        chain(EULER, config, steps, monkeypatch, {"mu": mu, "sigmas": sigmas})


@pytest.mark.parametrize("name", [EULER, HEUN])
def test_defaults_are_those_of_diffusers(name, monkeypatch):
    reference = reference_class(name, monkeypatch)().config
    for field, value in schedulers.get(name)().config.items():
        assert reference.get(field, value) == value, field


@pytest.mark.parametrize("name", [EULER, HEUN])
def test_noisy_pictures_agree_with_diffusers(name, monkeypatch):
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 1, 4, 6, 5), np.float32)
    ours = schedulers.get(name)(shift=3.0)
    ours.set_timesteps(10)
    reference = reference_class(name, monkeypatch)(shift=3.0)
    reference.set_timesteps(10)
    t = reference.timesteps[-1:]
    expected = reference.scale_noise(torch.from_numpy(x), t, torch.from_numpy(noise))
    np.testing.assert_allclose(ours.add_noise(x, noise, t.numpy()), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"shift": 0}, {}, "shift must be positive, got 0"),
        ({"use_dynamic_shifting": True}, {}, r"needs set_timesteps\(n, mu=…\)"),
        (
            {"use_dynamic_shifting": True, "time_shift_type": "cubic"},
            {"mu": 1.0},
            "time_shift_type must be one of exponential, linear; got 'cubic'",
        ),
        ({}, {"sigmas": [1.0, 0.5]}, "there are 2 sigmas for 3 steps"),
        ({}, {"sigmas": [1.0, 0.5, 0.5]}, "levels must fall from each to the next .*1, 0.5, 0.5"),
        ({"invert_sigmas": True}, {}, "invert_sigmas=True is not supported"),
    ],
)
def test_misuse_is_refused(fields, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        schedulers.get(EULER)(**fields).set_timesteps(3, **options)
