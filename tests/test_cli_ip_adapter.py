"""IP-Adapters on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdcore
import tiny_ip_adapter
import tiny_models
import tiny_transformers
from command_line import REFUSED, infotext_of, one_error_line, save_models_and_photo
from sdcore.cli import main
from sdcore.image_io import read_png_parameters


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, photo.png, ip.bin and vision/, its image encoder."""
    path = tmp_path_factory.mktemp("cli")
    save_models_and_photo(path)
    state = tiny_ip_adapter.adapter(tiny_models.unet(tiny_models.PLAIN), "plus", 0, 64)
    tiny_ip_adapter.save(state, path / "ip.bin")
    tiny_ip_adapter.image_encoder().save_pretrained(path / "vision")
    return path


@pytest.fixture(autouse=True)
def _in_the_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)


SIZE = ("-W", "24", "-H", "16", "--steps", "2", "-s", "3", "--dtype", "f32", "-f", "-t", "1")


def draw(*words: str, command: str = "txt2img") -> np.ndarray:
    assert main([command, "-m", "model", "a cat", "-o", "out.png", "--quiet", *SIZE, *words]) == 0
    return np.asarray(Image.open("out.png")).astype(int)


ADAPTER = ("--ip-adapter", "ip.bin", "--clip_vision", "vision", "--ip-adapter-image", "photo.png")


def test_a_picture_like_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    plain = draw()
    assert np.abs(draw(*ADAPTER) - plain).max() > 8
    pipe = sdcore.DiffusionPipeline.open("model", dtype="f32")
    pipe.load_ip_adapter("ip.bin", image_encoder="vision")
    pipe.set_ip_adapter_scale(0.4)
    arguments = {"height": 16, "width": 24, "num_inference_steps": 2, "seed": 3}
    weaker = pipe("a cat", ip_adapter_image=["photo.png"] * 2, **arguments).images[0]
    for scale, encoder in (("--ip-adapter-scale", "--clip-vision"),
                           ("--ip-adapter-strength", "--image-encoder")):  # fmt: skip
        words = ("--ip-adapter", "ip.bin", encoder, "vision", scale, "0.4")
        twice = ("--ip-adapter-image", "photo.png") * 2
        assert np.array_equal(draw(*words, *twice), np.asarray(weaker))
    settings = infotext_of("out.png").settings
    assert settings["IP-Adapter"] == "ip.bin" and settings["IP-Adapter scale"] == "0.4"
    again = ("txt2img", "-m", "model", "--from-png", "out.png", "-o", "again.png", "-f")
    assert main([*again, *ADAPTER, "--ip-adapter-image", "photo.png"]) == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    capsys.readouterr()
    assert main(again) == 0
    assert "was drawn with the IP-Adapter 'ip.bin': name its file" in capsys.readouterr().err
    assert "IP-Adapter" not in read_png_parameters(Path("again.png"))


def test_it_goes_with_a_picture_to_begin_from() -> None:
    start = ("-i", "photo.png", "--strength", "0.9")
    plain = draw(*start, command="img2img")
    assert np.abs(draw(*start, *ADAPTER, command="img2img") - plain).max() > 8


def test_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = ["txt2img", "-m", "model", "a cat", "-o", "x.png", "-f", "--quiet", "--dtype", "f32"]
    for words, message in (
        (ADAPTER[:4], "give ip_adapter_image (--ip-adapter-image on the command line)"),
        (ADAPTER[:2] + ADAPTER[4:], "(--clip_vision on the command line)"),
        (ADAPTER[4:], "load one with load_ip_adapter (--ip-adapter on the command line)"),
        (("--ip-adapter", "gone.bin"), "no such file or folder: 'gone.bin'"),
        (("--ip-adapter", "vision"), "holds a CLIP image encoder, not an IP-Adapter"),
        ((*ADAPTER[:2], "--clip_vision", "model"), "'model' has no image_encoder"),
    ):
        assert main([*base, *words]) in REFUSED
        one_error_line(capsys, message)


def test_models_that_take_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny_transformers.pixart_pipeline(tmp_path / "pixart", False)
    base = ["txt2img", "-m", str(tmp_path / "pixart"), "a cat", "-o", "x.png", "--quiet"]
    capsys.readouterr()  # what transformers says while it saves
    for words, message in (
        (ADAPTER, "IP-Adapters are for Stable Diffusion 1.x, 2.x and XL, and this is PixArt"),
        (("--control-net", "x", "--control-image", "photo.png"), "ControlNets are for Stable"),
        (("--photo-maker", "x", "--pm-id-image", "photo.png"), "PhotoMaker is for Stable Diff"),
    ):
        assert main([*base, *words]) == 1
        one_error_line(capsys, message, "and this is PixArt")
