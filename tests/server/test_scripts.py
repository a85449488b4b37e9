"""Scripts of the web UI that are switched off, in the forms in which programs send them."""

from __future__ import annotations

from typing import Any

import pytest

from sdcore.server.scripts import is_off
from server.serving import SMALL

_DETECTS = {"ad_model": "face_yolov8n.pt", "ad_confidence": 0.3}
_OFF: list[tuple[str, Any]] = [
    ("ADetailer", {"args": []}),
    ("ADetailer", {"args": [False]}),
    ("ADetailer", {"args": [False, False, _DETECTS]}),
    ("ADetailer", {"args": [True, False, {"ad_model": "None"}, {}]}),
    ("ADetailer", {"args": [{"ad_prompt": "a face"}]}),
    ("ADetailer", {"args": [{**_DETECTS, "ad_tab_enable": False}]}),
    ("AnimateDiff", {"args": [{"enable": False, "model": "mm_sd_v15"}]}),
    ("AnimateDiff", {"enable": False}),
    ("API payload", {"args": []}),
    ("Extra options", {}),
    ("FreeU Integrated (SD 1.x, SD 2.x, SDXL)", {"args": [False, 1.01, 1.02, 0.99, 0.95]}),
    ("Hypertile", None),
    ("Detection Detailer", {"args": ["None", 30]}),
    ("Never OOM Integrated", {"args": [False, False]}),
    ("ReActor", {"args": [None, False, "0", "0", "inswapper_128.onnx", "CodeFormer", 1, True]}),
    ("roop", {"args": ["iVBORw0KGgo", False, "0", None]}),
    ("Refiner", {"args": [False, "", 0.8]}),
    ("Sampler", {"args": [20, "DPM++ 2M", "Automatic"]}),
    ("Seed", {"args": [-1, False, -1, 0, 0, 0]}),
    ("Soft Inpainting", [False, 1, 0.5, 4, 0, 0.5, 2]),
    ("Tiled Diffusion", {"args": ["False", "MultiDiffusion"]}),
    ("unheard of", {"args": [None, None]}),
]
_ON: list[tuple[str, Any]] = [
    ("ADetailer", {"args": [True, False, _DETECTS]}),
    ("ADetailer", {"args": [{"ad_model": "None"}, _DETECTS]}),
    ("AnimateDiff", {"args": [{"enable": True}]}),
    ("AnimateDiff", {"args": [{"enable": False}, {"model": "mm_sd_v15"}]}),
    ("Dynamic Prompts v2.17.1", {"args": [True, False, 1]}),
    ("ReActor", {"args": ["iVBORw0KGgo", True, "0"]}),
    ("Refiner", {"args": [True, "sd_xl_refiner_1.0", 0.8]}),
    ("unheard of", {"args": ["text"]}),
    ("unheard of", 5),
]


@pytest.mark.parametrize(("name", "script"), _OFF)
def test_what_is_off(name, script) -> None:
    assert is_off(name, script)


@pytest.mark.parametrize(("name", "script"), _ON)
def test_what_is_on(name, script) -> None:
    assert not is_off(name, script)


def test_a_request_with_all_that_a_web_ui_has(client) -> None:
    fields = {"prompt": "a cat", **SMALL}
    plain = client.post("/sdapi/v1/txt2img", json=fields)
    scripts = {**dict(_OFF), "ControlNet": {"args": [{"enabled": False, "model": "None"}, None]}}
    answer = client.post("/sdapi/v1/txt2img", json={**fields, "alwayson_scripts": scripts})
    assert answer.status_code == 200, answer.text
    assert answer.json()["images"] == plain.json()["images"]
    for name, script in _ON:
        body = {**fields, "alwayson_scripts": {**scripts, name: script}}
        answer = client.post("/sdapi/v1/txt2img", json=body)
        assert answer.status_code == 422
        assert f"alwayson_scripts has no '{name}' here: leave it out" in answer.json()["detail"]
