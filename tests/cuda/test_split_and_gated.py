"""Products whose sums are split over blocks, and those that gate their own output, by float64."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuda.devices import HALVES, Array, bound, error, normal, rng, rounded
from sdcore import _core, ops
from sdcore.graph import Builder, nn

SPLIT = [
    # rows an image, inputs, outputs, parts
    (1, 2048, 8, 8),
    (5, 1000, 33, 4),
    (64, 640, 130, 2),
    (65, 4096, 320, 12),
]


@pytest.mark.parametrize("size", SPLIT, ids=str)
def test_split_linear(device: str, size: tuple[int, int, int, int]) -> None:
    rows, k, n, parts = size
    g = rng(*size)
    x, w, bias = normal(g, 3, rows, k), normal(g, n, k), normal(g, n)
    out = ops.matmul(x, w, bias, device=device, dtype="bf16")
    assert error(out, rounded(x, "bf16") @ rounded(w, "bf16").T + bias) < bound(k, "f32")
    # An image of a batch is the image alone.
    alone = ops.matmul(x[1:2], w, bias, device=device, dtype="bf16")
    np.testing.assert_array_equal(alone[0], out[1])
    b = Builder()
    b.output("out", nn.linear(b.weights.w, b.input("x"), k, n))
    shapes = {"x": [3, rows, k]}
    arenas = [b.graph.plan(shapes, "bf16", device=name)["arena_bytes"] for name in (device, "cpu")]
    more = arenas[0] - arenas[1] - 4 * parts * 3 * rows * n
    assert more >= 0
    if device == "emulated":  # from Hopper on there is room for an unpacked weight at least
        assert more < 256
    assert b.graph.plan(shapes, device=device) == b.graph.plan(shapes)  # the plain kernel has none


@pytest.mark.parametrize("type", ["q8_0", "q4_K"])
@pytest.mark.parametrize("dtype", HALVES)
def test_split_quantized(device: str, dtype: str, type: str) -> None:
    g = rng(1)
    x, weight = normal(g, 1, 9, 2048), _core.quantize(normal(g, 67, 2048), type)
    values = gguf.dequantize(weight.data, gguf.GGMLQuantizationType[type.upper()])
    ref = rounded(x, dtype) @ rounded(values.reshape(67, 2048), dtype).T
    out = ops.matmul(x, weight, device=device, dtype=dtype)
    assert error(out, ref) < bound(2048, "f32")


@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize("c_in, c_out", [(320, 40), (100, 37)])
def test_split_conv2d_with_an_epilogue(device: str, c_in: int, c_out: int, activated: bool) -> None:
    g = rng(c_in)
    x, t, side = normal(g, 2, 5, 7, c_in), normal(g, 2, c_out), normal(g, 2, 5, 7, c_out)
    b = Builder()
    hidden = nn.conv2d(b.weights.conv, b.input("x"), c_in, c_out)
    hidden = nn.activation(hidden, "silu") if activated else hidden + b.input("t")
    b.output("out", nn.concat(hidden + b.input("side")))
    weights = {
        name: normal(g, *shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        for name, shape in b.graph.weights.items()
    }
    tensors = {name: _core.Tensor.from_array(w) for name, w in weights.items()}
    network = _core.Network(b.graph, tensors, dtype="bf16", device=device)
    inputs = {"x": x, "side": side} | ({} if activated else {"t": t})
    out = network.run(inputs)["out"]
    seen, vector, other = (torch.from_numpy(rounded(a, "bf16")) for a in (x, t, side))
    kernel = torch.from_numpy(rounded(weights["conv.weight"], "bf16"))
    bias = torch.from_numpy(weights["conv.bias"]).double()
    ref = F.conv2d(seen.permute(0, 3, 1, 2), kernel, bias, padding=1).permute(0, 2, 3, 1)
    ref = (F.silu(ref) if activated else ref + vector[:, None, None]) + other
    assert error(out, ref.numpy()) < bound(9 * c_in, "bf16")
    for _ in range(2):
        np.testing.assert_array_equal(network.run(inputs)["out"], out)


def gated(device: str, dtype: str, x: Array, tensors: dict[str, Any], c: int) -> tuple[Array, Any]:
    """What a gated linear layer gives, a residual added, and the ops that ran."""
    b = Builder()
    hidden = nn.linear(b.weights.w, b.input("x"), x.shape[-1], 2 * c)
    b.output("out", nn.geglu(hidden) + b.input("side"))
    network = _core.Network(b.graph, tensors, dtype=dtype, device=device)
    side = np.ones((*x.shape[:-1], c), np.float32)
    out, times = network.profile({"x": x, "side": side})
    for _ in range(2):
        again = network.run({"x": x, "side": side})["out"]
        np.testing.assert_array_equal(again, out["out"])
    return out["out"] - 1, [op for _, op, _, _ in times]


def reference(x: Array, w: Array, bias: Array, dtype: str) -> Array:
    both = torch.from_numpy(rounded(x, dtype) @ rounded(w, dtype).T + bias)
    values, gates = both.chunk(2, -1)
    return (values * F.gelu(gates)).numpy()


@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("c", [8, 40, 136, 12])
def test_gated_linear(device: str, dtype: str, rows: int, c: int) -> None:
    """Of 12 channels a run of gates is not whole: geglu stays an op of its own."""
    g = rng(rows, c)
    x, w, bias = normal(g, 2, rows, 72), normal(g, 2 * c, 72), normal(g, 2 * c)
    w /= np.float32(np.sqrt(72))
    tensors = {"w.weight": _core.Tensor.from_array(w), "w.bias": _core.Tensor.from_array(bias)}
    out, names = gated(device, dtype, x, tensors, c)
    assert ("geglu" in names) == (c == 12)
    # What is not gated at once is rounded before, values and gates.
    allowed = 2 * bound(72, dtype) if c == 12 else bound(72, "f32")
    assert error(out, reference(x, w, bias, dtype)) < allowed


@pytest.mark.parametrize("dtype", HALVES)
def test_gated_and_split(device: str, dtype: str) -> None:
    g = rng(5)
    x, w, bias = normal(g, 2, 3, 1024), normal(g, 48, 1024), normal(g, 48)
    w /= np.float32(32)
    tensors = {"w.weight": _core.Tensor.from_array(w), "w.bias": _core.Tensor.from_array(bias)}
    out, names = gated(device, dtype, x, tensors, 24)
    assert "geglu" not in names
    assert error(out, reference(x, w, bias, dtype)) < bound(1024, "f32")


@pytest.mark.parametrize("type", ["q8_0", "q4_K", "q6_K", "q5_1", "f16", "bf16"])
@pytest.mark.parametrize("dtype", HALVES)
def test_gated_quantized(device: str, dtype: str, type: str) -> None:
    """Those that stay in blocks, and those that are unpacked on the way up."""
    g = rng(7)
    x, bias = normal(g, 1, 9, 256), normal(g, 80)
    stored = _core.quantize(normal(g, 80, 256) / np.float32(16), type)
    tensors = {"w.weight": stored, "w.bias": _core.Tensor.from_array(bias)}
    out, _ = gated(device, dtype, x, tensors, 40)
    assert error(out, reference(x, stored.to_float(), bias, dtype)) < bound(256, "f32")
