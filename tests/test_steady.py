"""What a network makes of inputs that stay the same is computed once, and changes no bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdcore
import tiny_control
import tiny_models
import tiny_transformers
import tiny_xl
from cuda.devices import DEVICES, normal, rng
from sdcore import _core
from sdcore.graph import Builder, nn
from sdcore.pipelines.conditioning import Told
from sdcore.pipelines.hooks import FamilyHooks

WIDTH, TEXT = 32, 24


def graph() -> _core.Graph:
    """A layer that attends to a text and to itself, and what is hard about it: a steady value that
    is half of another one's memory, is written over by an activation, is handed out, or is an
    input as it is; and a sum of a steady layer and one that is not, which fusion makes one op."""
    b = Builder()
    w, x, text, mask = b.weights, b.input("x"), b.input("text"), b.input("mask")
    key, value = (nn.linear(layer, text, TEXT, WIDTH) for layer in (w.to_k, w.to_v))
    q = nn.linear(w.to_q, x, WIDTH, WIDTH)
    x = x + nn.attention(q, key, nn.silu(value + value), heads=2, mask=mask)
    both = nn.concat_tokens(x, key)
    x = nn.first_tokens(nn.attention(both, both, both, heads=2), x)
    time = nn.linear(w.time, b.input("time"), TEXT, WIDTH)
    time = time + nn.linear(w.pool, b.input("pooled"), TEXT, WIDTH)
    b.output("value", value)
    b.output("x", x + nn.linear(w.out, nn.silu(time), WIDTH, WIDTH))
    return b.graph


GRAPH = graph()
WEIGHTS = {
    name: _core.Tensor.from_array(normal(rng(len(name)), *shape) / np.float32(4))
    for name, shape in GRAPH.weights.items()
}


def told(seed: int) -> dict[str, Any]:
    g = rng(seed)
    mask = np.zeros((2, 5), np.float32)
    mask[:, seed % 4 + 1 :] = -10000
    return {"text": normal(g, 2, 5, TEXT), "mask": mask, "pooled": normal(g, 2, TEXT)}


def step(seed: int) -> dict[str, Any]:
    g = rng(seed, 1)
    return {"x": normal(g, 2, 7, WIDTH), "time": normal(g, 2, TEXT)}


def same(out: Mapping[str, Any], ref: Mapping[str, Any]) -> None:
    for name in ref:
        np.testing.assert_array_equal(out[name], ref[name])


def layers(network: _core.Network, steady: _core.Steady) -> set[str]:
    _, times = network.profile(step(0), steady)
    return {label for label, *_ in times if label.startswith("linear")}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("stream", [None, True])
@pytest.mark.parametrize("device", ["cpu", *DEVICES])
def test_runs_with_steady_inputs_are_the_runs_without(
    device: str, stream: bool | None, dtype: str
) -> None:
    if device == "cpu" and stream:
        pytest.skip("nothing is streamed to the CPU")
    network = _core.Network(GRAPH, WEIGHTS, dtype, device=device, stream_weights=stream)
    given = [told(seed) for seed in (1, 2)]
    refs = [[network.run({**step(i), **one}) for i in range(2)] for one in given]
    steady = [_core.Steady(one) for one in given]
    for one in given:  # they are copies
        one["text"][:] = 0
    for _ in range(2):  # the second time from recordings
        for k, i in ((0, 0), (0, 1), (1, 1), (0, 1), (1, 0)):
            same(network.run(step(i), steady=steady[k]), refs[k][i])
    network.release()
    same(network.run(step(0), steady=steady[0]), refs[0][0])


def test_only_what_changes_is_computed_again() -> None:
    network, steady = _core.Network(GRAPH, WEIGHTS), _core.Steady(told(1))
    first, later = layers(network, steady), layers(network, steady)
    # The pooled text's layer takes the time's as its residual, so it runs at every step.
    assert first - later == {"linear to_k.weight", "linear to_v.weight"}
    assert layers(network, _core.Steady(told(1))) == first
    network.run({**step(0), **told(1)})
    assert layers(network, steady) == later
    network.release()
    assert layers(network, steady) == first


def test_what_is_kept_is_planned() -> None:
    shapes = {name: array.shape for name, array in {**step(0), **told(0)}.items()}
    whole = GRAPH.plan(shapes)
    assert (whole["kept_bytes"], whole["steady_steps"]) == (0, 0)
    split = GRAPH.plan(shapes, steady={"text", "mask", "pooled"})
    # Keys, values, those activated, and inputs that a later op reads: the pooled text, the mask.
    tokens, pooled, mask = 2 * 5 * WIDTH * 4, 2 * TEXT * 4, 64
    assert split["kept_bytes"] == 3 * tokens + pooled + mask
    assert split["steps"] > split["steady_steps"] > 3
    with pytest.raises(sdcore.InvalidArgumentError, match="steady inputs that the network does"):
        GRAPH.plan(shapes, steady={"texts"})


def test_threads_share_them() -> None:
    network, steady = _core.Network(GRAPH, WEIGHTS), _core.Steady(told(3))
    refs = [network.run({**step(i), **told(3)}) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda i: network.run(step(i), steady=steady), range(8)))
    for out, ref in zip(outs, refs, strict=True):
        same(out, ref)


def test_inputs_that_do_not_fit() -> None:
    network, steady = _core.Network(GRAPH, WEIGHTS), _core.Steady(told(1))
    for given, what in (
        ({**step(0), "mask": told(1)["mask"]}, "'mask' is given, and among the steady inputs too"),
        ({"x": step(0)["x"]}, "input 'time' is missing"),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=what):
            network.run(given, steady=steady)
    with pytest.raises(sdcore.InvalidArgumentError, match="inputs that the network does not have"):
        network.run(step(0), steady=_core.Steady({**told(1), "other": [1.0]}))
    b = Builder()
    table = b.weights.table.tensor(3, 2)
    b.output("y", b.input("ids", "i32").apply("embedding", table))
    ids = _core.Network(b.graph, {"table": _core.Tensor.from_array(np.ones((3, 2), np.float32))})
    with pytest.raises(sdcore.InvalidArgumentError, match="'ids' is of whole numbers, which are"):
        ids.run({}, steady=_core.Steady({"ids": [[0]]}))


RUN: dict[str, Any] = {
    **{"height": 16, "width": 24, "num_inference_steps": 5, "seed": 1, "output_type": "latent"},
    **{"num_images_per_prompt": 2, "guidance_end": 0.7, "guidance_scale": 4.0},
}


def test_a_picture_whose_prompt_changes_on_the_way(tmp_path: Path, monkeypatch: Any) -> None:
    """With guidance for some of the steps, a ControlNet and kept features: beside the same from
    arrays, which are computed at every step."""
    unet = tiny_models.unet(tiny_models.PLAIN)
    tiny_control.controlnet(unet).save_pretrained(tmp_path / "control")
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model")
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=tmp_path / "control")
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config)  # a row a step
    usual = type(pipe).condition

    def conditions(pipe: Any, prompts: Any, request: Any) -> Any:
        one = usual(pipe, prompts, request)
        other = {name: rows[::-1] if rows.dtype != bool else rows for name, rows in one.items()}
        return {0: one, 2: other, 4: one}

    first: list[Any] = []  # row of each step

    def from_arrays(pipe: Any, x: Any, timestep: float, told: Any, **more: Any) -> Any:
        first.append(told["encoder_hidden_states"][0])
        return pipe.denoiser(x, timestep, **told, **more)

    monkeypatch.setattr(type(pipe), "conditions", conditions)
    picture = normal(rng(9), 16, 24, 3).clip(0, 1)
    run = {**RUN, "control_image": picture, "cache_interval": 2}
    out = pipe("a cat", "a dog", **run).images
    monkeypatch.setattr(FamilyHooks, "ask", from_arrays)
    monkeypatch.setattr(type(pipe.controlnet[0]), "tell", lambda _, states: states)
    np.testing.assert_array_equal(pipe("a cat", "a dog", **run).images, out)
    # Negative first, the other way round from 2 on; from 3 on the prompt alone, and from 4 on as
    # at first again.
    dog, cat = first[0], first[2]
    np.testing.assert_array_equal(first, [dog, dog, cat, dog, cat])
    assert np.any(dog != cat)


def as_before(self: FamilyHooks, x: Any, timestep: float, told: Told, **more: Any) -> Any:
    """The denoiser asked with all that it is told, every time."""
    assert self.denoiser.tell(**told).shapes.keys() <= set(self.denoiser.steady)
    return self.denoiser(x, timestep, **told, **more)


def sd1(folder: Path) -> Any:
    return tiny_models.pipeline(tiny_models.PLAIN, folder)


def sd3(folder: Path) -> Any:
    return tiny_transformers.sd3_pipeline(folder)


def pixart(folder: Path) -> Any:
    return tiny_transformers.pixart_pipeline(folder, True)


@pytest.mark.parametrize("make", [sd1, tiny_xl.xl, sd3, pixart])
def test_pictures_are_those_of_a_model_that_is_told_at_every_step(
    make: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "parts").save_pretrained(tmp_path / "model")
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="bf16")

    def draw() -> Any:
        out = pipe(
            ["a [red|blue] cat", "a [cat:dog:0.5] BREAK by the sea"],  # of two lengths
            num_inference_steps=4,
            guidance_scale=4.0,
            height=32,
            width=32,
            seed=3,
            output_type="latent",
        )
        return out.images

    ours = draw()
    monkeypatch.setattr(FamilyHooks, "ask", as_before)
    assert np.array_equal(ours, draw())
