"""What scripts for diffusers say, which draws here what it draws there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

import sdcore
import tiny_models
from reference.common import SAMPLED_F32, error

PROMPT = "the red circle of a cat"
ARGS: dict[str, Any] = {
    "negative_prompt": "blurry dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "height": 32,
    "width": 24,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture
def ours(folder: Path) -> sdcore.DiffusionPipeline:
    return with_ddim(sdcore, sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32"))


@pytest.fixture
def theirs(folder: Path) -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return with_ddim(diffusers, pipe)


def with_ddim(library: Any, pipe: Any) -> Any:
    config = pipe.scheduler.config
    pipe.scheduler = library.DDIMScheduler.from_config(config, clip_sample=False)
    return pipe


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def latents(pipe: Any, **arguments: Any) -> np.ndarray:
    """What a pipeline of either library draws."""
    arguments = {"prompt": PROMPT, **ARGS, **arguments}
    return np.asarray(pipe(**arguments, output_type="latent").images)


def test_a_generator_goes_on_from_call_to_call(ours: Any, theirs: Any) -> None:
    mine, other = generator(), generator()
    for more in ({}, {}, {"num_images_per_prompt": 2, "eta": 0.7}, {"width": 40}):
        drawn = latents(ours, generator=mine, **more)
        assert error(drawn, latents(theirs, generator=other, **more)) <= SAMPLED_F32
    assert torch.equal(mine.get_state(), other.get_state())
    pair = [generator(1), generator(2)]
    expected = latents(theirs, generator=[generator(1), generator(2)], num_images_per_prompt=2)
    assert error(latents(ours, generator=pair, num_images_per_prompt=2), expected) <= SAMPLED_F32
    assert not np.array_equal(
        latents(ours, generator=pair, num_images_per_prompt=2),
        latents(ours, generator=pair, num_images_per_prompt=2),
    )


def test_a_callback_stops_the_run_and_keeps_what_there_is(ours: Any, theirs: Any) -> None:
    def stop(pipe: Any, index: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index == 1
        seen.append(index)
        return tensors

    seen: list[int] = []
    for more in ({}, {"hires_scale": 2}):
        drawn = latents(ours, seed=5, callback_on_step_end=stop, **more)
        ref = latents(theirs, generator=generator(), callback_on_step_end=stop)
        assert error(drawn, ref) <= SAMPLED_F32
    assert seen == [0, 1] * 4
    assert not ours.interrupt
    whole = latents(ours, seed=5)
    assert error(whole, latents(theirs, generator=generator())) <= SAMPLED_F32


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_callback_changes_guidance(ours: Any, theirs: Any, scheduler: str) -> None:
    def change(pipe: Any, index: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        assert pipe.guidance_scale == scales[index]
        assert pipe.num_timesteps == 4
        pipe._guidance_scale = scales[index + 1]
        return tensors

    for pipe, library in ((ours, sdcore), (theirs, diffusers)):
        pipe.scheduler = getattr(library, scheduler).from_config(pipe.scheduler.config)
    scales = [5.0, 3.0, 8.0, 1.5, 2.0]
    drawn = latents(ours, seed=5, callback_on_step_end=change)
    ref = latents(theirs, generator=generator(), callback_on_step_end=change)
    assert error(drawn, ref) <= SAMPLED_F32
    scales = [5.0, 5.0, 0.0, 0.0, 0.0]
    drawn = latents(ours, seed=5, callback_on_step_end=change)
    assert np.array_equal(drawn, latents(ours, seed=5, guidance_end=0.5))


def test_guidance_of_a_step_of_a_stream(ours: Any) -> None:
    stream = ours.stream(PROMPT, seed=5, output_type="latent", **ARGS)
    for step in stream:
        step.guidance_scale = 2.0 if step.index == 1 else step.guidance_scale
    assert step.guidance_scale == 2.0
    assert not np.array_equal(stream.result().images, latents(ours, seed=5))


def raised(ours: Any, **arguments: Any) -> str:
    with pytest.raises(sdcore.InvalidArgumentError) as caught:
        latents(ours, seed=5, **arguments)
    return str(caught.value)


def test_what_a_callback_cannot_do_is_said(ours: Any) -> None:
    def raise_guidance(pipe: Any, *_: Any) -> None:
        pipe.guidance_scale = 3.0

    assert "began without guidance" in raised(
        ours, guidance_scale=1, callback_on_step_end=raise_guidance
    )
    names = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    nothing = {"callback_on_step_end": lambda *_: None}
    assert "guidance_end switch guidance" in raised(ours, **nothing, **names)
    cutoff = diffusers.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=0.4)
    assert "and no prompt_embeds" in raised(ours, callback_on_step_end=cutoff)
    more = {"callback_on_step_end": lambda *_: {"prompt_embeds": 0}}
    assert "gave 'prompt_embeds'" in raised(ours, **more)
    ours._interrupt = False  # as scripts do before a run
    assert not hasattr(ours, "guidance_scale")
    for name, value, says in (
        ("_interrupt", True, r"stream\.stop\(\)"),
        ("guidance_scale", 3.0, "give it to the call"),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=says):
            setattr(ours, name, value)


# ---- pictures ------------------------------------------------------------------------------------


@pytest.fixture
def img2img(theirs: Any) -> Any:
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**theirs.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_drawn_is_begun_from(ours: Any, img2img: Any, count: int) -> None:
    sizes = {"width": None, "height": None, "strength": 0.6}
    their_sizes = {name: value for name, value in sizes.items() if value is not None}
    prompts = [PROMPT, "a dog"][:count]
    args = {"prompt": prompts, "negative_prompt": ["blurry dog"] * count}
    args |= {"num_inference_steps": 5, "guidance_scale": 5.0}
    tensor = torch.rand(count, 3, 32, 24, generator=generator(1))
    begun = torch.randn(count, 4, 16, 12, generator=generator(2))
    for image, most in ((begun, SAMPLED_F32), (begun.numpy(), SAMPLED_F32), (tensor, 0.02)):
        given = image if isinstance(image, torch.Tensor) else torch.from_numpy(image)
        generators = [generator(i) for i in range(count)]
        ref = img2img(
            **args, **their_sizes, image=given, generator=generators, output_type="latent"
        ).images
        drawn = ours(**args, **sizes, image=image, seed=0, output_type="latent").images
        assert error(drawn, ref.numpy()) <= most  # pictures are of 8 bits here
    again = ours(**args, **sizes, image=tensor, seed=0, output_type="latent").images
    assert np.array_equal(again, drawn)
    pixels = np.round(tensor.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    for same in (list(tensor), pixels, list(pixels)):
        assert np.array_equal(
            ours(**args, **sizes, image=same, seed=0, output_type="latent").images, drawn
        )


def test_a_tensor_is_drawn_over(ours: Any) -> None:
    first = ours(PROMPT, **ARGS, seed=1, output_type="pt").images
    second = ours(PROMPT, image=first, strength=0.5, num_inference_steps=2, seed=2)
    assert second.images[0].size == (24, 32)


def test_latents_are_no_picture_under_a_mask(ours: Any) -> None:
    mask = np.ones((32, 24), bool)
    assert "image must be a picture here" in raised(
        ours, image=np.zeros((1, 4, 16, 12), np.float32), mask_image=mask
    )


def test_an_output_is_a_tuple_too(ours: Any) -> None:
    out = ours(PROMPT, **ARGS, seed=1, return_dict=False)
    (images,) = out
    assert out[0] is images is out["images"] is out.images
    assert out.nsfw_content_detected is None
    with pytest.raises(IndexError):
        out[1]


# ---- steps placed by hand ------------------------------------------------------------------------

TIMESTEPS = {"timesteps": AysSchedules["StableDiffusionTimesteps"]}
SIGMAS = {"sigmas": AysSchedules["StableDiffusionSigmas"]}


@pytest.mark.parametrize(
    ("scheduler", "options", "placed"),
    [
        ("EulerDiscreteScheduler", {}, TIMESTEPS),
        ("EulerDiscreteScheduler", {}, SIGMAS),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, SIGMAS),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, {"timesteps": [900, 40]}),
        ("HeunDiscreteScheduler", {}, TIMESTEPS),
        ("DPMSolverMultistepScheduler", {}, TIMESTEPS),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}, TIMESTEPS),
    ],
)
def test_steps_are_placed_by_hand(
    ours: Any, theirs: Any, scheduler: str, options: Any, placed: Any
) -> None:
    for pipe, library in ((ours, sdcore), (theirs, diffusers)):
        kind = getattr(library, scheduler)
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    placed = {**placed, "num_inference_steps": None}
    ref = latents(theirs, generator=generator(), **placed)
    assert error(latents(ours, seed=5, **placed), ref) <= SAMPLED_F32


def test_what_is_placed_wrongly_is_said(ours: Any) -> None:
    assert "[DDIMScheduler] it takes no timesteps" in raised(ours, **TIMESTEPS)
    ours.scheduler = sdcore.EulerDiscreteScheduler.from_config(ours.scheduler.config)
    for placed, says in (
        ({"timesteps": [1000, 5]}, "timesteps must be from 0 to 999, got 1000, 5"),
        ({"timesteps": [5, 500]}, "noise levels that do not fall"),
        ({"sigmas": [3.0, 1.0]}, "level of each step and 0 in the end, got 3, 1"),
        ({**TIMESTEPS, **SIGMAS}, "timesteps and sigmas say the same"),
        ({"timesteps": "many"}, "timesteps must be an array of numbers"),
    ):
        assert says in raised(ours, **placed)
    karras = {"use_karras_sigmas": True}
    ours.scheduler = sdcore.EulerDiscreteScheduler.from_config(ours.scheduler.config, **karras)
    assert "by hand or by use_karras_sigmas" in raised(ours, **TIMESTEPS)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"]
)
def test_a_loop_over_a_scheduler(ours: Any, theirs: Any, name: str) -> None:
    """Written for diffusers, of arrays."""

    def loop(library: Any, config: Any, as_array: Any, each: bool) -> np.ndarray:
        scheduler = getattr(library, name).from_config(config)
        scheduler.set_timesteps(4)
        draws = [generator(1), generator(2)] if each else generator(3)
        more = {"generator": draws, **({"eta": 0.0} if name == "DDIMScheduler" else {})}
        rng = np.random.default_rng(0)
        outputs = rng.standard_normal((5, 2, 4, 6, 5)).astype(np.float32)
        x = as_array(outputs[4] * float(scheduler.init_noise_sigma))
        for i, (t, m) in enumerate(zip(scheduler.timesteps, outputs, strict=False)):
            scheduler.scale_model_input(x, t)
            if i % 2:
                (x,) = scheduler.step(as_array(m), t, x, return_dict=False, **more)[:1]
            else:
                x = scheduler.step(as_array(m), t, x, **more).prev_sample
        return np.asarray(x)

    for each in (False, True):
        mine = loop(sdcore, ours.scheduler.config, np.asarray, each)
        other = loop(diffusers, theirs.scheduler.config, torch.as_tensor, each)
        assert error(mine, other) <= 1e-5


def test_what_a_step_gives(ours: Any) -> None:
    scheduler = ours.scheduler
    scheduler.set_timesteps(4, eta=0.5)
    x, t = np.ones((1, 4, 2, 2), np.float32), scheduler.timesteps[0]
    out = scheduler.step(x, t, x, generator=generator(), eta=0.5)
    assert isinstance(out, np.ndarray) and out.dtype == np.float32
    assert type(out.prev_sample) is type(out + out) is np.ndarray
    assert np.array_equal(out.prev_sample, out)
    assert np.array_equal(out.pred_original_sample, scheduler.denoised)
    for given, says in (
        ({"eta": 0.7}, r"no eta: it is a run's, set_timesteps\(n, eta=0\.7\)"),
        ({"s_churn": 1.0}, "step takes no s_churn"),
        ({"generator": [generator()] * 2}, "1 images and 2 generators"),
        ({"generator": 7}, "must be a torch.Generator"),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=says):
            scheduler.step(x, t, x, **given)
