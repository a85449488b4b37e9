"""Latents are enlarged as PyTorch does it, and pictures as Pillow does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import sdcore
from sdcore.pictures import upscale


@pytest.mark.parametrize("name", upscale.LATENT_MODES)
@pytest.mark.parametrize("size", [(14, 10), (13, 11), (7, 5), (5, 9), (21, 20)])
def test_latents_against_pytorch(name, size) -> None:
    latents = np.random.default_rng(0).standard_normal((2, 4, 5, 7)).astype(np.float32)
    mode, smooth = upscale.LATENT_MODES[name]
    ref = torch.nn.functional.interpolate(
        torch.from_numpy(latents).double(), size=size[::-1], mode=mode, antialias=smooth
    )
    made = upscale.enlarged_latents(latents, size, name)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, ref, rtol=0, atol=1e-6)


def test_what_sticks_out_is_cut() -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 6, 8)).astype(np.float32)
    made = upscale.enlarged_latents(latents, (12, 12), "Latent", "crop")
    whole = upscale.enlarged_latents(latents, (16, 12), "Latent")
    assert np.array_equal(made, whole[..., 2:14])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    cut = np.asarray(upscale.enlarged(picture, (12, 12), "Nearest", "crop"))
    assert np.array_equal(
        cut, np.asarray(ImageOps.fit(picture, (12, 12), Image.Resampling.NEAREST))
    )
    plain = np.asarray(upscale.enlarged(picture, (16, 12), "Nearest"))
    assert np.array_equal(plain, np.asarray(picture).repeat(2, 0).repeat(2, 1))


def test_names() -> None:
    assert upscale.find_upscaler("latent (BICUBIC)") == "Latent (bicubic)"
    with pytest.raises(sdcore.InvalidArgumentError, match=r"'4x'; use one of Lanczos, Nearest, La"):
        upscale.find_upscaler("4x")
