"""Pictures from pictures on the command line: new sides, and models for editing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdcore
from command_line import REFUSED, save_models_and_photo
from sdcore.cli import main
from sdcore.image_io import read_png_parameters

SMALL = ("--steps", "4", "-s", "3", "--dtype", "f32", "--quiet", "-f", "-o", "x.png")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, edit/ and photo.png"""
    path = tmp_path_factory.mktemp("img2img")
    save_models_and_photo(path)
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (16, 8), 255).save("low.png")


def drawn(files: Path, model: str, *words: str) -> np.ndarray:
    photo = ("-i", str(files / "photo.png"))
    assert main(["img2img", "-m", str(files / model), *photo, "a cat", *SMALL, *words]) == 0
    return np.asarray(Image.open("x.png"))


def called(files: Path, model: str, **options: object) -> np.ndarray:
    pipe = sdcore.DiffusionPipeline.open(files / model, dtype="f32")
    (picture,) = pipe("a cat", num_inference_steps=4, seed=3, **options).images
    return np.asarray(picture)


@pytest.mark.parametrize(("words", "strength"), [((), 1.0), (("--strength", "0.5"), 0.5)])
def test_new_sides(files: Path, words: tuple[str, ...], strength: float) -> None:
    out = drawn(files, "model", "--outpaint", "right=16,bottom=8", *words)
    assert out.shape == (32, 32, 3)
    picture, mask = sdcore.outpaint(files / "photo.png", right=16, bottom=8)
    ref = called(files, "model", image=picture, mask_image=mask, strength=strength)
    assert np.array_equal(out, ref)


def test_a_picture_of_another_shape_is_cropped(files: Path) -> None:
    """And its mask; and the picture says so."""
    mask = Image.new("L", (16, 24))
    mask.paste(255, (0, 0, 9, 24))
    mask.save("mask.png")
    out = drawn(
        files, "model", "--mask", "mask.png", *("-W", "16", "-H", "16"), "--resize-mode", "crop"
    )
    middle = (0, 4, 16, 20)
    with Image.open(files / "photo.png") as photo:
        ref = called(files, "model", image=photo.crop(middle), mask_image=mask.crop(middle))
    assert np.array_equal(out, ref)
    assert "Resize mode: crop" in (read_png_parameters(Path("x.png")) or "")


def test_a_large_picture_is_drawn_at_the_model_s_own_area(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = [word for word in SMALL if word != "--quiet"]
    for size, own, says in (
        ((403, 302), (36, 28), "size: 36x28, of a picture of 403x302; -W and -H say another"),
        ((33, 31), (32, 30), "size: 32x30, of a picture of 33x31"),
        ((32, 24), (32, 24), ""),
    ):
        Image.new("RGB", size).save("large.png")
        model = ("-m", str(files / "model"), "-i", "large.png")
        assert main(["img2img", *model, "a cat", *loud]) == 0
        assert Image.open("x.png").size == own
        said = capsys.readouterr().err
        assert says in said and ("size:" in said) == bool(says) and "warning" not in said


def test_a_model_for_editing_keeps_to_its_picture_as_told(files: Path) -> None:
    photo = files / "photo.png"
    out = drawn(files, "edit", "--img-cfg-scale", "2.5")
    assert np.array_equal(out, called(files, "edit", image=photo, image_guidance_scale=2.5))
    assert not np.array_equal(out, called(files, "edit", image=photo))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--outpaint", "wide=8"), "such as left=64,right=128; got 'wide=8'"),
        (("--outpaint", "left=8,left=8"), "got 'left=8,left=8'"),
        (("--outpaint", "left"), "got 'left'"),
        (("--outpaint", "left=-8"), "got 'left=-8'"),
        (("--outpaint", "left=0"), "outpaint: give left, top, right or bottom"),
        (("--outpaint", "left=8", "--mask", "m.png"), "a mask of its own: leave out --mask"),
        (("--outpaint", "left=8", "-i", "none.png"), "cannot read image 'none.png'"),
        (("--mask", "low.png"), "mask_image must have the size of image, (16, 24), got (16, 8)"),
        (("--strength", "1.5"), "strength must be from 0 and at most 1, got 1.5"),
        (("--token-merging-ratio", "0.9"), "from 0, which is off, to 0.75, got 0.9"),
        (("--cache-interval", "0"), "cache_interval must be a whole number >= 1, got 0"),
        (("--sampler", "quantum"), "there is no sampler 'quantum'; use one of ddim"),
        (("--lora", "none.safetensors"), "no such file or folder: 'none.safetensors'"),
        (("--img-cfg-scale", "2"), "--img-cfg-scale is not for Stable Diffusion 1"),
    ],
)
def test_what_cannot_be_done_is_said(
    files: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = ("-i", str(files / "photo.png"))
    assert main(["img2img", "-m", str(files / "model"), *photo, "a cat", *SMALL, *words]) in REFUSED
    said = capsys.readouterr().err
    assert said.startswith("error: [") and said.count("\n") == 1
    assert message in said


def test_what_users_expect_leniency_for_is_a_warning(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the rest is done: the picture is that without it."""
    model = ("-m", str(files / "model"), "-i", str(files / "photo.png"))
    loud = [word for word in SMALL if word != "--quiet"]
    assert main(["img2img", *model, "(cat:1,3) <lora:missing:1>", *loud]) == 0
    said = capsys.readouterr().err
    assert "warning: [prompt] (cat:1,3): '1,3' is no weight, so it is words, times 1.1" in said
    assert "warning: [lora] no LoRA 'missing'" in said
    odd = np.asarray(Image.open("x.png"))
    assert main(["img2img", *model, "(cat:1,3) ", *SMALL]) == 0
    assert np.array_equal(odd, np.asarray(Image.open("x.png")))
