"""The command: a process that listens, draws and ends, and what it says of bad flags."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import sdcore
from command_line import REFUSED, one_error_line
from sdcore.cli import main
from sdcore.image_io import Infotext, parameters_of
from server.serving import LONG, SMALL, Running, pixels, read
from test_import import loaded

TXT2IMG = "/sdapi/v1/txt2img"


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = ["-m", str(folder / "models" / "plain"), "--models-dir", str(folder / "models")]
    words += [
        "--vae-dir",
        str(folder / "models" / "plain"),
        "--controlnet-dir",
        str(folder / "nets"),
        "--dtype",
        "f32",
        "-t",
        "1",
        "--port",
        "0",
        "--api-key",
        "sesame",
    ]
    paths = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-m", "sdcore", "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    yield process
    process.kill()
    process.communicate()


def client_of(process: subprocess.Popen[str]) -> httpx.Client:
    line = process.stdout.readline()
    match = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+) with plain\n", line)
    assert match, line + process.stderr.read()
    return httpx.Client(base_url=match[1], timeout=60, headers={"authorization": "Bearer sesame"})


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def test_it_listens_draws_and_ends(process, folder) -> None:
    with client_of(process) as client:
        Running.wait_until(lambda: is_up(client))
        body = client.post(TXT2IMG, json={"prompt": "a cat", **SMALL}).json()
        titles = [model["title"] for model in client.get("/sdapi/v1/sd-models").json()]
        nets = client.get("/controlnet/model_list").json()["model_list"]
        fields = {"prompt": "a cat", **SMALL, "override_settings": {"sd_vae": "vae"}}
        same = client.post(TXT2IMG, json=fields).json()
    assert np.array_equal(pixels(same["images"][0]), pixels(body["images"][0]))
    assert "VAE: vae" in same["info"]
    assert nets == ["canny"]
    assert titles == ["plain", "broken.safetensors", "more/single"]
    (image,) = body["images"]
    pipe = sdcore.DiffusionPipeline.open(folder / "models" / "plain", dtype="f32")
    options = {"width": 16, "height": 24, "num_inference_steps": 3, "seed": 7}
    assert np.array_equal(pixels(image), np.asarray(pipe("a cat", **options).images[0]))
    assert Infotext.parse(parameters_of(read(image))).settings["Model"] == "plain"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_the_middle_of_a_picture(process, number) -> None:
    answers = []
    with client_of(process) as client:
        Running.wait_until(lambda: is_up(client))
        fields = [LONG, LONG]  # one that runs, and one that waits
        threads = [
            threading.Thread(target=lambda f=f: answers.append(client.post(TXT2IMG, json=f)))
            for f in fields
        ]
        for thread in threads:
            thread.start()
        Running.wait_until(lambda: client.get("/health").json()["waiting"] == 1)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        for thread in threads:
            thread.join(20)
    assert (process.returncode, out, err) == (0, "", "")
    assert [answer.status_code for answer in answers] == [503, 503]
    assert "shutting down" in answers[0].json()["detail"]


def test_bad_flags(folder, capsys, tmp_path) -> None:
    model = ("-m", str(folder / "models" / "plain"))
    (tmp_path / "empty").write_text("\n")
    for words, part in (
        (("--api-key", ""), "the API key is empty"),
        (("--api-key-file", str(tmp_path / "empty")), "the API key is empty"),
        (("--api-key-file", str(tmp_path / "none")), "No such file"),
        (("--models-dir", str(tmp_path / "none")), "no such folder of models"),
        (("--lora-dir", str(tmp_path / "none")), "no such folder"),
        (("--controlnet-dir", str(tmp_path / "none")), "no such folder of ControlNets"),
        (("--vae-dir", str(tmp_path / "none")), "no such folder of VAEs"),
        (("--port", "70000"), "cannot listen on 127.0.0.1, port 70000"),
        (("--host", "256.0.0.1"), "cannot listen on 256.0.0.1"),
    ):
        assert main(["serve", *model, *words]) in REFUSED
        one_error_line(capsys, part)
    assert main(["serve", "--models-dir", str(tmp_path)]) in REFUSED
    one_error_line(capsys, "there is no model in", "or give -m")
    assert main(["serve", "-m", str(folder / "models" / "broken.safetensors")]) == 1
    one_error_line(capsys, "broken.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", *model, "--port", str(taken.getsockname()[1])]) in REFUSED
        one_error_line(capsys, "cannot listen on 127.0.0.1", "in use")


def test_without_its_packages(capsys, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["serve"]) == 1
    one_error_line(capsys, "starlette is not installed: pip install 'sdcore[server]'")


def test_nothing_else_needs_them() -> None:
    program = "import sdcore.pipelines; from sdcore.cli import _parser; _parser(['serve'])"
    assert "sdcore.server" not in loaded(program)  # which alone imports them
