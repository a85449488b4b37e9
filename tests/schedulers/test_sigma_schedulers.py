"""Schedulers of noise levels, multistep methods and LCM, each chained over all its steps against
diffusers' own step() in float64."""

import itertools

import numpy as np
import pytest
import torch
from chaining import PREDICTIONS, SD, SPACINGS, STEPS, chain, reference_class

from sdcore import schedulers
from sdcore.errors import InvalidArgumentError

# diffusers' own, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

NO_SAMPLE = ("epsilon", "v_prediction")
CURVES = (
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
)
# The predictions that diffusers' class knows.
SIGMA_CLASSES = {
    "EulerDiscreteScheduler": PREDICTIONS,
    "EulerAncestralDiscreteScheduler": NO_SAMPLE,
    "HeunDiscreteScheduler": PREDICTIONS,
    "KDPM2DiscreteScheduler": NO_SAMPLE,
    "LMSDiscreteScheduler": PREDICTIONS,
    "DPMSolverMultistepScheduler": PREDICTIONS,
    "UniPCMultistepScheduler": PREDICTIONS,
}
OTHERS = ("PNDMScheduler", "LCMScheduler")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SIGMA_CLASSES)
def test_levels_agree_with_diffusers(name, spacing, monkeypatch):
    curves = CURVES[:1] if "Ancestral" in name else CURVES
    for steps, prediction, curve in itertools.product(STEPS, SIGMA_CLASSES[name], curves):
        config = {**SD, "timestep_spacing": spacing, "prediction_type": prediction, **curve}
        chain(name, {**config, "steps_offset": 1}, steps, monkeypatch)


@pytest.mark.parametrize("name", SIGMA_CLASSES)
def test_defaults_chain_as_in_diffusers(name, monkeypatch):
    for steps in STEPS:
        chain(name, {}, steps, monkeypatch)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("to_one", [False, True])
def test_plms_agrees_with_diffusers(spacing, to_one, monkeypatch):
    for steps, prediction in itertools.product(STEPS, NO_SAMPLE):
        config = {
            **SD,
            "skip_prk_steps": True,
            "timestep_spacing": spacing,
            "prediction_type": prediction,
            "set_alpha_to_one": to_one,
            "steps_offset": steps % 2,
        }
        chain("PNDMScheduler", config, steps, monkeypatch)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("original", [50, 100])
def test_lcm_agrees_with_diffusers(prediction, original, monkeypatch):
    for steps, clip in itertools.product((1, 2, 4, 8, 50), (False, True)):
        config = {
            "prediction_type": prediction,
            "original_inference_steps": original,
            "clip_sample": clip,
        }
        chain("LCMScheduler", config, steps, monkeypatch)


SOLVERS = [
    dict(zip(("solver_type", "algorithm_type", "final_sigmas_type"), values, strict=True))
    for values in itertools.product(
        ("midpoint", "heun"), ("dpmsolver++", "sde-dpmsolver++"), ("zero", "sigma_min")
    )
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: "-".join(s.values()))
def test_dpmsolver_variants_agree_with_diffusers(solver, monkeypatch):
    endings = itertools.product((1, 2), (False, True), (False, True))
    for (order, lower, euler), steps in itertools.product(endings, (1, 2, 5, 20)):
        config = {**SD, **solver, "solver_order": order, "lower_order_final": lower}
        config |= {"euler_at_final": euler, "timestep_spacing": "leading", "steps_offset": 1}
        chain("DPMSolverMultistepScheduler", config, steps, monkeypatch)


@pytest.mark.parametrize("solver_type", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_variants_agree_with_diffusers(order, solver_type, monkeypatch):
    for final, steps, skipped in itertools.product(
        ("zero", "sigma_min"), (1, 2, 5, 20), ([], [0, 2])
    ):
        if (solver_type, final) == ("bh1", "zero"):
            continue  # diffusers multiplies infinity by zero in its last step
        config = {**SD, "solver_order": order, "solver_type": solver_type}
        config |= {"final_sigmas_type": final, "disable_corrector": skipped}
        chain("UniPCMultistepScheduler", config, steps, monkeypatch)


@pytest.mark.parametrize("steps", STEPS)
def test_other_options_agree_with_diffusers(steps, monkeypatch):
    chain("EulerDiscreteScheduler", {**SD, "final_sigmas_type": "sigma_min"}, steps, monkeypatch)
    limits = {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0}
    chain("EulerDiscreteScheduler", {**SD, **limits}, steps, monkeypatch)
    if steps > 2:  # with fewer, the second row divides x0's rounding by a sigma that is far smaller
        chain("HeunDiscreteScheduler", {**SD, "clip_sample": True}, steps, monkeypatch)


@pytest.mark.parametrize(
    "name", [n for n in SIGMA_CLASSES if n[0] in "ED"] + ["UniPCMultistepScheduler"]
)
@pytest.mark.parametrize("steps", STEPS)
def test_pure_noise_agrees_with_diffusers(name, steps, monkeypatch):
    config = {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    chain(name, {**config, "prediction_type": "v_prediction"}, steps, monkeypatch)


@pytest.mark.parametrize("name", [*SIGMA_CLASSES, *OTHERS])
def test_defaults_are_those_of_diffusers(name, monkeypatch):
    reference = reference_class(name, monkeypatch)().config
    for field, value in schedulers.get(name)().config.items():
        if field in reference and field != "disable_corrector":
            assert reference[field] == value, field


@pytest.mark.parametrize("name", SIGMA_CLASSES)
def test_add_noise_agrees_with_diffusers(name, monkeypatch):
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 3, 4, 6, 5), np.float32)
    reference, ours = reference_class(name, monkeypatch)(**SD), schedulers.get(name)(**SD)
    reference.set_timesteps(10)
    ours.set_timesteps(10)
    t = reference.timesteps[[0, -1, 0]]
    expected = reference.add_noise(torch.from_numpy(x), torch.from_numpy(noise), t)
    np.testing.assert_allclose(ours.add_noise(x, noise, t.numpy()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("PNDM", {}, "skip_prk_steps=False.* set skip_prk_steps=True"),
        ("PNDM", {"skip_prk_steps": True, "prediction_type": "sample"}, "got 'sample'"),
        ("PNDM", {"skip_prk_steps": True, "rescale_betas_zero_snr": True}, "zero_snr=True is not"),
        ("EulerDiscrete", {"timestep_type": "continuous"}, "'continuous' is not supported"),
        ("EulerDiscrete", {"interpolation_type": "log_linear"}, "'log_linear' is not supported"),
        ("EulerDiscrete", {"final_sigmas_type": "one"}, "must be one of zero, sigma_min"),
        (
            "LMSDiscrete",
            {"use_karras_sigmas": True, "use_exponential_sigmas": True},
            "are both True; choose one",
        ),
        ("LCM", {"original_inference_steps": 10}, "must be from 20, .* to 1000, got 10"),
        ("DPMSolverMultistep", {"solver_order": 3}, "solver_order must be 1 or 2, got 3"),
        ("DPMSolverMultistep", {"algorithm_type": "dpmsolver"}, "got 'dpmsolver'"),
        ("DPMSolverMultistep", {"use_lu_lambdas": True}, "use_lu_lambdas=True is not supported"),
        ("DPMSolverMultistep", {"lambda_min_clipped": -5.1}, "lambda_min_clipped -5.1 is not"),
        ("DPMSolverMultistep", {"variance_type": "learned"}, "predicts variances"),
        ("DPMSolverMultistep", {"thresholding": True}, "thresholding=True is not supported"),
        ("UniPCMultistep", {"solver_order": 4}, "solver_order must be from 1 to 3, got 4"),
        ("UniPCMultistep", {"predict_x0": False}, "predict_x0=False is not supported"),
        ("UniPCMultistep", {"use_flow_sigmas": True}, "use_flow_sigmas=True is not supported"),
    ],
)
def test_unusable_configurations_are_refused(name, fields, message):
    with pytest.raises(InvalidArgumentError, match=message):
        schedulers.get(f"{name}Scheduler")(**fields).set_timesteps(20)


def test_steps_that_do_not_fall_are_refused():
    scheduler = schedulers.get("DPMSolverMultistepScheduler")(timestep_spacing="leading")
    with pytest.raises(InvalidArgumentError, match="1000 steps give noise levels that do not fall"):
        scheduler.set_timesteps(1000)
