"""Models and LoRAs of few steps (LCM, TCD), and the noise of every sampler that draws any, against
diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import sdcore
import tiny_models
import tiny_xl
from adapters.test_lora import as_kohya
from reference.common import SAMPLED_F32, error
from sdcore import _core
from sdcore.checkpoint import FAMILIES
from sdcore.checkpoint.infer import infer_scheduler
from sdcore.models.unet import guidance_embedding

# diffusers' own, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

ARGS: dict[str, Any] = {"prompt": "the red circle of a cat", "height": 32, "width": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Any, Any]:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return theirs, sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")


def seeded(pipe: Any, seeds: list[int], **options: Any) -> np.ndarray:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return pipe(**ARGS, **options, generator=generators, output_type="latent").images.numpy()


# ---- noise ---------------------------------------------------------------------------------------

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DRAWING: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddpm": ("DDPM", {"clip_sample": False}, {}),
    "ddim, eta 0.5": ("DDIM", {"clip_sample": False}, {"eta": 0.5}),
    "ddim, eta 1": ("DDIM", {"clip_sample": False}, {"eta": 1.0}),
    "euler a": ("EulerAncestralDiscrete", {}, {}),
    "dpm2 a": ("KDPM2AncestralDiscrete", {}, {}),
    "dpm++ 2m sde": ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, {}),
    "dpm++ 2m sde karras": (
        "DPMSolverMultistep",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
        {},
    ),
    "sa-solver": ("SASolver", {}, {}),
    "lcm": ("LCM", {}, {}),
    "tcd": ("TCD", {}, {"eta": 0.3}),
    "tcd, eta 1": ("TCD", {}, {"eta": 1.0}),
    "tcd without noise": ("TCD", {}, {"eta": 0.0}),
}


@pytest.mark.parametrize("name", DRAWING)
def test_noise_is_drawn_in_the_order_of_diffusers(pair: tuple[Any, Any], name: str) -> None:
    """Of two images at once, each from its own seed."""
    theirs, ours = pair
    kind, fields, options = DRAWING[name]
    fields = {**BETAS, **fields}
    theirs.scheduler = getattr(diffusers, f"{kind}Scheduler")(**fields)
    ours.scheduler = getattr(sdcore, f"{kind}Scheduler")(**fields)
    options = {**options, "num_inference_steps": 6, "guidance_scale": 3.0}
    options |= {"num_images_per_prompt": 2}
    ref = seeded(theirs, [5, 6], **options)
    out = ours(**ARGS, **options, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32


def test_tcd_adds_noise_unless_told_otherwise(pair: tuple[Any, Any]) -> None:
    """0.3 is the default of the paper's step function; 0 is not the same as nothing said."""
    _, ours = pair
    ours.scheduler = sdcore.TCDScheduler.from_config(ours.scheduler.config)
    args = {**ARGS, "num_inference_steps": 4, "seed": 5, "output_type": "latent"}
    plain = ours(**args).images
    assert np.array_equal(plain, ours(**args, eta=0.3).images)
    assert error(ours(**args, eta=0).images, plain) > 0.01


# ---- latent consistency models -------------------------------------------------------------------


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("lcm")
    pipe = tiny_xl.lcm(folder / "tokenizers")
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "model")
    return pipe, folder / "model"


@pytest.mark.parametrize("dim", [32, 33, 256])
def test_the_guidance_scale_is_embedded_as_diffusers_does(lcm: tuple[Any, Path], dim: int) -> None:
    for scale in (1.0, 1.5, 8.5, 14.0):
        ref = lcm[0].get_guidance_scale_embedding(torch.tensor([scale - 1]).double(), dim)
        # diffusers computes the angles, up to 13 000, in float32.
        assert error(guidance_embedding(scale, dim), ref[0].numpy()) <= 13000 * 2**-24 * 2


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_file_that_says_no_schedule_is_drawn_with_lcm(family: str) -> None:
    guided = {"time_embedding.cond_proj.weight": _core.Tensor.from_array(np.ones((2, 2), "f4"))}
    for unet, name in ((guided, "LCMScheduler"), ({}, FAMILIES[family].scheduler["_class_name"])):
        assert infer_scheduler(family, unet, {}, unet)["_class_name"] == name


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_a_latent_consistency_model_is_diffusers(
    lcm: tuple[Any, Path], steps: int, scale: float
) -> None:
    theirs, folder = lcm
    options = {"num_inference_steps": steps, "guidance_scale": scale, "num_images_per_prompt": 2}
    ours = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    assert type(ours.scheduler) is sdcore.LCMScheduler
    ref = seeded(theirs, [5, 6], **options)
    out = ours(**ARGS, **options, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_latent_consistency_model_redraws_a_picture(
    lcm: tuple[Any, Path], strength: float
) -> None:
    theirs, folder = lcm
    parts = {name: part for name, part in theirs.components.items() if name != "image_encoder"}
    redraw = diffusers.LatentConsistencyModelImg2ImgPipeline(**parts, requires_safety_checker=False)
    redraw.set_progress_bar_config(disable=True)
    numbers = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    picture = Image.fromarray(numbers).resize((24, 32), Image.Resampling.BICUBIC)
    options = {"image": picture, "strength": strength, "num_inference_steps": 4}
    prompt = ARGS["prompt"]
    generator = [torch.Generator("cpu").manual_seed(5)]
    ref = redraw(prompt, **options, generator=generator, output_type="latent").images.numpy()
    ours = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    out = ours(prompt, **options, guidance_scale=8.5, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32


def test_a_strength_that_leaves_too_few_timesteps_is_refused(lcm: tuple[Any, Path]) -> None:
    ours = sdcore.DiffusionPipeline.from_pretrained(lcm[1], dtype="f32")
    with pytest.raises(
        sdcore.InvalidArgumentError, match=r"strength of 0\.05 leaves 2 of 50 timesteps for 4 steps"
    ):
        ours("x", image=Image.new("RGB", (24, 32)), strength=0.05)


@pytest.mark.parametrize("scheduler", ["LCMScheduler", "TCDScheduler"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_a_lora_draws_in_four_steps(
    folder: Path, tmp_path: Path, scheduler: str, scale: float
) -> None:
    """LCM-LoRA and TCD-LoRA on Stable Diffusion 1.x."""
    path = as_kohya(tmp_path)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights(path.parent, weight_name=path.name)
    theirs.scheduler = getattr(diffusers, scheduler).from_config(theirs.scheduler.config)
    ours = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    ours.load_lora_weights(path)
    ours.scheduler = getattr(sdcore, scheduler).from_config(ours.scheduler.config)
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": scale}
    if scheduler == "TCDScheduler":
        options["eta"] = 0.3
    ref = seeded(theirs, [5], **options)
    assert error(ours(**ARGS, **options, seed=5, output_type="latent").images, ref) <= SAMPLED_F32
