"""A server over small models, and what its tests ask it with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

import tiny_models
from adapters.test_lora import as_kohya
from sdcore.server.app import create_app
from sdcore.server.models import Model, Models
from server.serving import Running, opened
from tiny_control import controlnet


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ with plain/, which is open first, more/odd/ and broken.safetensors; loras/ with
    kohya.safetensors; words/ with mine.pt and bad.pt; nets/ with canny/, a ControlNet;
    secret.safetensors, which no client may open."""
    path = tmp_path_factory.mktemp("server")
    tiny_models.save_folder(tiny_models.PLAIN, path / "models" / "plain")
    tiny_models.save_folder(tiny_models.SINGLE, path / "models" / "more" / "single")
    (path / "models" / "broken.safetensors").write_bytes(b"no model")
    (path / "secret.safetensors").write_bytes(b"no client may open this")
    (path / "loras").mkdir()
    as_kohya(path / "loras")
    controlnet(tiny_models.unet(tiny_models.PLAIN), 900).save_pretrained(path / "nets" / "canny")
    (path / "words").mkdir()
    torch.save({"string_to_param": {"*": torch.ones(2, 64) / 9}}, path / "words" / "mine.pt")
    (path / "words" / "bad.pt").write_bytes(b"no word")
    return path


@pytest.fixture(scope="session")
def running(folder: Path) -> Iterator[Running]:
    plain = folder / "models" / "plain"
    first = Model("plain", plain, lambda: opened(plain, folder))
    models = Models(first, folder / "models", lambda path: opened(path, folder))
    app = create_app(models, origins=["https://lite.koboldai.net"], flags={"api": True})
    with Running(app) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    """Of a server as it began: options are reset, and nothing runs."""
    state = running.state
    before = state.options
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client
    state.jobs.interrupt()
    running.wait_until(lambda: state.jobs.running is None and not state.jobs.waiting)
    state.options = before
