"""What a picture's latents begin as: of itself, and of what its mask covers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdcore
import tiny_models

SIZE = {"width": 16, "height": 24}
ARGS: dict[str, Any] = {**SIZE, "num_inference_steps": 5, "strength": 0.6, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("over") / "plain")
    return sdcore.DiffusionPipeline.open(path, dtype="f32", threads=1)


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = dataclasses.replace(tiny_models.PLAIN, name="inpaint", unet_inputs=9)
    path = tiny_models.save_folder(spec, tmp_path_factory.mktemp("over") / "inpaint")
    return sdcore.DiffusionPipeline.open(path, dtype="f32", threads=1)


def photo(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 16, 3), np.uint8)
    return Image.fromarray(pixels)


def noise(pipe: Any) -> np.ndarray:
    f = pipe.vae.scale_factor
    shape = (1, 4, SIZE["height"] // f, SIZE["width"] // f)
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("content", ["noise", "nothing"])
def test_what_the_latents_begin_as_under_a_mask(pipe, content) -> None:
    begin = noise(pipe)
    instead = begin if content == "noise" else np.zeros_like(begin)
    ref = pipe("a cat", image=instead, latents=begin, **ARGS).images
    white, half = Image.new("L", (16, 24), 255), Image.new("L", (16, 24))
    half.paste(255, (0, 0, 8, 24))

    def over(mask: Image.Image, content: str, seed: int = 1) -> np.ndarray:
        fields = {"image": photo(seed), "mask_image": mask, "masked_content": content}
        return pipe("a cat", latents=begin, seed=3, **fields, **ARGS).images

    assert np.array_equal(over(white, content), ref)
    assert np.array_equal(over(white, content, seed=2), ref)
    assert not np.array_equal(over(white, "original"), ref)
    kept = begin.shape[3] // 2
    parts = over(half, content), over(half, "original")
    assert np.array_equal(parts[0][..., kept:], parts[1][..., kept:])
    assert not np.array_equal(parts[0][..., :kept], parts[1][..., :kept])


def test_a_model_for_inpainting_begins_so_too(inpainting) -> None:
    white = Image.new("L", (16, 24), 255)
    drawn = {
        (content, seed): inpainting(
            "a cat",
            image=photo(seed),
            mask_image=white,
            masked_content=content,
            latents=noise(inpainting),
            seed=3,
            **ARGS,
        ).images
        for content in ("original", "noise", "nothing")
        for seed in (1, 2)
    }
    for content in ("noise", "nothing"):
        assert np.array_equal(drawn[content, 1], drawn[content, 2])
    assert not np.array_equal(drawn["original", 1], drawn["original", 2])
    assert not np.array_equal(drawn["noise", 1], drawn["nothing", 1])


def test_at_no_strength_the_last_step_alone_is_made(pipe) -> None:
    args = {**ARGS, "seed": 3, "image": photo(1)}
    stream = pipe.stream("a cat", **{**args, "strength": 0})
    assert [step.total for step in stream] == [1]
    out = stream.result()
    assert out.parameters["strength"] == 0
    assert np.array_equal(out.images, pipe("a cat", **{**args, "strength": 0.01}).images)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"masked_content": "fill"}, "must be one of original, noise, nothing, got 'fill'"),
        ({"masked_content": "noise"}, "masked_content without a mask_image"),
        ({"strength": -0.1}, "strength must be from 0 and at most 1, got -0.1"),
    ],
)
def test_what_is_wrong_is_named(pipe, fields, message) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=message):
        pipe("a cat", image=photo(1), **{**ARGS, **fields})
