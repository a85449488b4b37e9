"""Whole latents of SD 3 and PixArt against diffusers' pipelines, on tiny models of the real
topology, and what goes wrong in ways that a user can cause."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from diffusers.image_processor import PixArtImageProcessor
from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha, pipeline_pixart_sigma
from PIL import Image
from safetensors.torch import save_file

import sdcore
import tiny_transformers as tiny
from reference.common import SAMPLED_F32, error
from sdcore.pipelines.pictures import cut_to

PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("sd3")
    pipe = tiny.sd3_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


@pytest.fixture(scope="module", params=["sigma", "alpha"])
def pixart(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("pixart")
    pipe = tiny.pixart_pipeline(folder, request.param == "alpha")
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


SIZE = {"height": 24, "width": 16}
SD3: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": NEGATIVE,
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "max_sequence_length": 20,
    **SIZE,
}


def torch_latents(pipe: Any, **arguments: Any) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(5)
    return pipe(**arguments, generator=generator, output_type="latent").images.float().numpy()


@pytest.mark.parametrize("isa", ["amx", "avx2", "generic"])
def test_sd3s_latents_are_diffusers(
    sd3: tuple[Any, Path], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, folder = sd3
    if isa not in sdcore._core.supported_isas():
        pytest.skip(f"this processor has no {isa}")
    monkeypatch.setenv("SDCORE_ISA", isa)
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    assert type(pipe.scheduler) is sdcore.FlowMatchEulerDiscreteScheduler
    out = pipe(**SD3, seed=5, output_type="latent").images
    assert error(out, torch_latents(reference, **SD3)) <= SAMPLED_F32


def test_sd3_with_skip_layer_guidance(sd3: tuple[Any, Path]) -> None:
    reference, folder = sd3
    skip = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_scale": 2.0,
        "skip_layer_guidance_start": 0.1,
        "skip_layer_guidance_stop": 0.8,
    }
    plain = torch_latents(reference, **SD3)
    ref = torch_latents(reference, **SD3, **skip)
    assert error(ref, plain) > 0.01
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    out = pipe(**SD3, **skip, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32


def test_sd3_at_levels_placed_by_hand(sd3: tuple[Any, Path]) -> None:
    reference, folder = sd3
    sigmas = {"sigmas": [1.0, 0.7, 0.35]}
    ref = torch_latents(reference, **SD3, **sigmas)
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    out = pipe(**SD3, **sigmas, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32
    with pytest.raises(sdcore.InvalidArgumentError, match="it takes no timesteps"):
        pipe(**SD3, timesteps=[900, 400])


def test_sd3_without_t5(sd3: tuple[Any, Path]) -> None:
    reference, folder = sd3
    encoder, reference.text_encoder_3 = reference.text_encoder_3, None
    try:
        ref = torch_latents(reference, **SD3)
    finally:
        reference.text_encoder_3 = encoder
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32", text_encoder_3=None)
    assert pipe.text_encoder_3 is None
    assert error(pipe(**SD3, seed=5, output_type="latent").images, ref) <= SAMPLED_F32


def test_sd3_with_t5_alone(sd3: tuple[Any, Path]) -> None:
    _, folder = sd3
    pipe = sdcore.DiffusionPipeline.from_pretrained(
        folder, dtype="f32", text_encoder=False, text_encoder_2=False
    )
    out = pipe(**SD3, seed=5, output_type="latent").images
    assert np.isfinite(out).all()
    with pytest.raises(sdcore.InvalidArgumentError, match="needs at least one text encoder"):
        sdcore.DiffusionPipeline.from_pretrained(
            folder, text_encoder=False, text_encoder_2=False, text_encoder_3=False
        )


def single_file(pipe: Any, path: Path, text: bool = True) -> Path:
    """As published: everything in one file under original names."""
    state = {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in tiny.original_sd3(pipe.transformer.state_dict()).items()
    }
    state |= {f"first_stage_model.{name}": t for name, t in pipe.vae.state_dict().items()}
    if text:
        for place, encoder in {
            "clip_l": pipe.text_encoder,
            "clip_g": pipe.text_encoder_2,
            "t5xxl": pipe.text_encoder_3,
        }.items():
            for name, tensor in encoder.state_dict().items():
                if "embed_tokens" in name:
                    continue
                own = name if place == "t5xxl" or name.startswith("text_") else f"text_model.{name}"
                state[f"text_encoders.{place}.transformer.{own}"] = tensor
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    return path


def test_sd3_in_one_file_and_in_parts(sd3: tuple[Any, Path], tmp_path: Path) -> None:
    reference, folder = sd3
    ref = torch_latents(reference, **SD3)
    tokenizers = {name: folder / name for name in ("tokenizer", "tokenizer_2", "tokenizer_3")}
    whole = sdcore.DiffusionPipeline.from_single_file(
        single_file(reference, tmp_path / "whole.safetensors"), dtype="f32", **tokenizers
    )
    assert error(whole(**SD3, seed=5, output_type="latent").images, ref) <= SAMPLED_F32
    bare = single_file(reference, tmp_path / "bare.safetensors", text=False)
    parts = {name: folder / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
    pipe = sdcore.DiffusionPipeline.from_single_file(bare, dtype="f32", **parts, **tokenizers)
    assert error(pipe(**SD3, seed=5, output_type="latent").images, ref) <= SAMPLED_F32
    with pytest.raises(sdcore.InvalidArgumentError, match="needs at least one text encoder"):
        sdcore.DiffusionPipeline.from_single_file(bare)
    with pytest.raises(sdcore.CheckpointError, match="text_encoder_3 must be a T5EncoderModel"):
        sdcore.DiffusionPipeline.from_single_file(bare, text_encoder_3=folder / "text_encoder")
    with pytest.raises(sdcore.UnsupportedModelError, match="no vocabulary for its text_encoder_3"):
        sdcore.DiffusionPipeline.from_single_file(bare, text_encoder_3=folder / "text_encoder_3")
    with pytest.raises(sdcore.CheckpointError, match="text_encoder_2 pools 64 channels"):
        sdcore.DiffusionPipeline.from_single_file(
            bare, **{**parts, **tokenizers, "text_encoder_2": folder / "text_encoder"}
        )


def test_sd3s_vae_alone_is_read_as_sd3s(sd3: tuple[Any, Path], tmp_path: Path) -> None:
    reference, folder = sd3
    state = {name: tensor.clone() for name, tensor in reference.vae.state_dict().items()}
    save_file(state, tmp_path / "vae.safetensors")
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, vae=tmp_path / "vae.safetensors")
    assert pipe.vae.config.scaling_factor == 1.5305
    assert pipe.vae.config.shift_factor == 0.0609
    (picture,) = pipe(**SD3, seed=5).images
    assert isinstance(picture, Image.Image) and picture.size == (16, 24)


def test_sd3_refuses_what_it_cannot_do(sd3: tuple[Any, Path]) -> None:
    _, folder = sd3
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder)
    with pytest.raises(sdcore.InvalidArgumentError, match="height must be a multiple of 4"):
        pipe(PROMPT, height=18, width=16)
    with pytest.raises(sdcore.InvalidArgumentError, match="at most 48, got 52; try 48"):
        pipe(PROMPT, height=52, width=16)
    with pytest.raises(
        sdcore.InvalidArgumentError, match="max_sequence_length must be at most 512"
    ):
        pipe(PROMPT, **SIZE, max_sequence_length=513)
    with pytest.raises(sdcore.InvalidArgumentError, match="skip_layers must be 0 to 2, got 7"):
        pipe(PROMPT, **SIZE, num_inference_steps=4, skip_guidance_layers=[7],
             skip_layer_guidance_stop=1.0)  # fmt: skip


def test_pixarts_latents_are_diffusers(pixart: tuple[Any, Path]) -> None:
    reference, folder = pixart
    arguments: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": 5,
        "guidance_scale": 4.5,
        "max_sequence_length": 24,
        **SIZE,
    }
    arguments |= {"use_resolution_binning": False, "clean_caption": False}
    ref = torch_latents(reference, **arguments)
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    assert type(pipe.scheduler) is sdcore.DPMSolverMultistepScheduler
    out = pipe(**arguments, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32


def test_pixarts_captions_are_as_long_as_in_training(pixart: tuple[Any, Path]) -> None:
    _, folder = pixart
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder)
    assert pipe.default_tokens == (120 if pipe.transformer.config.knows_sizes else 300)
    asked = {**SIZE, "use_resolution_binning": False}
    (picture,) = pipe(PROMPT, **asked, num_inference_steps=2, seed=1).images
    assert picture.size == (16, 24)


def test_pixart_draws_at_sizes_of_its_training(tmp_path: Path) -> None:
    """The model of 256 pixels, with a VAE of the real depth."""
    reference = tiny.pixart_pipeline(
        tmp_path, False, transformer=tiny.pixart(False, 32), vae=tiny.vae(4, 4)
    )
    reference.set_progress_bar_config(disable=True)
    pipe = sdcore.DiffusionPipeline.from_pretrained(tmp_path, dtype="f32")
    arguments: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": 2,
        "height": 96,
        "width": 64,
    }
    ref = torch_latents(reference, **arguments, clean_caption=False)
    assert ref.shape == (1, 4, 38, 26)
    out = pipe(**arguments, clean_caption=False, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32
    drawn = pipe(**arguments, seed=5)
    assert drawn.images[0].size == (64, 96)
    assert (drawn.parameters["width"], drawn.parameters["height"]) == (64, 96)
    pixels = pipe(**arguments, seed=5, output_type="np").images
    assert pixels.shape == (1, 96, 64, 3)
    whole = pipe(**{**arguments, "height": 304, "width": 208}, seed=5, output_type="np").images
    assert np.array_equal(pixels, cut_to(whole, 64, 96))


def test_what_is_cut_is_the_middle() -> None:
    y, x = np.mgrid[0:1:304j, 0:1:208j].astype(np.float32)
    smooth = np.stack([y, x, np.sin(3 * x * y)], axis=-1)[None]
    reference = PixArtImageProcessor.resize_and_crop_tensor(
        torch.from_numpy(smooth).permute(0, 3, 1, 2), 64, 96
    )
    assert error(cut_to(smooth, 64, 96), reference.permute(0, 2, 3, 1).numpy()) < 5e-3


@pytest.mark.parametrize("sample", [32, 64, 128, 256])
def test_the_sizes_of_pixarts_training_are_diffusers(
    pixart: tuple[Any, Path], sample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bins = {
        32: pipeline_pixart_alpha.ASPECT_RATIO_256_BIN,
        64: pipeline_pixart_alpha.ASPECT_RATIO_512_BIN,
        128: pipeline_pixart_alpha.ASPECT_RATIO_1024_BIN,
        256: pipeline_pixart_sigma.ASPECT_RATIO_2048_BIN,
    }[sample]
    reference, folder = pixart
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder)
    config = dataclasses.replace(pipe.transformer.config, sample_size=sample)
    monkeypatch.setattr(pipe.transformer, "config", config)
    times = 8 // pipe.vae.scale_factor
    for height in range(256, 2048, 96):
        for width in range(256, 2048, 96):
            wanted = reference.image_processor.classify_height_width_bin(height, width, bins)
            drawn = pipe.drawn_size(width, height, {})
            assert (drawn[1] * times, drawn[0] * times) == wanted, (width, height)


def test_pixart_lcm(tmp_path: Path) -> None:
    reference = tiny.pixart_pipeline(
        tmp_path, False, scheduler=LCMScheduler(beta_schedule="linear", beta_end=0.02)
    )
    reference.set_progress_bar_config(disable=True)
    pipe = sdcore.DiffusionPipeline.from_pretrained(tmp_path, dtype="f32")
    assert (pipe.default_steps, pipe.default_guidance) == (4, 1.0)
    same = {"prompt": PROMPT, "clean_caption": False, "use_resolution_binning": False, **SIZE}
    ref = torch_latents(reference, **same, num_inference_steps=4, guidance_scale=0.0)
    assert error(pipe(**same, seed=5, output_type="latent").images, ref) <= SAMPLED_F32


def test_pixart_cannot_do_without_t5(pixart: tuple[Any, Path], tmp_path: Path) -> None:
    reference, folder = pixart
    positions = reference.transformer.pos_embed.pos_embed
    state = tiny.original_pixart(reference.transformer.state_dict(), 300, positions)
    path = tmp_path / "pixart.pth"
    torch.save({"state_dict": state}, path)
    with pytest.raises(
        sdcore.CheckpointError, match=r"has no text_encoder.*give one as text_encoder="
    ):
        sdcore.DiffusionPipeline.from_single_file(path)
    with pytest.raises(sdcore.InvalidArgumentError, match="cannot do without its text_encoder"):
        sdcore.DiffusionPipeline.from_pretrained(folder, text_encoder=False)
    pipe = sdcore.DiffusionPipeline.from_single_file(
        path,
        text_encoder=folder / "text_encoder",
        tokenizer=folder / "tokenizer",
        vae=folder / "vae",
    )
    drawn = pipe(PROMPT, **SIZE, num_inference_steps=2, seed=1, use_resolution_binning=False)
    assert drawn.images[0].size == (16, 24)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_sd3_from_a_picture(sd3: tuple[Any, Path], strength: float, masked: bool) -> None:
    reference, folder = sd3
    kind = diffusers.StableDiffusion3Img2ImgPipeline
    options: dict[str, Any] = {"image": _picture(), "strength": strength}
    if masked:
        kind = diffusers.StableDiffusion3InpaintPipeline
        options["mask_image"] = Image.new("L", (16, 24))
        options["mask_image"].paste(255, (4, 6, 14, 20))
    theirs = kind(**reference.components)
    theirs.set_progress_bar_config(disable=True)
    changes = {**SD3, **options, "num_inference_steps": 6}
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    out = pipe(**changes, seed=5, output_type="latent").images
    assert error(out, torch_latents(theirs, **changes)) <= SAMPLED_F32


def _picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_pixart_from_a_picture(pixart: tuple[Any, Path], strength: float) -> None:
    """diffusers has no such pipeline, but the parts of one, in the order of its others."""
    reference, folder = pixart
    steps, scale, tokens = 5, 4.5, {"max_sequence_length": 24, "clean_caption": False}
    states, mask, negative, negative_mask = reference.encode_prompt(
        PROMPT, True, negative_prompt=NEGATIVE, **tokens
    )
    generator = torch.Generator("cpu").manual_seed(5)
    pixels = torch.from_numpy(np.asarray(_picture(), np.float32) / 127.5 - 1).permute(2, 0, 1)
    h, w = pixels.shape[1:]
    told = {
        "resolution": torch.tensor([[h, w]] * 2).float(),
        "aspect_ratio": torch.full((2, 1), h / w),
    }
    if not reference.transformer.config.use_additional_conditions:
        told = dict.fromkeys(told)
    scheduler = reference.scheduler
    scheduler.set_timesteps(steps)
    begin = steps - max(int(steps * strength), 1)
    scheduler.set_begin_index(begin)
    with torch.no_grad():
        moments = reference.vae.encode(pixels[None]).latent_dist
        x = moments.sample(generator) * reference.vae.config.scaling_factor
        noise = torch.randn(x.shape, generator=generator)
        x = scheduler.add_noise(x, noise, scheduler.timesteps[begin : begin + 1])
        for t in scheduler.timesteps[begin:]:
            both = reference.transformer(
                torch.cat([x, x]),
                encoder_hidden_states=torch.cat([negative, states]),
                encoder_attention_mask=torch.cat([negative_mask, mask]),
                timestep=t.expand(2),
                added_cond_kwargs=told,
            ).sample.chunk(2, dim=1)[0]
            without, with_prompt = both.chunk(2)
            x = scheduler.step(without + scale * (with_prompt - without), t, x).prev_sample
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    out = pipe(
        PROMPT,
        NEGATIVE,
        image=_picture(),
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=scale,
        seed=5,
        output_type="latent",
        use_resolution_binning=False,
        **tokens,
    ).images
    assert error(out, x.numpy()) <= SAMPLED_F32
