"""A refiner and a second pass are what the calls that they stand for draw one by one, whatever the
batch; tests/reference has those calls beside diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdcore
import tiny_models
import tiny_xl
from sdcore.pictures.fit import resized
from sdcore.pictures.upscale import enlarged_latents, find_upscaler
from sdcore.pipelines import refined

PROMPT = "the red circle of a cat"
ARGS: dict[str, Any] = {"width": 24, "height": 32, "num_inference_steps": 5, "seed": 5}
LATENT = {"output_type": "latent"}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """SDXL and its refiner, which add noise at every step, and Stable Diffusion 1"""
    path = tmp_path_factory.mktemp("stages")
    for name in ("xl", "refiner"):
        getattr(tiny_xl, name)(path / f"{name}-vocabularies").save_pretrained(path / name)
    tiny_models.save_folder(tiny_models.PLAIN, path / "sd1")
    opened = [
        sdcore.DiffusionPipeline.open(path / name, dtype="f32", threads=1)
        for name in ("xl", "refiner", "sd1")
    ]
    for pipe in opened:
        kind = sdcore.EulerAncestralDiscreteScheduler
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
    return opened[0], opened[1], opened[2]


@pytest.mark.parametrize("name", ["Latent", "latent (bicubic antialiased)"])
def test_latents_that_are_enlarged_are_no_picture(pipes: Any, name: str) -> None:
    *_, pipe = pipes
    first = pipe(PROMPT, **ARGS, **LATENT).images
    larger = enlarged_latents(first, (first.shape[3] * 2, first.shape[2] * 2), find_upscaler(name))
    second = {"num_inference_steps": 5, "seed": 5, "strength": 0.7}
    ref = pipe(PROMPT, image=larger, **second, **LATENT).images
    out = pipe(PROMPT, **ARGS, **LATENT, hires_scale=2, hires_upscaler=name)
    assert np.array_equal(out.images, ref)
    assert out.parameters["hires_upscaler"] == find_upscaler(name)


def test_pictures_may_be_enlarged_without_a_filter(pipes: Any) -> None:
    *_, pipe = pipes
    picture = pipe(PROMPT, **ARGS).images[0]
    larger = picture.resize((48, 64), Image.Resampling.NEAREST)
    second = {"num_inference_steps": 5, "seed": 5, "strength": 0.7}
    ref = pipe(PROMPT, image=larger, **second, **LATENT).images
    out = pipe(PROMPT, **ARGS, **LATENT, hires_scale=2, hires_upscaler="Nearest").images
    assert np.array_equal(out, ref)


def test_a_refiner_is_one_call_of_two(pipes: Any) -> None:
    base, refiner, _ = pipes
    told = {"negative_prompt": "red", "guidance_scale": 3.0, "rng": "cuda"}
    first = base(PROMPT, **ARGS, **told, **LATENT, prompt_2="a dog", denoising_end=0.6).images
    second = {**ARGS, "seed": 5 + 2**32, **told, "aesthetic_score": 8.0, "denoising_start": 0.6}
    wanted = refiner(PROMPT, **second, **LATENT, image=first).images
    one = {"refiner": refiner, "refiner_switch": 0.6, "prompt_2": "a dog", "aesthetic_score": 8.0}
    stream = base.stream(f"{PROMPT}<lora:none:1>", **ARGS, **told, **LATENT, **one)
    steps = list(stream)
    out = stream.result()
    assert np.array_equal(out.images, wanted)
    assert stream.stages == (3, 2)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert {step.total for step in steps} == {5}
    assert [step.pipe.family for step in steps] == ["sdxl"] * 3 + ["sdxl-refiner"] * 2
    assert (out.seeds, out.parameters["refiner_switch"]) == ([5], 0.6)


def test_every_stage_can_be_looked_at_and_stopped(pipes: Any) -> None:
    base, refiner, _ = pipes
    stream = base.stream(PROMPT, **ARGS, hires_scale=1.5, hires_strength=0.8, refiner=refiner)
    sizes = []
    for step in stream:
        sizes.append(step.preview()[0].size)
        if step.index == sum(stream.stages[:-1]) - 1:
            stream.stop()
            break
    assert sizes == [(24, 32)] * 5 + [(36, 48)] * 3
    with pytest.raises(sdcore.CancelledError):
        stream.result()


def test_an_image_of_a_batch_is_the_one_made_alone(pipes: Any) -> None:
    base, refiner, sd1 = pipes
    twice = {"hires_width": 32, "hires_height": 32, "hires_prompt": "a dog", "hires_steps": 4}
    for pipe, more in ((base, {"refiner": refiner}), (sd1, twice)):
        both = pipe([PROMPT, "a dog"], **ARGS, **LATENT, **more, num_images_per_prompt=2).images
        for i, prompt in enumerate((PROMPT, PROMPT, "a dog", "a dog")):
            alone = pipe(prompt, **{**ARGS, "seed": 5 + i}, **LATENT, **more).images
            assert np.array_equal(both[i : i + 1], alone)


def test_both_passes_and_the_refiner_last(pipes: Any) -> None:
    base, refiner, _ = pipes
    twice = {"hires_scale": 1.5, "hires_strength": 0.8}
    stream = base.stream(PROMPT, **ARGS, **LATENT, **twice, refiner=refiner)
    out = stream.result()
    assert stream.stages == (5, 3, 1)
    (small,) = base(PROMPT, **ARGS).images
    again = {**ARGS, "width": 36, "height": 48, "image": resized(small, (36, 48)), "strength": 0.8}
    wanted = base(PROMPT, **again, **LATENT, refiner=refiner).images
    assert np.array_equal(out.images, wanted)


def test_two_models_that_do_not_fit_are_kept_apart(
    pipes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, refiner, _ = pipes
    together = base(PROMPT, **ARGS, **LATENT, refiner=refiner).images
    monkeypatch.setattr(refined, "_APART", type(refined._APART)())
    monkeypatch.setattr(refined, "are_tight", lambda *pipes: True)
    released: list[tuple[str, int]] = []
    release = sdcore.pipelines.DiffusionPipeline.release
    made: list[Any] = []
    monkeypatch.setattr(
        sdcore.pipelines.DiffusionPipeline,
        "release",
        lambda pipe: (released.append((pipe.family, len(made))), release(pipe)),
    )
    stream = base.stream(PROMPT, **ARGS, **LATENT, refiner=refiner)
    assert released == [("sdxl", 0), ("sdxl-refiner", 0), ("sdxl-refiner", 0)]
    made.extend(stream)
    del released[:]
    for step in base.stream(PROMPT, **ARGS, **LATENT, refiner=refiner):
        made[:] = [step] * (step.index + 1)
    assert released == [("sdxl-refiner", 5), ("sdxl", 4)]
    assert np.array_equal(stream.result().images, together)


def test_a_second_pass_has_words_and_ways_of_its_own(pipes: Any) -> None:
    sd1 = pipes[2]
    (small,) = sd1(PROMPT, "red", **ARGS).images
    larger = Image.fromarray(np.asarray(resized(small, (40, 40), "crop")))
    scheduler = sdcore.DDIMScheduler.from_config(sd1.scheduler.config)
    own = {
        **{"hires_width": 40, "hires_height": 40, "hires_prompt": "a dog", "hires_steps": 4},
        **{"hires_negative_prompt": "x", "hires_guidance_scale": 2.5, "hires_scheduler": scheduler},
    }
    out = sd1(PROMPT, "red", **ARGS, **LATENT, **own)
    ancestral, sd1.scheduler = sd1.scheduler, scheduler
    again = {**ARGS, "width": 40, "height": 40, "image": larger, "strength": 0.7}
    again |= {"num_inference_steps": 4, "guidance_scale": 2.5}
    try:
        wanted = sd1("a dog", "x", **again, **LATENT).images
    finally:
        sd1.scheduler = ancestral
    assert np.array_equal(out.images, wanted)
    told = {name: out.parameters[name] for name in own if name in out.parameters}
    assert told == {name: own[name] for name in told} and len(told) == 5
    assert (out.parameters["hires_scale"], out.parameters["hires_size"]) == (None, "40x40")
    one_side = sd1.stream(PROMPT, **ARGS, **LATENT, hires_width=36).result()
    assert one_side.images.shape[2:] == (48 // 2, 36 // 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"refiner_switch": 1.5}, "refiner_switch must lie between 0 and 1, got 1.5"),
        ({"refiner_switch": "half"}, "refiner_switch must be a finite number"),
        ({"refiner": "xl.gguf"}, "a refiner is for SDXL, and this is 'xl.gguf'"),
        ({"denoising_end": 0.5}, "a refiner does not go with denoising_end"),
        ({"mask_image": Image.new("L", (8, 8))}, "a refiner does not go with mask_image"),
        ({"image": Image.new("RGB", (24, 32)), "strength": 0.1}, "leaves no step before"),
        ({"aesthetic_score": "high"}, "aesthetic_score must be a number"),
        ({"aesthetics": 5}, "no argument 'aesthetics'"),
        ({"hires_scale": 2, "hires_width": 48}, "say the same: give one"),
        ({"hires_width": 999}, "hires_width must be at most 8 times the first pass's, 24"),
        ({"hires_width": "wide"}, "hires_width must be a whole number"),
        ({"hires_scale": 2, "hires_upscaler": "ESRGAN"}, "there is no upscaler 'ESRGAN'; use one"),
        ({"hires_scale": 2, "hires_scheduler": "euler"}, "hires_scheduler must be one of sdcore's"),
        ({"hires_scale": 2, "hires_prompt": ["a", "b"]}, "1 prompts and 2 of hires_prompt"),
        ({"hires_scale": 2, "hires_prompt": 5}, "hires_prompt must be a string"),
        ({"hires_scale": 2, "hires_guidance_scale": "x"}, "hires_guidance_scale must be a finite"),
    ],
)
def test_what_is_wrong_is_named(pipes: Any, change: dict[str, Any], says: str) -> None:
    base, refiner, _ = pipes
    with pytest.raises(sdcore.SDCoreError, match=says):
        base.stream(PROMPT, **{**ARGS, "refiner": refiner, **change}).result()
