"""Pictures from pictures, against diffusers' image-to-image and inpainting pipelines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import sdcore
import tiny_models
from reference.common import SAMPLED_F32, error
from sdcore.pictures.fit import fitted
from sdcore.pipelines.noise import mixed

ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 10,
    "guidance_scale": 5.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> sdcore.DiffusionPipeline:
    return sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")


def _picture(width: int = 48, height: int = 64) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def _mask(width: int = 48, height: int = 64) -> Image.Image:
    mask = np.zeros((height, width), np.uint8)
    mask[13:45, 9:30] = 255
    return Image.fromarray(mask)


def _theirs(folder: Path, kind: str, scheduler: str, **options: Any) -> np.ndarray:
    pipe = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(folder)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator("cpu").manual_seed(5)]
    out = pipe(**ARGS, **options, generator=generator, output_type="latent")
    return out.images.float().numpy()


def _ours(pipe: sdcore.DiffusionPipeline, scheduler: str, **options: Any) -> np.ndarray:
    pipe.scheduler = getattr(sdcore, scheduler).from_config(pipe.scheduler.config)
    return pipe(**ARGS, **options, seed=5, output_type="latent").images


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
    ],
)
def test_a_picture_is_redrawn_as_diffusers_does(
    folder: Path, pipe: Any, scheduler: str, strength: float
) -> None:
    options = {"image": _picture(), "strength": strength}
    ref = _theirs(folder, "Img2Img", scheduler, **options)
    assert error(_ours(pipe, scheduler, **options), ref) <= SAMPLED_F32


def test_pictures_are_resized_first_in_width() -> None:
    """Pillow would begin with the height of this one."""
    pixels = np.random.default_rng(1).integers(0, 256, (300, 5, 3), np.uint8)
    lanczos = Image.Resampling.LANCZOS
    expected = Image.fromarray(pixels).resize((24, 300), lanczos).resize((24, 16), lanczos)
    made = fitted(Image.fromarray(pixels), 24, 16)
    assert np.array_equal(np.round((made + 1) / 2 * 255), np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_part_is_redrawn_as_diffusers_does(
    folder: Path, pipe: Any, scheduler: str, strength: float
) -> None:
    options = {"image": _picture(), "mask_image": _mask(), "strength": strength}
    ref = _theirs(folder, "Inpaint", scheduler, **options, width=48, height=64)
    assert error(_ours(pipe, scheduler, **options), ref) <= SAMPLED_F32


@pytest.fixture(scope="module")
def inpainter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = dataclasses.replace(tiny_models.PLAIN, name="inpaint", unet_inputs=9)
    return tiny_models.save_folder(spec, tmp_path_factory.mktemp("model") / spec.name)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_model_for_inpainting_sees_the_mask(inpainter: Path, strength: float) -> None:
    options = {"image": _picture(), "mask_image": _mask(), "strength": strength}
    scheduler = "EulerAncestralDiscreteScheduler"
    ref = _theirs(inpainter, "Inpaint", scheduler, **options, width=48, height=64)
    pipe = sdcore.DiffusionPipeline.from_pretrained(inpainter, dtype="f32")
    assert error(_ours(pipe, scheduler, **options), ref) <= SAMPLED_F32


def test_a_model_for_inpainting_draws_from_text_alone(inpainter: Path) -> None:
    pipe = sdcore.DiffusionPipeline.from_pretrained(inpainter, dtype="f32")
    gray = Image.new("RGB", (32, 32), (127, 127, 127))
    args = {**ARGS, "seed": 1, "output_type": "latent", "width": 32, "height": 32}
    drawn = pipe(**args).images
    white = Image.new("L", (32, 32), 255)
    painted = pipe(**args, image=gray, mask_image=white, strength=1.0).images
    assert error(drawn, painted) <= SAMPLED_F32


@pytest.mark.parametrize("image_scale", [1.5, 0.5])
def test_a_model_for_editing_is_guided_twice(tmp_path: Path, image_scale: float) -> None:
    spec = dataclasses.replace(tiny_models.PLAIN, name="edit", unet_inputs=8)
    folder = tiny_models.save_folder(spec, tmp_path / spec.name)
    options = {"image": _picture(), "image_guidance_scale": image_scale}
    scheduler = "EulerAncestralDiscreteScheduler"
    ref = _theirs(folder, "InstructPix2Pix", scheduler, **options)
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    assert error(_ours(pipe, scheduler, **options), ref) <= SAMPLED_F32
    with pytest.raises(sdcore.InvalidArgumentError, match="needs an image"):
        pipe(**ARGS)
    with pytest.raises(sdcore.InvalidArgumentError, match="has no argument 'eye'"):
        pipe(**ARGS, image=_picture(), eye=1)


def test_what_the_mask_keeps_is_the_picture(pipe: Any) -> None:
    options = {**ARGS, "image": _picture(), "output_type": "latent", "seed": 1}
    masked = pipe(**options, mask_image=_mask()).images
    nothing = Image.new("L", (48, 64))
    kept = pipe(**options, mask_image=nothing).images
    f = pipe.vae.scale_factor
    outside = np.asarray(_mask())[::f, ::f] == 0
    assert np.array_equal(masked[..., outside], kept[..., outside])
    assert not np.array_equal(masked[..., ~outside], kept[..., ~outside])


def test_an_image_may_be_a_path_or_an_array(pipe: Any, tmp_path: Path) -> None:
    picture = _picture()
    picture.save(tmp_path / "in.png")
    array = np.asarray(picture)
    forms = [picture, tmp_path / "in.png", array, array / 255]
    args = {**ARGS, "seed": 1, "output_type": "latent", "num_inference_steps": 3}
    drawn = [pipe(**args, image=form).images for form in forms]
    assert all(np.array_equal(one, drawn[0]) for one in drawn)


def test_every_prompt_may_have_its_image(pipe: Any) -> None:
    args = {**ARGS, "output_type": "latent", "num_inference_steps": 3}
    args["prompt"] = ["a cat", "a dog"]
    a, b = _picture(), Image.new("RGB", (48, 64), "red")
    both = pipe(**args, image=[a, b], num_images_per_prompt=2, seed=4).images
    for i, (prompt, image) in enumerate([("a cat", a), ("a cat", a), ("a dog", b), ("a dog", b)]):
        alone = pipe(**{**args, "prompt": prompt}, image=image, seed=4 + i).images
        assert np.array_equal(alone[0], both[i])


def test_the_size_is_the_pictures_own_cut_to_what_fits(pipe: Any) -> None:
    args = {**ARGS, "num_inference_steps": 2, "seed": 1}
    assert pipe(**args, image=_picture(50, 67)).images[0].size == (
        50,
        66,
    )  # it draws multiples of 2
    assert pipe(**args, image=_picture(50, 67), width=64, height=48).images[0].size == (64, 48)


def test_a_second_pass_redraws_the_first_one_larger(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config)
    args = {**ARGS, "seed": 3, "output_type": "latent"}
    small = {"width": 32, "height": 48}
    texts: list[Any] = []
    encode = type(pipe).encode
    with monkeypatch.context() as patch:
        patch.setattr(pipe, "encode", lambda *a: (texts.append(a), encode(pipe, *a))[1])
        stream = pipe.stream(args.pop("prompt"), **args, **small, hires_scale=1.5, hires_steps=6)
        steps = list(stream)
    assert len(texts) == 1  # both passes
    assert [step.index for step in steps] == list(range(10 + 4))  # 0.7 of 6, rounded down
    assert {step.total for step in steps} == {14}
    (first,) = pipe(ARGS["prompt"], **{**args, "output_type": "pil"}, **small).images
    larger = first.resize((48, 72), Image.Resampling.LANCZOS)
    args |= {"image": larger, "strength": 0.7, "num_inference_steps": 6}
    assert np.array_equal(stream.result().images, pipe(ARGS["prompt"], **args).images)


def test_a_variation_lies_between_two_seeds(pipe: Any) -> None:
    args = {**ARGS, "num_inference_steps": 2, "output_type": "latent"}
    own, other = (pipe(**args, seed=seed).images for seed in (3, 8))
    mixes = [pipe(**args, seed=3, subseed=8, subseed_strength=s).images for s in (0, 0.2, 0.8, 1)]
    assert np.array_equal(mixes[0], own)
    assert error(mixes[3], other) <= 1e-6
    far = [error(mix, own) for mix in mixes]
    assert far == sorted(far)
    noise = [np.random.default_rng(i).standard_normal((1, 4, 32, 32)) for i in (0, 1)]
    half = mixed(*(one.astype(np.float32) for one in noise), 0.5)
    assert abs(half.std() - 1) < 0.03  # an average would have 0.71


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strength": 1.5}, "strength must be from 0 and at most 1, got 1.5"),
        ({"strength": -0.5}, "strength"),
        ({"mask_image": Image.new("L", (32, 32))}, "mask_image must have the size of image"),
        ({"subseed_strength": 1.1}, "subseed_strength must be from 0 and at most 1, got 1.1"),
        ({"subseed": -2}, "subseed"),
        ({"hires_scale": 0.5}, "hires_scale must be from 1, which is off, to 8, got 0.5"),
        ({"hires_scale": 2, "hires_strength": 0}, "hires_strength"),
        ({"hires_scale": 2, "hires_steps": 0}, "hires_steps"),
        ({"image": None, "mask_image": Image.new("L", (32, 32))}, "mask_image without an image"),
        ({"image": np.zeros((3, 8, 8))}, r"image must be \[h, w\], \[h, w, c\]"),
        ({"image": [_picture()] * 3}, "there are 1 prompts and 3 images"),
        ({"image": Path("nowhere.png")}, "cannot read image 'nowhere.png'"),
    ],
)
def test_bad_pictures_are_named(pipe: Any, change: dict[str, Any], says: str) -> None:
    with pytest.raises(sdcore.SDCoreError, match=says):
        pipe(**{**ARGS, "image": _picture(), **change})


@pytest.mark.parametrize(
    ("sides", "overlap"),
    [({"right": 16}, 0), ({"left": 6, "top": 3, "bottom": 8}, 4), ({"top": 16}, 8)],
)
def test_a_picture_grows_at_its_sides(sides: dict[str, int], overlap: int) -> None:
    left, top, right, bottom = (sides.get(s, 0) for s in ("left", "top", "right", "bottom"))
    pixels = np.asarray(_picture())
    picture, mask = sdcore.outpaint(_picture(), **sides, overlap=overlap)
    assert picture.size == mask.size == (48 + left + right, 64 + top + bottom)
    larger, white = np.asarray(picture), np.asarray(mask)
    assert np.array_equal(larger[top : top + 64, left : left + 48], pixels)
    expected = np.full(white.shape, 255)
    for y in range(64):
        for x in range(48):
            near = [(left, x), (top, y), (right, 47 - x), (bottom, 63 - y)]
            if not any(grown and way < overlap for grown, way in near):
                expected[top + y, left + x] = 0
    assert np.array_equal(white, expected)
    for y, x in ((0, 0), (larger.shape[0] - 1, larger.shape[1] - 1)):  # the nearest pixel's colour
        nearest = pixels[min(max(y - top, 0), 63), min(max(x - left, 0), 47)]
        assert np.array_equal(larger[y, x], nearest)


def test_outpainting_is_diffusers_inpainting_of_the_sides(folder: Path, pipe: Any) -> None:
    picture, mask = sdcore.outpaint(_picture(), right=16, top=8)
    options = {"image": picture, "mask_image": mask, "strength": 1.0}
    ref = _theirs(folder, "Inpaint", "DDIMScheduler", **options, width=64, height=72)
    assert error(_ours(pipe, "DDIMScheduler", **options), ref) <= SAMPLED_F32


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        ({}, "outpaint: give left, top, right or bottom"),
        ({"left": -8}, "outpaint: left must be a whole number >= 0, got -8"),
        ({"top": 8, "bottom": 8, "overlap": 32}, "an overlap of 32 leaves nothing of 48x64"),
    ],
)
def test_sides_that_cannot_grow_are_named(sides: dict[str, int], says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        sdcore.outpaint(_picture(), **sides)
