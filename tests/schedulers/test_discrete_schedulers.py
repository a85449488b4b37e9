"""DDIM and DDPM against diffusers' own step(), and against theory on data that has an exact
denoiser; what all schedulers have in common."""

import itertools
import json
import textwrap
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from chaining import PREDICTIONS, SD, SPACINGS, chain, reference_class

from sdcore import schedulers
from sdcore.errors import CheckpointError, FileError, InvalidArgumentError
from sdcore.schedulers.base import Scheduler
from sdcore.schedulers.ddim import DDIMScheduler
from sdcore.schedulers.ddpm import DDPMScheduler
from sdcore.schedulers.discrete import (
    alphas_cumprod,
)

# Scheduler configurations as shipped with SD 1.5, SD 2.1 and the x4 upscaler.
SHIPPED = {
    "sd15": {**SD, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
    "sd21": {
        **SD,
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
        "prediction_type": "v_prediction",
    },
    "x4": {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1},
}
BETAS = {
    "linear": {"beta_schedule": "linear"},
    "sd": SD,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero snr": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    "trained": {"trained_betas": np.linspace(0.001, 0.2, 100).tolist(), "num_train_timesteps": 100},
}
# Without what is refused: an epsilon prediction from pure noise.
GRID = [
    (betas, prediction, spacing)
    for betas, prediction, spacing in itertools.product(BETAS, PREDICTIONS, SPACINGS)
    if not (betas == "zero snr" and prediction == "epsilon" and spacing != "leading")
]


@pytest.mark.parametrize(("betas", "prediction", "spacing"), GRID)
def test_ddim_agrees_with_diffusers(betas, prediction, spacing, monkeypatch):
    config = {**BETAS[betas], "prediction_type": prediction, "timestep_spacing": spacing}
    variants = itertools.product((1, 7, 23), (False, True), (False, True))
    for seed, (steps, clip, to_one) in enumerate(variants):
        variant = {"clip_sample": clip, "set_alpha_to_one": to_one, "steps_offset": seed % 2}
        eta = (0.0, 0.3, 0.9)[seed % 3]
        chain("DDIMScheduler", {**config, **variant}, steps, monkeypatch, eta=eta)


@pytest.mark.parametrize(("betas", "prediction", "spacing"), GRID)
def test_ddpm_agrees_with_diffusers(betas, prediction, spacing, monkeypatch):
    config = {**BETAS[betas], "prediction_type": prediction, "timestep_spacing": spacing}
    variances = ("fixed_small", "fixed_small_log", "fixed_large")
    for seed, (steps, variance) in enumerate(itertools.product((1, 7, 23), variances)):
        variant = {
            "variance_type": variance,
            "clip_sample": seed % 2 == 0,
            "clip_sample_range": 1.5,
            "steps_offset": seed % 2,
        }
        chain("DDPMScheduler", {**config, **variant}, steps, monkeypatch)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_thresholding_agrees_with_diffusers(name, prediction, monkeypatch):
    config = {**SD, "prediction_type": prediction, "clip_sample": False, "thresholding": True}
    for steps, largest in itertools.product((1, 7, 23), (1.0, 2.5)):
        variant = {"sample_max_value": largest, "dynamic_thresholding_ratio": 0.9}
        chain(name, {**config, **variant}, steps, monkeypatch)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("shipped", ["sd15", "sd21"])
def test_every_training_timestep_chained(name, shipped, monkeypatch):
    """The finest schedule, where neighbouring levels cancel most."""
    chain(name, {**SHIPPED[shipped], "steps_offset": 0}, 1000, monkeypatch)


@pytest.fixture
def scratch_registry(monkeypatch):
    """Classes that a test makes are forgotten after it."""
    monkeypatch.setattr(Scheduler, "registry", dict(Scheduler.registry))


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own, with NumPy 2
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_scheduler_of_the_guide_agrees_with_diffusers(
    scratch_registry, prediction, monkeypatch
):
    """The code of docs/add-a-scheduler.md, as it stands there."""
    guide = (Path(__file__).parents[2] / "docs/add-a-scheduler.md").read_text()
    code = guide.split("```python\n   ")[1].split("```")[0]
    exec(textwrap.dedent("   " + code), {})
    config = {**SD, "timestep_spacing": "leading", "prediction_type": prediction}
    for steps in (1, 7, 23):
        chain("EulerDiscreteScheduler", config, steps, monkeypatch)


def test_steps_of_any_number():
    for steps in range(1, 1001, 61):
        for spacing in SPACINGS:
            config = {**SHIPPED["sd15"], "timestep_spacing": spacing, "steps_offset": 0}
            ours = DDIMScheduler(**config)
            ours.set_timesteps(steps)
            theirs = diffusers.DDIMScheduler(**config)
            theirs.set_timesteps(steps)
            # For some numbers diffusers' trailing spacing runs one past the end.
            np.testing.assert_array_equal(ours.timesteps, theirs.timesteps.numpy()[:steps])
            assert len(ours.timesteps) == steps


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_levels_agree_with_diffusers(betas, zero_snr, monkeypatch):
    config = {**BETAS[betas], "rescale_betas_zero_snr": zero_snr}
    reference = reference_class("DDIMScheduler", monkeypatch)
    expected = reference(**config).alphas_cumprod.numpy()
    np.testing.assert_allclose(alphas_cumprod(DDIMScheduler(**config).config), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_add_noise_agrees_with_diffusers(name):
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 3, 4, 6, 5), np.float32)
    reference = getattr(diffusers, name)(**SD)
    scheduler = schedulers.get(name)(**SD)
    for t in ([0, 500, 999], [981]):
        timesteps = torch.tensor(t)
        expected = reference.add_noise(torch.from_numpy(x), torch.from_numpy(noise), timesteps)
        np.testing.assert_allclose(scheduler.add_noise(x, noise, t), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        scheduler.add_noise(x, noise, 981), scheduler.add_noise(x, noise, [981] * 3)
    )
    with pytest.raises(InvalidArgumentError, match=r"from 0 to 999, got \[1000\]"):
        scheduler.add_noise(x, noise, 1000)


class Gaussian:
    """Data of one Gaussian, whose best prediction of x0 is known exactly."""

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def x0(self, x, alpha):
        signal, variance = alpha**0.5, alpha * self.std**2 + 1 - alpha
        return self.mean + signal * self.std**2 / variance * (x - signal * self.mean)

    def output(self, x, alpha, prediction):
        x0 = self.x0(x, alpha)
        eps = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
        v = alpha**0.5 * eps - (1 - alpha) ** 0.5 * x0
        return {"epsilon": eps, "sample": x0, "v_prediction": v}[prediction]


def sampled_moments(scheduler, data, steps, **options):
    """Mean and standard deviation of what comes out. Every step of such a model is x' = A x + B +
    noise, so two values of x tell A and B, and no random numbers are needed."""
    scheduler.set_timesteps(steps, **options)
    alphas = alphas_cumprod(scheduler.config).astype(float)
    probe = np.array([0.0, 1.0])
    mean, variance = 0.0, 1.0
    for t, row in zip(scheduler.timesteps, scheduler.table.rows, strict=True):
        m = data.output(probe, alphas[t], scheduler.config.prediction_type)
        at_zero, at_one = scheduler.step(m, t, probe, np.zeros(2)).astype(float)
        slope = at_one - at_zero
        mean, variance = at_zero + slope * mean, slope**2 * variance + row.noise**2
    return mean, variance**0.5


RUNS = {
    "ddim": (DDIMScheduler, {}, {}),
    "ddim with noise": (DDIMScheduler, {}, {"eta": 0.7}),
    "ddpm": (DDPMScheduler, {}, {}),
    "ddpm, large variance": (DDPMScheduler, {"variance_type": "fixed_large"}, {}),
}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("run", RUNS)
def test_gaussian_data_comes_out_with_its_mean_and_variance(run, prediction):
    data = Gaussian(mean=0.4, std=0.3)
    kind, fields, options = RUNS[run]
    scheduler = kind(prediction_type=prediction, clip_sample=False, **fields)
    errors = []
    for steps in (40, 200, 1000):
        mean, std = sampled_moments(scheduler, data, steps, **options)
        errors.append(abs(std - data.std) + abs(mean - data.mean))
    # All are methods of first order: a fifth of the step, about a fifth of the error. The finest
    # run is left with the noise of the first level, sqrt(0.0001) = 0.01, and its own step.
    assert errors[1] < 0.35 * errors[0]
    assert errors[2] < 0.35 * errors[1]
    assert errors[2] < 0.005


def test_ddim_with_all_the_noise_is_ddpm():
    """Song et al. 2020, section 4.1; DDIM's direction is then 0, but for the root of a rounding."""
    rng = np.random.default_rng(0)
    x, m, noise = rng.standard_normal((3, 1000), np.float32)
    config = {**SD, "clip_sample": False}
    ddim, ddpm = DDIMScheduler(**config), DDPMScheduler(**config)
    ddim.set_timesteps(20, eta=1.0)
    ddpm.set_timesteps(20)
    for t in ddim.timesteps:
        expected = ddpm.step(m, t, x, noise)
        np.testing.assert_allclose(ddim.step(m, t, x, noise), expected, atol=6 * 2**-12)


def test_a_run_can_begin_in_the_middle():
    """As img2img does."""
    rng = np.random.default_rng(0)
    x, m = rng.standard_normal((2, 8), np.float32)
    scheduler = DDIMScheduler(**SHIPPED["sd15"])
    scheduler.set_timesteps(10)
    reference = diffusers.DDIMScheduler(**SHIPPED["sd15"])
    reference.set_timesteps(10)
    t = scheduler.timesteps[6]
    expected = reference.step(torch.from_numpy(m), int(t), torch.from_numpy(x)).prev_sample
    np.testing.assert_allclose(scheduler.step(m, t, x), expected, atol=1e-6)


def test_configuration_sources(tmp_path):
    config = {"_class_name": "PNDMScheduler", **SD, "skip_prk_steps": True, "steps_offset": 1}
    folder = tmp_path / "scheduler"
    folder.mkdir()
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    file = folder / "scheduler_config.json"
    sources = (config, str(tmp_path), folder, file)
    for made in [DDIMScheduler.from_config(source) for source in sources]:
        assert (made.config.beta_end, made.config["steps_offset"]) == (0.012, 1)
        assert made.config.skip_prk_steps is True  # kept for others, ignored here
        assert made.config.clip_sample is True
    assert DDIMScheduler.from_config(file, steps_offset=3).config.steps_offset == 3
    with pytest.raises(AttributeError, match="'nonsense'"):
        _ = made.config.nonsense


def test_defaults_are_not_carried_to_another_class():
    ddim = DDIMScheduler.from_config({**SD, "variance_type": "fixed_large"})
    assert "variance_type" in ddim.config
    assert DDPMScheduler.from_config(ddim.config).config.variance_type == "fixed_large"
    reference = diffusers.DDIMScheduler(**SD)
    assert "set_alpha_to_one" not in DDPMScheduler.from_config(reference.config).config
    assert "set_alpha_to_one" not in DDPMScheduler.from_config(ddim.config).config


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_defaults_are_those_of_diffusers(name):
    reference = getattr(diffusers, name)().config
    for field, value in schedulers.get(name)().config.items():
        assert reference[field] == value, field


def test_unreadable_configurations(tmp_path):
    with pytest.raises(FileError, match=r"cannot read .*scheduler_config"):
        DDIMScheduler.from_config(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text("{oops")
    with pytest.raises(CheckpointError, match="is not JSON"):
        DDIMScheduler.from_config(file)
    file.write_text("[1]")
    with pytest.raises(CheckpointError, match="must hold an object, not list"):
        DDIMScheduler.from_config(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta_schedule": "cubic"}, "beta_schedule must be one of linear, .*got 'cubic'"),
        ({"prediction_type": "noise"}, "prediction_type must be one of epsilon, .*got 'noise'"),
        ({"timestep_spacing": None}, "timestep_spacing must be one of leading, .*got None"),
        (
            {"thresholding": True, "dynamic_thresholding_ratio": 0},
            "dynamic_thresholding_ratio must lie above 0 and up to 1, got 0",
        ),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be a positive .*got 0"),
        ({"trained_betas": [0.1, 0.2]}, r"num_train_timesteps = 1000 numbers .* shape \[2\]"),
        ({"trained_betas": [0.1] * 999 + [1.5]}, r"above 0 and up to 1, .*, 0.1 to 1.5"),
        ({"beta_end": 1.5}, "beta_end must lie above 0 and up to 1, got 1.5"),
        ({"beta_start": 0}, "beta_start must lie above 0 and up to 1, got 0"),
        ({"beta_start": "small"}, "beta_start must be a number, got 'small'"),
        ({"clip_sample_range": None}, "clip_sample_range must be a number, got None"),
        ({"clip_sample_range": -1}, "clip must be positive, got -1"),
        ({"steps_offset": float("nan")}, "steps_offset must be a number, got nan"),
        ({"steps_offset": 60}, "steps_offset 60 puts 20 steps outside .*0 to 999"),
        (
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "timestep 999 is only noise .*; use 'v_prediction'",
        ),
    ],
)
def test_unusable_configurations_are_refused(fields, message):
    with pytest.raises(InvalidArgumentError, match=message):
        DDIMScheduler(**fields).set_timesteps(20)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, "20"])
def test_unusable_numbers_of_steps_are_refused(steps):
    for name in schedulers.names():
        with pytest.raises(InvalidArgumentError, match=f"from 1 to (1000|40), .*got {steps!r}"):
            schedulers.get(name)().set_timesteps(steps)


def test_other_misuse_is_refused():
    x = np.zeros(4, np.float32)
    with pytest.raises(InvalidArgumentError, match=r"\[DDIMScheduler\] call set_timesteps first"):
        DDIMScheduler().step(x, 1, x)
    with pytest.raises(InvalidArgumentError, match=r"eta must lie in \[0, 1\], got 1.5"):
        DDIMScheduler().set_timesteps(10, eta=1.5)
    for variance in ("learned", "learned_range"):
        with pytest.raises(
            InvalidArgumentError, match="predicts variances, which is not supported"
        ):
            DDPMScheduler(variance_type=variance).set_timesteps(10)
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(3)
    with pytest.raises(
        InvalidArgumentError, match=r"5 is not a timestep of this run; .* 666, 333, 0"
    ):
        scheduler.step(x, 5, x)
    with pytest.raises(
        InvalidArgumentError,
        match="no scheduler 'Euler'; use one of CMStochasticIterativeScheduler, DDIMCFGPP",
    ):
        schedulers.get("Euler")


def test_the_preview_is_the_clipped_image():
    rng = np.random.default_rng(0)
    x, m = rng.standard_normal((2, 1, 4, 8, 8), np.float32)
    scheduler = DDIMScheduler(**SD)
    scheduler.set_timesteps(10)
    scheduler.step(m, 900, x)
    reference = diffusers.DDIMScheduler(**SD)
    reference.set_timesteps(10)
    expected = reference.step(torch.from_numpy(m), 900, torch.from_numpy(x)).pred_original_sample
    # Before clipping both add terms of size 4 / sqrt(ᾱ) at most.
    largest = 4 / alphas_cumprod(scheduler.config)[900] ** 0.5
    np.testing.assert_allclose(scheduler.denoised, expected, atol=largest * 2**-23, rtol=0)


def test_the_table_can_be_read():
    scheduler = DDIMScheduler(**SHIPPED["sd15"])
    scheduler.set_timesteps(4)
    table = scheduler.table
    assert [row.timestep for row in table.rows] == [751, 501, 251, 1]
    assert all(row.noise == 0 and len(row.terms) == 1 for row in table.rows)
    assert scheduler.timesteps.dtype == np.int64
