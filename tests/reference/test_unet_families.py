"""Whole latents of SD 2.x, SDXL, its refiner and Playground v2.5 against diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sdcore
import tiny_xl
from reference.common import SAMPLED_F32, error
from sdcore import checkpoint
from sdcore.cli import main
from sdcore.models.base import RunOptions
from sdcore.models.unet import UNet2DConditionModel
from tiny_models import QuantType

ARGS: dict[str, Any] = {"num_inference_steps": 4, "height": 32, "width": 24}
PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"


def noise(pipe: Any, seed: int = 5) -> torch.Tensor:
    h, w = ARGS["height"] // pipe.vae_scale_factor, ARGS["width"] // pipe.vae_scale_factor
    return torch.randn((1, 4, h, w), generator=torch.Generator("cpu").manual_seed(seed))


def theirs(pipe: Any, prompt: str = PROMPT, **arguments: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    if "image" not in arguments:
        arguments["latents"] = noise(pipe)
    return pipe(prompt, **{**ARGS, **arguments}, output_type="latent").images.numpy()


def ours(pipe: Any, prompt: str = PROMPT, **arguments: Any) -> np.ndarray:
    return pipe(prompt, **{**ARGS, "seed": 5, **arguments}, output_type="latent").images


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """diffusers' pipelines, and the folders in which they saved themselves."""
    found = {}
    for name in ("xl", "refiner", "playground", "sd2"):
        folder = tmp_path_factory.mktemp(name)
        pipe = getattr(tiny_xl, name)(folder / "tokenizers")
        pipe.save_pretrained(folder / "model")
        found[name] = (pipe, folder / "model")
    return found


def opened(path: Path, **options: Any) -> sdcore.DiffusionPipeline:
    return sdcore.DiffusionPipeline.open(path, dtype="f32", **options)


@pytest.mark.parametrize(
    "arguments",
    [
        {"negative_prompt": NEGATIVE},
        {},  # no negative prompt is zeros
        {"negative_prompt": ""},  # which an empty one is not
        {"prompt_2": "a dog in the thin ring", "negative_prompt_2": "red", "negative_prompt": "x"},
        {
            "original_size": (512, 300),
            "crops_coords_top_left": (16, 8),
            "target_size": (64, 64),
            "negative_original_size": (100, 200),
            "negative_crops_coords_top_left": (3, 4),
            "negative_target_size": (96, 48),
        },
        {"guidance_scale": 0.0},
        {"denoising_end": 0.5},
    ],
    ids=lambda arguments: next(iter(arguments), "plain"),
)
def test_sdxl_is_diffusers(saved: Any, arguments: dict[str, Any]) -> None:
    pipe, folder = saved["xl"]
    ref = theirs(pipe, **arguments)
    mine = opened(folder)
    assert type(mine.scheduler) is sdcore.EulerDiscreteScheduler
    assert error(ours(mine, **arguments), ref) <= SAMPLED_F32


def test_the_command_gives_sdxl_no_negative_prompt_unless_told(saved: Any, tmp_path: Path) -> None:
    folder, path = saved["xl"][1], tmp_path / "picture.png"
    words = ["-m", folder, PROMPT, "-W", 24, "-H", 32, "--steps", 1, "-s", 5, "-o", path]
    assert main(["txt2img", *map(str, words)]) == 0
    pipe = sdcore.DiffusionPipeline.open(folder)
    drawn = pipe(PROMPT, width=24, height=32, num_inference_steps=1, seed=5).images[0]
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(drawn))


def test_what_is_said_to_sdxl_makes_a_difference(saved: Any) -> None:
    pipe = opened(saved["xl"][1])
    plain = ours(pipe, num_inference_steps=1)
    for arguments in (
        {"prompt_2": "a dog"},
        {"negative_prompt": ""},
        {"negative_prompt_2": "dog"},
        {"original_size": (512, 512)},
        {"crops_coords_top_left": (8, 0)},
        {"negative_target_size": (512, 512)},
    ):
        assert error(ours(pipe, num_inference_steps=1, **arguments), plain) > 1e-5, arguments
    same = {"prompt_2": PROMPT, "target_size": (32, 24), "negative_crops_coords_top_left": (0, 0)}
    assert np.array_equal(ours(pipe, num_inference_steps=1, **same), plain)


def test_the_refiner_goes_on_where_the_base_stops(saved: Any) -> None:
    (base, base_folder), (refiner, refiner_folder) = saved["xl"], saved["refiner"]
    first = theirs(base, negative_prompt=NEGATIVE, denoising_end=0.5)
    stage = {"denoising_start": 0.5, "aesthetic_score": 7.0, "negative_prompt": NEGATIVE}
    arguments = {"num_inference_steps": 4, **stage, "image": torch.from_numpy(first)}
    refiner.set_progress_bar_config(disable=True)
    ref = refiner(PROMPT, **arguments, output_type="latent").images.numpy()
    # There the sizes are those of the latents handed over.
    out = opened(base_folder)(
        PROMPT, NEGATIVE, **ARGS, denoising_end=0.5, seed=5, output_type="latent"
    ).images
    assert error(out, first) <= SAMPLED_F32
    mine = opened(refiner_folder)
    assert error(ours(mine, **stage, image=out), ref) <= SAMPLED_F32
    with pytest.raises(
        sdcore.InvalidArgumentError, match=r"latents \[n, c, h, w\] of another pipeline"
    ):
        ours(mine, **stage)
    with pytest.raises(sdcore.InvalidArgumentError, match="no argument 'prompt_2'"):
        ours(mine, prompt_2="x")


def _picture_and_mask() -> tuple[Image.Image, Image.Image]:
    numbers = np.random.default_rng(3).integers(0, 256, (4, 3, 3), np.uint8)
    mask = Image.new("L", (24, 32))
    mask.paste(255, (6, 8, 20, 24))
    return Image.fromarray(numbers).resize((24, 32), Image.Resampling.BICUBIC), mask


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_sdxl_for_inpainting_sees_the_mask(tmp_path: Path, strength: float) -> None:
    pipe = tiny_xl.xl_inpaint(tmp_path / "tokenizers")
    pipe.save_pretrained(tmp_path / "model")
    picture, mask = _picture_and_mask()
    options = {"image": picture, "mask_image": mask, "strength": strength}
    generator = torch.Generator("cpu").manual_seed(5)
    ref = theirs(pipe, negative_prompt=NEGATIVE, generator=generator, **options)
    mine = opened(tmp_path / "model")
    assert mine.family == "sdxl-inpaint"
    assert error(ours(mine, negative_prompt=NEGATIVE, **options, guidance_scale=7.5), ref) <= (
        SAMPLED_F32
    )
    with pytest.raises(sdcore.InvalidArgumentError, match="no argument 'denoising_start'"):
        ours(mine, denoising_start=0.5)


def test_the_refiner_redraws_a_picture(saved: Any) -> None:
    pipe, folder = saved["refiner"]
    options = {"image": _picture_and_mask()[0], "strength": 0.5, "negative_prompt": NEGATIVE}
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(5)
    arguments = {**options, "num_inference_steps": 4, "generator": generator}
    ref = pipe(PROMPT, **arguments, output_type="latent").images.numpy()
    assert error(ours(opened(folder), **options), ref) <= SAMPLED_F32


def test_sd2_is_diffusers(saved: Any) -> None:
    pipe, folder = saved["sd2"]
    ref = theirs(pipe, negative_prompt=NEGATIVE)
    assert error(ours(opened(folder), negative_prompt=NEGATIVE, guidance_scale=7.5), ref) <= (
        SAMPLED_F32
    )


def test_playground_is_diffusers(saved: Any) -> None:
    pipe, folder = saved["playground"]
    mine = opened(folder)
    assert mine.default_guidance == 3.0
    latents = theirs(pipe, negative_prompt=NEGATIVE, guidance_scale=3.0)
    assert error(ours(mine, negative_prompt=NEGATIVE), latents) <= SAMPLED_F32
    arguments = {**ARGS, "latents": noise(pipe), "output_type": "np", "guidance_scale": 3.0}
    ref = pipe(PROMPT, **arguments).images
    picture = mine(PROMPT, **ARGS, seed=5, output_type="np").images
    assert error(picture, ref) <= SAMPLED_F32


@pytest.mark.parametrize("name", ["xl", "refiner", "playground", "sd2"])
def test_a_single_file_draws_what_its_folder_draws(saved: Any, tmp_path: Path, name: str) -> None:
    """OpenCLIP's names, fused and turned tensors and all; no config but what shapes say."""
    pipe, folder = saved[name]
    facts = {"modelspec.prediction_type": "v"} if name == "sd2" else {}
    markers = {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)} if name == "playground" else {}
    path = tiny_xl.save_original(pipe, tmp_path / "model.safetensors", markers, **facts)
    vocabularies = _vocabularies(folder, tmp_path / "vocabularies")
    single = opened(path, config=vocabularies)
    families = {"xl": "sdxl", "refiner": "sdxl-refiner", "playground": "playground-v2.5"}
    assert single.family == families.get(name, name)
    arguments = {"negative_prompt": NEGATIVE, "num_inference_steps": 2}
    latents = ours(single, **arguments)
    assert np.array_equal(latents, ours(opened(folder), **arguments))
    pictures = [pipe.vae.decode(pipe.vae.unscale(latents)) for pipe in (single, opened(folder))]
    # SD 2.x has another scale than the tiny model's VAE.
    assert np.array_equal(*pictures) == (name != "sd2")


def _vocabularies(folder: Path, into: Path) -> Path:
    into.mkdir()
    for tokenizer in folder.glob("tokenizer*"):
        (into / tokenizer.name).symlink_to(tokenizer)
    return into


@pytest.mark.parametrize("name", ["xl", "refiner", "playground", "sd2"])
def test_models_as_stable_diffusion_cpp_writes_them(saved: Any, tmp_path: Path, name: str) -> None:
    """Quantized, without metadata, norms and fused tensors too: they draw what these weights do."""
    pipe, folder = saved[name]
    held = tiny_xl.save_gguf(pipe, tmp_path / "model.gguf", QuantType.Q8_0)
    save_file({k: v.contiguous() for k, v in held.items()}, tmp_path / "plain.safetensors")
    vocabularies = _vocabularies(folder, tmp_path / "vocabularies")
    quantized = opened(tmp_path / "model.gguf", config=vocabularies)
    # Its writer drops the tensors by which Playground is known.
    families = {"refiner": "sdxl-refiner", "sd2": "sd2"}
    assert quantized.family == families.get(name, "sdxl")
    types = {tensor.type for tensor in quantized.unet.network.tensors.values()}
    assert "q8_0" in types
    plain = opened(tmp_path / "plain.safetensors", config=vocabularies)
    arguments = {"negative_prompt": NEGATIVE, "num_inference_steps": 2}
    assert error(ours(quantized, **arguments), ours(plain, **arguments)) <= SAMPLED_F32


COMFYUI = {
    "sdxl": (tiny_xl.base_unet, 6),
    "sdxl-refiner": (tiny_xl.refiner_unet, 5),
    "sd2": (lambda: tiny_xl.sd2_unet(4, 1024), 0),
}


@pytest.mark.parametrize("family", COMFYUI)
def test_a_unet_as_comfyui_gguf_writes_it(tmp_path: Path, family: str) -> None:
    """Alone, with folded convolutions: the same UNet to what the rounding of Q8_0 leaves."""
    make, sizes = COMFYUI[family]
    module = make()
    tiny_xl.save_comfy_gguf(module, tmp_path / "unet.gguf", QuantType.Q8_0)
    found = checkpoint.open(tmp_path / "unet.gguf")
    assert found.kind is not None and found.kind.family == family
    mine = UNet2DConditionModel.from_component(found.component("unet"), RunOptions("f32"))
    generator = torch.Generator().manual_seed(2)
    texts = module.config.cross_attention_dim
    x, t, states = (
        torch.randn(s, generator=generator) for s in ((1, 4, 8, 8), (1,), (1, 9, texts))
    )
    added = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, sizes)}
    given = added if sizes else {}
    with torch.no_grad():
        ref = module(x, t, states, added_cond_kwargs=given).sample.numpy()
    numbers = {name: value.numpy() for name, value in given.items()}
    assert 1e-5 < error(mine(x.numpy(), t.numpy(), states.numpy(), **numbers), ref) < 0.03


@pytest.mark.parametrize("make", [tiny_xl.lcm, tiny_xl.xl_lcm], ids=["sd1", "sdxl"])
def test_a_model_distilled_with_guidance_takes_its_scale(tmp_path: Path, make: Any) -> None:
    """A full LCM: the scale is an input of the UNet, and the negative prompt is not asked about."""
    theirs_lcm = make(tmp_path / "tokenizers")
    theirs_lcm.save_pretrained(tmp_path / "model")
    mine = opened(tmp_path / "model")
    assert (mine.default_steps, mine.default_guidance) == (4, 8.5)
    generator = torch.Generator("cpu").manual_seed(5)
    theirs_lcm.set_progress_bar_config(disable=True)
    arguments = {**ARGS, "guidance_scale": 8.5, "generator": generator}
    ref = theirs_lcm(PROMPT, **arguments, output_type="latent").images.numpy()
    assert error(ours(mine), ref) <= SAMPLED_F32
    other = ours(mine, guidance_scale=3.0)
    assert error(other, ref) > 1e-3
    assert np.array_equal(other, ours(mine, guidance_scale=3.0, negative_prompt=NEGATIVE))


def test_turbo_is_known_by_its_schedule(saved: Any, tmp_path: Path) -> None:
    pipe, folder = saved["xl"]
    assert (opened(folder).default_steps, opened(folder).default_guidance) == (20, 5.0)
    scheduler = tiny_xl.euler(timestep_spacing="trailing")
    scheduler.save_pretrained(tmp_path / "scheduler")
    turbo = opened(folder, config=tmp_path)
    assert (turbo.default_steps, turbo.default_guidance) == (4, 1.0)
    pipe.scheduler, before = scheduler, pipe.scheduler
    try:
        refs = {n: theirs(pipe, num_inference_steps=n, guidance_scale=0.0) for n in (1, 4)}
    finally:
        pipe.scheduler = before
    for steps, ref in refs.items():
        assert error(ours(turbo, num_inference_steps=steps), ref) <= SAMPLED_F32


def test_latents_have_a_mean_and_a_deviation_by_channel(saved: Any) -> None:
    vae = opened(saved["playground"][1]).vae
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5), dtype=np.float32)
    mean, std = (np.array(v)[:, None, None] for v in tiny_xl.PLAYGROUND_LATENTS.values())
    assert error(vae.unscale(x), x.astype(float) * std / 0.5 + mean) <= 1e-6
    assert error(vae.scale(vae.unscale(x)), x) <= 1e-5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"original_size": 512}, "original_size must be a height and a width, got 512"),
        ({"target_size": ("a", 2)}, "target_size must be a number, got 'a'"),
        ({"denoising_end": 1.5}, "denoising_end must lie between 0 and 1"),
        (
            {"denoising_start": 0.9, "denoising_end": 0.1, "image": np.zeros((1, 4, 16, 12))},
            "none of 4 steps lies between denoising_start 0.9 and denoising_end 0.1",
        ),
        ({"aesthetic_score": 5.0}, "no argument 'aesthetic_score'"),
        ({"prompt_2": ["a", "b", "c"], "prompt": ["a", "b"]}, "3 prompts and 2 of prompt"),
        ({"negative_prompt_2": ["a", "b"]}, "1 prompts and 2 of negative_prompt_2"),
        ({"denoising_start": 0.5, "image": np.zeros(3)}, "of another pipeline"),
    ],
)
def test_bad_arguments_are_named(saved: Any, change: dict[str, Any], says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        ours(opened(saved["xl"][1]), **{"prompt": PROMPT, **change})


def test_a_text_encoder_of_another_model_is_refused(saved: Any) -> None:
    _, folder = saved["xl"]
    with pytest.raises(sdcore.UnsupportedModelError, match=r"takes texts of 192.*gives 256"):
        opened(folder, text_encoder=saved["sd2"][1] / "text_encoder")


def test_a_schedule_of_another_kind_than_any_that_is_built_is_refused(
    saved: Any, tmp_path: Path
) -> None:
    config = '{"_class_name": "NewFlowScheduler", "shift": 3.0}'
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(config)
    with pytest.raises(sdcore.UnsupportedModelError, match="drawn with NewFlowScheduler"):
        opened(saved["xl"][1], config=tmp_path)
