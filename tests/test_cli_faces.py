"""Pictures of faces in place of embeddings, on the command line and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import sdcore
import tiny_faces
import tiny_ip_adapter
import tiny_photomaker
import tiny_xl
from command_line import REFUSED, one_error_line
from sdcore.cli import main
from sdcore.faces import Face
from test_faces import SUREST, smooth
from tiny_control import controlnet

SIZE = {"width": 64, "height": 48}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, instantid.bin, faceid.bin, whole.bin, identity/, v2.bin, faces/ and small/ of 40
    numbers a face, photo.png and pose.png."""
    path = tmp_path_factory.mktemp("cli")
    unet = tiny_xl.base_unet()
    tiny_xl.xl(path / "tokenizers").save_pretrained(path / "model")
    controlnet(unet, 900).save_pretrained(path / "identity")
    tiny_ip_adapter.save(tiny_ip_adapter.adapter(unet, "plus", 0, 512), path / "instantid.bin")
    face_id = tiny_ip_adapter.with_face_lora(tiny_ip_adapter.adapter(unet, "face", 0, 512), unet)
    tiny_ip_adapter.save(face_id, path / "faceid.bin")
    whole = tiny_ip_adapter.adapter(unet, "classic", 1, tiny_ip_adapter.PROJECTION)
    tiny_ip_adapter.save(whole, path / "whole.bin")
    tiny_photomaker.save(2, path / "v2.bin")
    tiny_faces.pack(path / "faces", surest=SUREST)
    tiny_faces.pack(path / "small", surest=SUREST, dim=tiny_photomaker.FACE)
    Image.fromarray(smooth(320, 240, seed=2)).save(path / "photo.png")
    Image.fromarray(smooth(200, 300, seed=3)).save(path / "pose.png")
    return path


@pytest.fixture(autouse=True)
def _in_the_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)


BASE = ("txt2img", "-m", "model", "--quiet", "--dtype", "f32", "-f", "-o", "x.png", "-t", "1")
DRAWN = ("-W", "64", "-H", "48", "--steps", "1", "-s", "3")
FACES = ("--face-model", "faces")
PHOTO = ("--ip-adapter-image", "photo.png")
INSTANTID = ("--ip-adapter", "instantid.bin", *PHOTO)
PERSON = ("--photo-maker", "v2.bin", "--pm-id-image", "photo.png", "--pm-id-image", "pose.png")


def draw(*words: str, prompt: str = "a cat") -> np.ndarray:
    assert main([*BASE, prompt, *DRAWN, *words]) == 0
    return np.asarray(Image.open("x.png"))


def want(pipe: Any, prompt: str = "a cat", **arguments: Any) -> np.ndarray:
    given = {**SIZE, "num_inference_steps": 1, "seed": 3, **arguments}
    return np.asarray(pipe(prompt, **given).images[0])


def opened(**options: Any) -> Any:
    return sdcore.DiffusionPipeline.open("model", dtype="f32", threads=1, **options)


def chosen(image: Any, model: str = "faces") -> tuple[Face, Face]:
    """The largest and the surest of the faces in a picture."""
    faces = sdcore.FaceAnalysis.from_pretrained(model).get(image)
    return faces[0], max(faces, key=lambda face: face.det_score)


def test_the_largest_is_not_the_surest() -> None:
    """So that the others tell which is taken."""
    largest, surest = chosen("photo.png")
    assert largest is not surest


def test_instantid() -> None:
    pose = ImageOps.pad(Image.open("pose.png"), (64, 48))
    keypoints = sdcore.face_keypoints(chosen(pose)[0].kps, (64, 48))
    pipe = opened(controlnet="identity")
    pipe.load_ip_adapter("instantid.bin")
    given = {"control_image": keypoints}
    ref = want(pipe, ip_adapter_image_embeds=[chosen("photo.png")[0].embedding], **given)
    net = ("--control-net", "identity", "--face-keypoints", "pose.png")
    assert np.array_equal(draw(*FACES, *INSTANTID, *net), ref)
    both = np.stack([chosen(name)[0].embedding for name in ("photo.png", "pose.png")])
    two = want(pipe, ip_adapter_image_embeds=[both], **given)
    assert not np.array_equal(two, ref)
    pipe.load_face_model("faces")
    pipe.unload = True
    images = {"ip_adapter_image": [Image.open("photo.png"), "pose.png"]}
    assert np.array_equal(want(pipe, **images, **given), two)
    pipe.unload_face_model()
    with pytest.raises(sdcore.InvalidArgumentError, match="load_face_model makes it"):
        want(pipe, **images, **given)


def test_face_id() -> None:
    pipe = opened()
    pipe.load_ip_adapter("faceid.bin")
    ref = want(pipe, ip_adapter_image_embeds=[chosen("photo.png")[1].normed_embedding])
    assert np.array_equal(draw(*FACES, "--ip-adapter", "faceid.bin", *PHOTO), ref)
    pipe.load_face_model("faces")
    pipe.load_ip_adapter(["faceid.bin", "whole.bin"])
    with pytest.raises(sdcore.InvalidArgumentError, match="beside an adapter that looks at whole"):
        want(pipe, ip_adapter_image=["photo.png", "photo.png"])


def test_photomaker() -> None:
    pipe = opened()
    pipe.load_photomaker_adapter("v2.bin")
    people = ["photo.png", "pose.png"]
    embeds = np.stack([chosen(name, "small")[1].embedding for name in people])
    prompt = "the red cat img"
    ref = want(pipe, prompt, input_id_images=people, id_embeds=embeds)
    assert np.array_equal(draw("--face-model", "small", *PERSON, prompt=prompt), ref)


WRONG: dict[tuple[str, ...], str] = {
    INSTANTID: "of ip_adapter_image (--face-model), or give it as ip_adapter_image_embeds",
    ("--face-model", "gone", *INSTANTID): "'gone' is no folder",
    ("--face-model", "small", *INSTANTID): "tells faces by 40 numbers, and the adapter by 512",
    (*FACES, *INSTANTID[:3], "black.png"): "there is no face in 'black.png'",
    (*FACES, *INSTANTID[:3], "gone.png"): "cannot read a picture of a face 'gone.png'",
    (*INSTANTID[:2], "--ip-adapter-embeds", "face.npy", "--control-net", "identity",
     "--face-keypoints", "pose.png"): "is a picture, and what finds the face in it is not there",
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    np.save("face.npy", np.arange(512, dtype=np.float32))
    Image.new("RGB", (64, 64)).save("black.png")
    assert main([*BASE, "a cat", *DRAWN, *words]) in REFUSED
    one_error_line(capsys, WRONG[words])


def test_photomaker_asks_for_faces(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "a cat img", *DRAWN, *PERSON]) in REFUSED
    one_error_line(capsys, "load_face_model makes them (--face-model)")


def test_info_says_what_such_a_file_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "faces/glintr100.onnx"]) == 1
    one_error_line(capsys, "is an ONNX file", "--face-model")
