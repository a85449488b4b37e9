"""What a user gives as a picture, against plain NumPy."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdcore
from sdcore.pictures.given import as_levels, as_picture, opaque
from sdcore.pictures.masks import binary
from sdcore.pipelines.control import control_images
from sdcore.pipelines.families.stable_diffusion_depth import _depth

GREY = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)  # each of the 256 levels
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
RGBA = np.concatenate([RGB, RGB[..., :1]], axis=2)
DEEP = GREY.astype(np.uint16) * 257  # the same levels in 16 bits

PICTURES: dict[str, tuple[Any, np.ndarray]] = {
    "L": (Image.fromarray(GREY), GREY),
    "RGB": (Image.fromarray(RGB), RGB),
    "RGBA": (Image.fromarray(RGBA), RGBA),
    "1": (Image.fromarray(GREY > 99), 255 * (GREY > 99)),
    "LA": (Image.fromarray(np.dstack([GREY, GREY.T])), np.dstack([GREY, GREY, GREY, GREY.T])),
    "P": (Image.fromarray(RGB // 255 * 255).convert("P"), RGB // 255 * 255),
    "CMYK": (Image.fromarray(RGB).convert("CMYK"), RGB),
    "I;16": (Image.fromarray(DEEP), GREY),
    "I;16B": (Image.frombytes("I;16B", (16, 16), DEEP.astype(">u2").tobytes()), GREY),
    "I of 16 bits": (Image.fromarray(DEEP.astype(np.int32)), GREY),
    "I of 8 bits": (Image.fromarray(GREY.astype(np.int32)), GREY),
    "F": (Image.fromarray(GREY.astype(np.float32) / 255), GREY),
    "uint8": (RGB, RGB),
    "[h, w, 1]": (GREY[..., None], GREY),
    "[1, h, w, 4]": (RGBA[None], RGBA),
    "bool": (GREY > 99, 255 * (GREY > 99)),
    "uint16": (RGB.astype(np.uint16) * 257, RGB),
    "int64 of 8 bits": (RGB.astype(np.int64), RGB),
    "int64 of 16 bits": (RGB.astype(np.int64) * 257, RGB),
    "float16": ((RGB / 255).astype(np.float16), RGB),
    "float64": (RGB / 255, RGB),
    "between levels": (np.uint16([[0, 128, 129, 65406, 65407]]), np.uint8([[0, 0, 1, 254, 255]])),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_the_levels_are_kept(kind: str) -> None:
    given, want = PICTURES[kind]
    assert np.array_equal(np.asarray(as_picture(given, "image")), want)


@pytest.mark.parametrize("form", [bytes, str, Path])
@pytest.mark.parametrize("pixels", [GREY, RGB, RGBA, DEEP], ids=["L", "RGB", "RGBA", "16 bits"])
def test_files(form: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    picture = as_picture(path.read_bytes() if form is bytes else form(path), "image")
    assert np.array_equal(np.asarray(picture), GREY if pixels is DEEP else pixels)


def test_a_phone_s_photo_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held so that it has to be turned by a quarter, clockwise
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "png", exif=exif)
    (tmp_path / "photo.png").write_bytes(file.getvalue())
    for given in (file.getvalue(), tmp_path / "photo.png", Image.open(file)):
        assert np.array_equal(np.asarray(as_picture(given, "image")), np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (RGB.astype(np.float32), r"from 0 to 1, got 0 to 248: divide by 255"),
        (RGB / 127.5 - 1, r"from 0 to 1, got -1 to .*:.* \(x \+ 1\) / 2"),
        (np.where(RGB > 9, RGB / 255, np.nan), "image must hold finite numbers"),
        (np.full((4, 4), np.inf), "image must hold finite numbers"),
        (np.int32([[-1, 0]]), "of 8 or 16 bits, .* got -1 to 0"),
        (np.int32([[65536]]), "of 8 or 16 bits, .* got 65536 to 65536"),
        (RGB.transpose(2, 0, 1), r"of 1, 3 or 4 channels, got \[3, 5, 7\]"),
        (RGB[None].repeat(2, axis=0), r"got \[2, 5, 7, 3\]"),
        (RGB[:0], r"got \[0, 7, 3\]"),
        (5, r"got \[\]"),
        (np.array([["a"]]), "or an array of numbers, got ndarray"),
        ([[1, 2], [3]], "image is no array: .*inhomogeneous"),
        ({"a": 1}, "or an array of numbers, got dict"),
        (b"no picture", "cannot read image: it is no picture"),
        ("none.png", r"cannot read image 'none\.png': .*No such file"),
        (Image.new("La", (2, 2)), "Pillow's mode La, which does not become RGBA"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_picture_is_named(given: Any, says: str) -> None:
    with pytest.raises(sdcore.SDCoreError, match=says):
        as_picture(given, "image")


def test_what_is_transparent_is_white() -> None:
    share = RGBA[..., 3:] / 255
    blended = RGB * share + 255 * (1 - share)
    assert np.abs(np.asarray(opaque(Image.fromarray(RGBA))) - blended).max() <= 1


def test_depth_keeps_its_16_bits() -> None:
    near = np.tile(np.arange(40000, 40256, dtype=np.uint16), (16, 1))  # one level of 8 bits
    want = (near - 40000.0) / 255 * 2 - 1
    file = io.BytesIO()
    Image.fromarray(near).save(file, "png")
    for given in (Image.fromarray(near), file.getvalue(), near, near[None, ..., None] * 0.01):
        assert np.abs(_depth(given, 256, 16) - want).max() < 1e-4
    assert np.array_equal(as_levels(GREY, "depth_map"), GREY)


def test_a_control_image_of_16_bits() -> None:
    (seen,) = control_images(Image.fromarray(DEEP))
    assert np.array_equal(np.asarray(seen), GREY)
    for given in (RGB.astype(np.float32), np.full((2, 2), np.nan)):
        with pytest.raises(sdcore.InvalidArgumentError, match="divide by 255"):
            control_images(given)


def test_masks_of_16_bits() -> None:
    assert np.array_equal(np.asarray(binary(as_picture(DEEP, "mask"))), 255 * (GREY > 127))
