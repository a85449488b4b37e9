"""Samplers and noise levels that diffusers has not, against their published formulas in float64."""

import itertools
import math

import numpy as np
import pytest
from chaining import PREDICTIONS, SD, ExactTable, distance, draw, single

from sdcore import schedulers
from sdcore.schedulers.curves import beta_quantile
from sdcore.schedulers.sigmas import training_sigmas


class Model:
    """Gives prepared outputs one after another, and what they say that x without noise is."""

    def __init__(self, outputs, prediction):
        self.outputs, self.prediction, self.calls = outputs, prediction, []

    def __call__(self, x, sigma):
        m = self.outputs[len(self.calls)]
        self.calls.append(sigma)
        scale = math.hypot(sigma, 1)
        denoised = {
            "epsilon": x - sigma * m,
            "sample": m,
            "v_prediction": x / scale**2 - sigma / scale * m,
        }
        return denoised[self.prediction]


def dpmpp_2s_ancestral(model, x, sigmas, noises):
    """Lu et al. 2022, DPM-Solver++, algorithm 1, down to the level that leaves room for noise."""
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, sigma)
        up = min(following, math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2))
        down = math.sqrt(following**2 - up**2)
        if following == 0:
            x = x + (x - denoised) / sigma * (down - sigma)
        else:
            t, t_next = -math.log(sigma), -math.log(down)
            h, s = t_next - t, (t + t_next) / 2
            middle = math.exp(-s) / sigma * x - math.expm1(-h / 2) * denoised
            denoised = model(middle, math.exp(-s))
            x = down / sigma * x - math.expm1(-h) * denoised + noises[i] * up
        yield x


def euler_ancestral(model, x, sigmas, noises):
    """Karras et al. 2022's Euler step, down to the level that leaves room for noise. diffusers' has
    no curves."""
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        slope = (x - model(x, sigma)) / sigma
        up = min(following, math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2))
        down = math.sqrt(following**2 - up**2)
        x = x + slope * (down - sigma) + noises[i] * up
        yield x


def dpmpp_3m_sde(model, x, sigmas, noises):
    """Exponential integrator of third order for the SDE of eta = 1."""
    seen, lengths = [], []
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, sigma)
        seen.insert(0, denoised)
        if following == 0:
            yield denoised
            return
        h = math.log(sigma / following)
        twice = 2 * h
        x = math.exp(-twice) * x - math.expm1(-twice) * denoised
        phi2 = math.expm1(-twice) / twice + 1
        if len(lengths) > 1:
            r0, r1 = lengths[0] / h, lengths[1] / h
            d0, d1 = (seen[0] - seen[1]) / r0, (seen[1] - seen[2]) / r1
            x = x + phi2 * (d0 + (d0 - d1) * r0 / (r0 + r1))
            x = x - (phi2 / twice - 0.5) * (d0 - d1) / (r0 + r1)
        elif lengths:
            x = x + phi2 * (seen[0] - seen[1]) * h / lengths[0]
        x = x + noises[i] * following * math.sqrt(-math.expm1(-twice))
        lengths.insert(0, h)
        yield x


REFERENCES = {
    "EulerAncestralDiscreteScheduler": euler_ancestral,
    "DPMSolver2SAncestralScheduler": dpmpp_2s_ancestral,
    "DPMSolver3MSDEScheduler": dpmpp_3m_sde,
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "curve",
    [
        {},
        *({f"use_{curve}_sigmas": True} for curve in ("karras", "exponential", "beta")),
        *({"noise_schedule": name} for name in ("sgm_uniform", "simple", "ays", "kl_optimal")),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_samplers_agree_with_their_formulas(steps, curve, prediction, name):
    rng = np.random.default_rng(steps)
    ours = schedulers.get(name)(**SD, **curve, prediction_type=prediction)
    ours.set_timesteps(steps)
    rows = ours.table.rows
    outputs, noises = [draw(rng) for _ in rows], [draw(rng) for _ in range(steps)]
    x = x64 = (np.float32(ours.init_noise_sigma) * draw(rng)).astype(np.float32).astype(float)
    model = Model(outputs, prediction)
    sigmas = [*ours.table.sigmas[:: ours.rows_a_step], 0.0]
    reference = REFERENCES[name](model, x64, sigmas, noises)
    exact, step = ExactTable(rows), 0
    for i, (row, m) in enumerate(zip(rows, outputs, strict=True)):
        noise = noises[step]
        x64, x = exact.step(i, x64, m, noise), ours.step(m, row.timestep, x, noise)
        if (i + 1) % ours.rows_a_step == 0 or i + 1 == len(rows):
            expected = next(reference)
            assert distance(x64, expected) < 1e-6
            assert distance(x, expected) < single(i)
            step += 1
    np.testing.assert_allclose(ours.table.sigmas, model.calls, rtol=1e-6)
    assert next(reference, None) is None


def placed(schedule, steps, name="EulerDiscreteScheduler"):
    scheduler = schedulers.get(name)(**SD, noise_schedule=schedule)
    scheduler.set_timesteps(steps)
    return scheduler


def level(t, training):
    """k-diffusion's t_to_sigma: between two levels by the logarithm."""
    low, way = int(t), t % 1
    high = math.ceil(t)
    return math.exp((1 - way) * math.log(training[low]) + way * math.log(training[high]))


@pytest.mark.parametrize("steps", [1, 4, 10, 20, 33])
def test_levels_agree_with_their_formulas(steps):
    training = training_sigmas(placed("normal", steps).config)
    turns = [i / max(steps - 1, 1) for i in range(steps)]
    aligned = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    aligned_xl = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
    expected = {
        "normal": [level(999 * (1 - turn), training) for turn in turns],
        "sgm_uniform": [level(999 * (1 - i / steps), training) for i in range(steps)],
        "simple": [training[-(1 + int(i * 1000 / steps))] for i in range(steps)],
        "kl_optimal": [
            math.tan(turn * math.atan(training[0]) + (1 - turn) * math.atan(training[-1]))
            for turn in turns
        ],
        "ays": [level(10 * i / steps, aligned) for i in range(steps)],
        "ays_sdxl": [level(10 * i / steps, aligned_xl) for i in range(steps)],
    }
    for schedule, sigmas in expected.items():
        for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
            scheduler = placed(schedule, steps, name)
            np.testing.assert_allclose(scheduler.table.sigmas, sigmas, rtol=1e-6)
            found = [level(t, training) for t in scheduler.timesteps]
            # What lies outside the training's levels is told as the nearest of them.
            within = np.clip(sigmas, training[0], training[-1])
            np.testing.assert_allclose(found, within, rtol=1e-6)


def test_quantiles_of_the_beta_distribution():
    """Beta(1/2, 1/2) is the arcsine's, and Beta(1, 1) is flat."""
    for p in (0.0, 1e-6, 0.01, 0.3, 0.5, 0.9, 1.0):
        assert beta_quantile(p, 0.5) == pytest.approx(math.sin(math.pi * p / 2) ** 2, abs=1e-14)
        assert beta_quantile(p, 1.0) == pytest.approx(p, abs=1e-14)
