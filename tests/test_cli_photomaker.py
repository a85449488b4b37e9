"""PhotoMaker on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sdcore
import tiny_models
import tiny_photomaker
import tiny_xl
from command_line import REFUSED, infotext_of, one_error_line
from sdcore.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, refiner/, sd1/, v1.bin, v2.bin, face.npy, and people/ with a.png and b.jpg."""
    path = tmp_path_factory.mktemp("cli")
    tiny_xl.xl(path / "tokenizers").save_pretrained(path / "model")
    tiny_xl.refiner(path / "tokenizers").save_pretrained(path / "refiner")
    tiny_models.save_folder(tiny_models.PLAIN, path / "sd1")
    for version in (1, 2):
        tiny_photomaker.save(version, path / f"v{version}.bin")
    random = np.random.default_rng(0)
    np.save(path / "face.npy", random.standard_normal(tiny_photomaker.FACE, np.float32))
    (path / "people").mkdir()
    (path / "people" / "notes.txt").write_text("no picture")
    (path / "empty").mkdir()
    for name in ("a.png", "b.jpg"):
        pixels = random.integers(0, 256, (50, 60, 3), np.uint8)
        Image.fromarray(pixels).save(path / "people" / name)
    return path


@pytest.fixture(autouse=True)
def _in_the_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)


SIZE = ("-W", "24", "-H", "16", "--steps", "5", "-s", "3", "--dtype", "f32", "-f", "-t", "1")
PROMPT = "the red cat img, a dog"
ONE = ("--photo-maker", "v1.bin", "--pm-id-image", "people/a.png")


def draw(*words: str, command: str = "txt2img", prompt: str = PROMPT) -> np.ndarray:
    assert main([command, "-m", "model", prompt, "-o", "out.png", "--quiet", *SIZE, *words]) == 0
    return np.asarray(Image.open("out.png")).astype(int)


def test_a_person_in_a_picture() -> None:
    pipe = sdcore.DiffusionPipeline.open("model", dtype="f32", threads=1)
    pipe.load_photomaker_adapter("v1.bin")
    arguments = {"height": 16, "width": 24, "num_inference_steps": 5, "seed": 3}
    both = ["people/a.png", "people/b.jpg"]

    def wanted(**more: object) -> np.ndarray:
        return np.asarray(pipe(PROMPT, **arguments, **more).images[0])

    first = draw(*ONE)
    assert np.array_equal(first, wanted(input_id_images=both[:1], start_merge_step=1))
    folder = ("--photo-maker", "v1.bin", "--pm-id-images-dir", "people")
    assert np.array_equal(draw(*folder), wanted(input_id_images=both))
    assert np.array_equal(draw(*ONE, "--pm-id-image", both[1]), wanted(input_id_images=both))
    stronger = draw(*ONE, "--pm-style-strength", "40")
    assert np.array_equal(stronger, wanted(input_id_images=both[:1], start_merge_step=2))
    assert np.abs(stronger - first).max() > 8
    settings = infotext_of("out.png").settings
    assert settings["PhotoMaker"] == "v1.bin"
    again = ("txt2img", "-m", "model", "--from-png", "out.png", "-o", "again.png", "-f", "-t", "1")
    assert main([*again, *ONE]) == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    pipe.load_photomaker_adapter("v2.bin")
    embeds = np.load("face.npy")[None]
    second = ("--photo-maker", "v2.bin", *ONE[2:], "--pm-id-embed-path", "face.npy")
    assert np.array_equal(draw(*second), wanted(input_id_images=both[:1], id_embeds=embeds))


def test_it_goes_with_loras_and_pictures_to_begin_from() -> None:
    start = ("-i", "people/b.jpg", "--strength", "0.9")
    a, b = (
        draw(*start, *ONE[:2], "--pm-id-image", f"people/{name}", command="img2img")
        for name in ("a.png", "b.jpg")
    )
    assert np.abs(a - b).max() > 8
    # LoRAs do not put its own out of work.
    pipe = sdcore.DiffusionPipeline.open("model", dtype="f32", threads=1)
    style = Path("style.bin")
    torch.save({k: v.flip(0) for k, v in tiny_photomaker.lora_weights().items()}, style)
    pipe.load_lora_weights(style)
    pipe.load_photomaker_adapter("v1.bin")
    pipe.set_adapters(["style", "photomaker"], [0.5, 1.0])
    arguments = {"height": 16, "width": 24, "num_inference_steps": 5, "seed": 3}
    out = pipe(PROMPT, input_id_images="people/a.png", **arguments).images[0]
    assert np.array_equal(draw(*ONE, "--lora", "style.bin:0.5"), np.asarray(out))


def test_a_refiner_knows_no_person() -> None:
    second = ("--refiner", "refiner", "--refiner-switch", "0.6", *ONE, "--pm-style-strength", "0")
    drawn = draw(*second)
    base = sdcore.DiffusionPipeline.open("model", dtype="f32", threads=1)
    base.load_photomaker_adapter("v1.bin")
    refiner = sdcore.DiffusionPipeline.open("refiner", dtype="f32", threads=1)
    steps = {"num_inference_steps": 5, "height": 16, "width": 24}
    latents = base(PROMPT, input_id_images="people/a.png", start_merge_step=0, denoising_end=0.6,
                   output_type="latent", seed=3, **steps).images  # fmt: skip
    text = PROMPT.replace(" img", "")
    out = refiner(text, denoising_start=0.6, image=latents, seed=3 + 2**32, **steps).images[0]
    assert np.array_equal(drawn, np.asarray(out))


def test_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["txt2img", "-m", "model", PROMPT, "-o", "x.png", "-f", "--quiet", "--dtype", "f32"]
    second = ("--photo-maker", "v2.bin", *ONE[2:])
    for words, message in (
        (ONE[:2], "--photo-maker needs pictures of a person: --pm-id-image or --pm-id-images-dir"),
        (ONE[2:], "--pm-id-image needs a --photo-maker"),
        (("--pm-style-strength", "10"), "--pm-style-strength needs a --photo-maker"),
        ((*ONE, "--pm-style-strength", "101"), "is a percentage, 0 to 100, got 101"),
        ((*ONE, "--pm-style-strength", "100"), "leaves none of 20 steps to the person"),
        ((*ONE[:2], "--pm-id-images-dir", "gone"), "no such folder: 'gone'"),
        ((*ONE[:2], "--pm-id-images-dir", "empty"), "the folder 'empty' has no pictures (.png"),
        ((*second, "--pm-id-embed-path", "gone.npy"), "cannot read 'gone.npy' as numpy's .npy"),
        ((*second, "--pm-id-embed-path", "v2.bin"), "cannot read 'v2.bin' as numpy's .npy"),
        (second, "(--pm-id-embed-path on the command line)"),
        (("--photo-maker", "gone.bin", *ONE[2:]), "no such file or folder: 'gone.bin'"),
    ):
        assert main([*base, *words]) in REFUSED
        one_error_line(capsys, message)
    assert main(["txt2img", "-m", "sd1", *base[3:], *ONE]) == 1
    one_error_line(capsys, "is for Stable Diffusion XL, and this is Stable Diffusion 1.x")
    draw(*ONE)
    capsys.readouterr()
    assert main(["txt2img", "-m", "model", "--from-png", "out.png", "-o", "x.png", "-f"]) in REFUSED
    one_error_line(capsys, "was drawn with the PhotoMaker 'v1.bin'", "--photo-maker")


def test_info_says_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "v2.bin"]) == 0
    out = capsys.readouterr().out
    assert "PhotoMaker" in out and "version 2" in out and "load_photomaker_adapter" in out
