"""Models distilled to do without the middle block or its attention, against diffusers' pipelines,
as folders and as single files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

import sdcore
import tiny_models
import tiny_xl
from reference.common import SAMPLED_F32, error
from tiny_models import PLAIN

ARGS: dict[str, Any] = {"num_inference_steps": 2, "height": 32, "width": 24, "guidance_scale": 3.0}


def small_unet(**config: Any) -> Any:
    return tiny_xl._unet(
        31,
        layers_per_block=1,
        mid_block_type=None,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        **config,
    )


def sd1(folder: Path) -> Any:
    """As BK-SDM."""
    parts = tiny_models.pipeline(PLAIN, folder / "a").components
    unet = small_unet(cross_attention_dim=64, attention_head_dim=8, use_linear_projection=False)
    return StableDiffusionPipeline(**{**parts, "unet": unet}, requires_safety_checker=False)


def sd2(folder: Path) -> Any:
    """As SDXS-512-0.9, whose first level reads the text alone."""
    unet = small_unet(cross_attention_dim=1024, only_cross_attention=(True, False))
    parts = tiny_xl.sd2(folder).components | {"text_encoder": tiny_xl.text_encoder(1024, True)}
    return StableDiffusionPipeline(**{**parts, "unet": unet}, requires_safety_checker=False)


def sdxl(folder: Path) -> Any:
    """As SSD-1B."""
    more = {"reverse_transformer_layers_per_block": ((2, 1), 1)}
    unet = tiny_xl.base_unet(mid_block_type="UNetMidBlock2D", **more)
    parts = tiny_xl.xl(folder).components | {"unet": unet}
    return StableDiffusionXLPipeline(**parts, add_watermarker=False)


def drawn(path: Path, latents: np.ndarray, **options: Any) -> np.ndarray:
    pipe = sdcore.DiffusionPipeline.open(path, dtype="f32", **options)
    return pipe("the red cat", "a dog", **ARGS, latents=latents, output_type="latent").images


@pytest.mark.parametrize("make", [sd1, sd2, sdxl])
def test_folders_and_files_draw_as_diffusers(make: Any, tmp_path: Path) -> None:
    theirs = make(tmp_path / "tokenizers")
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "model")
    f = theirs.vae_scale_factor
    latents = torch.randn((1, 4, 32 // f, 24 // f), generator=torch.Generator().manual_seed(1))
    given = {"negative_prompt": "a dog", "latents": latents, "output_type": "latent"}
    ref = theirs("the red cat", **given, **ARGS).images.numpy()
    opened = sdcore.checkpoint.open(tmp_path / "model")
    assert opened.kind.family == f"{make.__name__}-small" and "distilled" in opened.title
    assert error(drawn(tmp_path / "model", latents.numpy()), ref) <= SAMPLED_F32
    converted = sdcore.convert(tmp_path / "model", tmp_path / "x.safetensors")
    # A file has room for one vocabulary.
    tokenizers = {p.name: p for p in (tmp_path / "model").glob("tokenizer*")}
    assert error(drawn(converted, latents.numpy(), **tokenizers), ref) <= SAMPLED_F32


def test_a_file_numbered_with_gaps(tmp_path: Path) -> None:
    """As diffusers' script writes it, and stable-diffusion.cpp reads it."""
    theirs = sd1(tmp_path / "tokenizers")
    theirs.save_pretrained(tmp_path / "model")
    state = tiny_models.original_state(PLAIN)
    state = {k: v for k, v in state.items() if not k.startswith("model.diffusion_model.")}
    unet = tiny_models.original_unet(theirs.unet, gaps=True)
    state |= tiny_models._under("model.diffusion_model.", unet)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "x.ckpt")
    latents = np.random.default_rng(2).standard_normal((1, 4, 16, 12), np.float32)
    want = drawn(tmp_path / "model", latents)
    tokenizer = {"tokenizer": tmp_path / "model" / "tokenizer"}
    assert np.array_equal(drawn(tmp_path / "x.ckpt", latents, **tokenizer), want)
