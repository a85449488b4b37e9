"""Pictures of a size, against plain NumPy."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

import sdcore
from sdcore.pictures.fit import fitted, fitted_mask, resized, resized_numbers, usual_size

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def test_a_crop_is_the_middle() -> None:
    out = resized(Image.fromarray(PIXELS), (5, 6), "crop")
    assert np.array_equal(np.asarray(out), PIXELS[:, 2:7])


@pytest.mark.parametrize(
    ("size", "more"), [((12, 6), ((0, 0), (1, 2))), ((9, 9), ((1, 2), (0, 0)))]
)
def test_what_is_filled_goes_on_with_the_outermost_pixels(
    size: tuple[int, int], more: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    want = np.pad(PIXELS, (*more, (0, 0)), mode="edge")
    assert np.array_equal(np.asarray(resized(Image.fromarray(PIXELS), size, "fill")), want)
    numbers = PIXELS / np.float32(255) - 1
    for part in (numbers, numbers[..., 0]):
        out = resized_numbers(part, size, "fill")
        assert np.array_equal(out, np.pad(part, (*more, (0, 0))[: part.ndim], mode="edge"))


def test_pictures_and_masks_are_cut_alike() -> None:
    image = fitted(Image.fromarray(PIXELS), 5, 6, "crop")
    assert np.abs(image - (PIXELS[:, 2:7].transpose(2, 0, 1) / 127.5 - 1)).max() < 1e-6
    mask = fitted_mask(Image.fromarray(PIXELS[..., 0]), 5, 6, "crop")
    assert np.array_equal(mask[0], PIXELS[:, 2:7, 0] > 127)


def test_a_mask_is_what_is_opaque_where_it_is_transparent() -> None:
    clear = np.full((6, 9, 4), 255, np.uint8)
    clear[:, 4:, 3] = 0
    mask = fitted_mask(Image.fromarray(clear), 9, 6)
    assert np.array_equal(mask[0], clear[..., 3] > 0)


def test_the_usual_area_in_another_shape() -> None:
    assert usual_size((4032, 3024), (512, 512), 8) == (592, 440)
    assert usual_size((100, 6000), (512, 512), 64) == (64, 3968)


def test_a_size_that_is_unlikely_to_be_meant_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pipe = sdcore.DiffusionPipeline.from_pretrained("pocket")
    wide = Image.new("RGB", (512, 128))  # four times the area that it was trained at

    def told(image: Image.Image, **options: object) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "sdcore"):
            pipe.stream("a red circle", image=image, num_inference_steps=1, **options)
        return caplog.text

    size = {"width": 128, "height": 128}
    assert not told(wide)
    assert "own size, 520x128: 4.1 times" in told(wide.resize((520, 128)))
    assert "stretched from 512x128 to 128x128" in told(wide, **size)
    assert not told(wide, **size, resize_mode="crop")
    with pytest.raises(sdcore.InvalidArgumentError, match="one of stretch, crop, fill, got 'pad'"):
        told(wide, resize_mode="pad")
