"""Progress, interruption, lists and options of the web UI's API."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import httpx
import pytest

import sdcore
from sdcore.checkpoint.hashes import known_lora_hash
from sdcore.webui import samplers
from server.serving import LONG, SMALL, Running, pixels, read

TXT2IMG = "/sdapi/v1/txt2img"


def progress(client: httpx.Client, **query: Any) -> Any:
    return client.get("/sdapi/v1/progress", params=query).json()


def is_idle(client: httpx.Client) -> bool:
    """As SillyTavern asks it."""
    now = progress(client, skip_current_image=True)
    return now["progress"] == 0 and now["state"]["job_count"] == 0


class Asked(threading.Thread):
    """A request on its way."""

    def __init__(self, client: httpx.Client, path: str = TXT2IMG, **fields: Any) -> None:
        super().__init__()
        self._ask = lambda: client.post(path, json={**LONG, **fields})
        self.start()

    def run(self) -> None:
        self._answer = self._ask()

    def answer(self) -> httpx.Response:
        self.join(30)
        assert not self.is_alive()
        return self._answer


def under_way(client: httpx.Client) -> Any:
    """The progress of a job that has made steps."""

    def at() -> Any:
        now = progress(client, skip_current_image=True)
        return now if now["state"]["sampling_step"] > 1 else None

    return Running.wait_until(at)


def test_progress_while_it_runs_and_interruption(client) -> None:
    assert is_idle(client)
    asked = Asked(client)
    first = under_way(client)
    assert 0 < first["progress"] < 1
    assert first["eta_relative"] > 0
    assert first["current_image"] is None
    assert first["state"]["sampling_steps"] == 900
    assert first["state"]["job_count"] == 60
    assert first["state"]["job"].startswith("txt2img ")
    later = progress(client)
    assert later["state"]["sampling_step"] >= first["state"]["sampling_step"]
    assert read(later["current_image"]).size == (16, 16)
    health = client.get("/health").json()
    assert (health["status"], health["busy"]) == ("ok", True)
    assert client.post("/sdapi/v1/interrupt").json() == {}
    answer = asked.answer().json()
    assert answer["images"] == []
    assert json.loads(answer["info"])["all_seeds"] == []
    Running.wait_until(lambda: is_idle(client))


def test_a_skip_goes_on_with_the_next_picture(client) -> None:
    asked = Asked(client)
    under_way(client)
    assert client.post("/sdapi/v1/skip").json() == {}
    Running.wait_until(lambda: progress(client)["state"]["job_no"] == 1)
    client.post("/sdapi/v1/interrupt")
    assert asked.answer().json()["images"] == []


def test_an_interruption_keeps_what_is_ready(client, running) -> None:
    asked = Asked(client, steps=2, seed=3)
    Running.wait_until(lambda: progress(client)["state"]["job_no"] > 1)
    client.post("/sdapi/v1/interrupt")
    answer = asked.answer().json()
    info = json.loads(answer["info"])
    assert 1 < len(answer["images"]) < 60
    assert info["all_seeds"] == [3 + i for i in range(len(answer["images"]))]


def test_two_clients_wait_for_each_other(client, running) -> None:
    long = Asked(client)
    under_way(client)
    fields = {"steps": 1, "n_iter": 1}
    with httpx.Client(base_url=running.url, timeout=60) as other:
        waits = [Asked(other, **fields, seed=seed) for seed in (1, 2)]
        Running.wait_until(lambda: client.get("/queue/status").json()["queue_size"] == 2)
        assert client.get("/queue/status").json()["running"]
        client.post("/sdapi/v1/interrupt")
        seeds = [json.loads(one.answer().json()["info"])["seed"] for one in waits]
    assert seeds == [1, 2]
    assert long.answer().json()["images"] == []


def test_who_goes_ends_its_job(client, running) -> None:
    with httpx.Client(base_url=running.url, timeout=0.5) as other, pytest.raises(httpx.ReadTimeout):
        other.post(TXT2IMG, json=LONG)
    Running.wait_until(lambda: is_idle(client), seconds=10)
    # One that waits for its turn never begins.
    asked = Asked(client)
    under_way(client)
    with httpx.Client(base_url=running.url, timeout=0.5) as other, pytest.raises(httpx.ReadTimeout):
        other.post(TXT2IMG, json=LONG)
    Running.wait_until(lambda: client.get("/queue/status").json()["queue_size"] == 0)
    assert under_way(client)["state"]["sampling_step"] > 1
    client.post("/sdapi/v1/interrupt")
    assert asked.answer().status_code == 200


def test_models_are_switched_by_name(client) -> None:
    listed = client.get("/sdapi/v1/sd-models").json()
    titles = ["plain", "broken.safetensors", "more/single"]
    assert [model["title"] for model in listed] == titles
    assert listed[1]["model_name"] == "broken"
    plain = client.post(TXT2IMG, json={"prompt": "a cat", **SMALL}).json()["images"][0]

    # Open WebUI sends all options back.
    all_options = client.get("/sdapi/v1/options").json()
    assert all_options["sd_model_checkpoint"] == "plain"
    all_options["sd_model_checkpoint"] = "more/single"
    answer = client.post("/sdapi/v1/options", json=all_options)
    assert (answer.status_code, answer.json()) == (200, None)
    assert client.get("/sdapi/v1/options").json() == all_options
    assert is_idle(client)
    body = client.post(TXT2IMG, json={"prompt": "a cat", **SMALL}).json()
    assert json.loads(body["info"])["sd_model_name"] == "single"
    assert not (pixels(body["images"][0]) == pixels(plain)).all()

    # For one request, and then for all after.
    override = {"prompt": "a cat", **SMALL, "override_settings": {"sd_model_checkpoint": "plain"}}
    body = client.post(TXT2IMG, json=override).json()
    assert (pixels(body["images"][0]) == pixels(plain)).all()
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "more/single"
    client.post(TXT2IMG, json={**override, "override_settings_restore_afterwards": False})
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "plain"


def test_a_model_that_cannot_be_opened_changes_nothing(client) -> None:
    answer = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "broken"})
    assert answer.status_code == 500
    assert "broken.safetensors" in answer.json()["detail"]
    override = {"override_settings": {"sd_model_checkpoint": "broken"}}
    override["override_settings_restore_afterwards"] = False
    assert client.post(TXT2IMG, json={"prompt": "a cat", **override}).status_code == 500
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "plain"
    assert client.post(TXT2IMG, json={"prompt": "a cat", **SMALL}).status_code == 200


def test_another_model_may_be_chosen_when_the_chosen_one_is_gone(client, running) -> None:
    running.state.options = dataclasses.replace(running.state.options, sd_model_checkpoint="gone")
    assert client.post(TXT2IMG, json={"prompt": "a cat", **SMALL}).status_code == 404
    answer = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "plain"})
    assert answer.status_code == 200, answer.text
    assert client.post(TXT2IMG, json={"prompt": "a cat", **SMALL}).status_code == 200


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "../secret", "models/plain", "/etc/passwd", "plain/../plain"]
)
def test_a_name_is_no_path(client, folder, name) -> None:
    secret = [name, str(folder / "secret.safetensors"), str(folder / "models" / "plain")]
    for one in secret:
        for path, body in (
            ("options", {"sd_model_checkpoint": one}),
            ("txt2img", {"override_settings": {"sd_model_checkpoint": one}}),
        ):
            answer = client.post(f"/sdapi/v1/{path}", json=body)
            assert answer.status_code == 404
            assert f"there is no model '{one}'; there are: plain, " in answer.json()["detail"]


def test_options_that_are_none_are_told(client) -> None:
    answer = client.post("/sdapi/v1/options", json={"jpeg_quality": 50, "show_progress": True})
    assert answer.json() == {"ignored": ["show_progress"]}
    assert client.get("/sdapi/v1/options").json()["jpeg_quality"] == 50
    assert client.post("/sdapi/v1/options", json={"jpeg_quality": 500}).status_code == 422


def test_new_models_are_found(client, folder) -> None:
    new = folder / "models" / "new.safetensors"
    new.write_bytes(b"x")
    try:
        assert client.post("/sdapi/v1/refresh-loras").status_code == 200
        assert client.post("/sdapi/v1/refresh-checkpoints").status_code == 200
        titles = [model["title"] for model in client.get("/sdapi/v1/sd-models").json()]
        assert "new.safetensors" in titles
    finally:
        new.unlink()
        client.post("/sdapi/v1/refresh-checkpoints")


def test_a_model_is_put_away_and_opened_again(client, running) -> None:
    assert client.post("/sdapi/v1/unload-checkpoint").json() == {}
    assert running.state.models.open_model is None
    assert client.get("/sdapi/v1/loras").json() == []
    assert client.post("/sdapi/v1/reload-checkpoint").json() == {}
    assert running.state.models.open_model.title == "plain"
    client.post("/sdapi/v1/unload-checkpoint")
    assert client.post(TXT2IMG, json={"prompt": "a cat", **SMALL}).status_code == 200


def test_what_there_is(client, running, folder) -> None:
    def get(name: str) -> Any:
        answer = client.get(f"/sdapi/v1/{name}")
        assert answer.status_code == 200
        return answer.json()

    names = [sampler["name"] for sampler in get("samplers")]
    assert names == [sampler.title for sampler in samplers.SAMPLERS.values()]
    pipe = running.state.models.open_pipeline
    own, pipe._scheduler = pipe.scheduler, sdcore.FlowMatchEulerDiscreteScheduler()
    try:
        names = [sampler["name"] for sampler in get("samplers")]
    finally:
        pipe.scheduler = own
    assert "DPM++ 2M" in names
    assert "Euler a" not in names
    for schedule in get("schedulers"):
        for name in (schedule["name"], schedule["label"]):
            fields = {"sampler_name": "Euler", "scheduler": name, "prompt": "x", **SMALL}
            answer = client.post(TXT2IMG, json=fields)
            assert answer.status_code == 200, answer.text
    assert [upscaler["name"] for upscaler in get("upscalers")] == [*("None", "Lanczos", "Nearest")]
    modes = [mode["name"] for mode in get("latent-upscale-modes")]
    assert (len(modes), modes[0]) == (6, "Latent")
    loras = folder / "loras" / "kohya.safetensors"
    assert get("loras") == [
        {
            **{"name": "kohya", "alias": "kohya", "path": "kohya.safetensors"},
            **{"hash": known_lora_hash(loras), "metadata": {}},
        }
    ]
    words = get("embeddings")
    assert list(words["skipped"]) == ["bad"]
    assert (words["loaded"]["mine"]["shape"], words["loaded"]["mine"]["vectors"]) == (64, 2)
    assert get("memory")["ram"]["total"] > 0
    assert get("cmd-flags") == {"api": True}
    assert get("scripts") == {"txt2img": [], "img2img": []}
    for name in (
        *("hypernetworks", "face-restorers", "sd-vae"),
        *("realesrgan-models", "prompt-styles", "script-info", "extensions"),
    ):
        assert get(name) == []
