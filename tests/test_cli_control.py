"""`--control-net` and what goes with it on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusers import T2IAdapter
from PIL import Image

import sdcore
import tiny_models
import tiny_transformers
from command_line import REFUSED, infotext_of, one_error_line, save_models_and_photo
from sdcore.cli import main
from sdcore.image_io import read_png_parameters
from tiny_control import controlnet, picture
from tiny_control_sd3 import control_sd3

SMALL = ("--steps", "3", "-s", "7")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, a/ and b/, two ControlNets, edges.png and photo.png"""
    path = tmp_path_factory.mktemp("control")
    save_models_and_photo(path)
    for seed, name in enumerate("ab"):
        controlnet(tiny_models.unet(tiny_models.PLAIN), 900 + seed).save_pretrained(path / name)
    picture(3, 16, 24).save(path / "edges.png")
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(files: Path, *words: str) -> int:
    command, *more = words
    return main([command, "-m", str(files / "model"), "--quiet", *more])


def drawn(files: Path, *words: str) -> bytes:
    assert run(files, *words, *SMALL, "-f", "-o", "x.png") == 0
    return Path("x.png").read_bytes()


def one(files: Path, name: str = "a") -> tuple[str, ...]:
    return ("--control-net", str(files / name), "--control-image", str(files / "edges.png"))


def test_the_picture_is_the_pipeline_s_in_the_control_image_s_size(files: Path) -> None:
    drawn(files, "txt2img", "a cat", *one(files))
    pipe = sdcore.DiffusionPipeline.open(files / "model", controlnet=files / "a")
    image = str(files / "edges.png")
    options = {"control_image": image, "controlnet_conditioning_scale": 0.9}
    want = pipe("a cat", num_inference_steps=3, seed=7, **options).images[0]
    assert want.size == (16, 24)
    assert np.array_equal(np.asarray(Image.open("x.png")), np.asarray(want))


def test_the_edges_of_a_picture(files: Path) -> None:
    sdcore.canny(files / "edges.png").save("lines.png")
    flags = ("--control-net", str(files / "a"), "--control-image")
    drawn(files, "txt2img", "a cat", *flags, "lines.png")
    want = np.asarray(Image.open("x.png"))
    first = drawn(files, "txt2img", "a cat", *one(files), "--canny")
    assert np.array_equal(np.asarray(Image.open("x.png")), want)
    Path("x.png").rename("first.png")
    assert run(files, "txt2img", "--from-png", "first.png", *one(files), "-o", "x.png") == 0
    assert Path("x.png").read_bytes() == first
    drawn(files, "txt2img", "a cat", *one(files))
    assert not np.array_equal(np.asarray(Image.open("x.png")), want)


def test_what_it_sees_is_cropped_as_the_picture_is(files: Path) -> None:
    photo, edges, sides = files / "photo.png", files / "edges.png", ("-W", "16", "-H", "16")
    for path in (photo, edges):
        with Image.open(path) as image:
            image.crop((0, 4, 16, 20)).save(path.name)
    nets = ("--control-net", str(files / "a"), "--control-image")
    drawn(files, "img2img", "a cat", "-i", "photo.png", *nets, "edges.png")
    want = np.asarray(Image.open("x.png"))
    flags = (*nets, str(edges), *sides, "--resize-mode", "crop")
    drawn(files, "img2img", "a cat", "-i", str(photo), *flags)
    assert np.array_equal(np.asarray(Image.open("x.png")), want)


@pytest.mark.parametrize("command", ["txt2img", "img2img"])
def test_a_picture_says_how_it_was_steered(files: Path, command: str) -> None:
    """And is drawn again from that, given the same ControlNets and what they saw."""
    begin = ("-i", str(files / "photo.png")) if command == "img2img" else ()
    nets = (*one(files), *one(files, "b"))
    flags = ("--control-strength", "0.7", "--control-strength", "1.25", "--control-start", "0.3")
    flags += ("--control-end", "0.95", "--control-end", "1", "--guess-mode")
    first = drawn(files, command, "a cat", *begin, *nets, *flags)
    settings = infotext_of("x.png").settings
    assert settings["ControlNet"] == "a, b"
    assert settings["Control strength"] == "0.7 1.25"
    assert (settings["Control start"], settings["Control end"]) == ("0.3", "0.95 1.0")
    Path("x.png").rename("first.png")
    again = (command, *begin, "--from-png", "first.png", *nets)
    assert run(files, *again, "-o", "x.png") == 0
    assert Path("x.png").read_bytes() == first
    assert drawn(files, command, "a cat", *begin, *nets) != first


def test_a_t2i_adapter_is_asked_for_as_a_controlnet(files: Path) -> None:
    T2IAdapter(channels=[32, 64], downscale_factor=2).save_pretrained("adapter")
    image = str(files / "edges.png")
    flags = ("--control-net", "adapter", "--control-image", image)
    flags += ("--adapter-conditioning-scale", "0.6", "--adapter-conditioning-factor", "0.7")
    drawn(files, "txt2img", "a cat", *flags)
    pipe = sdcore.DiffusionPipeline.open(files / "model", controlnet="adapter")
    options = {"adapter_conditioning_scale": 0.6, "adapter_conditioning_factor": 0.7}
    want = pipe("a cat", num_inference_steps=3, seed=7, control_image=image, **options).images[0]
    assert np.array_equal(np.asarray(Image.open("x.png")), np.asarray(want))


def test_where_stable_diffusion_3_is_to_paint(files: Path) -> None:
    tiny_transformers.sd3_pipeline(Path("sd3"))
    net = control_sd3(tiny_transformers.sd3(), extra_conditioning_channels=1)
    net.save_pretrained("inpaint")
    Image.new("L", (8, 8), "white").save("mask.png")
    image = str(files / "edges.png")
    words = ("-m", "sd3", "a cat", "--control-net", "inpaint", "--control-image", image)
    words += ("--control-mask", "mask.png", *SMALL, "--quiet", "-o", "x.png")
    assert main(["txt2img", *words]) == 0
    pipe = sdcore.DiffusionPipeline.open("sd3", controlnet="inpaint")
    options = {"control_image": image, "control_mask": "mask.png"}
    options |= {"num_inference_steps": 3, "controlnet_conditioning_scale": 0.9}
    want = pipe("a cat", seed=7, **options).images[0]
    assert np.array_equal(np.asarray(Image.open("x.png")), np.asarray(want))


@pytest.mark.parametrize("flags", [(), ("-W", "16", "-H", "16", "--resize-mode", "crop")])
def test_one_for_inpainting_sees_where_to_paint(files: Path, flags: tuple[str, ...]) -> None:
    mask = np.zeros((24, 16), np.uint8)
    mask[3:13, :7] = 255
    Image.fromarray(mask).save("mask.png")
    condition = np.asarray(Image.open(files / "photo.png"), np.float32) / 255
    condition[mask > 0] = -1
    photo = ("-i", str(files / "photo.png"), "--mask", "mask.png")
    nets = ("--control-net", str(files / "a"), "--control-inpaint")
    drawn(files, "img2img", "a cat", *photo, *nets, *flags)
    pipe = sdcore.DiffusionPipeline.open(files / "model", controlnet=files / "a")
    given = {"image": files / "photo.png", "mask_image": "mask.png"}
    options = {"controlnet_conditioning_scale": 0.9, "num_inference_steps": 3, "seed": 7}
    if flags:
        options |= {"width": 16, "height": 16, "resize_mode": "crop"}
    want = pipe("a cat", **given, control_image=condition, **options).images[0]
    assert np.array_equal(np.asarray(Image.open("x.png")), np.asarray(want))
    assert "Control inpaint: True" in (read_png_parameters(Path("x.png")) or "")


WRONG = {
    ("--control-image", "edges.png"): "each --control-net takes one --control-image, got 0 and 1",
    ("--control-net", "a"): "each --control-net takes one --control-image, got 1 and 0",
    ("--control-strength", "0.5"): "--control-strength needs a --control-net",
    ("--canny",): "--canny needs a --control-net",
    ("--control-net", "a", "--control-inpaint"): "goes with img2img and --mask, or --outpaint",
    ("--guess-mode",): "--guess-mode needs a --control-net",
    ("--control-net", "nowhere", "--control-image", "edges.png"): "no such file or folder",
    ("--control-net", "a", "--control-image", "nowhere.png"): "cannot read control_image",
    ("--control-net", "model", "--control-image", "edges.png"): "and no ControlNet",
    ("--control-net", "a", "--control-image", "edges.png", "--control-end", "1",
     "--control-end", "1"): "once for each --control-net, got 2 and 1",
}  # fmt: skip


@pytest.mark.parametrize("flags", WRONG)
def test_what_is_wrong(
    files: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(files / word) if (files / word).exists() else word for word in flags]
    assert run(files, "txt2img", "a cat", *words) in REFUSED
    one_error_line(capsys, WRONG[flags])


def test_what_a_picture_cannot_say(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn(files, "txt2img", "a cat", *one(files))
    capsys.readouterr()
    assert run(files, "txt2img", "--from-png", "x.png", "-o", "y.png") in REFUSED
    one_error_line(capsys, "the ControlNet 'a'", "--control-image")


def test_info_says_how_to_use_one(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(files / "a")]) == 0
    text = capsys.readouterr().out
    assert "a ControlNet" in text and "pass this as controlnet=" in text
    assert main(["txt2img", "-m", str(files / "a"), "a cat"]) == 1
    one_error_line(capsys, "holds a ControlNet", "open its model")
