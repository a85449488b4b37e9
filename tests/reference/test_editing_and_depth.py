"""SDXL for editing and Stable Diffusion 2 with depth, against diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from PIL import Image

import sdcore
import tiny_families
import tiny_models
import tiny_xl
from reference.common import SAMPLED_F32, error

PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"


def _picture() -> Image.Image:
    numbers = np.random.default_rng(3).integers(0, 256, (4, 3, 3), np.uint8)
    return Image.fromarray(numbers).resize((24, 32), Image.Resampling.BICUBIC)


def _parts(folder: Path) -> dict[str, Any]:
    """SDXL's, with eight channels into the UNet."""
    parts = {**tiny_xl.xl(folder).components, "unet": tiny_xl.base_unet(8)}
    return {name: part for name, part in parts.items() if part is not None}


@pytest.mark.parametrize("image_scale", [1.5, 0.5])
def test_sdxl_for_editing_is_guided_twice(tmp_path: Path, image_scale: float) -> None:
    parts = _parts(tmp_path / "tokenizers")
    pipe = StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)
    pipe.save_pretrained(tmp_path / "model")
    picture = _picture()
    options = {"image": picture, "image_guidance_scale": image_scale, "negative_prompt": NEGATIVE}
    generator = torch.Generator("cpu").manual_seed(5)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 4, "guidance_scale": 5.0, "height": 32, "width": 24}
    ref = pipe(PROMPT, **options, **arguments, generator=generator, output_type="latent").images
    mine = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    assert mine.family == "sdxl-edit" and not mine.scaled
    out = mine(PROMPT, **options, **arguments, seed=5, output_type="latent").images
    assert error(out, ref.numpy()) <= SAMPLED_F32
    with pytest.raises(sdcore.InvalidArgumentError, match="needs an image"):
        mine(PROMPT)


def test_a_schedule_tells_cosxl_for_editing(tmp_path: Path) -> None:
    """Which scales the latents of the picture; there the two programs agree too."""
    parts = _parts(tmp_path / "tokenizers")
    parts["scheduler"] = EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction")
    pipe = StableDiffusionXLInstructPix2PixPipeline(
        **parts, add_watermarker=False, is_cosxl_edit=True
    )
    pipe.save_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    options = {"image": _picture(), "num_inference_steps": 3, "guidance_scale": 5.0}
    options |= {"height": 32, "width": 24}
    generator = torch.Generator("cpu").manual_seed(5)
    ref = pipe(PROMPT, **options, generator=generator, output_type="latent").images.numpy()
    mine = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    assert mine.scaled
    out = mine(PROMPT, **options, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_sd2_draws_by_depth(tmp_path: Path, strength: float) -> None:
    spec = tiny_families.FAMILIES[0]
    unet = tiny_models._random(
        710, lambda: UNet2DConditionModel(**{**dict(spec.unet), "in_channels": 5})
    )
    vae = tiny_models.vae(tiny_models.PLAIN)
    pipe = StableDiffusionDepth2ImgPipeline(
        unet=unet,
        vae=vae,
        text_encoder=tiny_families.text_encoder(spec.towers[0][1]),
        tokenizer=tiny_models.tokenizer(tmp_path / "tokenizer"),
        scheduler=tiny_xl.euler(),
        depth_estimator=None,
        feature_extractor=None,
    )
    pipe.save_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    f = 2 ** (len(vae.config.block_out_channels) - 1)
    depth = np.random.default_rng(1).standard_normal((32 // f, 24 // f), dtype=np.float32)
    options = {"image": _picture(), "strength": strength, "negative_prompt": NEGATIVE}
    options |= {"num_inference_steps": 4, "guidance_scale": 5.0}
    generator = torch.Generator("cpu").manual_seed(5)
    ref = pipe(
        PROMPT,
        **options,
        depth_map=torch.from_numpy(depth)[None],
        generator=generator,
        output_type="latent",
    ).images.numpy()
    mine = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    assert mine.family == "sd2-depth"
    out = mine(PROMPT, **options, depth_map=depth, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32
    for wrong, message in (
        ({}, "give it as depth_map"),
        ({"depth_map": np.ones((4, 4), np.float32)}, "same depth everywhere, 1"),
        ({"depth_map": np.full((4, 4), np.nan, np.float32)}, "finite numbers"),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            mine(PROMPT, **options, **wrong)
    levels = np.arange(24, dtype=np.float32).reshape(4, 6) / 100
    cut = mine.resized({"depth_map": levels}, (4, 4), "crop")["depth_map"]
    assert np.abs(cut - levels[:, 1:5]).max() < 1e-6
    grey = Image.linear_gradient("L")  # a picture of any size, and no image to begin from
    drawn = mine(PROMPT, depth_map=grey, width=24, height=32, num_inference_steps=2, seed=1)
    assert drawn.images[0].size == (24, 32)
