"""Guidance against diffusers' own functions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

import sdcore
import tiny_models
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
