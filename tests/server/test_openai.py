"""OpenAI's API: the same pictures by its fields, its errors, and streams."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import sdcore
from sdcore.image_io import Infotext, parameters_of
from sdcore.webui import samplers
from server.serving import LONG, Running, opened, photo, pixels, read

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
SMALL = {"prompt": "a cat", "size": "16x24", "steps": 3, "seed": 7}


@pytest.fixture(scope="module")
def pipe(folder: Path) -> sdcore.DiffusionPipeline:
    return opened(folder / "models" / "plain", folder)


def called(pipe: sdcore.DiffusionPipeline, **options: Any) -> np.ndarray:
    options = {"width": 16, "height": 24, "num_inference_steps": 3, "seed": 7, **options}
    return np.asarray(pipe("a cat", **options).images[0])


def asked(client: httpx.Client, **fields: Any) -> Any:
    answer = client.post(GENERATIONS, json={**SMALL, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def file(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def edited(client: httpx.Client, mask: Image.Image | None = None, **fields: Any) -> Any:
    files = {"image": ("a.png", file(photo()), "image/png")}
    if mask is not None:
        files["mask"] = ("m.png", file(mask), "image/png")
    data = {name: str(value) for name, value in {**SMALL, **fields}.items()}
    answer = client.post(EDITS, data=data, files=files)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]


def test_the_same_seed_gives_the_same_pixels(client, pipe) -> None:
    body = asked(client, n=2, response_format="b64_json", quality="hd", user="me")
    assert [one["seed"] for one in body["data"]] == [7, 8]
    for i, one in enumerate(body["data"]):
        assert np.array_equal(pixels(one["b64_json"]), called(pipe, seed=7 + i))
    assert (body["size"], body["output_format"]) == ("16x24", "png")
    assert body["created"] > 1.7e9
    image = read(body["data"][1]["b64_json"])
    assert Infotext.parse(parameters_of(image)).settings["Seed"] == "8"


def test_the_models_own_settings_are_fields(client, pipe) -> None:
    fields = {"negative_prompt": "dog", "cfg_scale": 3, "sampler": "DPM++ 2M", "clip_skip": 2}
    body = asked(client, **fields, scheduler="Karras")
    own = pipe.scheduler
    pipe.scheduler = samplers.make(own, "dpm++2m", "karras")
    try:
        ref = called(pipe, negative_prompt="dog", guidance_scale=3, clip_skip=1)
    finally:
        pipe.scheduler = own
    assert np.array_equal(pixels(body["data"][0]["b64_json"]), ref)
    body = asked(client, steps=None, num_inference_steps=2, guidance_scale=1, size="auto")
    ref = called(pipe, width=None, height=None, num_inference_steps=2, guidance_scale=1)
    assert np.array_equal(pixels(body["data"][0]["b64_json"]), ref)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_formats(client, name) -> None:
    sizes = []
    for quality in (100, 10):
        body = asked(client, output_format=name, output_compression=quality, size="32x32")
        data = body["data"][0]["b64_json"]
        assert read(data).format == name.upper()
        sizes.append(len(data))
    assert sizes[1] < sizes[0]


def test_models_by_name(client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    names = [model["id"] for model in listed["data"]]
    assert names == ["plain", "broken.safetensors", "more/single"]
    for name in names:  # with a / in it too
        assert client.get(f"/v1/models/{name}").json() in listed["data"]
    answer = client.get("/v1/models/dall-e-3")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    plain = asked(client)["data"][0]["b64_json"]
    for name in ("dall-e-3", "gpt-image-1", "plain", ""):
        assert asked(client, model=name)["data"][0]["b64_json"] == plain
    other = asked(client, model="more/single")["data"][0]["b64_json"]
    assert Infotext.parse(parameters_of(read(other))).settings["Model"] == "single"
    assert asked(client)["data"][0]["b64_json"] == plain


@pytest.mark.parametrize(
    ("fields", "status", "param", "part"),
    [
        ({"model": "../secret"}, 404, None, "there is no model '../secret'"),
        ({"prompt": ""}, 400, "prompt", "prompt must say what to draw"),
        ({"n": 11}, 400, "n", "at most 10"),
        ({"size": "big"}, 400, "size", "WIDTHxHEIGHT"),
        ({"size": "17x24"}, 400, None, "width must be a multiple of 2"),
        ({"size": "9999999999x1"}, 400, "size", "WIDTHxHEIGHT"),
        ({"response_format": "url"}, 400, "response_format", "must be b64_json"),
        ({"output_format": "gif"}, 400, "output_format", "png, jpeg, webp"),
        ({"background": "transparent"}, 400, "background", "opaque"),
        ({"output_compression": 101}, 400, "output_compression", "at most 100"),
        ({"stream": True, "partial_images": 4}, 400, "partial_images", "at most 3"),
        ({"sampler": "Restart"}, 400, None, "there is no sampler 'Restart'"),
        ({"mystery": 1}, 400, "mystery", "is no field of this server"),
    ],
)
def test_what_is_wrong_is_named(client, fields, status, param, part) -> None:
    answer = client.post(GENERATIONS, json={**SMALL, **fields})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["code"] == ("model_not_found" if status == 404 else None)
    assert part in error["message"]


def test_what_is_no_json(client) -> None:
    answer = client.post(GENERATIONS, content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    answer = client.post(EDITS, json=SMALL)
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["error"]["message"]


def test_edits(client, pipe) -> None:
    one = edited(client)
    assert np.array_equal(pixels(one["b64_json"]), called(pipe, image=photo(), strength=0.75))
    one = edited(client, strength=0.5, size="auto")
    assert np.array_equal(pixels(one["b64_json"]), called(pipe, image=photo(), strength=0.5))


@pytest.mark.parametrize("transparent", [True, False])
def test_edits_within_a_mask(client, pipe, transparent) -> None:
    """Theirs are transparent where to paint, others white."""
    white = Image.new("L", (16, 24))
    white.paste(255, (0, 0, 8, 24))
    mask = white
    if transparent:
        mask = photo()
        mask.putalpha(white.point(lambda value: 255 - value))
    image = pixels(edited(client, mask)["b64_json"])
    ref = called(pipe, image=photo(), mask_image=white, strength=0.75)
    assert np.array_equal(image[:, :8], ref[:, :8])
    assert np.array_equal(image[:, 8:], np.asarray(photo())[:, 8:])


def test_edits_of_no_picture(client) -> None:
    for files in (
        {"mask": ("m.png", file(photo()), "image/png")},
        [("image[]", ("a.png", file(photo()), "image/png"))] * 2,
    ):
        answer = client.post(EDITS, data={"prompt": "x"}, files=files)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "image"
    answer = client.post(EDITS, data={"prompt": "x"}, files={"image": ("a.png", b"x", "image/png")})
    assert "image is not a picture" in answer.json()["error"]["message"]


def events(answer: httpx.Response) -> list[Any]:
    lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    found = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [event["type"] for event in found]
    return found


def test_a_stream(client, pipe) -> None:
    fields = {**SMALL, "steps": 8, "stream": True, "partial_images": 3, "n": 2}
    with client.stream("POST", GENERATIONS, json=fields) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = events(answer)
    partial, completed = found[:3], found[3:]
    assert [event["type"] for event in partial] == ["image_generation.partial_image"] * 3
    assert [event["partial_image_index"] for event in partial] == [0, 1, 2]
    assert [event["type"] for event in completed] == ["image_generation.completed"] * 2
    options = {"width": 16, "height": 24, "num_inference_steps": 8, "seed": 7}
    steps = [np.asarray(step.preview()[0]) for step in pipe.stream("a cat", **options)]
    where = [
        next(i for i, step in enumerate(steps) if np.array_equal(pixels(event["b64_json"]), step))
        for event in partial
    ]
    assert where == [2, 4, 6]  # of 9: this sampler makes one more
    last = called(pipe, num_inference_steps=8)
    assert np.array_equal(pixels(completed[0]["b64_json"]), last)


def test_a_stream_tells_what_went_wrong(client) -> None:
    with client.stream("POST", GENERATIONS, json={**SMALL, "size": "17x24", "stream": True}) as a:
        (event,) = events(a)
    assert event["type"] == "error"
    assert "multiple of 2" in event["error"]["message"]


def test_who_leaves_a_stream_ends_its_job(client, running) -> None:
    fields = {"prompt": "a cat", "size": "32x32", "steps": 900, "n": 10, "sampler": "Euler"}
    fields |= {"stream": True, "partial_images": 3}
    with client.stream("POST", GENERATIONS, json=fields) as answer:
        lines = answer.iter_lines()  # held, for it leaves the stream when it goes
        first = next(lines)
        assert running.state.jobs.running is not None and "partial_image" in first, first
    Running.wait_until(lambda: running.state.jobs.running is None, seconds=10)


def test_an_interruption(client, running) -> None:
    from server.test_sdapi_state import Asked, under_way

    fields = {"size": "16x16", "sampler": "Euler", "n": 10}
    gone = dict.fromkeys(set(LONG) - {"prompt", "steps"})
    one = Asked(client, GENERATIONS, **gone, **fields)
    under_way(client)
    client.post("/sdapi/v1/interrupt")
    assert one.answer().status_code == 503
    assert one.answer().json()["error"]["type"] == "server_error"
