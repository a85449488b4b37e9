"""What is done around a mask."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdcore.pictures.inpaint import masked
from sdcore.pictures.masks import binary


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def hole(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


@pytest.mark.parametrize(
    ("box", "size", "padding", "cut"),
    [
        ((20, 10, 30, 30), (32, 32), 0, (15, 10, 35, 30)),  # widened to a square
        ((20, 10, 30, 30), (32, 32), 4, (11, 6, 39, 34)),
        ((0, 0, 10, 20), (32, 32), 0, (0, 0, 20, 20)),  # kept within the picture
        ((50, 0, 64, 7), (64, 32), 0, (50, 0, 64, 7)),
        ((0, 0, 64, 8), (32, 32), 0, (0, 0, 64, 48)),  # no square is as wide as it
    ],
)
def test_the_masked_part_alone(box, size, padding, cut) -> None:
    image, mask = photo(64, 48), hole((64, 48), box)
    parts = masked(image, mask, size, padding=padding)
    assert parts.image.size == parts.mask.size == size
    wanted = image.crop(cut).resize(size, Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(parts.image), np.asarray(wanted))
    out = np.asarray(parts.restore(Image.new("RGB", size, "red")))
    inside = np.asarray(mask) > 0
    assert (out[inside] == (255, 0, 0)).all()
    assert np.array_equal(out[~inside], np.asarray(image)[~inside])


def test_a_blur_mixes_outside_of_the_mask_only() -> None:
    image, mask = photo(64, 48), hole((64, 48), (20, 10, 40, 30))
    parts = masked(image, mask, (64, 48), blur=3)
    out = np.asarray(parts.restore(Image.new("RGB", (64, 48), "red"))).astype(int)
    assert (out[12:28, 22:38] == (255, 0, 0)).all()
    kept = (out == np.asarray(image)).all(-1)
    assert kept[:2].all()
    assert not kept[9, 20:40].any()


def test_a_blur_may_be_another_down_than_across() -> None:
    image, mask = photo(64, 48), hole((64, 48), (20, 10, 40, 30))
    soft = np.asarray(masked(image, mask, (64, 48), blur=(3, 0)).mask)
    assert (soft[:10] == 0).all() and (soft[30:] == 0).all()
    assert 0 < soft[20, 18] < 255
    assert not masked(image, hole((64, 48), (20, 10, 21, 11)), (64, 48), blur=90).mask.getbbox()
    parts = masked(image, hole((64, 48), (20, 10, 21, 11)), (64, 64), blur=90, padding=9)
    assert np.array_equal(np.asarray(parts.restore(parts.image)), np.asarray(image))


@pytest.mark.parametrize("padding", [None, 2])
def test_a_mask_of_another_size_is_stretched_over_the_picture(padding) -> None:
    image, whole, half = photo(64, 48), *(hole(s, (s[0] // 2, 0, *s)) for s in ((64, 48), (32, 96)))
    parts = [masked(image, mask, (64, 48), padding=padding) for mask in (whole, half)]
    for name in ("image", "mask"):
        same = [np.asarray(getattr(part, name)).astype(int) for part in parts]
        assert (np.abs(same[0] - same[1]) > 64).mean() < 0.05  # but for the mask's edge


def test_what_is_masked_is_filled_from_around() -> None:
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    image.paste((0, 255, 0), (20, 20, 44, 44))
    parts = masked(image, hole((64, 64), (18, 18, 46, 46)), (64, 64), fill=True)
    # Eight bits of a colour times a small opacity: exact to some units.
    assert np.abs(np.asarray(parts.image).astype(int) - (200, 40, 40)).max() <= 8


def test_masks_are_white_or_opaque_where_to_paint() -> None:
    white = hole((8, 8), (0, 0, 4, 8))
    opaque = photo(8, 8)
    opaque.putalpha(white)
    for mask in (white, opaque, white.convert("RGB"), white.convert("RGBA")):
        assert np.array_equal(np.asarray(binary(mask)), np.asarray(white))
    assert np.array_equal(np.asarray(binary(white, invert=True)), 255 - np.asarray(white))
