"""Guidance against diffusers' own functions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

import sdcore
import tiny_models
from sdcore.pipelines import memory
from sdcore.pipelines.families.instruct_pix2pix import _TwoGuidances
from sdcore.pipelines.guidance import Guidance


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rescaling_is_diffusers(share: float) -> None:
    rng = np.random.default_rng(0)
    negative, positive = rng.standard_normal((2, 3, 4, 6, 5), np.float32)
    guidance = Guidance(7.5, rescale=share)
    x = np.zeros_like(positive)
    out = guidance.predict(lambda _: np.concatenate([negative, positive]), x, 0, 1)
    guided = torch.from_numpy(negative + 7.5 * (positive - negative)).double()
    expected = rescale_noise_cfg(guided, torch.from_numpy(positive).double(), share).numpy()
    assert np.linalg.norm(out - expected) < 1e-6 * np.linalg.norm(expected)


def test_guidance_by_a_picture_too_is_rescaled() -> None:
    """diffusers has no such argument there: its function, on the paper's sum."""
    rng = np.random.default_rng(0)
    both, image, neither = rng.standard_normal((3, 2, 4, 6, 5), np.float32)
    guidance = _TwoGuidances(7.5, 1.5, rescale=0.7)
    out = guidance.predict(lambda _: np.concatenate([both, image, neither]), both, 0, 1)
    guided = neither + 7.5 * (both - image).astype(np.float64) + 1.5 * (image - neither)
    tensors = torch.from_numpy(guided), torch.from_numpy(both).double()
    expected = rescale_noise_cfg(*tensors, 0.7).numpy()
    assert np.linalg.norm(out - expected) < 1e-6 * np.linalg.norm(expected)


def test_a_call_rescales(tmp_path: Path) -> None:
    tiny_models.save_folder(tiny_models.ODD, tmp_path)
    pipe = sdcore.DiffusionPipeline.open(tmp_path, dtype="f32")
    plain, rescaled = (
        pipe("x", num_inference_steps=1, seed=1, output_type="latent", **options).images
        for options in ({}, {"guidance_rescale": 0.7})
    )
    assert not np.array_equal(plain, rescaled)
    with pytest.raises(
        sdcore.InvalidArgumentError, match="guidance_rescale must be from 0 and at most 1, got"
    ):
        pipe("x", guidance_rescale=1.5)


class Recorded:
    """A model that gives fixed outputs, and remembers what it was asked."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(1)
        self.outputs = rng.standard_normal((2 * images, 4, 3, 5), np.float32)
        self.asked: list[int] = []

    def __call__(self, x: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        out = self.outputs[rows]
        self.asked.append(len(x))
        assert len(out) == len(x)
        return out


def test_guidance_works_in_an_interval() -> None:
    begin, end, steps = 0.3, 0.8, 10
    diffusers = ClassifierFreeGuidance(guidance_scale=5.0, start=begin, stop=end)
    guidance, x = Guidance(5.0, begin=begin, end=end), np.zeros((3, 4, 3, 5), np.float32)
    for index in range(steps):
        model = Recorded(3)
        negative, positive = map(torch.from_numpy, np.split(model.outputs, 2))
        diffusers.set_state(index, steps, torch.tensor(0))
        ref = positive
        if diffusers._is_cfg_enabled():
            ref = diffusers.forward(positive, negative).pred
        out = guidance.predict(model, x, index, steps)
        np.testing.assert_allclose(out, ref.numpy(), rtol=1e-5, atol=1e-5)
        assert model.asked == [6 if diffusers._is_cfg_enabled() else 3]


def test_asking_in_turns_gives_the_same_bits(tmp_path: Path, monkeypatch: Any) -> None:
    tiny_models.save_folder(tiny_models.PLAIN, tmp_path)
    pipe = sdcore.DiffusionPipeline.open(tmp_path, dtype="f32")
    batches: list[int] = []
    run = type(pipe.unet).__call__
    monkeypatch.setattr(
        type(pipe.unet),
        "__call__",
        lambda self, x, *args, **kw: batches.append(len(x)) or run(self, x, *args, **kw),
    )

    def drawn() -> np.ndarray:
        batches.clear()
        return pipe(
            ["x", "y"], num_inference_steps=2, seed=1, output_type="latent", guidance_end=0.5
        ).images

    together = drawn()
    assert batches == [4, 2, 2]  # PNDM asks once more than there are steps
    pipe.guidance_in_turns = True
    assert np.array_equal(drawn(), together)
    assert batches == [2, 2, 2, 2]
    pipe.guidance_in_turns = None
    monkeypatch.setattr(memory, "available", lambda: 1 << 10)
    assert np.array_equal(drawn(), together)
    assert batches == [2, 2, 2, 2]


def test_bad_intervals_are_refused(tmp_path: Path) -> None:
    tiny_models.save_folder(tiny_models.PLAIN, tmp_path)
    pipe = sdcore.DiffusionPipeline.open(tmp_path)
    with pytest.raises(sdcore.InvalidArgumentError, match="before guidance_end, got 0"):
        pipe("x", guidance_start=0.5, guidance_end=0.5)
    with pytest.raises(sdcore.InvalidArgumentError, match="guidance_end must be"):
        pipe("x", guidance_end=1.5)


def test_a_pipeline_draws_by_cfg_plus_plus(tmp_path: Path) -> None:
    """The whole loop with diffusers' UNet and text encoder, in float64's place of Euler."""
    tiny_models.save_folder(tiny_models.PLAIN, tmp_path)
    pipe = sdcore.DiffusionPipeline.open(tmp_path, dtype="f32")
    pipe.scheduler = sdcore.EulerCFGPPScheduler.from_config(pipe.scheduler.config)
    assert pipe.usual_guidance == 0.6
    start = np.random.default_rng(2).standard_normal((1, 4, 8, 6)).astype(np.float32)
    out = pipe("x", "y", num_inference_steps=3, latents=start, output_type="latent").images
    scheduler = sdcore.EulerCFGPPScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(3)
    texts = torch.from_numpy(pipe.encode(["y", "x"]))
    sigmas, x = [*scheduler.table.sigmas, 0.0], start.astype(np.float64)
    x *= scheduler.init_noise_sigma
    unet = tiny_models.unet(tiny_models.PLAIN)
    for i, t in enumerate(scheduler.timesteps):
        scaled = torch.from_numpy(x / np.hypot(sigmas[i], 1)).float()
        with torch.no_grad():
            both = unet(torch.cat([scaled, scaled]), torch.tensor(float(t)), texts).sample
        negative, positive = both.numpy().astype(np.float64)[:, None]
        clean = x - sigmas[i] * (negative + 0.6 * (positive - negative))
        x = clean + sigmas[i + 1] * negative
    assert np.linalg.norm(out - x) < 1e-3 * np.linalg.norm(x)
