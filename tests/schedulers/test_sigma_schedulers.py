"""Schedulers of noise levels, multistep methods and LCM, each chained over all its steps against
diffusers' own step() in float64."""

import itertools

import numpy as np
import pytest
import torch
from chaining import (
    PREDICTIONS,
    SD,
    SPACINGS,
    STEPS,
    chain,
    compare,
    in_float64,
    new_reference,
    reference_class,
)

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
    "KDPM2AncestralDiscreteScheduler": NO_SAMPLE,
    "DPMSolverSDEScheduler": NO_SAMPLE,
    "DEISMultistepScheduler": PREDICTIONS,
    "SASolverScheduler": PREDICTIONS,
    "DPMSolverMultistepScheduler": PREDICTIONS,
    "UniPCMultistepScheduler": PREDICTIONS,
}
OTHERS = ("PNDMScheduler", "LCMScheduler")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SIGMA_CLASSES)
def test_levels_agree_with_diffusers(name, spacing, monkeypatch):
    curves = CURVES[:1] if name == "EulerAncestralDiscreteScheduler" else CURVES
    for steps, prediction, curve in itertools.product(STEPS, SIGMA_CLASSES[name], curves):
        if (name, steps) == ("KDPM2AncestralDiscreteScheduler", 2):
            continue  # the level below is so low that diffusers' rounding of it shows
        config = {**SD, "timestep_spacing": spacing, "prediction_type": prediction, **curve}
        chain(name, {**config, "steps_offset": 1}, steps, monkeypatch)


@pytest.mark.parametrize("name", SIGMA_CLASSES)
def test_defaults_chain_as_in_diffusers(name, monkeypatch):
    for steps in (1, 5, 20):
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


@pytest.mark.parametrize("spacing", SPACINGS)
def test_runge_kutta_agrees_with_diffusers(spacing, monkeypatch):
    for steps, prediction in itertools.product((4, 5, 7, 20), NO_SAMPLE):
        config = {**SD, "timestep_spacing": spacing, "prediction_type": prediction}
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
        for strength in (0.3, 0.77):
            if steps <= int(original * strength):
                chain("LCMScheduler", config, steps, monkeypatch, {"strength": strength})


ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpmsolver_variants_agree_with_diffusers(order, solver_type, algorithm, monkeypatch):
    if (order, algorithm) == (3, "sde-dpmsolver"):
        return  # diffusers has none
    endings = ("sigma_min", "zero") if algorithm.endswith("++") else ("sigma_min",)
    flags = itertools.product((False, True), (False, True))
    for (lower, euler), final, steps in itertools.product(flags, endings, (1, 5, 20)):
        config = {**SD, "algorithm_type": algorithm, "solver_order": order, "steps_offset": 1}
        config |= {"solver_type": solver_type, "lower_order_final": lower, "euler_at_final": euler}
        config |= {"final_sigmas_type": final, "timestep_spacing": "leading"}
        chain("DPMSolverMultistepScheduler", config, steps, monkeypatch)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_dpmsolver_options_of_real_models_agree_with_diffusers(spacing, monkeypatch):
    """DeepFloyd cuts the cosine schedule; Stable Diffusion may ask for even lambdas."""
    for steps in (3, 20):
        cosine = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
        config = {**cosine, "timestep_spacing": spacing, "thresholding": True}
        chain("DPMSolverMultistepScheduler", config, steps, monkeypatch)
        config = {**SD, "use_lu_lambdas": True, "timestep_spacing": spacing}
        chain("DPMSolverMultistepScheduler", config, steps, monkeypatch)


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize(
    "name", [f"{n}Scheduler" for n in ("DPMSolverMultistep", "UniPCMultistep")]
)
def test_flows_agree_with_diffusers(name, steps, shift, monkeypatch):
    for final in ("zero", "sigma_min"):
        config = {**SD, **FLOW, "flow_shift": shift, "final_sigmas_type": final}
        if name.startswith("UniPC"):
            config["final_sigmas_type"] = final
            karras = {**config, "use_karras_sigmas": True}
            chain(name, karras, steps, monkeypatch)
        elif final == "sigma_min":
            continue  # diffusers ends at a level of the other kind of model
        chain(name, config, steps, monkeypatch)


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "SASolverScheduler"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_agree_with_diffusers(name, order, monkeypatch):
    for steps, lower, flow in itertools.product((2, 5, 20), (False, True), ({}, FLOW)):
        config = {**SD, "lower_order_final": lower, **flow}
        if name.startswith("DEIS"):
            config["solver_order"] = order
        else:
            config |= {"predictor_order": order, "corrector_order": order + 1}
        chain(name, config, steps, monkeypatch)


@pytest.mark.parametrize(
    "name", [n for n in SIGMA_CLASSES if n[:3] in ("DPM", "Uni", "DEI", "SAS")]
)
def test_thresholding_agrees_with_diffusers(name, monkeypatch):
    if name == "DPMSolverSDEScheduler":
        return  # has none
    config = {**SD, "thresholding": True, "dynamic_thresholding_ratio": 0.9}
    for steps, largest in itertools.product((2, 6), (1.0, 2.5)):
        chain(name, {**config, "sample_max_value": largest}, steps, monkeypatch)


@pytest.mark.parametrize("begin", [1, 3])
# diffusers' LMS weighs slopes that such a run has not seen.
@pytest.mark.parametrize("name", [name for name in SIGMA_CLASSES if "LMS" not in name])
def test_a_run_that_begins_later_agrees_with_diffusers(name, begin, monkeypatch):
    """As image-to-image asks for; methods that look back begin with what they have."""
    reference = new_reference(name, SD, monkeypatch)
    ours = schedulers.get(name)(**SD)
    in_float64(reference)
    reference.set_timesteps(6)
    ours.set_timesteps(6, begin=begin)
    rows = begin * ours.rows_a_step
    reference.set_begin_index(rows)
    compare(reference, ours, begin, monkeypatch, begin=rows)


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
    continuous = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    chain("EulerDiscreteScheduler", {**SD, **limits, **continuous}, steps, monkeypatch)
    if steps > 2:  # with fewer, the second row divides x0's rounding by a sigma that is far smaller
        chain("HeunDiscreteScheduler", {**SD, "clip_sample": True}, steps, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        f"{name}Scheduler"
        for name in (
            "EulerDiscrete",
            "EulerAncestralDiscrete",
            "DPMSolverMultistep",
            "UniPCMultistep",
        )
    ],
)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_pure_noise_agrees_with_diffusers(name, spacing, steps, monkeypatch):
    config = {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": spacing}
    for prediction in ("v_prediction", *(["sample"] if SIGMA_CLASSES[name] == PREDICTIONS else [])):
        chain(name, {**config, "prediction_type": prediction}, steps, monkeypatch)


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_few_steps_from_pure_noise_agree_with_diffusers(name, prediction, monkeypatch):
    config = {**SD, "rescale_betas_zero_snr": True, "prediction_type": prediction}
    for steps in (1, 4):
        chain(name, config, steps, monkeypatch)


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
        ("PNDM", {"skip_prk_steps": True, "prediction_type": "sample"}, "got 'sample'"),
        ("PNDM", {"skip_prk_steps": True, "rescale_betas_zero_snr": True}, "zero_snr=True is not"),
        ("EulerDiscrete", {"interpolation_type": "log_linear"}, "'log_linear' is not supported"),
        ("EulerDiscrete", {"final_sigmas_type": "one"}, "must be one of zero, sigma_min"),
        (
            "LMSDiscrete",
            {"use_karras_sigmas": True, "use_exponential_sigmas": True},
            "are both True; choose one",
        ),
        ("LCM", {"original_inference_steps": 10}, "must be from 20, .* to 1000, got 10"),
        ("DPMSolverMultistep", {"solver_order": 4}, "solver_order must be from 1 to 3, got 4"),
        ("DPMSolverMultistep", {"algorithm_type": "dpmsolver"}, "cannot end at no noise; use"),
        (
            "DPMSolverMultistep",
            {
                "algorithm_type": "sde-dpmsolver",
                "solver_order": 3,
                "final_sigmas_type": "sigma_min",
            },
            "has no third order",
        ),
        ("DPMSolverMultistep", {"use_dynamic_shifting": True}, "set flow_shift"),
        ("DEISMultistep", {"solver_order": 4}, "solver_order must be from 1 to 3, got 4"),
        ("SASolver", {"corrector_order": 5}, "corrector_order must be from 1 to 4, got 5"),
        ("SASolver", {"algorithm_type": "noise_prediction"}, "use 'data_prediction'"),
        ("EDMEuler", {"sigma_min": 90.0}, "below sigma_max, got 90.0 and 80.0"),
        ("EDMDPMSolverMultistep", {"solver_order": 0}, "must be from 1 to 3, got 0"),
        ("EulerDiscrete", {"noise_schedule": "odd"}, "must be one of normal, sgm_uniform, .*'odd'"),
        ("DPMSolverMultistep", {"variance_type": "learned"}, "predicts variances"),
        ("UniPCMultistep", {"solver_order": 4}, "solver_order must be from 1 to 3, got 4"),
        ("UniPCMultistep", {"predict_x0": False}, "predict_x0=False is not supported"),
        ("UniPCMultistep", {"shift_terminal": 0.1}, "shift_terminal is not supported"),
    ],
)
def test_unusable_configurations_are_refused(name, fields, message):
    with pytest.raises(InvalidArgumentError, match=message):
        schedulers.get(f"{name}Scheduler")(**fields).set_timesteps(20)


def test_steps_that_do_not_fall_are_refused():
    scheduler = schedulers.get("DPMSolverMultistepScheduler")(timestep_spacing="leading")
    with pytest.raises(InvalidArgumentError, match="1000 steps give noise levels that do not fall"):
        scheduler.set_timesteps(1000)
