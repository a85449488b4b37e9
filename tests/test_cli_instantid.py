"""InstantID on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdcore
import tiny_ip_adapter
import tiny_xl
from command_line import REFUSED, one_error_line
from sdcore.cli import main
from sdcore.image_io import Infotext, read_png_parameters
from tiny_control import controlnet, picture

POINTS = "20,16 42,17 31,27 24.5,36 40,37"
KPS = np.array([[float(n) for n in point.split(",")] for point in POINTS.split()], np.float32)
FACE = np.random.default_rng(8).standard_normal(512).astype(np.float32)
SIZE = {"width": 64, "height": 48}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, ip-adapter.bin, identity/ and another/, ControlNets, face.npy, kps.npy, photo.png."""
    path = tmp_path_factory.mktemp("cli")
    unet = tiny_xl.base_unet()
    tiny_xl.xl(path / "tokenizers").save_pretrained(path / "model")
    for seed, name in enumerate(("identity", "another")):
        controlnet(unet, 900 + seed).save_pretrained(path / name)
    state = tiny_ip_adapter.adapter(unet, "plus", 0, 512)
    tiny_ip_adapter.save(state, path / "ip-adapter.bin")
    np.save(path / "face.npy", FACE)
    np.save(path / "kps.npy", KPS)
    np.savez(path / "both.npz", face=FACE, kps=KPS)
    picture(4, 64, 48).save(path / "photo.png")
    return path


@pytest.fixture(autouse=True)
def _in_the_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)


BASE = ("txt2img", "-m", "model", "--quiet", "--dtype", "f32", "-f", "-o", "x.png")
DRAWN = ("a cat", "-W", "64", "-H", "48", "--steps", "2", "-s", "3")
FACED = ("--ip-adapter", "ip-adapter.bin", "--ip-adapter-embeds", "face.npy")
IDENTITY = ("--control-net", "identity", "--face-keypoints", POINTS)


def draw(*words: str) -> np.ndarray:
    assert main([*BASE, *DRAWN, *words]) == 0
    return np.asarray(Image.open("x.png"))


def settings() -> dict[str, str]:
    return Infotext.parse(read_png_parameters(Path("x.png")) or "").settings


def want(*nets: str, **arguments: Any) -> np.ndarray:
    pipe = sdcore.DiffusionPipeline.open("model", dtype="f32", controlnet=list(nets))
    pipe.load_ip_adapter("ip-adapter.bin")
    keypoints = sdcore.face_keypoints(KPS, (SIZE["width"], SIZE["height"]))
    given = {"ip_adapter_image_embeds": [FACE], "control_image": [keypoints], **SIZE}
    given |= {"num_inference_steps": 2, "seed": 3}
    return np.asarray(pipe("a cat", **given | arguments).images[0])


def test_a_face_and_its_keypoints() -> None:
    drawn = draw(*FACED, *IDENTITY)
    assert np.array_equal(drawn, want("identity"))
    assert settings()["Control strength"] == "0.8"
    assert np.array_equal(draw(*FACED, *IDENTITY[:-1], "kps.npy"), drawn)
    sdcore.face_keypoints(KPS, (64, 48)).save("kps.png")
    seen = ("--control-net", "identity", "--control-image", "kps.png")
    assert np.array_equal(draw(*FACED, *seen), drawn)
    said = ("--ip-adapter-scale", "0.8", "--control-strength", "0.8", "--control-context", "face")
    assert np.array_equal(draw(*FACED, *IDENTITY, *said), drawn)
    for other in (("--control-context", "text"), ("--control-strength", "0.4")):
        assert not np.array_equal(draw(*FACED, *IDENTITY, *other), drawn)


def test_several_controlnets() -> None:
    """The first sees the keypoints, and the edges are of the other's picture."""
    nets = (*IDENTITY, "--control-net", "another", "--control-image", "photo.png", "--canny")
    drawn = draw(*FACED, *nets)
    strength = settings()["Control strength"]
    assert strength == "0.8 0.9" and "Control context" not in settings()
    seen = [sdcore.face_keypoints(KPS, (64, 48)), sdcore.canny("photo.png")]
    scales = {"controlnet_conditioning_scale": [0.8, 0.9]}
    assert np.array_equal(drawn, want("identity", "another", control_image=seen, **scales))
    contexts = ("--control-context", "text", "--control-context", "face")
    first = draw(*FACED, *nets, *contexts)
    assert settings()["Control strength"] == "0.9 0.8"
    assert settings()["Control context"] == "text face"
    again = [*BASE, "--from-png", "x.png", *FACED, *nets[:-1]]
    assert main(again) == 0
    assert np.array_equal(np.asarray(Image.open("x.png")), first)


WRONG: dict[tuple[str, ...], str] = {
    (*FACED[:2], *IDENTITY): "InstantID reads insightface's embedding of a face",
    (*FACED[:3], "gone.npy"): "cannot read --ip-adapter-embeds 'gone.npy'",
    (*FACED[:3], "photo.png"): "cannot read --ip-adapter-embeds 'photo.png'",
    (*FACED[:3], "both.npz"): "it holds several arrays, and one is wanted",
    (*FACED[:3], "kps.npy"): "must be [1 or 2, faces, 512], got [5, 2]",
    FACED[2:]: "without an IP-Adapter: load one with load_ip_adapter (--ip-adapter on",
    IDENTITY[2:]: "--face-keypoints needs a --control-net",
    (*FACED, *IDENTITY, "--control-image", "photo.png"): "but for that of --face-keypoints each",
    (*FACED, *IDENTITY[:3], "1,2 3"): "X,Y X,Y\", a .npy file or a picture, got '1,2 3'",
    (*FACED, *IDENTITY[:3], "1,2 3,4"): "kps must be [5, 2] finite numbers",
    (*IDENTITY, "--control-context", "face"): "InstantID's adapter is not there",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, *DRAWN, *words]) in REFUSED
    one_error_line(capsys, WRONG[words])


def test_keypoints_take_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "a cat", *FACED, *IDENTITY]) in REFUSED
    one_error_line(capsys, "say its size, -W and -H")


def test_info_says_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "ip-adapter.bin"]) == 0
    text = capsys.readouterr().out
    assert "InstantID's IP-Adapter for Stable Diffusion XL" in text
    assert "with InstantID's ControlNet and load this with load_ip_adapter" in text
