"""ControlNets and IP-Adapters over HTTP, in the units of the web UI's extension."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import T2IAdapter
from PIL import Image, ImageOps
from safetensors.torch import save_file

import sdcore
import tiny_ip_adapter
import tiny_models
import tiny_transformers
import tiny_xl
from sdcore.image_io import Infotext, parameters_of
from sdcore.models.controlnet import ControlNetModel
from sdcore.server import beside, preprocessors
from sdcore.server.app import create_app
from sdcore.server.control_models import ControlModels
from sdcore.server.models import Model, Models
from server.serving import SMALL, Running, opened, photo, pixels, read, sent
from server.test_sdapi_state import Asked, under_way
from tiny_control import controlnet, original_state, picture, union
from tiny_control_sd3 import control_sd3

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
EDGES = picture(3, 16, 24)  # of the size that is drawn
STYLE = picture(4)


@pytest.fixture(scope="module")
def nets(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """canny/, more/depth.safetensors, for-xl/, sketch/, which is a T2I-Adapter, style.bin with its
    image_encoder/, and what is not listed: lora.safetensors, broken.pth and link.pth."""
    path = tmp_path_factory.mktemp("nets")
    unet = tiny_models.unet(tiny_models.PLAIN)
    shutil.copytree(folder / "nets" / "canny", path / "canny")
    (path / "more").mkdir()
    state = {f"control_model.{k}": v for k, v in original_state(controlnet(unet, 901)).items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path / "more" / "depth.safetensors")
    controlnet(tiny_xl.base_unet()).save_pretrained(path / "for-xl")
    state = tiny_ip_adapter.adapter(unet, "classic", 0, tiny_ip_adapter.PROJECTION)
    tiny_ip_adapter.save(state, path / "style.bin")
    tiny_ip_adapter.image_encoder().save_pretrained(path / "image_encoder")
    T2IAdapter(
        channels=list(tiny_models.PLAIN.channels), downscale_factor=2, num_res_blocks=1
    ).save_pretrained(path / "sketch")
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(4, 4)}, path / "lora.safetensors")
    (path / "broken.pth").write_bytes(b"no ControlNet")
    (path / "link.pth").symlink_to(path / "nowhere")
    return path


@pytest.fixture(scope="module")
def models_of(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """plain, which is open first, and pixart, which takes no adapters."""
    pixart = tmp_path_factory.mktemp("transformers") / "pixart"
    tiny_transformers.pixart_pipeline(pixart, False)
    plain = folder / "models" / "plain"
    first = Model("plain", plain, lambda: opened(plain, folder))
    return Models(first, pixart.parent, lambda path: opened(path, folder))


@pytest.fixture(scope="module")
def running(models_of: Models, nets: Path) -> Iterator[Running]:
    with Running(create_app(models_of, ControlModels(nets))) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def pipe(folder: Path, nets: Path) -> sdcore.DiffusionPipeline:
    """With canny/."""
    pipe = opened(folder / "models" / "plain", folder)
    pipe.load_controlnet(nets / "canny")
    return pipe


def unit(**fields: Any) -> dict[str, Any]:
    return {"model": "canny", "image": sent(EDGES), **fields}


def ask(client: httpx.Client, *units: Any, path: str = TXT2IMG, **fields: Any) -> httpx.Response:
    scripts = {"alwayson_scripts": {"controlnet": {"args": list(units)}}}
    return client.post(path, json={"prompt": "a cat", **SMALL, **scripts, **fields})


def drawn(client: httpx.Client, *units: Any, **fields: Any) -> tuple[list[np.ndarray], Any]:
    answer = ask(client, *units, **fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [pixels(image) for image in body["images"]], json.loads(body["info"])


def called(pipe: sdcore.DiffusionPipeline, **options: Any) -> np.ndarray:
    options = {"width": 16, "height": 24, "num_inference_steps": 3, "seed": 7, **options}
    return np.asarray(pipe("a cat", **options).images[0])


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"weight": 0.4}, {"controlnet_conditioning_scale": 0.4}),
        (
            {"guidance_start": 0.3, "guidance_end": 0.9},
            {"control_guidance_start": 0.3, "control_guidance_end": 0.9},
        ),
        ({"control_mode": "My prompt is more important"}, {"control_soft": True}),
        ({"control_mode": 2}, {"guess_mode": True}),
        ({"module": "canny"}, {"control_image": "edges"}),
        (
            {"module": "invert (from white bg & black line)", "input_image": sent(EDGES)},
            {"control_image": ImageOps.invert(EDGES)},
        ),
    ],
)
def test_a_unit_is_a_controlnet(client, pipe, fields, options) -> None:
    given = unit(**fields)
    if "input_image" in fields:
        del given["image"]
    if options.get("control_image") == "edges":
        # Drawn at 512 pixels, which the pipeline makes as large as its picture.
        large = EDGES.resize((512, 768), Image.Resampling.BICUBIC)
        options = {"control_image": sdcore.canny(large)}
    images, info = drawn(client, given)
    assert np.array_equal(images[0], called(pipe, **{"control_image": EDGES, **options}))
    assert info["comments"] == []
    assert len(images) == 2  # the second is what it saw
    assert images[1].shape == np.asarray(options.get("control_image", EDGES)).shape


def test_requests_without_units_are_as_before(client, pipe) -> None:
    drawn(client, unit())
    without = copy.copy(pipe)
    without.unload_controlnet()
    off = (unit(enabled=False), unit(enabled="False", model="gone"), None)
    for none in ((), ({},), off):
        images, info = drawn(client, *none)
        assert len(images) == 1
        assert np.array_equal(images[0], called(without))
        assert "ControlNet 0" not in info["extra_generation_params"]


def test_a_unit_as_sdwebuiapi_sends_it(client) -> None:
    fields = {"input_image": sent(EDGES), "mask": None, "module": "none", "model": "canny"}
    fields |= {"weight": 1.0, "resize_mode": "Resize and Fill", "lowvram": False}
    fields |= {"processor_res": 512, "threshold_a": 64, "threshold_b": 64, "guidance": 1.0}
    fields |= {"guidance_start": 0.0, "guidance_end": 1.0, "pixel_perfect": False}
    images, info = drawn(client, {**fields, "control_mode": ["Balanced"], "hr_option": "Both"})
    assert np.array_equal(images[0], drawn(client, unit())[0][0])
    assert "Control Mode: Balanced" in info["extra_generation_params"]["ControlNet 0"]


def test_two_controlnets_and_a_second_pass(client, pipe, nets) -> None:
    both = copy.copy(pipe)
    both.load_controlnet([nets / "canny", nets / "more" / "depth.safetensors"])
    options = {"control_image": [EDGES, STYLE], "controlnet_conditioning_scale": [0.5, 1.0]}
    options |= {"guess_mode": [False, True]}
    units = (
        unit(weight=0.5, save_detected_map=False),
        unit(
            model="DEPTH [0123abcd]",
            image={"image": sent(STYLE), "mask": sent(Image.new("L", STYLE.size))},
            resize_mode="Just Resize",
            control_mode="ControlNet is more important",
            save_detected_map=False,
        ),
    )
    (image,), _ = drawn(client, *units)
    assert np.array_equal(image, called(both, **options))
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_second_pass_steps": 2}
    (image,), _ = drawn(client, *units, **hires)
    options |= {"hires_scale": 1.5, "hires_strength": 0.75, "hires_steps": 2}
    assert np.array_equal(image, called(both, **options))


def test_pictures_of_another_shape(client, pipe) -> None:
    wide = picture(5, 48, 24)
    (_, cut), _ = drawn(client, unit(image=sent(wide)))
    assert np.array_equal(cut, np.asarray(wide.crop((16, 0, 32, 24))))
    (image, filled), _ = drawn(client, unit(image=sent(wide), resize_mode=2))
    assert filled.shape == (72, 48, 3)
    assert np.array_equal(filled[24:48], np.asarray(wide))
    assert len(np.unique(filled[:24].reshape(-1, 3), axis=0)) == 1
    ref = called(pipe, control_image=Image.fromarray(filled))
    assert np.array_equal(image, ref)
    fields = {"image": sent(wide), "module": "canny", "pixel_perfect": True}
    fields |= {"threshold_a": 180, "threshold_b": 60, "resize_mode": "Crop and Resize"}
    (_, seen), _ = drawn(client, unit(**fields))
    edges = sdcore.canny(wide, 60, 180).crop((16, 0, 32, 24))
    assert np.array_equal(seen, np.asarray(edges))


def test_no_shape_makes_a_picture_too_large() -> None:
    thin = Image.new("RGB", (8192, 1), "red")
    filled = preprocessors.shaped(thin, (16, 8192), preprocessors.FILL)
    assert filled.size == (16, 8192)
    edges = preprocessors.MODULES["canny"]
    made = edges.make(thin, {"processor_res": 2048, "threshold_a": 100, "threshold_b": 200})
    assert made.size == (8192, 1)


def test_img2img_shows_its_own_picture(client, pipe) -> None:
    begin = photo()
    fields = {"path": IMG2IMG, "init_images": [sent(begin)], "denoising_strength": 0.6}
    (image, seen), _ = drawn(client, unit(image=None), **fields)
    ref = called(pipe, image=begin, strength=0.6, control_image=begin)
    assert np.array_equal(image, ref)
    assert np.array_equal(seen, np.asarray(begin))
    (image, _), _ = drawn(client, unit(), **fields)
    assert np.array_equal(image, called(pipe, image=begin, strength=0.6, control_image=EDGES))


def test_under_a_mask_the_part_that_is_drawn_is_seen(client) -> None:
    begin, mask = photo(32, 48), Image.new("L", (32, 48))
    mask.paste(255, (0, 0, 16, 24))
    fields = {"path": IMG2IMG, "init_images": [sent(begin)], "mask": sent(mask), "mask_blur": 0}
    (_, seen), _ = drawn(client, unit(image=None), **fields)
    assert np.array_equal(seen, np.asarray(begin.crop((0, 0, 16, 24))))
    (_, seen), _ = drawn(client, unit(image=sent(EDGES)), **fields)
    part = EDGES.resize((32, 48), Image.Resampling.LANCZOS).crop((0, 0, 16, 24))
    assert np.array_equal(seen, np.asarray(part))
    for whole in ({"inpaint_crop_input_image": False}, {}):
        all_of_it = {} if whole else {"inpaint_full_res": False}
        (_, seen), _ = drawn(client, unit(image=None, **whole), **fields, **all_of_it)
        assert np.array_equal(seen, np.asarray(begin))


def test_a_controlnet_that_paints(client, pipe) -> None:
    mask = Image.new("L", EDGES.size)
    mask.paste(255, (0, 0, 8, 10))
    told = np.asarray(EDGES, np.float32) / 255
    told[:10, :8] = -1
    pair = {"image": sent(EDGES), "mask": sent(mask)}
    for given in ({"image": pair}, {"image": list(pair.values())}, {"mask_image": sent(mask)}):
        (image, seen), _ = drawn(client, unit(**{"module": "inpaint", **given}))
        assert np.array_equal(image, called(pipe, control_image=told))
        assert np.array_equal(seen[10:], np.asarray(EDGES)[10:])
        assert not seen[:10, :8].any()
    begin = photo()
    fields = {"path": IMG2IMG, "init_images": [sent(begin)], "mask": sent(mask), "mask_blur": 0}
    fields |= {"inpaint_full_res": False, "inpainting_fill": 1}
    one = {"module": "inpaint_global_harmonious", "image": None}
    (image, _), _ = drawn(client, unit(**one), **fields)
    told = np.asarray(begin, np.float32) / 255
    told[:10, :8] = -1
    ref = called(pipe, image=begin, mask_image=mask, strength=0.75, control_image=told)
    assert np.array_equal(image[:10, :8], ref[:10, :8])
    wide = {"image": sent(photo(48, 24)), "mask": sent(Image.new("L", (48, 24)))}
    (_, seen), _ = drawn(client, unit(module="inpaint", image=wide, resize_mode=2))
    assert not seen[:8].any()  # the border is to be painted
    assert seen[8:16].any()


def test_a_t2i_adapter_is_a_unit(client, pipe, nets) -> None:
    both = copy.copy(pipe)
    both.load_controlnet([nets / "sketch", nets / "canny"])
    (image, *_), _ = drawn(client, unit(model="sketch", weight=0.5), unit(control_mode=2))
    ref = called(
        both,
        control_image=[EDGES, EDGES],
        controlnet_conditioning_scale=[0.5, 1.0],
        guess_mode=[False, True],
    )
    assert np.array_equal(image, ref)


def test_those_of_stable_diffusion_3(tmp_path) -> None:
    tiny_transformers.sd3_pipeline(tmp_path / "sd3")
    for name, more in (("edges", {}), ("paints", {"extra_conditioning_channels": 1})):
        net = control_sd3(tiny_transformers.sd3(), **more)
        net.save_pretrained(tmp_path / "nets" / name)
    pipe: Any = sdcore.DiffusionPipeline.open(tmp_path / "sd3", dtype="f32", threads=1)
    mask = Image.new("L", EDGES.size)
    mask.paste(255, (0, 0, 8, 10))
    first = Model("sd3", tmp_path / "sd3", lambda: pipe)
    app = create_app(Models(first, None, lambda path: pipe), ControlModels(tmp_path / "nets"))
    painting = unit(model="paints", module="inpaint", mask=sent(mask))
    with Running(app) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        (image, *_), _ = drawn(client, unit(model="edges", weight=0.7), painting)
        for mode in (1, "ControlNet is more important"):
            answer = ask(client, unit(model="edges", control_mode=mode))
            assert answer.status_code == 422
            assert "control_mode must be Balanced for 'edges'" in answer.json()["detail"]
        answer = ask(client, unit(model="paints"))
        assert answer.status_code == 422
        assert "this ControlNet is for inpainting" in answer.json()["detail"]
    pipe.load_controlnet([tmp_path / "nets" / "edges", tmp_path / "nets" / "paints"])
    given = {"control_image": [EDGES, EDGES], "control_mask": [None, mask]}
    ref = called(pipe, **given, controlnet_conditioning_scale=[0.7, 1.0])
    assert np.array_equal(image, ref)


def test_an_ip_adapter_is_a_unit(client, pipe, nets) -> None:
    style = copy.copy(pipe)
    style.unload_controlnet()
    style.load_ip_adapter(nets / "style.bin")
    style.set_ip_adapter_scale(0.6)
    one = {"module": "ip-adapter_clip_sd15", "model": "style", "weight": 0.6}
    (image, seen), info = drawn(client, {**one, "image": sent(STYLE)})
    alone = called(style, ip_adapter_image=STYLE)
    assert np.array_equal(image, alone)
    assert np.array_equal(seen, np.asarray(STYLE))
    assert "Model: style" in info["extra_generation_params"]["ControlNet 0"]
    images, _ = drawn(client, {**one, "image": sent(STYLE), "guidance_end": 0.7})
    ref = called(style, ip_adapter_image=STYLE, ip_adapter_end=0.7)
    assert np.array_equal(images[0], ref)
    pair = [{"image": sent(STYLE)}, {"image": sent(EDGES)}]
    images, _ = drawn(client, {**one, "module": "ip-adapter_clip_h", "image": pair})
    assert np.array_equal(images[0], called(style, ip_adapter_image=[STYLE, EDGES]))
    # With a ControlNet, and a LoRA of the prompt; and what came before is as it was.
    style.load_controlnet(nets / "canny")
    prompt = "a cat <lora:kohya:0.5>"
    given = {"control_image": EDGES, "ip_adapter_image": STYLE, "width": 16, "height": 24}
    ref = style(prompt, num_inference_steps=3, seed=7, **given).images[0]
    images, _ = drawn(client, unit(), {**one, "image": sent(STYLE)}, prompt=prompt)
    assert np.array_equal(images[0], np.asarray(ref))
    images, _ = drawn(client, {**one, "module": "none", "image": sent(STYLE)})
    assert np.array_equal(images[0], alone)


def test_a_picture_says_how_it_was_steered(client) -> None:
    answer = ask(client, unit(module="canny", mystery=1), batch_size=2).json()
    text = parameters_of(read(answer["images"][1]))
    assert "Resize mode" not in Infotext.parse(text).settings  # each unit's own is in its line
    assert Infotext.parse(text).settings["ControlNet 0"] == (
        "Module: canny, Model: canny, Weight: 1.0, Resize Mode: Crop and Resize, "
        "Processor Res: 512, Threshold A: 100.0, Threshold B: 200.0, Guidance Start: 0.0, "
        "Guidance End: 1.0, Pixel Perfect: False, Control Mode: Balanced"
    )
    info = json.loads(answer["info"])
    assert len(info["infotexts"]) == 2
    assert len(answer["images"]) == 3
    (comment,) = info["comments"]
    assert comment == "controlnet.args[0].mystery: there is no such field here"
    assert answer["parameters"]["alwayson_scripts"] is None  # its pictures are large


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"model": "gone"}, ("args[0].model must be one of canny, depth, for-xl, sketch, style",)),
        ({"model": "../secret"}, ("model must be one of",)),
        ({"model": None}, ("model must be one of",)),
        ({"module": "openpose"}, ("args[0].module 'openpose' is not built here; there are: none",)),
        ({"module": "ip-adapter-auto"}, ("is for IP-Adapters, and 'canny' is a ControlNet",)),
        ({"model": "style", "module": "canny"}, ("is for ControlNets, and 'style' is an IP-Ad",)),
        ({"image": None}, ("image is missing of the unit of 'canny'",)),
        ({"image": "/etc/passwd"}, ("args[0].image is not a picture that can be read",)),
        ({"image": ""}, ("image is missing of the unit of 'canny'",)),
        ({"image": [{"image": sent(EDGES)}] * 2}, ("must be one picture for a ControlNet",)),
        ({"mask": sent(EDGES)}, ("args[0].mask is not read by the module 'none'",)),
        ({"module": "inpaint"}, ("mask is missing: the module 'inpaint' paints where",)),
        ({"weight": 3}, ("weight must be from 0 to 2, got 3",)),
        ({"guidance_start": 0.5, "guidance": 0.5}, ("guidance_start must be below",)),
        ({"control_mode": "Loud"}, ("control_mode must be one of Balanced, My", "'Loud'")),
        ({"resize_mode": 3}, ("resize_mode must be one of",)),
        ({"effective_region_mask": "x"}, ("effective_region_mask cannot be 'x' here",)),
        ({"model": "for-xl"}, ("model 'for-xl' cannot be used here", "does not go with Stable")),
    ],
)
def test_what_is_wrong_is_named(client, fields, parts) -> None:
    answer = ask(client, unit(**fields))
    assert answer.status_code == 422, answer.text
    for part in parts:
        assert part in answer.json()["detail"]


def test_what_does_not_go_together(client, running) -> None:
    other = {"override_settings": {"sd_model_checkpoint": "pixart"}}
    for model, message in (("canny", "ControlNets are for"), ("style", "IP-Adapters are for")):
        answer = ask(client, unit(model=model), **other)
        assert answer.status_code == 422
        assert message in answer.json()["detail"]
        assert "and this is PixArt" in answer.json()["detail"]
    for scripts, message in (
        ({"ADetailer": {"args": [{"ad_model": "x"}]}}, "alwayson_scripts has no 'ADetailer' here"),
        ({"ControlNet": {"args": [unit()] * 6}}, "args must be a list of at most 5 units"),
        ({"ControlNet": {"args": ["canny"]}}, "args[0] must be an object, got 'canny'"),
        ({"ControlNet": {"args": {}}}, "must be a list"),
        ([], "alwayson_scripts must be an object"),
    ):
        answer = client.post(TXT2IMG, json={**SMALL, "prompt": "x", "alwayson_scripts": scripts})
        assert answer.status_code == 422
        assert message in answer.json()["detail"]


def test_what_was_interrupted_shows_nothing(client) -> None:
    scripts = {"controlnet": {"args": [unit()]}}
    asked = Asked(client, alwayson_scripts=scripts)
    under_way(client)
    client.post("/sdapi/v1/interrupt")
    assert asked.answer().json()["images"] == []


def test_they_are_opened_once(client, running, pipe, monkeypatch) -> None:
    found: list[Path] = []
    load = type(pipe).load_controlnet
    monkeypatch.setattr(
        type(pipe), "load_controlnet", lambda self, path: (found.append(path), load(self, path))
    )
    client.post("/sdapi/v1/unload-checkpoint")
    for model in ("canny", "depth", "canny", "depth"):
        drawn(client, unit(model=model, save_detected_map=False))
    assert [path.name for path in found] == ["canny", "depth.safetensors"]
    # Where there is no room for both, each time anew, and the pixels are the same.
    client.post("/sdapi/v1/unload-checkpoint")
    monkeypatch.setattr(beside, "is_tight", lambda pipe: len(pipe.controlnet) > 1)
    drawn(client, unit(model="depth"))
    (image, _), _ = drawn(client, unit())
    assert len(found) == 4
    assert np.array_equal(image, called(pipe, control_image=EDGES))
    assert running.state.models.open_pipeline.controlnet == ()
    # Where there is none beside the model, it is given back after the request.
    given_back: list[Any] = []
    monkeypatch.setattr(ControlNetModel, "release", lambda self: given_back.append(self))
    drawn(client, unit())
    assert given_back == []
    client.post("/sdapi/v1/unload-checkpoint")
    monkeypatch.setattr(beside, "is_tight", lambda pipe: True)
    (image, _), _ = drawn(client, unit())
    assert np.array_equal(image, called(pipe, control_image=EDGES))
    assert running.state.models.open_pipeline.unload is False
    assert given_back
    client.post("/sdapi/v1/unload-checkpoint")


def test_a_union_has_to_know_what_it_sees(tmp_path, nets) -> None:
    """On SDXL, which is what there are unions for."""
    tiny_xl.xl(tmp_path / "tokenizers").save_pretrained(tmp_path / "xl")
    union(tiny_xl.base_unet()).save_pretrained(tmp_path / "nets" / "union")
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "xl", dtype="f32", threads=1)
    first = Model("xl", tmp_path / "xl", lambda: pipe)
    app = create_app(Models(first, None, lambda path: pipe), ControlModels(tmp_path / "nets"))
    with Running(app) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        answer = ask(client, unit(model="union"))
        assert answer.status_code == 422
        assert "union_control_type must say what 'union' sees" in answer.json()["detail"]
        images, _ = drawn(client, unit(model="union", union_control_type="Depth"))
    pipe.load_controlnet(tmp_path / "nets" / "union")
    assert np.array_equal(images[0], called(pipe, control_image=EDGES, control_mode=1))


def test_lists(client, nets, running) -> None:
    def get(name: str, **query: Any) -> Any:
        answer = client.get(f"/controlnet/{name}", params=query)
        assert answer.status_code == 200
        return answer.json()

    models = ["canny", "depth", "for-xl", "sketch", "style"]
    assert get("model_list") == {"model_list": models}
    assert get("version") == {"version": 3}
    assert get("settings") == {"control_net_unit_count": 5}
    modules = get("module_list")
    assert modules["module_list"][:3] == ["none", "canny", "invert"]
    assert list(modules["module_detail"]) == modules["module_list"]
    assert modules["module_detail"]["canny"] == {
        "model_free": False,
        "sliders": [
            {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8},
            {"name": "Low Threshold", "value": 100, "min": 1, "max": 255, "step": 1},
            {"name": "High Threshold", "value": 200, "min": 1, "max": 255, "step": 1},
        ],
    }
    assert "ip-adapter_clip_h" in get("module_list", alias_names="true")["module_list"]
    types = get("control_types")["control_types"]
    assert types["All"]["model_list"] == ["None", *models]
    assert (types["All"]["default_option"], types["All"]["default_model"]) == ("none", "None")
    labels = ["none", "canny", "invert (from white bg & black line)"]
    assert types["Canny"] == {
        "module_list": labels,
        "model_list": ["None", "canny"],
        "default_option": "canny",
        "default_model": "canny",
    }
    assert types["Depth"]["default_model"] == "depth"
    new = nets / "new"
    (nets / "canny").rename(new)
    try:
        assert "canny" in get("model_list", update="false")["model_list"]
        assert get("model_list")["model_list"] == ["depth", "for-xl", "new", "sketch", "style"]
    finally:
        new.rename(nets / "canny")
        get("model_list")
    assert client.get("/sdapi/v1/scripts").json() == {
        "txt2img": ["controlnet"],
        "img2img": ["controlnet"],
    }
    info = client.get("/sdapi/v1/script-info").json()
    assert [(one["name"], one["is_img2img"]) for one in info] == [
        ("controlnet", False),
        ("controlnet", True),
    ]


def test_cyanic_krita(client) -> None:
    """A plugin for Krita, as it asks what there is and sends a unit."""
    assert "controlnet" in client.get("/sdapi/v1/scripts").json()["txt2img"]
    assert client.get("/controlnet/settings").json()["control_net_unit_count"] > 0
    types = client.get("/controlnet/control_types").json()["control_types"]
    modules = client.get("/controlnet/module_list?alias_names=true").json()["module_detail"]
    for kind in types.values():
        for module in kind["module_list"]:
            assert isinstance(modules[module]["sliders"], list)
    fields = {"module": types["Canny"]["default_option"], "model": types["Canny"]["default_model"]}
    fields |= {"weight": 1.0, "resize_mode": 0, "lowvram": False, "preprocessor_res": 512}
    fields |= {"threshold_a": -1, "threshold_b": -1, "guidance_start": 0.0, "guidance_end": 1.0}
    fields |= {"control_mode": 0, "pixel_perfect": False, "input_image": sent(EDGES)}
    _, info = drawn(client, fields)
    assert "Module: canny, Model: canny" in info["infotexts"][0]


def test_modules_alone(client) -> None:
    def detect(**fields: Any) -> httpx.Response:
        body = {f"controlnet_{name}": value for name, value in fields.items()}
        return client.post("/controlnet/detect", json=body)

    small = picture(3, 80, 100)
    fields = {"module": "canny", "processor_res": 80, "threshold_a": 60, "threshold_b": 180}
    answer = detect(**fields, input_images=[sent(small), sent(small)])
    assert answer.status_code == 200
    body = answer.json()
    assert body["info"] == "Success"
    for image in body["images"]:
        assert np.array_equal(pixels(image), np.asarray(sdcore.canny(small, 60, 180)))
    # Values that cannot be are the usual ones, as in the web UI.
    (image,) = detect(module="canny", threshold_a=-5, input_images=[sent(small)]).json()["images"]
    assert read(image).size == (512, 640)
    for fields, message in (
        ({"module": "openpose", "input_images": [sent(small)]}, "controlnet_module 'openpose'"),
        ({"module": "ip-adapter-auto", "input_images": [sent(small)]}, "makes no picture"),
        ({"module": "canny"}, "controlnet_input_images must be a list of 1 to 16"),
        ({"module": "canny", "input_images": ["x"]}, "must be a picture in base64"),
    ):
        answer = detect(**fields)
        assert answer.status_code == 422
        assert message in answer.json()["detail"]


def test_a_server_without_any(folder) -> None:
    plain = folder / "models" / "plain"
    first = Model("plain", plain, lambda: opened(plain, folder))
    with Running(create_app(Models(first, None, lambda path: opened(path, folder)))) as server:
        client = httpx.Client(base_url=server.url)
        assert client.get("/controlnet/model_list").json() == {"model_list": []}
        assert client.get("/sdapi/v1/scripts").json() == {"txt2img": [], "img2img": []}
        answer = ask(client, unit())
        assert answer.status_code == 422
        assert "start sdcore serve with --controlnet-dir" in answer.json()["detail"]
