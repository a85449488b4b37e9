"""Other VAEs than a model's own, by their names."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

import sdcore
import tiny_models
from sdcore.server.app import create_app
from sdcore.server.models import Model, Models
from sdcore.server.vaes import Vaes
from server.serving import SMALL, Running, pixels

TXT2IMG, OPTIONS = "/sdapi/v1/txt2img", "/sdapi/v1/options"


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """other.safetensors and its like in a folder, more/again/; deep/, which is for no model here;
    and broken.pt."""
    path = tmp_path_factory.mktemp("vaes")
    net: AutoencoderKL = copy.deepcopy(tiny_models.vae(tiny_models.PLAIN))
    with torch.no_grad():
        net.decoder.conv_out.bias += 0.25
    net.save_pretrained(path / "more" / "again")
    save_file(net.state_dict(), path / "other.safetensors")
    config = {name: value for name, value in net.config.items() if not name.startswith("_")}
    AutoencoderKL(**config | {"latent_channels": 8}).save_pretrained(path / "deep")
    (path / "broken.pt").write_bytes(b"no VAE")
    return path


@pytest.fixture(scope="module")
def client(folder: Path, vaes: Path) -> Iterator[httpx.Client]:
    def opened(path: Path, vae: Path | None = None) -> sdcore.DiffusionPipeline:
        return sdcore.DiffusionPipeline.open(path, vae=vae, dtype="f32", threads=1)

    plain = folder / "models" / "plain"
    first = Model("plain", plain, lambda vae=None: opened(plain, vae))
    app = create_app(Models(first, folder / "models", opened), None, Vaes(vaes))
    with Running(app) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def drawn(client: httpx.Client, **settings: Any) -> tuple[np.ndarray, Any]:
    fields = {"prompt": "a cat", **SMALL, "override_settings": settings}
    answer = client.post(TXT2IMG, json=fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return pixels(body["images"][0]), json.loads(body["info"])


def test_a_request_names_another_vae(client, folder, vaes) -> None:
    listed = [one["model_name"] for one in client.get("/sdapi/v1/sd-vae").json()]
    assert listed == ["broken.pt", "deep", "more/again", "other.safetensors"]
    own, info = drawn(client)
    assert "VAE" not in info["extra_generation_params"]
    pipe = sdcore.DiffusionPipeline.open(
        folder / "models" / "plain", vae=vaes / "other.safetensors", dtype="f32", threads=1
    )
    options = {"width": 16, "height": 24, "num_inference_steps": 3, "seed": 7}
    ref = np.asarray(pipe("a cat", **options).images[0])
    for name in ("other.safetensors", "Other", "more/again"):
        other, info = drawn(client, sd_vae=name)
        assert np.array_equal(other, ref)
        assert info["extra_generation_params"]["VAE"] in ("other.safetensors", "again")
    assert not np.array_equal(ref, own)
    for name in ("Automatic", "automatic", "None", "", None):
        assert np.array_equal(drawn(client, sd_vae=name)[0], own)


def test_it_stays_chosen_until_another_is(client) -> None:
    own, _ = drawn(client)
    assert client.post(OPTIONS, json={"sd_vae": "other"}).status_code == 200
    try:
        assert client.get(OPTIONS).json()["sd_vae"] == "other.safetensors"
        other, _ = drawn(client, sd_vae="")
        assert not np.array_equal(other, own)
        assert np.array_equal(drawn(client, sd_vae="Automatic")[0], own)
        body = client.post("/v1/images/generations", json={**_OPENAI, "model": "plain"}).json()
        assert np.array_equal(pixels(body["data"][0]["b64_json"]), other)
    finally:
        assert client.post(OPTIONS, json={"sd_vae": "Automatic"}).status_code == 200
    assert np.array_equal(drawn(client)[0], own)


_OPENAI = {"prompt": "a cat", "size": "16x24", "steps": 3, "seed": 7}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gone.pt", "sd_vae must be one of Automatic, broken.pt, deep, more/again, other.safe"),
        ("../models/plain", "sd_vae must be one of Automatic"),
        ("deep", "sd_vae cannot be 'deep' here: [pipeline] vae has latents of 8 channels"),
        ("broken", "sd_vae cannot be 'broken.pt' here"),
    ],
)
def test_what_is_wrong_is_named(client, name, part) -> None:
    for path, body in (
        (OPTIONS, {"sd_vae": name}),
        (TXT2IMG, {"override_settings": {"sd_vae": name}}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422, answer.text
        assert part in answer.json()["detail"]
    assert client.get(OPTIONS).json()["sd_vae"] == "Automatic"
    drawn(client)


def test_new_ones_are_found(client, vaes) -> None:
    new = vaes / "new.pt"
    new.write_bytes(b"x")
    try:
        assert client.post("/sdapi/v1/refresh-vae").status_code == 200
        assert "new.pt" in [one["model_name"] for one in client.get("/sdapi/v1/sd-vae").json()]
    finally:
        new.unlink()
        client.post("/sdapi/v1/refresh-vae")
