"""TCD, consistency models and EDM against diffusers' own step()."""

import itertools

import numpy as np
import pytest
import torch
from chaining import PREDICTIONS, chain, compare, new_reference, reference_class

from sdcore import schedulers
from sdcore.errors import InvalidArgumentError

NAMES = (
    "TCDScheduler",
    "CMStochasticIterativeScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_tcd_agrees_with_diffusers(prediction, monkeypatch):
    for steps, eta in itertools.product((1, 2, 4, 8, 50), (0.0, 0.3, 1.0)):
        config = {"prediction_type": prediction}
        chain("TCDScheduler", config, steps, monkeypatch, eta=eta)
    options = {"original_inference_steps": 50}
    chain("TCDScheduler", config, 3, monkeypatch, options)


@pytest.mark.parametrize("fields", [{}, {"clip_denoised": False}, {"sigma_max": 40.0, "rho": 5.0}])
@pytest.mark.parametrize("steps", [1, 2, 4, 40])
def test_consistency_agrees_with_diffusers(steps, fields, monkeypatch):
    chain("CMStochasticIterativeScheduler", fields, steps, monkeypatch)


EDM = [
    dict(zip(("sigma_schedule", "prediction_type", "final_sigmas_type"), values, strict=True))
    for values in itertools.product(
        ("karras", "exponential"), ("epsilon", "v_prediction"), ("zero", "sigma_min")
    )
]


@pytest.mark.parametrize("config", EDM, ids=lambda config: "-".join(config.values()))
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_edm_euler_agrees_with_diffusers(steps, config, monkeypatch):
    if steps > 1 or config["sigma_schedule"] == "karras":  # diffusers begins one at its end
        chain("EDMEulerScheduler", config, steps, monkeypatch)


@pytest.mark.parametrize("config", EDM, ids=lambda config: "-".join(config.values()))
@pytest.mark.parametrize("order", [1, 2, 3])
def test_edm_dpmsolver_agrees_with_diffusers(order, config, monkeypatch):
    name = "EDMDPMSolverMultistepScheduler"
    kinds = ("dpmsolver++", "sde-dpmsolver++") if order < 3 else ("dpmsolver++",)
    for kind, solver, steps in itertools.product(kinds, ("midpoint", "heun"), (2, 5, 20)):
        if steps == 20 and config["final_sigmas_type"] == "sigma_min":
            continue  # the last step has no length: diffusers divides zero by zero
        fields = {**config, "solver_order": order, "algorithm_type": kind, "solver_type": solver}
        reference = new_reference(name, fields, monkeypatch)
        ours = schedulers.get(name)(**fields)
        reference.set_timesteps(steps)
        ours.set_timesteps(steps)
        # diffusers rounds along the curve, where a step is far shorter than its levels.
        levels = [*ours.table.sigmas, float(reference.sigmas[-1])]
        np.testing.assert_allclose(levels, reference.sigmas, rtol=2e-6)
        np.testing.assert_allclose(ours.timesteps, reference.timesteps, rtol=1e-5, atol=1e-6)
        reference.sigmas = torch.tensor(levels, dtype=torch.float64)
        compare(reference, ours, steps, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_diffusers(name, monkeypatch):
    reference = reference_class(name, monkeypatch)().config
    for field, value in schedulers.get(name)().config.items():
        assert reference.get(field, value) == value, field


@pytest.mark.parametrize("name", NAMES[1:])
def test_noisy_pictures_agree_with_diffusers(name, monkeypatch):
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 1, 4, 6, 5), np.float32)
    ours, reference = schedulers.get(name)(), reference_class(name, monkeypatch)()
    ours.set_timesteps(10)
    reference.set_timesteps(10)
    t = reference.timesteps[3:4]
    expected = reference.add_noise(torch.from_numpy(x), torch.from_numpy(noise), t)
    row = ours.table.rows[3].timestep
    np.testing.assert_allclose(ours.add_noise(x, noise, row), expected, rtol=1e-5, atol=1e-5)


def test_misuse_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"\[tcd\] eta must lie in \[0, 1\], got 2"):
        schedulers.get("TCDScheduler")().set_timesteps(4, eta=2)
    with pytest.raises(InvalidArgumentError, match="must be from 60, the number of steps"):
        schedulers.get("TCDScheduler")().set_timesteps(60)
    with pytest.raises(InvalidArgumentError, match=r"from 1 to 40, .*got 41"):
        schedulers.get("CMStochasticIterativeScheduler")().set_timesteps(41)
