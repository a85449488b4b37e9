"""A VAE that runs strip by strip against the same on a whole picture, by diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
import tiny_models
from reference.common import TorchComponent, error
from sdcore.models import vae_strips
from sdcore.models.base import RunOptions
from sdcore.models.vae import AutoencoderKL
from sdcore.pipelines import memory

SPECS = pytest.mark.parametrize("spec", tiny_models.SPECS, ids=lambda spec: spec.name)


@pytest.fixture(autouse=True)
def short_strips(monkeypatch: Any) -> None:
    """Strips of two to eight rows, so that small pictures have many."""
    monkeypatch.setattr(vae_strips, "_PIXELS", 160)


def opened(spec: tiny_models.Spec, dtype: str) -> AutoencoderKL:
    module = tiny_models.vae(spec)
    return AutoencoderKL.from_component(
        TorchComponent(dict(module.config), module), RunOptions(dtype=dtype)
    )


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape, np.float32)


@SPECS
@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_decoding_in_strips_is_diffusers_decoding(
    spec: tiny_models.Spec, size: tuple[int, int]
) -> None:
    latents = numbers(2, 4, *size)
    with torch.no_grad():
        ref = tiny_models.vae(spec).decode(torch.from_numpy(latents)).sample.numpy()
    out = opened(spec, "f32").decode(latents, tiled=True)
    assert error(out, ref) < 2e-3  # half precision between sweeps
    # What is wrong is spread over all rows alike: strips have no borders.
    rows = np.sqrt(((out - ref) ** 2).mean(axis=(0, 1, 3)))
    assert rows.max() < 3 * np.median(rows)


@SPECS
@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_encoding_in_strips_is_diffusers_encoding(
    spec: tiny_models.Spec, size: tuple[int, int]
) -> None:
    vae = opened(spec, "f32")
    images = numbers(2, 3, *(vae.scale_factor * side for side in size))
    with torch.no_grad():
        ref = tiny_models.vae(spec).encode(torch.from_numpy(images)).latent_dist.mean.numpy()
    vae.tiling = True
    assert error(vae.encode(images), ref) < 2e-3


def test_strips_in_bf16_are_as_good_as_the_whole_in_bf16() -> None:
    latents = numbers(1, 4, 11, 6)
    ref = opened(tiny_models.ODD, "f32").decode(latents)
    vae = opened(tiny_models.ODD, "bf16")
    whole, strips = (error(vae.decode(latents, tiled=tiled), ref) for tiled in (False, True))
    assert strips < 1.2 * whole


def test_a_vae_forgets_its_strips_with_its_weights() -> None:
    vae = opened(tiny_models.PLAIN, "f32")
    latents = numbers(1, 4, 6, 6)
    before = vae.decode(latents, tiled=True)
    vae.release()
    assert np.array_equal(vae.decode(latents, tiled=True), before)


def test_a_pipeline_takes_strips_where_a_picture_does_not_fit(
    tmp_path: Path, monkeypatch: Any
) -> None:
    pipe = sdcore.DiffusionPipeline.open(tiny_models.save_folder(tiny_models.PLAIN, tmp_path))
    latents, taken = numbers(1, 4, 8, 6), []
    own = vae_strips.StripDecoder.one
    monkeypatch.setattr(
        vae_strips.StripDecoder, "one", lambda self, x: taken.append(x.shape) or own(self, x)
    )

    def strips() -> int:
        taken.clear()
        pipe.to_pil(latents)
        return len(taken)

    assert pipe.vae_tiling is None and strips() == 0
    monkeypatch.setattr(memory, "available", lambda: 1 << 18)
    assert strips() == 1
    pipe.vae_tiling = False
    assert strips() == 0
    monkeypatch.undo()
    monkeypatch.setattr(
        vae_strips.StripDecoder, "one", lambda self, x: taken.append(x.shape) or own(self, x)
    )
    pipe.vae_tiling = True
    assert strips() == 1
