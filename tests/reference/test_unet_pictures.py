"""SD 2.x, SDXL and Playground v2.5 from pictures, and SD 2.x with every schedule that its models
come with, against diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import sdcore
import tiny_xl
from reference.common import SAMPLED_F32, error
from sdcore.pipelines.families.stable_diffusion_inpaint import StableDiffusion2InpaintPipeline

SIZE = (24, 32)
ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 6,
    "guidance_scale": 5.0,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """diffusers' pipelines, and the folders in which they saved themselves."""
    found = {}
    for name in ("xl", "sd2"):
        folder = tmp_path_factory.mktemp(name)
        pipe = getattr(tiny_xl, name)(folder / "tokenizers")
        pipe.save_pretrained(folder / "model")
        found[name] = (pipe, folder / "model")
    return found


def _picture() -> Image.Image:
    numbers = np.random.default_rng(3).integers(0, 256, (4, 3, 3), np.uint8)
    return Image.fromarray(numbers).resize(SIZE, Image.Resampling.BICUBIC)


def _mask() -> Image.Image:
    mask = Image.new("L", SIZE)
    mask.paste(255, (6, 8, 20, 24))
    return mask


def theirs(pipe: Any, **arguments: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(5)
    out = pipe(**{**ARGS, **arguments}, generator=generator, output_type="latent")
    return out.images.float().numpy()


def ours(folder: Path, scheduler: Any = None, **arguments: Any) -> np.ndarray:
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    if scheduler is not None:
        kind = getattr(sdcore, type(scheduler).__name__)
        pipe.scheduler = kind.from_config(dict(scheduler.config))
    return pipe(**{**ARGS, **arguments}, seed=5, output_type="latent").images


def with_parts(kind: Any, pipe: Any, **parts: Any) -> Any:
    options = {"add_watermarker": False} if "XL" in kind.__name__ else {}
    if "XL" not in kind.__name__:
        options = {"requires_safety_checker": False}
    return kind(**{**pipe.components, **parts}, **options)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("name", ["xl", "sd2"])
def test_a_picture_is_redrawn(saved: Any, name: str, strength: float) -> None:
    pipe, folder = saved[name]
    kind = f"StableDiffusion{'XL' if name == 'xl' else ''}Img2ImgPipeline"
    options = {"image": _picture(), "strength": strength}
    ref = theirs(with_parts(getattr(diffusers, kind), pipe), **options)
    assert error(ours(folder, **options), ref) <= SAMPLED_F32


def test_sdxl_redraws_as_a_stage_of_two(saved: Any) -> None:
    """From a picture, up to where the refiner takes over."""
    pipe, folder = saved["xl"]
    options = {"image": _picture(), "strength": 0.8, "denoising_end": 0.6}
    ref = theirs(with_parts(diffusers.StableDiffusionXLImg2ImgPipeline, pipe), **options)
    assert error(ours(folder, **options), ref) <= SAMPLED_F32


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["xl", "sd2"])
def test_a_part_is_redrawn(saved: Any, name: str, strength: float) -> None:
    """With a UNet that was not trained for it."""
    pipe, folder = saved[name]
    kind = f"StableDiffusion{'XL' if name == 'xl' else ''}InpaintPipeline"
    options = {"image": _picture(), "mask_image": _mask(), "strength": strength}
    size = dict(zip(("width", "height"), SIZE, strict=True))
    ref = theirs(with_parts(getattr(diffusers, kind), pipe), **options, **size)
    assert error(ours(folder, **options), ref) <= SAMPLED_F32


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_sd2_for_inpainting_sees_the_mask(saved: Any, tmp_path: Path, strength: float) -> None:
    vit_h = 1024  # channels, by which a folder is known
    pipe = with_parts(
        diffusers.StableDiffusionInpaintPipeline,
        saved["sd2"][0],
        unet=tiny_xl.sd2_unet(9, vit_h),
        text_encoder=tiny_xl.text_encoder(vit_h, True),
    )
    pipe.register_to_config(requires_safety_checker=False)
    pipe.save_pretrained(tmp_path)
    options = {"image": _picture(), "mask_image": _mask(), "strength": strength}
    size = dict(zip(("width", "height"), SIZE, strict=True))
    ref = theirs(pipe, **options, **size)
    assert error(ours(tmp_path, **options), ref) <= SAMPLED_F32
    opened = sdcore.DiffusionPipeline.open(tmp_path)
    assert type(opened) is StableDiffusion2InpaintPipeline


SCHEDULES = {
    # 2.1 base, and SD-Turbo, which is drawn in a step without guidance.
    "epsilon": diffusers.PNDMScheduler(
        **tiny_xl.BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    ),
    "turbo": tiny_xl.euler(timestep_spacing="trailing"),
    # Finetunes to zero terminal SNR (Lin et al. 2023).
    "zero snr": diffusers.DDIMScheduler(
        **tiny_xl.BETAS,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    ),
    "zero snr, euler": tiny_xl.euler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_sd2_with_the_schedules_of_its_models(saved: Any, name: str) -> None:
    pipe, folder = saved["sd2"]
    options: dict[str, Any] = dict(zip(("width", "height"), SIZE, strict=True))
    if name == "turbo":
        options |= {"num_inference_steps": 1, "guidance_scale": 0.0, "negative_prompt": None}
    if "snr" in name:
        options["guidance_rescale"] = 0.7
    ref = theirs(with_parts(type(pipe), pipe, scheduler=SCHEDULES[name]), **options)
    assert np.isfinite(ref).all()
    assert error(ours(folder, SCHEDULES[name], **options), ref) <= SAMPLED_F32


def test_playground_redraws_a_picture(tmp_path: Path) -> None:
    """Its own schedule of levels, and a mean and a deviation of latents."""
    pipe = tiny_xl.playground(tmp_path / "tokenizers")
    pipe.save_pretrained(tmp_path / "model")
    options = {"image": _picture(), "strength": 0.5}
    ref = theirs(with_parts(diffusers.StableDiffusionXLImg2ImgPipeline, pipe), **options)
    assert error(ours(tmp_path / "model", **options), ref) <= SAMPLED_F32
