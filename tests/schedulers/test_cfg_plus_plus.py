"""CFG++ against its paper's algorithm in float64, with a guided and a negative output."""

import itertools
import math

import numpy as np
import pytest
from chaining import SD, SHAPE

from sdcore import schedulers

STEPS = (1, 2, 7)
PREDICTIONS = ("epsilon", "v_prediction")


def meaning(prediction, x, m, signal, sigma):
    """x0 and the noise of x = signal * x0 + sigma * noise."""
    if prediction == "epsilon":
        return (x - sigma * m) / signal, m
    return signal * x - sigma * m, sigma * x + signal * m


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_of_cfg_plus_plus(steps, prediction):
    scheduler = schedulers.get("DDIMCFGPPScheduler")(
        **SD, prediction_type=prediction, clip_sample=False
    )
    scheduler.set_timesteps(steps)
    rng = np.random.default_rng(steps)
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    x = ref = rng.standard_normal(SHAPE)
    for t in scheduler.timesteps:
        guided, negative = rng.standard_normal((2, *SHAPE))
        alpha = alphas[t]
        earlier = alphas[t - 1000 // steps] if t >= 1000 // steps else 1.0
        signal, sigma = math.sqrt(alpha), math.sqrt(1 - alpha)
        x0, _ = meaning(prediction, ref, guided, signal, sigma)
        _, noise = meaning(prediction, ref, negative, signal, sigma)
        ref = math.sqrt(earlier) * x0 + math.sqrt(1 - earlier) * noise
        x = scheduler.step(guided, t, x, negative=negative)
        assert np.linalg.norm(scheduler.denoised - x0) < 1e-5 * np.linalg.norm(x0)
    assert np.linalg.norm(x - ref) < 1e-5 * np.linalg.norm(ref)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["EulerCFGPPScheduler", "EulerAncestralCFGPPScheduler"])
def test_euler_of_cfg_plus_plus(name, steps, prediction):
    """x' = x0 of the guided + down * (x - x0 of the negative) / sigma, and noise up again."""
    config = {**SD, "prediction_type": prediction}
    scheduler = schedulers.get(name)(**config)
    scheduler.set_timesteps(steps)
    rng = np.random.default_rng(steps)
    sigmas = [*scheduler.table.sigmas, 0.0]
    x = ref = rng.standard_normal(SHAPE) * scheduler.init_noise_sigma
    for t, (sigma, following) in zip(scheduler.timesteps, itertools.pairwise(sigmas), strict=True):
        guided, negative, z = rng.standard_normal((3, *SHAPE))
        scale = 1 / math.hypot(sigma, 1)
        clean, dirty = (
            meaning(prediction, ref * scale, m, scale, sigma * scale)[0] for m in (guided, negative)
        )
        down, up = following, 0.0
        if "Ancestral" in name:
            up = math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
            down = math.sqrt(following**2 - up**2)
        ref = clean + down * (ref - dirty) / sigma + up * z
        x = scheduler.step(guided, t, x, z, negative=negative)
    assert np.linalg.norm(x - ref) < 1e-5 * np.linalg.norm(ref)


@pytest.mark.parametrize("plain", ["DDIM", "Euler", "EulerAncestral"])
def test_without_guidance_it_is_the_plain_method(plain):
    pair = [
        schedulers.get(f"{plain}CFGPPScheduler")(**SD),
        schedulers.get(f"{plain}{'' if plain == 'DDIM' else 'Discrete'}Scheduler")(**SD),
    ]
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal(SHAPE).astype(np.float32)] * 2
    for scheduler in pair:
        scheduler.set_timesteps(5)
    for t in pair[0].timesteps:
        m, z = rng.standard_normal((2, *SHAPE))
        xs = [scheduler.step(m, t, x, z) for scheduler, x in zip(pair, xs, strict=True)]
    assert np.linalg.norm(xs[0] - xs[1]) < 1e-5 * np.linalg.norm(xs[1])
