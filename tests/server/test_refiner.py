"""A refiner and the hashes of files, as clients of the web UI's API ask for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import sdcore
import tiny_models
import tiny_xl
from sdcore.image_io import Infotext
from sdcore.server.app import create_app
from sdcore.server.models import Model, Models
from server.serving import Running, opened, photo, pixels, sent

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SMALL = {"prompt": "a cat", "width": 24, "height": 32, "steps": 4, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """xl/ and models/ with refiner/ and sd1/; any.safetensors, whose hash is told for that of xl:
    a single file would need a vocabulary of another size."""
    path = tmp_path_factory.mktemp("refined")
    for name in ("loras", "words"):
        (path / name).mkdir()
    tiny_xl.xl(path / "vocabularies").save_pretrained(path / "xl")
    (path / "any.safetensors").write_bytes(b"any file")
    tiny_xl.refiner(path / "vocabularies").save_pretrained(path / "models" / "refiner")
    tiny_models.save_folder(tiny_models.PLAIN, path / "models" / "sd1")
    return path


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    file = folder / "any.safetensors"
    first = Model("xl.safetensors", file, lambda: opened(folder / "xl", folder))
    app = create_app(Models(first, folder / "models", lambda path: opened(path, folder)))
    with Running(app) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def pipes(folder: Path) -> tuple[sdcore.DiffusionPipeline, sdcore.DiffusionPipeline]:
    return opened(folder / "xl", folder), opened(folder / "models/refiner", folder)


def drawn(client: httpx.Client, path: str = TXT2IMG, **fields: Any) -> tuple[list[Any], Any]:
    answer = client.post(path, json={**SMALL, **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [pixels(image) for image in body["images"]], json.loads(body["info"])


@pytest.mark.parametrize(
    ("switch", "extra"), [(0.5, {}), (0.8, {"enable_hr": True, "hr_scale": 1.5})]
)
def test_the_refiner_goes_on(
    client: httpx.Client, pipes: Any, switch: float, extra: dict[str, Any]
) -> None:
    base, refiner = pipes
    fields = {"refiner_checkpoint": "refiner", "refiner_switch_at": switch, **extra}
    images, info = drawn(client, **fields, batch_size=2)
    options: dict[str, Any] = {"width": 24, "height": 32, "num_inference_steps": 4}
    if extra:
        options |= {"hires_scale": 1.5, "hires_strength": 0.75, "hires_steps": 5}
    for i, image in enumerate(images):
        alone = base("a cat", refiner=refiner, refiner_switch=switch, seed=5 + i, **options)
        assert np.array_equal(image, np.asarray(alone.images[0]))
    settings = Infotext.parse(info["infotexts"][1]).settings
    assert (settings["Refiner"], settings["Refiner switch at"]) == ("refiner", str(switch))
    assert not np.array_equal(images[0], drawn(client, **extra)[0][0])


def test_no_refiner(client: httpx.Client) -> None:
    plain = drawn(client)[0][0]
    for fields in (
        {"refiner_checkpoint": "None", "refiner_switch_at": 0},
        {"refiner_checkpoint": "refiner", "refiner_switch_at": 1},
        {"refiner_checkpoint": "xl", "refiner_switch_at": 0.5},  # the model itself
    ):
        assert np.array_equal(drawn(client, **fields)[0][0], plain)


@pytest.mark.parametrize(
    ("fields", "status", "part"),
    [
        ({"refiner_checkpoint": "nowhere"}, 404, "there is no model 'nowhere'"),
        ({"refiner_checkpoint": "sd1"}, 422, "refiner_checkpoint cannot be 'sd1' here: [refiner]"),
        ({"refiner_checkpoint": "refiner", "refiner_switch_at": 1.5}, 422, "refiner_switch_at"),
        (
            {
                **{"refiner_checkpoint": "refiner", "init_images": [sent(photo())]},
                **{"mask": sent(photo()), "width": 16, "height": 24},
            },
            422,
            "does not go with mask_image",
        ),
    ],
)
def test_what_is_wrong(client: httpx.Client, fields: Any, status: int, part: str) -> None:
    path = IMG2IMG if "mask" in fields else TXT2IMG
    answer = client.post(path, json={**SMALL, **fields})
    assert (answer.status_code, part in answer.json()["detail"]) == (status, True), answer.text


def test_hashes_are_told_once_they_are_known(client: httpx.Client) -> None:
    known = hashlib.sha256(b"any file").hexdigest()
    _, info = drawn(client, steps=1)
    assert info["sd_model_hash"] == known[:10]
    assert Infotext.parse(info["infotexts"][0]).settings["Model hash"] == known[:10]
    models = client.get("/sdapi/v1/sd-models").json()
    told = {model["title"]: (model["hash"], model["sha256"]) for model in models}
    none = (None, None)
    assert told == {"xl.safetensors": (known[:10], known), "refiner": none, "sd1": none}
