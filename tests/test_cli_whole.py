"""The `sdcore` command with a model, mostly as a process of its own: what it prints and writes, and
how it fails."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdcore
from command_line import REFUSED, infotext_of, one_error_line
from sdcore.cli import main

ENV = {**os.environ, "PYTHONPATH": str(Path(sdcore.__file__).parent.parent)}


def sdcore_command(*words, **options):
    command = [sys.executable, "-m", "sdcore", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENV, **options)


SMALL = ("-W", 64, "-H", 64, "--steps", 2)


def test_a_picture_from_a_model(tiny, tmp_path):
    first = sdcore_command("txt2img", "-m", tiny, "a red circle", *SMALL, "-s", 7, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "a-red-circle-7.png\n"
    picture = Image.open(tmp_path / "a-red-circle-7.png")
    assert picture.size == (64, 64)
    assert np.asarray(picture).std() > 1
    settings = infotext_of(tmp_path / "a-red-circle-7.png").settings
    assert settings["Size"] == "64x64"
    assert settings["Sampler"] == "PLMS"  # what a single file of this family is drawn with

    # A seed means one picture, whichever of a batch it is and however many threads draw it.
    words = ("txt2img", "-m", tiny, "a red circle", *SMALL, "-s", 6, "-b", 2, "-t", 1, "-o", "b")
    assert sdcore_command(*words, cwd=tmp_path).returncode == 0
    again = Image.open(tmp_path / "b-2.png")
    assert np.array_equal(np.asarray(again), np.asarray(picture))


def test_a_disk_that_fills_up(tiny, tmp_path):
    words = ("txt2img", "-m", tiny, "x", *SMALL, "-o", "x")
    limit = (1000, 1000)  # bytes a file
    done = sdcore_command(
        *words,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 1
    assert "error: [output] cannot write" in done.stderr
    assert len(done.stderr.splitlines()) == 2  # the seed, and the error
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c(tiny, tmp_path):
    command = [sys.executable, "-m", "sdcore", "txt2img", "-m", tiny, "x", "--steps", "900"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENV,
        stderr=subprocess.PIPE,
        text=True,
        # A test that runs in the background has it ignored, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stderr.readline().startswith("seed: ")
        running.send_signal(signal.SIGINT)
        assert running.stderr.read() == "error: interrupted\n"
        assert running.wait() == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-W", 513], "513"),
        (["--steps", 0], "0"),
        (["--steps", -3], "-3"),
        (["--eta", 2], "eta"),
        (["--vae", "none.safetensors"], "none.safetensors"),
    ],
)
def test_what_the_pipeline_refuses(tiny, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["txt2img", "-m", str(tiny), "x", *map(str, words)]) in REFUSED
    one_error_line(capsys, message)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_from_a_picture(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "red").save("in.png")
    Image.new("L", (64, 48), "white").save("mask.png")
    words = ["img2img", "-m", str(tiny), "x", "-i", "in.png", "--steps", "4", "-o", "out.png"]
    assert main([*words, "--strength", "0.5", "--mask", "mask.png"]) == 0
    with Image.open("out.png") as out:
        assert out.size == (64, 48)
        assert "Denoising strength: 0.5" in out.text["parameters"]
    extra = ["--hires-scale", "2", "--hires-steps", "2", "--subseed", "9", "--subseed-strength"]
    words = ["txt2img", *words[1:4], *words[6:], "-W", "32", "-H", "32"]
    assert main([*words, "-f", *extra, "0.1"]) == 0
    with Image.open("out.png") as out:
        assert out.size == (64, 64)
        text = out.text["parameters"]
    assert "Variation seed: 9, Variation seed strength: 0.1, Denoising strength: 0.7" in text
    assert "Size: 32x32" in text and "Hires upscale: 2.0, Hires steps: 2" in text
    words = ["img2img", *words[1:], "-i", "in.png"]
    capsys.readouterr()
    for extra, message in [
        (["--strength", "1.5"], "strength"),
        (["--mask", "none.png"], "none.png"),
        (["-i", "none.png"], "none.png"),
    ]:
        assert main([*words, "-f", *extra]) in REFUSED
        one_error_line(capsys, message)


def test_a_prompt_of_ten_thousand_words(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["-W", "64", "-H", "64", "--steps", "1", "-s", "1", "-b", "2", "-o", "x"]
    assert main(["txt2img", "-m", str(tiny), "word " * 10_000, *words]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["x-1.png", "x-2.png"]
    assert captured.err.splitlines() == ["seed: 1", "seed: 2"]  # and nothing is cut


def test_a_reader_that_leaves(tiny):
    command = f"{sys.executable} -m sdcore info {tiny} --json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=ENV
    )
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_a_full_standard_output():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "sdcore", "info"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENV)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device")
    assert len(done.stderr.splitlines()) == 1


def test_version_and_help():
    assert sdcore_command("--version").stdout == f"sdcore {sdcore.__version__}\n"
    text = sdcore_command("txt2img", "--help").stdout
    assert 'sdcore txt2img -m model.safetensors "a red circle"' in text
