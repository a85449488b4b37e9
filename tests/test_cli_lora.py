"""LoRA on the command line: flags, tags in the prompt, and how they fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny_models
from adapters.test_lora import as_kohya
from command_line import REFUSED, infotext_of
from sdcore.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/ and loras/kohya.safetensors"""
    path = tmp_path_factory.mktemp("cli")
    tiny_models.save_folder(tiny_models.PLAIN, path / "model")
    (path / "loras").mkdir()
    as_kohya(path / "loras")
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def draw(files: Path, prompt: str, output: str, *words: str) -> np.ndarray:
    size = ("-W", "16", "-H", "16", "--steps", "2", "-s", "3", "--dtype", "f32", "--quiet")
    model = ("-m", str(files / "model"))
    assert main(["txt2img", *model, prompt, "-o", output, *size, *words]) == 0
    return np.asarray(Image.open(output)).astype(int)


def test_a_lora_as_a_flag_and_as_a_tag(files: Path) -> None:
    plain = draw(files, "a cat", "plain.png")
    file = str(files / "loras" / "kohya.safetensors")
    flag = draw(files, "a cat", "flag.png", "--lora", f"{file}:0.5")
    assert np.abs(flag - plain).max() > 8
    # What the picture says draws it again.
    recorded = infotext_of("flag.png").prompt
    assert recorded == "a cat <lora:kohya:0.5>"
    again = draw(files, recorded, "again.png", "--lora-dir", str(files / "loras"))
    assert np.array_equal(again, flag)
    mode = ("--lora-apply-mode", "at_runtime")
    beside = draw(files, "a cat", "beside.png", "--lora", f"{file}:0.5", *mode)
    assert np.abs(beside - flag).max() <= 1
    assert np.array_equal(
        draw(files, recorded, "tag.png", "--lora-model-dir", str(files / "loras"), *mode), beside
    )


def test_what_is_wrong_with_a_lora(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ("-m", str(files / "model"), "-W", "16", "-H", "16", "--steps", "1")
    words = ("txt2img", *model, "a cat <lora:gone:1>", "-o", "x.png")
    assert main([*words, "--lora-dir", str(files / "loras")]) == 0
    captured = capsys.readouterr()
    assert "warning: [lora] no LoRA 'gone' (not in '" in captured.err
    for extra, message in {
        ("--lora", "none.safetensors"): "no such file or folder: 'none.safetensors'",
        ("--lora", "none.safetensors:x"): "--lora is PATH or PATH:WEIGHT",
        ("--lora", str(files / "model" / "unet")): "has none of adapter_model.safetensors",
        ("--lora-dir", "nowhere"): "no such folder: 'nowhere'",
    }.items():
        assert main([*words, "-f", *extra]) in REFUSED
        captured = capsys.readouterr()
        assert captured.err.startswith("error: [") and captured.err.count("\n") == 1
        assert message in captured.err
