"""Parts that give their memory back when there is too little for all of them."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdcore
import tiny_models
import tiny_transformers
import tiny_xl
from sdcore import _core
from sdcore.graph import Builder, nn
from sdcore.models.base import types_of
from sdcore.pipelines import memory


def resident() -> int:
    ctypes.CDLL(None).malloc_trim(0)  # what is freed would count, or be used again unseen
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def test_prepared_weights_are_given_back_and_made_again() -> None:
    width, b = 4096, Builder()
    b.output("y", nn.linear(b.weights.wide, b.input("x"), width, width, bias=False))
    weight = np.random.default_rng(0).standard_normal((width, width), dtype=np.float32)
    network = _core.Network(b.graph, {"wide.weight": _core.Tensor.from_array(weight)})
    x = np.ones((1, width), np.float32)
    before = network.run({"x": x})["y"]
    full = resident()
    network.release()
    assert full - resident() > 0.9 * weight.nbytes
    assert np.array_equal(network.run({"x": x})["y"], before)


def test_mapped_weights_are_given_back_and_read_again(tmp_path: Path) -> None:
    width, b = 4096, Builder()
    b.output("y", nn.linear(b.weights.wide, b.input("x"), width, width, bias=False))
    weight = np.random.default_rng(0).standard_normal((width, width), dtype=np.float32)
    stored = _core.quantize(weight, "q8_0")
    _core.save_model(tmp_path / "net.gguf", {"net": (b.graph, {"wide.weight": stored})}, {})
    graph, tensors = _core.load_model(tmp_path / "net.gguf")[0]["net"]
    network = _core.Network(graph, tensors)
    x = np.ones((1, width), np.float32)
    before = network.run({"x": x})["y"]
    full = resident()
    network.release_mapped()
    assert full - resident() > 0.9 * width * width
    assert np.array_equal(network.run({"x": x})["y"], before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


def test_only_the_part_that_runs_is_kept_where_memory_is_tight(
    folder: Path, monkeypatch: Any
) -> None:
    arguments = {"height": 64, "width": 48, "num_inference_steps": 2, "seed": 1}
    plenty = sdcore.DiffusionPipeline.open(folder)
    assert not plenty.unload
    monkeypatch.setattr(memory, "available", lambda: 1000)
    tight = sdcore.DiffusionPipeline.open(folder)
    assert tight.unload
    tight.vae_tiling = plenty.vae_tiling = False
    unmapped: list[Any] = []
    monkeypatch.setattr(_core.Network, "release_mapped", lambda network: unmapped.append(network))
    released: list[str] = []
    for name in tight.networks:
        part = getattr(tight, name)
        if part is None:  # the image encoder, which comes with an IP-Adapter
            continue
        monkeypatch.setattr(
            part,
            "release",
            lambda part=part, name=name: (released.append(name), type(part).release(part)),
        )
    pictures = [pipe("a cat", **arguments).images[0].tobytes() for pipe in (plenty, tight)]
    assert pictures[0] == pictures[1]
    assert released == ["text_encoder", "vae", "text_encoder", "unet"]
    text_encoder, unet, vae = (getattr(plenty, name) for name in ("text_encoder", "unet", "vae"))
    others = [[*text_encoder.networks, *vae.networks], [*text_encoder.networks, *unet.networks]]
    assert unmapped == [network for part in others for network in part]
    assert tight("a cat", **arguments).images[0].tobytes() == pictures[0]


def _families() -> dict[str, tuple[Callable[[Path], Any], list[str]]]:
    """What saves a model, and its parts in the order in which they are given back."""

    def saved(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda path: make(path / "tokenizers").save_pretrained(path)

    return {
        "sdxl": (saved(tiny_xl.xl), ["text_encoder", "text_encoder_2", "vae", "unet"]),
        "refiner": (saved(tiny_xl.refiner), ["text_encoder_2", "vae", "unet"]),
        "sd3": (
            tiny_transformers.sd3_pipeline,
            ["text_encoder", "text_encoder_2", "text_encoder_3", "vae", "transformer"],
        ),
        "pixart": (
            lambda path: tiny_transformers.pixart_pipeline(path, False),
            ["text_encoder", "vae", "transformer"],
        ),
    }


@pytest.mark.parametrize("family", _families())
def test_every_family_gives_its_parts_back(
    family: str, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """T5 before the denoiser and that before the VAE, if memory is tight, and only then."""
    save, order = _families()[family]
    save(tmp_path)
    arguments: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2, "seed": 1}
    if family == "refiner":
        arguments["image"] = np.zeros((16, 16, 3), np.uint8)
    if family == "pixart":
        arguments["use_resolution_binning"] = False
    released: dict[bool, list[str]] = {True: [], False: []}
    pictures = []
    caplog.set_level(logging.INFO, "sdcore")
    for room in (10**10, 1000):
        monkeypatch.setattr(memory, "available", lambda room=room: room)
        pipe = sdcore.DiffusionPipeline.open(tmp_path)
        tight = room == 1000
        assert pipe.unload == tight
        pipe.vae_tiling, pipe.guidance_in_turns = False, False
        for name in pipe.networks:
            part = getattr(pipe, name)
            if part is None:  # the image encoder, which comes with an IP-Adapter
                continue

            def release(part: Any = part, name: str = name, tight: bool = tight) -> None:
                released[tight].append(name)
                type(part).release(part)

            monkeypatch.setattr(part, "release", release)
        caplog.clear()
        pictures.append(pipe("a cat", **arguments).images[0].tobytes())
        (line,) = (r.getMessage() for r in caplog.records if "[memory]" in r.getMessage())
        assert f"{order[-1]} " in line and ("one part at a time" in line) == tight
    assert pictures[0] == pictures[1]
    assert released[False] == []
    denoise, decode = order[:-1], [*order[:-2], order[-1]]  # what is given back before
    if family == "sd3":  # T5, which runs first, is not held while the CLIPs run
        assert "text_encoder_3" in released[True][: -len(denoise) - len(decode)]
    assert released[True][-len(denoise) - len(decode) :] == [*denoise, *decode]
    assert family == "sd3" or len(released[True]) == len(denoise) + len(decode)


def test_what_a_run_holds_is_told_before_it(
    folder: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder)
    monkeypatch.setattr(memory, "available", lambda: 10**10)

    def told(width: int = 48) -> list[str]:
        caplog.clear()
        pipe.stream("a cat", height=64, width=width, num_inference_steps=1, seed=1)
        return [record.getMessage() for record in caplog.records if "[memory]" in record.message]

    assert told() == []  # nobody listens
    caplog.set_level(logging.INFO, "sdcore")
    (line,) = told()
    plan = memory.plan_memory(pipe, 48, 64)
    assert plan.peak == plan.together == sum(plan.weights.values()) + max(plan.arenas.values())
    assert line.endswith(f"unet runs: {plan.peak / 1e6:.1f} MB at most, of 10.00 GB free")
    assert list(plan.weights) == ["text_encoder", "unet", "vae"] and told(96) != [line]
    pipe.unload = True
    assert f"one part at a time, {plan.together / 1e6:.1f} MB together" in told()[0]
    caplog.set_level(logging.WARNING, "sdcore")
    assert told() == []
    monkeypatch.setattr(memory, "available", lambda: 1000)
    assert told()[0].startswith("[memory] this picture may not fit: text_encoder ")


def test_a_batch_is_planned_as_large_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    alone, three = (memory.plan_memory(pipe, 48, 64, images) for images in (1, 3))
    same = {name: arena for name, arena in three.arenas.items() if name != "unet"}
    assert same.items() <= alone.arenas.items()
    configs = {name: getattr(pipe, name).config for name in pipe.networks if getattr(pipe, name)}
    graph, shapes = memory.planned_graphs(type(pipe), configs, 48, 64)["unet"]
    batch = {name: [3 * shape[0], *shape[1:]] for name, shape in shapes.items()}
    real = graph.plan(batch, "f32")["arena_bytes"]
    assert 0.9 < real / three.arenas["unet"] <= 1
    between = (alone.step + three.step) // 2
    monkeypatch.setattr(memory, "available", lambda: between)
    assert memory.is_too_large(pipe, 48, 64, 3) and not memory.is_too_large(pipe, 48, 64)


def test_each_part_is_planned_as_it_runs(folder: Path) -> None:
    full, half = (sdcore.DiffusionPipeline.open(folder, dtype=t) for t in ("f32", "bf16"))
    f32, bf16 = (memory.plan_memory(pipe, 48, 64).arenas for pipe in (full, half))
    each = {"unet": "bf16", "vae": "f32", "text_encoder": "f32"}
    mixed = memory.plan_memory(sdcore.DiffusionPipeline.open(folder, dtype=each), 48, 64).arenas
    assert mixed == {**f32, "unet": bf16["unet"]}
    assert bf16["unet"] < f32["unet"]


@pytest.mark.parametrize(
    "kinds",
    [
        ("f32", "f32"),
        ("f16", "f16"),
        ("bf16", "f32"),
        ("f16", "q8_0"),
        ("q8_0",) * 2,
        ("q4_K",) * 2,
    ],
)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("doubles", [False, True])
def test_weights_hold_what_the_plan_says(kinds: tuple[str, str], dtype: str, doubles: bool) -> None:
    """Also those of a convolution behind an upsample, which are folded where it doubles."""
    c, wide, b = 512, 8192, Builder()
    x = b.input("x")
    x = nn.conv2d(b.weights.conv, nn.upsample(x, b.input("like")), c, c, bias=False)
    b.output("y", nn.linear(b.weights.wide, x, c, wide, bias=False))
    side = 8 if doubles else 9
    rng = np.random.default_rng(0)
    tensors = {
        name: sdcore.quantize(rng.standard_normal((shape[0], math.prod(shape[1:]))), kind)
        for (name, shape), kind in zip(b.graph.weights.items(), kinds, strict=True)
    }
    network = _core.Network(b.graph, tensors, dtype=dtype)
    before = resident()
    shapes = {"x": [1, 4, 4, c], "like": [1, side, side, 8]}
    network.prepare(shapes)
    held = resident() - before
    woven = dtype == "bf16" and _core.default_isa() == "amx"
    if kinds[1].startswith("q") and not woven:  # the linear layer's blocks stay where they are
        held += tensors["wide.weight"].nbytes
    # Executables and threads hold something too.
    types = types_of(tensors)
    planned = b.graph.plan(shapes, dtype, types=types)["weight_bytes"]
    assert held == pytest.approx(planned, abs=1e6)
    if doubles:
        assert b.graph.weight_bytes(types, dtype) == planned


def test_what_is_available_is_the_least_that_anything_says(
    tmp_path: Path, monkeypatch: Any
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available() == 500 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    assert memory.available() == 500 * 1024
    (tmp_path / "memory.max").write_text("300000\n")
    (tmp_path / "memory.current").write_text("250000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 20000\n")
    assert memory.available() == 70000
    meminfo.unlink()
    (tmp_path / "memory.max").unlink()
    assert memory.available() is None
