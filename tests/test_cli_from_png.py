"""Pictures drawn again from the settings inside them: ours byte for byte, A1111's by its words."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.test_lora import as_kohya
from command_line import REFUSED, save_models_and_photo
from sdcore.cli import main
from sdcore.image_io import Infotext, read_png_parameters, save_picture

SMALL = ("-W", "16", "-H", "24", "--steps", "3", "-s", "7")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, edit/, loras/kohya.safetensors, words/mine.pt and photo.png"""
    path = tmp_path_factory.mktemp("again")
    save_models_and_photo(path)
    (path / "loras").mkdir()
    as_kohya(path / "loras")
    (path / "words").mkdir()
    torch.save({"string_to_param": {"*": torch.ones(2, 64) / 9}}, path / "words" / "mine.pt")
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sdcore(files: Path, *words: str) -> int:
    command, *more = words
    return main([command, "-m", str(files / "model"), "--quiet", *more])


def drawn(files: Path, *words: str) -> bytes:
    assert sdcore(files, *words, "-f", "-o", "x.png") == 0
    return Path("x.png").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ("a cat",),
        ("a (red:1.2) cat\n[of] dog", "-n", "the dog, blurry", "--cfg-scale", "7.123456789"),
        ("a cat", "--sampler", "dpm++2m", "--schedule", "karras", "--clip-skip", "2"),
        ("a cat", "--sampler", "euler_a", "--schedule", "normal", "--rng", "cuda"),
        ("a cat", "--sampler", "ddim", "--eta", "0.3", "--guidance-rescale", "0.7"),
        ("a cat", "--schedule", "ddim_uniform", "--sampler", "ddim"),
        ("a cat", "--sampler", "tcd", "--eta", "0"),
        ("a cat", "--pag-scale", "2.5"),
        ("a cat", "--cache-interval", "2"),
        ("a cat", "--token-merging-ratio", "0.5"),
        ("a cat", "--sampler", "euler", "--cache-threshold", "0.9", "--steps", "6"),
        ("a cat", "--subseed", "9", "--subseed-strength", "0.3"),
        ("a cat", "--hires-scale", "1.5", "--hires-strength", "0.5", "--hires-steps", "4"),
        (
            *("a cat", "--hires-width", "24", "--hires-height", "24", "--hires-sampler", "dpm++2m"),
            *("--hires-prompt", "a dog, <lora:kohya:0.5>", "--hires-negative-prompt", "red: x"),
            *("--hires-cfg-scale", "2.5", "--schedule", "karras", "--sampler", "euler"),
        ),
        (
            *("a cat", "--sampler", "heun", "--schedule", "karras", "--hires-height", "32"),
            *("--hires-schedule", "normal"),
        ),
        ("a cat", "--dtype", "f32", "--type", "q8_0"),
        ("a mine cat <lora:kohya:0.5>",),
    ],
)
def test_our_own_pictures_byte_for_byte(files: Path, words: tuple[str, ...]) -> None:
    folders = ("--lora-dir", str(files / "loras"), "--embd-dir", str(files / "words"))
    assert sdcore(files, "txt2img", *words, *SMALL, *folders, "-o", "first.png") == 0
    again = drawn(files, "txt2img", "--from-png", "first.png", *folders)
    assert again == Path("first.png").read_bytes()
    assert again != drawn(files, "txt2img", "--from-png", "first.png", *folders, "-s", "8")


@pytest.mark.parametrize("dtype", ["bf16", "text_encoder=bf16 unet=f32 vae=bf16"])
def test_a_picture_of_other_kernels_keeps_its_dtype(
    files: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    assert sdcore(files, "txt2img", "a cat", *SMALL, "--dtype", "f32", "-o", "first.png") == 0
    written = read_png_parameters(Path("first.png")) or ""
    here = Infotext.parse(written).settings["Kernels"]
    assert "Dtype: f32, Kernels: " in written
    text = written.replace("Dtype: f32", f"Dtype: {dtype}")
    assert text != written
    save_picture(Image.new("RGB", (16, 24)), Path("same.png"), text)
    save_picture(Image.new("RGB", (16, 24)), Path("other.png"), text.replace(f": {here}", ": m68k"))
    capsys.readouterr()
    for name, warnings in (("same", 0), ("other", 1)):
        words = ("--from-png", f"{name}.png", "-o", f"{name}-again.png")
        assert main(["txt2img", "-m", str(files / "model"), *words]) == 0
        assert read_png_parameters(Path(f"{name}-again.png")) == text
        said = capsys.readouterr().err
        assert said.count("drawn by the kernels of m68k, and these are those of") == warnings
    half = text.replace(f"Dtype: {dtype}", "Dtype: f16")
    save_picture(Image.new("RGB", (16, 24)), Path("half.png"), half)
    assert b"Dtype: f16" not in drawn(files, "txt2img", "--from-png", "half.png")


@pytest.mark.parametrize("hires", [(), ("--hires-scale", "1.5", "--hires-strength", "0.5")])
def test_a_picture_from_a_picture(files: Path, hires: tuple[str, ...]) -> None:
    start = ("img2img", "-i", str(files / "photo.png"))
    words = ("a cat", "--steps", "4", "-s", "3", "--strength", "0.6")
    assert sdcore(files, *start, *words, *hires, "-o", "first.png") == 0
    assert drawn(files, *start, "--from-png", "first.png") == Path("first.png").read_bytes()


def test_a_picture_edited_again(files: Path) -> None:
    start = ("img2img", "-m", str(files / "edit"), "-i", str(files / "photo.png"), "--quiet")
    words = ("a cat", "--steps", "2", "-s", "3", "--img-cfg-scale", "2.5", "-o", "first.png")
    assert main([*start, *words]) == 0
    assert main([*start, "--from-png", "first.png", "-o", "x.png"]) == 0
    assert Path("x.png").read_bytes() == Path("first.png").read_bytes()


def test_flags_go_before_what_the_picture_says(files: Path) -> None:
    first = ("a cat", "-n", "dog", "--sampler", "euler", "--schedule", "karras", *SMALL)
    assert sdcore(files, "txt2img", *first, "-o", "first.png") == 0
    other = ("-p", "a dog", "-n", "", "--sampler", "heun", "--cfg-scale", "3", "-W", "24")
    drawn(files, "txt2img", "--from-png", "first.png", *other)
    text = Infotext.parse(read_png_parameters(Path("x.png")) or "")
    assert (text.prompt, text.negative_prompt) == ("a dog", "")
    expected = {"Sampler": "Heun", "CFG scale": "3", "Size": "24x24", "Steps": "3", "Seed": "7"}
    assert expected.items() <= text.settings.items()
    assert "Schedule type" not in text.settings


def from_web_ui(settings: str, prompt: str = "a cat\nNegative prompt: dog") -> None:
    text = f"{prompt}\nSteps: 3, {settings}, CFG scale: 6.5, Seed: 5, Size: 16x24, Version: v1.10"
    save_picture(Image.new("RGB", (16, 24)), Path("a1111.png"), text, overwrite=True)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ("Sampler: Euler a, Schedule type: Automatic", "--sampler euler_a"),
        ("Sampler: DPM++ 2M Karras, RNG: CPU", "--sampler dpm++2m --schedule karras --rng cpu"),
        (
            "Sampler: DPM++ 2M SDE, Schedule type: Automatic",
            "--sampler dpm++2m_sde --schedule exponential",
        ),
        ("Sampler: Euler, Schedule type: SGM Uniform", "--sampler euler --schedule sgm_uniform"),
        ("Sampler: euler_a karras, RNG: cuda", "--sampler euler_a --schedule karras"),
        ("Sampler: DDIM, Schedule type: Automatic, Clip skip: 2", "--sampler ddim --clip-skip 2"),
        (
            "Sampler: Euler, Denoising strength: 0.5, Hires upscale: 1.5, Hires steps: 2, "
            "Hires upscaler: Lanczos",
            "--sampler euler --hires-scale 1.5 --hires-strength 0.5 --hires-steps 4",
        ),
        (
            "Sampler: Euler, Denoising strength: 0.5, Hires upscale: 1.5, Hires steps: 2, "
            "Hires upscaler: Latent",
            "--sampler euler --hires-scale 1.5 --hires-strength 0.5 --hires-steps 4 "
            "--hires-upscaler Latent",
        ),
        (
            "Sampler: Euler, Schedule type: Automatic, Denoising strength: 0.5, Hires prompt: "
            '"a dog, red", Hires sampler: DPM++ 2M, Hires CFG Scale: 3, Hires resize: 32x0, '
            "Hires steps: 2, Hires upscaler: Lanczos",
            "--sampler euler --hires-width 32 --hires-strength 0.5 --hires-steps 4 --hires-prompt "
            "a_dog,_red --hires-cfg-scale 3 --hires-sampler dpm++2m --hires-schedule karras",
        ),
        (
            "Sampler: Euler, Variation seed: 11, Variation seed strength: 0.2",
            "--sampler euler --subseed 11 --subseed-strength 0.2",
        ),
    ],
)
def test_what_the_web_ui_writes(files: Path, settings: str, flags: str) -> None:
    from_web_ui(settings)
    out = drawn(files, "txt2img", "--from-png", "a1111.png")
    rng = () if "--rng" in flags else ("--rng", "cuda")
    words = [word.replace("a_dog,_red", "a dog, red") for word in flags.split()]
    same = ("a cat", "-n", "dog", *SMALL, "--cfg-scale", "6.5", "-s", "5", *rng, *words)
    drawn(files, "txt2img", *same)
    assert np.array_equal(np.asarray(Image.open("x.png")), _pixels(out))


def _pixels(png: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(png)))


def test_what_is_left_out_is_said(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from_web_ui(
        "Sampler: Euler, Schedule type: Turbo, Model hash: 1234567890, Model: other, ENSD: 31337, "
        'Lora hashes: "x: 12", VAE: some.pt, RNG: dice, Denoising strength: 0.5, '
        "Hires upscale: 1.5, Hires upscaler: R-ESRGAN 4x+"
    )
    words = ("txt2img", "-m", str(files / "model"), "--from-png", "a1111.png", "-o", "x.png")
    assert main([*words]) == 0
    said = capsys.readouterr().err
    for line in (
        "warning: [from-png] 'a1111.png': left out what is not known here: ENSD, RNG",
        "there is no schedule 'Turbo' here",
        "there is no upscaler 'R-ESRGAN 4x+' here: using Lanczos",
        "was drawn with another model, 'other'",
        "was drawn with the VAE 'some.pt': name its file with --vae",
    ):
        assert line in said


def test_another_file_of_the_models_name_is_said(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path("model.safetensors")
    shutil.copy(tiny, model)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()[:10]
    words = ("txt2img", "-m", str(model), "--from-png", "a1111.png", "-f", "-o", "x.png")
    said = f"was drawn with a model of the hash 0123456789, and that of '{model}' is {digest}"
    settings = "Sampler: Euler, Model: {}, Model hash: {}"
    for name, written, warnings in (
        ("model", "0123456789", (said,)),  # after the first picture, when it is known
        ("model", "0123456789", (said,)),  # and before
        ("model", "01234567", ()),  # of a kind that the web UI wrote once
        ("model", digest, ()),
        ("other", digest, ()),  # it has another name here
        ("other", "0123456789", ("was drawn with another model, 'other'",)),
    ):
        from_web_ui(settings.format(name, written))
        assert main([*words]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert len(lines) == len(warnings)
        for line, warning in zip(lines, warnings, strict=True):
            assert warning in line
    text = Infotext.parse(read_png_parameters(Path("x.png")) or "")
    assert text.settings["Model hash"] == digest
    assert main([*words, "--no-hashing", "--quiet"]) == 0
    text = Infotext.parse(read_png_parameters(Path("x.png")) or "")
    assert "Model hash" not in text.settings


def test_loras_and_the_vae_are_told_by_their_hashes(files: Path) -> None:
    lora = files / "loras" / "kohya.safetensors"
    vae = files / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    words = ("a cat", *SMALL, "--lora", f"{lora}:0.5", "--vae", str(vae), "-o", "x.png")
    assert sdcore(files, "txt2img", *words) == 0
    settings = Infotext.parse(read_png_parameters(Path("x.png")) or "").settings
    length = 8 + int.from_bytes(lora.read_bytes()[:8], "little")
    body = hashlib.sha256(lora.read_bytes()[length:]).hexdigest()
    assert settings["Lora hashes"] == f"kohya: {body[:12]}"
    assert settings["VAE hash"] == hashlib.sha256(vae.read_bytes()).hexdigest()[:10]
    assert "Model hash" not in settings  # of a folder


def test_what_cannot_be_drawn_again_is_said(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*words: str) -> str:
        assert main(["txt2img", *words]) in REFUSED
        captured = capsys.readouterr().err
        assert captured.startswith("error: [") and captured.count("\n") == 1
        return captured

    model = ("-m", str(files / "model"))
    from_web_ui("Sampler: Euler, Model: other")
    assert "drawn with the model 'other': name its file with -m" in error("--from-png", "a1111.png")
    from_web_ui("Sampler: Restart")
    assert "there is no sampler 'Restart'" in error(*model, "--from-png", "a1111.png")
    from_web_ui("Sampler: Euler, Denoising strength: 0.5")
    assert "give that one to sdcore img2img -i" in error(*model, "--from-png", "a1111.png")
    from_web_ui("Sampler: Euler, Clip skip: many")
    assert "Clip skip cannot be 'many'" in error(*model, "--from-png", "a1111.png")
    from_web_ui("Sampler: Euler, Dtype: fp8")
    assert "Dtype cannot be 'fp8'" in error(*model, "--from-png", "a1111.png")
    photo = str(files / "photo.png")
    assert "carries no settings" in error(*model, "--from-png", photo)
    assert "no.png" in error(*model, "--from-png", "no.png")
