"""Whole pictures against diffusers' StableDiffusionPipeline, and what the pipeline promises."""

from __future__ import annotations

import copy
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler as TorchDDIM
from diffusers import DDPMScheduler as TorchDDPM
from PIL import Image

import sdcore
import tiny_models
from reference.common import BF16_FACTOR, ISAS, SAMPLED_F32, error
from sdcore import _core

PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"
ARGS: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": NEGATIVE,
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "height": 64,
    "width": 48,
}


@pytest.fixture(scope="module", params=[tiny_models.PLAIN, tiny_models.ODD], ids=lambda s: s.name)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = request.param
    folder = tmp_path_factory.mktemp("model") / spec.name
    return spec, tiny_models.save_folder(spec, folder)


def _scale(spec: tiny_models.Spec) -> int:
    return int(2 ** (len(spec.vae_channels) - 1))


@lru_cache
def _torch_latents(
    folder: Path, dtype: torch.dtype, scheduler: Any = TorchDDIM, steps: int = 20
) -> np.ndarray:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    # The same float32 noise for both, so that what differs is the arithmetic.
    h, w = ARGS["height"] // pipe.vae_scale_factor, ARGS["width"] // pipe.vae_scale_factor
    generator = torch.Generator("cpu").manual_seed(5)
    noise = torch.randn((1, 4, h, w), generator=generator)
    args = {**ARGS, "num_inference_steps": steps, "latents": noise.to(dtype)}
    return pipe(**args, generator=generator, output_type="latent").images.float().numpy()


def _open(folder: Path, **options: Any) -> sdcore.DiffusionPipeline:
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, **options)
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


@pytest.mark.parametrize("isa", ISAS)
def test_guided_latents_are_diffusers(model: Any, isa: str, monkeypatch: Any) -> None:
    """In all steps at the best level; at others, which run the same graphs, in some of them."""
    _, folder = model
    monkeypatch.setenv("SDCORE_ISA", isa)
    steps = 20 if isa == ISAS[-1] else 5
    args = {**ARGS, "num_inference_steps": steps, "seed": 5, "output_type": "latent"}
    ref = _torch_latents(folder, torch.float32, steps=steps)
    assert error(_open(folder, dtype="f32")(**args).images, ref) <= SAMPLED_F32
    rounded = error(_torch_latents(folder, torch.bfloat16, steps=steps), ref)
    assert error(_open(folder, dtype="bf16")(**args).images, ref) <= BF16_FACTOR * rounded


def test_ddpm_draws_the_noise_that_diffusers_draws(model: Any) -> None:
    _, folder = model
    ref = _torch_latents(folder, torch.float32, TorchDDPM)
    pipe = _open(folder, dtype="f32")
    pipe.scheduler = sdcore.DDPMScheduler.from_config(pipe.scheduler.config)
    assert error(pipe(**ARGS, seed=5, output_type="latent").images, ref) <= SAMPLED_F32


@pytest.mark.parametrize("name", ["PNDM", "EulerDiscrete", "DPMSolverMultistep"])
def test_samplers_draw_what_diffusers_draws(tmp_path: Path, name: str) -> None:
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "plain")
    ref = _torch_latents(folder, torch.float32, getattr(diffusers, f"{name}Scheduler"))
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    assert type(pipe.scheduler) is sdcore.PNDMScheduler  # as Stable Diffusion 1.5's folder asks
    pipe.scheduler = getattr(sdcore, f"{name}Scheduler").from_config(pipe.scheduler.config)
    assert error(pipe(**ARGS, seed=5, output_type="latent").images, ref) <= SAMPLED_F32


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> sdcore.DiffusionPipeline:
    folder = tmp_path_factory.mktemp("model") / "plain"
    return _open(tiny_models.save_folder(tiny_models.PLAIN, folder), threads=2)


def test_pictures_are_the_decoded_latents(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 3, "seed": 1}
    latents = pipe(**args, output_type="latent").images
    pixels = pipe(**args, output_type="np").images
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor)
    assert np.allclose(pixels, np.clip(decoded.transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1), atol=1e-6)
    (picture,) = pipe(**args).images
    assert isinstance(picture, Image.Image) and picture.size == (48, 64)
    assert np.abs(np.asarray(picture) / 255 - pixels[0]).max() <= 0.5 / 255 + 1e-6


def test_one_thread_and_two_give_the_same_picture(tmp_path: Path) -> None:
    folder = tiny_models.save_folder(tiny_models.ODD, tmp_path / "odd")
    pictures = [_open(folder, threads=n)(**ARGS, seed=3).images[0].tobytes() for n in (1, 2)]
    assert pictures[0] == pictures[1]


def test_an_image_of_a_batch_is_the_image_alone(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 3, "output_type": "latent"}
    batch = pipe(**args, num_images_per_prompt=3, seed=10)
    assert batch.seeds == [10, 11, 12]
    for i in range(3):
        assert np.array_equal(pipe(**args, seed=10 + i).images[0], batch.images[i])


def test_a_seed_is_drawn_and_reported(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 1, "output_type": "latent"}
    first, second = pipe(**args), pipe(**args)
    assert first.seeds != second.seeds
    assert np.array_equal(pipe(**args, seed=first.seeds[0]).images, first.images)


def test_given_latents_take_the_place_of_noise(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 2, "output_type": "latent"}
    h, w = ARGS["height"] // pipe.vae.scale_factor, ARGS["width"] // pipe.vae.scale_factor
    noise = torch.randn((1, 4, h, w), generator=torch.Generator("cpu").manual_seed(7)).numpy()
    assert np.array_equal(pipe(**args, latents=noise).images, pipe(**args, seed=7).images)
    with pytest.raises(sdcore.InvalidArgumentError, match="latents must be"):
        pipe(**args, latents=noise[:, :, 1:])


def test_a_seed_stands_for_the_noise_of_either_device(pipe: sdcore.DiffusionPipeline) -> None:
    kwargs = {**ARGS, "num_inference_steps": 2, "output_type": "latent"}
    shape = pipe(**kwargs, seed=5).images.shape[1:]
    noise = [_core.PhiloxRandom(seed).randn(shape) for seed in (5, 6)]
    ref = pipe(**kwargs, latents=np.stack(noise), num_images_per_prompt=2)
    out = pipe(**kwargs, rng="cuda", seed=5, num_images_per_prompt=2)
    assert np.array_equal(out.images, ref.images)
    assert not np.array_equal(out.images, pipe(**kwargs, seed=5, num_images_per_prompt=2).images)


def test_guidance_of_one_asks_the_model_once(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 1, "output_type": "latent", "seed": 0}
    args["guidance_scale"] = 1.0
    a, b = pipe(**args), pipe(**{**args, "negative_prompt": "something else"})
    assert np.array_equal(a.images, b.images)


def test_stream_callback_and_call_agree(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 4, "seed": 2, "output_type": "latent"}
    seen: list[int] = []
    called = pipe(**args, callback_on_step_end=lambda p, i, t, kw: seen.append(i))
    assert seen == [0, 1, 2, 3]
    stream = pipe.stream(args.pop("prompt"), args.pop("negative_prompt"), **args)
    steps = list(stream)
    assert [(s.index, s.total) for s in steps] == [(i, 4) for i in range(4)]
    assert np.array_equal(steps[-1].latents, called.images)
    assert np.array_equal(stream.result().images, called.images)
    assert steps[0].preview()[0].size == (48, 64)


def test_a_callback_cancels_and_replaces(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 4, "seed": 2, "output_type": "latent"}
    with pytest.raises(sdcore.CancelledError, match="after step 2"):
        pipe(**args, callback_on_step_end=lambda p, i, t, kw: i < 1)
    zeros = pipe(**args, callback_on_step_end=lambda p, i, t, kw: {"latents": 0 * kw["latents"]})
    assert not zeros.images.any()


def test_two_threads_use_one_pipeline(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 3, "output_type": "latent"}
    alone = [pipe(**args, seed=s).images for s in range(4)]
    together: list[Any] = [None] * 4

    def work(s: int) -> None:
        together[s] = pipe(**args, seed=s).images

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 513}, "width must be a multiple of .*; try 512"),
        ({"height": 0}, "height"),
        ({"width": 10**9}, "width"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 1001}, "1000"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"seed": -3}, "seed"),
        ({"seed": "7"}, "seed must be a whole number"),
        ({"seed": 2**64}, "64 bits"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"rng": "gpu"}, "rng must be cpu or cuda, got 'gpu'"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number, got nan"),
        ({"guidance_scale": "7"}, "guidance_scale must be a finite number, got '7'"),
        ({"pag_scale": float("inf")}, "pag_scale must be a finite number, got inf"),
        ({"eta": float("nan")}, "eta must be a finite number, got nan"),
        ({"strength": "0.5"}, "strength must be from 0 and at most 1, got '0.5'"),
        ({"prompt": 3}, "prompt"),
        ({"negative_prompt": ["a", "b", "c"]}, "negative"),
    ],
)
def test_bad_arguments_are_named(
    pipe: sdcore.DiffusionPipeline, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        pipe(**{**ARGS, **change})


def test_eta_is_refused_where_there_is_none(pipe: sdcore.DiffusionPipeline) -> None:
    other = copy.copy(pipe)
    other.scheduler = sdcore.DDPMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(sdcore.InvalidArgumentError, match="DDPMScheduler has no eta"):
        other(**ARGS, eta=0.5)
    args = {**ARGS, "num_inference_steps": 1, "seed": 1, "output_type": "latent"}
    assert np.array_equal(other(**args, eta=0).images, other(**args).images)


def test_a_prompt_of_many_words_is_not_cut(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 1, "seed": 0, "output_type": "latent"}
    long = pipe(**{**args, "prompt": "cat " * 1000 + "dog"}).images
    assert error(long, pipe(**{**args, "prompt": "cat " * 1001}).images) > 1e-5


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(sdcore.FileError, match="no such file or folder"):
        sdcore.DiffusionPipeline.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(sdcore.FileError, match=r"is a file, .* from_single_file"):
        sdcore.DiffusionPipeline.from_pretrained(tmp_path / "file")
    with pytest.raises(sdcore.InvalidArgumentError, match="from_pretrained"):
        sdcore.DiffusionPipeline.from_single_file(tmp_path)
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "plain")
    with pytest.raises(sdcore.InvalidArgumentError, match="device"):
        sdcore.DiffusionPipeline.from_pretrained(folder, device="tpu")
