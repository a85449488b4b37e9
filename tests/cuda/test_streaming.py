"""Networks whose weights do not fit onto a device, on emulated devices of a few MiB: weights that
are sent layer by layer give what resident ones give, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import sdcore
import tiny_models
from cuda.devices import DEVICES, Array, error, normal, rng
from reference.common import NETWORK_F32
from sdcore import _core
from sdcore.cli import main
from sdcore.graph import Builder, nn

pytestmark = pytest.mark.skipif("emulated" not in DEVICES, reason="no emulation of few MiB")

WIDTH, LAYERS = 512, 9
KINDS = ["f32", "q8_0", "q4_K", "bf16", "f16", "q5_1"]


def layers(count: int = LAYERS) -> Any:
    """Linear layers of 1 MiB in f32, one of which is read twice, and a convolution."""
    b = Builder()
    x = b.input("x")
    for i in range(count):
        w = b.weights.layers[0 if i == 2 else i]
        x = nn.silu(nn.linear(w, x, WIDTH, WIDTH)) + x
        if i == 6:
            gated = nn.geglu(nn.linear(b.weights.gated, x, WIDTH, 128))
            x = nn.linear(b.weights.back, gated, 64, WIDTH) + x
        if i == 4:
            x = x + nn.flatten(nn.conv2d(b.weights.conv, b.input("image"), 4, WIDTH))
    b.output("out", x)
    return b.graph


def tensors(graph: Any) -> dict[str, Any]:
    """Linear layers of all kinds of storage."""
    g = rng(1)
    found = {}
    for i, (name, shape) in enumerate(sorted(graph.weights.items())):
        values = normal(g, *shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        kind = KINDS[i // 2 % len(KINDS)] if len(shape) == 2 else "f32"
        found[name] = (
            _core.quantize(values, kind) if kind != "f32" else _core.Tensor.from_array(values)
        )
    return found


class Case(NamedTuple):
    dtype: str
    graph: Any
    ref: Array


@pytest.fixture(scope="module")
def inputs() -> dict[str, Array]:
    g = rng(2)
    return {"x": normal(g, 2, 6, WIDTH), "image": normal(g, 2, 2, 3, 4)}


@pytest.fixture(scope="module", params=["f32", "bf16"])
def case(request: pytest.FixtureRequest, inputs: dict[str, Array]) -> Case:
    graph = layers()
    network = _core.Network(graph, tensors(graph), dtype=request.param, device="emulated")
    out = network.run(inputs)["out"]
    assert network.streamed_bytes == 0
    return Case(request.param, graph, out)


def test_all_weights_on_request(case: Case, inputs: dict[str, Array]) -> None:
    dtype, graph, ref = case
    options = {"dtype": dtype, "device": "emulated"}
    network = _core.Network(graph, tensors(graph), stream_weights=True, **options)
    for _ in range(4):  # the lanes run ahead of each other in turns
        np.testing.assert_array_equal(network.run(inputs)["out"], ref)
    assert network.streamed_bytes > (9 if dtype == "f32" else 3) * 2**20
    smaller = {"x": inputs["x"][:1], "image": inputs["image"][:1]}
    np.testing.assert_array_equal(network.run(smaller)["out"][0], ref[0])
    _, times = network.profile(inputs)
    assert len(times) > LAYERS
    network.release()
    np.testing.assert_array_equal(network.run(inputs)["out"], ref)


@pytest.mark.parametrize("mebibytes", [2, 3, 5, 6, 8])
def test_those_that_find_no_room(case: Case, inputs: dict[str, Array], mebibytes: int) -> None:
    dtype, graph, ref = case
    if (mebibytes < 4) == (dtype == "f32"):
        pytest.skip("of the other type")
    device = f"emulated:{mebibytes}"
    network = _core.Network(graph, tensors(graph), dtype=dtype, device=device)
    for _ in range(3):
        np.testing.assert_array_equal(network.run(inputs)["out"], ref)
    free, total = _core.device_memory(device)
    assert total == mebibytes * 2**20
    # Some stay; what is free is less than another would take, or a place of the ring.
    most = 2**20 if dtype == "f32" else 2**19
    streamed = network.streamed_bytes
    everything = _core.Network(
        graph, tensors(graph), dtype=dtype, device="emulated", stream_weights=True
    )
    everything.run(inputs)
    assert 0 < streamed < everything.streamed_bytes
    assert free < 1.5 * most
    del network
    resident = _core.Network(
        graph, tensors(graph), dtype=dtype, device=device, stream_weights=False
    )
    with pytest.raises(sdcore.OutOfMemoryError, match=rf"\[{device}\] out of memory"):
        resident.run(inputs)


def test_a_larger_picture_sends_weights_away(inputs: dict[str, Array]) -> None:
    """What fits beside a small arena does not beside a large one; and one too large is an error
    that leaves the network usable."""
    graph = layers()
    network = _core.Network(graph, tensors(graph), device="emulated:11")
    ref = network.run(inputs)["out"]
    assert network.streamed_bytes == 0
    g = rng(3)
    large = {"x": normal(g, 2, 150, WIDTH), "image": normal(g, 2, 10, 15, 4)}
    everywhere = _core.Network(graph, tensors(graph), device="emulated")
    np.testing.assert_array_equal(network.run(large)["out"], everywhere.run(large)["out"])
    assert network.streamed_bytes > 0
    np.testing.assert_array_equal(network.run(inputs)["out"], ref)
    huge = {"x": normal(g, 2, 6000, WIDTH), "image": normal(g, 2, 60, 100, 4)}
    with pytest.raises(sdcore.OutOfMemoryError, match="the intermediate results of a network"):
        network.run(huge)
    np.testing.assert_array_equal(network.run(inputs)["out"], ref)


def test_a_picture(tmp_path: Path) -> None:
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model")
    open_it = sdcore.DiffusionPipeline.open
    here, there = (
        open_it(folder, dtype="f32", device=device, stream_weights=device != "cpu" or None)
        for device in ("cpu", "emulated")
    )
    latents = normal(rng(4), 1, 4, 2, 3)
    assert error(there.vae.decode(latents), here.vae.decode(latents)) <= NETWORK_F32
    assert sum(network.streamed_bytes for network in there.vae.networks) > 0
    flags = ["--device", "emulated", "--stream-weights", "--vae-on-cpu", "--clip-on-cpu"]
    flags += ["-H", "16", "-W", "24", "--steps", "1", "-o", str(tmp_path / "picture.png")]
    assert main(["txt2img", "-m", str(folder), "a", *flags]) == 0


def test_unknown_emulated_devices() -> None:
    for name in ("emulated:", "emulated:x", "emulated:0", "emulated:99999"):
        with pytest.raises(sdcore.InvalidArgumentError, match=r"\[device\] must be cpu, cuda"):
            _core.check_device(name)
