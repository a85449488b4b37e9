"""Norms, elementwise operations, embeddings and what moves pixels, by the GPU's kernels.

Those that compute are held against float64, the others against the processor's kernels, which have
tests of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuda.devices import STORE, Array, error, normal, rng, rounded
from sdcore import InvalidArgumentError, _core, ops
from sdcore.graph import Builder, Value, nn

IMAGES = [(1, 1, 1, 32), (2, 9, 7, 64), (1, 33, 20, 40), (2, 5, 5, 12), (1, 4, 3, 2560)]
LIMIT = STORE | {"f32": 2e-6}


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_group_norm(device: str, dtype: str, shape: tuple[int, ...], mean: float) -> None:
    g = rng(*shape)
    c = shape[-1]
    groups = 4 if c == 12 else 8
    x = normal(g, *shape) + np.float32(mean)
    weight, bias = normal(g, c), normal(g, c)
    out = ops.group_norm(x, weight, bias, groups, device=device, dtype=dtype)
    seen = torch.from_numpy(rounded(x, dtype)).permute(0, 3, 1, 2)
    ref = F.group_norm(seen, groups, *(torch.from_numpy(a).double() for a in (weight, bias)))
    # A mean of 100 costs two of seven digits, whoever sums.
    assert error(out, ref.permute(0, 2, 3, 1).numpy()) < max(LIMIT["f32"], mean * 2e-7)


@pytest.mark.parametrize("c", [64, 12])
def test_group_norm_by_the_moments_of_more(device: str, dtype: str, c: int) -> None:
    g = rng(c)
    x, weight, bias = normal(g, 2, 9, 4, c) + np.float32(2), normal(g, c), normal(g, c)
    moments = ops.group_moments(x, 4, device=device, dtype=dtype)
    seen = rounded(x, dtype).reshape(2, 36, 4, c // 4)
    ref = np.concatenate([seen.mean((1, 3)), seen.var((1, 3))], 1)
    assert error(moments, ref) < LIMIT["f32"]
    b = Builder()
    part = b.input("x").apply("group_norm", *_affine(b, c), b.input("moments"), groups=4, eps=1e-5)
    b.output("out", part)
    tensors = {
        "weight": _core.Tensor.from_array(weight),
        "bias": _core.Tensor.from_array(bias),
    }
    network = _core.Network(b.graph, tensors, dtype=dtype, device=device)
    out = network.run({"x": x[:, 3:5], "moments": moments})["out"]
    whole = ops.group_norm(x, weight, bias, 4, device=device, dtype=dtype)
    assert error(out, whole[:, 3:5].astype(np.float64)) < LIMIT["f32"]


def _affine(b: Builder, c: int) -> tuple[Value, Value]:
    return b.weights.weight.tensor(c), b.weights.bias.tensor(c)


def test_group_norm_with_activation_over_its_input(device: str, dtype: str) -> None:
    g = rng()
    x, weight, bias = normal(g, 2, 6, 6, 64), normal(g, 64), normal(g, 64)
    b = Builder()
    hidden = nn.activation(b.input("x"), "relu")
    b.output("out", nn.silu(nn.group_norm(b.weights.n, hidden, 64, 32, 1e-6)) * b.input("y"))
    tensors = {"n.weight": weight, "n.bias": bias}
    network = _core.Network(
        b.graph,
        {name: _core.Tensor.from_array(a) for name, a in tensors.items()},
        dtype=dtype,
        device=device,
    )
    out = network.run({"x": x, "y": np.ones_like(x)})["out"]
    hidden_ref = F.relu(torch.from_numpy(rounded(x, dtype))).permute(0, 3, 1, 2)
    affine = (torch.from_numpy(a).double() for a in (weight, bias))
    normed = F.group_norm(hidden_ref, 32, *affine, eps=1e-6)
    assert error(out, F.silu(normed).permute(0, 2, 3, 1).numpy()) < LIMIT[dtype]


@pytest.mark.parametrize("c", [1, 24, 37, 320, 1288])
def test_layer_and_rms_norm(device: str, dtype: str, c: int) -> None:
    g = rng(c)
    x, weight, bias = normal(g, 2, 13, c) + np.float32(3), normal(g, c), normal(g, c)
    seen = rounded(x, dtype)
    centred = seen - seen.mean(-1, keepdims=True)
    ref = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias
    assert error(ops.layer_norm(x, weight, bias, device=device, dtype=dtype), ref) < LIMIT["f32"]
    size = 8 if c % 8 == 0 else c
    runs = seen.reshape(2, 13, -1, size)
    ref = runs / np.sqrt((runs**2).mean(-1, keepdims=True) + 1e-6) * weight[:size]
    out = ops.rms_norm(x, weight[:size], device=device, dtype=dtype)
    assert error(out, ref.reshape(x.shape)) < LIMIT["f32"]


def test_modulated_layer_norm(device: str, dtype: str) -> None:
    g = rng()
    x, scale, shift = normal(g, 2, 13, 40), normal(g, 2, 40), normal(g, 2, 40)
    b = Builder()
    values = [b.input(name) for name in ("x", "scale", "shift")]
    b.output("out", nn.ada_layer_norm(*values))
    network = _core.Network(b.graph, {}, dtype=dtype, device=device)
    out = network.run({"x": x, "scale": scale, "shift": shift})["out"]
    seen, factor, offset = (rounded(a, dtype) for a in (x, scale, shift))
    centred = seen - seen.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    assert error(out, normed * (1 + factor[:, None]) + offset[:, None]) < LIMIT["f32"]


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "quick_gelu", "relu"])
def test_activation(device: str, kind: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 1001), [0.0, -1e4, 1e4]]).astype(np.float32)[None]
    t = torch.from_numpy(x).double()
    ref = {
        "silu": lambda: F.silu(t),
        "gelu": lambda: F.gelu(t),
        "gelu_tanh": lambda: F.gelu(t, approximate="tanh"),
        "quick_gelu": lambda: t * torch.sigmoid(1.702 * t),
        "relu": lambda: F.relu(t),
    }[kind]()
    np.testing.assert_allclose(ops.activation(x, kind, device=device), ref, rtol=2e-6, atol=1e-6)


def same_as_cpu(device: str, dtype: str, call: Callable[..., Array]) -> None:
    """Operations of which each result is rounded once, on what `dtype` holds exactly."""
    here = call(dtype="f32" if dtype == "f16" else dtype)  # the CPU has no f16
    there = call(dtype=dtype, device=device)
    np.testing.assert_allclose(there, here, rtol=2 * STORE[dtype], atol=1e-6)


@pytest.mark.parametrize("c", [16, 7])
def test_elementwise(device: str, dtype: str, c: int) -> None:
    g = rng(c)
    shapes = (2, 5, 3, c), (2, 5, 3, c), (2, c)
    x, y, vector = (rounded(normal(g, *s), dtype).astype(np.float32) for s in shapes)
    same_as_cpu(device, dtype, lambda **o: ops.mul(x, y, **o))
    same_as_cpu(device, dtype, lambda **o: ops.add(x, vector, **o))
    same_as_cpu(device, dtype, lambda **o: ops.mul(x, x[:1], **o))
    same_as_cpu(device, dtype, lambda **o: ops.scale(x, -0.3, **o))
    same_as_cpu(device, dtype, lambda **o: ops.geglu(np.concatenate([x, y], 3), **o))
    if dtype == "f32":  # else it needs something after it; whole networks have that
        same_as_cpu(device, dtype, lambda **o: ops.upsample(x, **o))
    same_as_cpu(device, dtype, lambda **o: ops.concat(x, y[..., :3], x, **o))


def test_pixels_tokens_and_tables(device: str, dtype: str) -> None:
    g = rng()
    x, table = normal(g, 2, 3, 2, 36), normal(g, 49, 24)
    same_as_cpu(device, dtype, lambda **o: ops.depth_to_space(x, 3, **o))
    same_as_cpu(device, dtype, lambda **o: ops.crop_embedding(x, table, **o))
    same_as_cpu(device, dtype, lambda **o: ops.sincos_embedding(x, 16, **o))
    tokens, vector = normal(g, 2, 5, 12), normal(g, 3, 24)
    same_as_cpu(device, dtype, lambda **o: ops.concat_tokens(tokens, tokens[:, :2], **o))
    same_as_cpu(device, dtype, lambda **o: ops.merge_tokens(tokens, **o))
    same_as_cpu(device, dtype, lambda **o: ops.split_channels(vector, 4, **o))
    same_as_cpu(device, dtype, lambda **o: ops.relative_bias(tokens, normal(rng(), 32, 6), **o))
    same_as_cpu(device, dtype, lambda **o: ops.take(tokens, [4, 0], **o))
    ids = g.integers(0, 49, (2, 5))
    for kind in ("f32", "f16", "q8_0"):
        stored = _core.quantize(normal(rng(), 49, 32), kind)
        same_as_cpu(device, dtype, lambda stored=stored, **o: ops.embedding(ids, stored, **o))


@pytest.mark.parametrize("flip", [True, False])
def test_timestep_embedding(device: str, flip: bool) -> None:
    t = np.array([0.0, 999.0, 17.5], np.float32)
    here = ops.timestep_embedding(t, 46, flip, 1.0)
    np.testing.assert_allclose(
        ops.timestep_embedding(t, 46, flip, 1.0, device=device), here, rtol=0, atol=1e-6
    )


def test_ids_outside_are_told(device: str) -> None:
    table = np.zeros((10, 4), np.float32)
    for bad in (10, -1):
        with pytest.raises(InvalidArgumentError, match=rf"id {bad} at position 1 is outside"):
            ops.embedding(np.array([[0, bad]]), table, device=device)
    with pytest.raises(InvalidArgumentError, match=r"\[take\] index 5 is outside a sequence of 3"):
        ops.take(np.zeros((2, 3, 4), np.float32), [0, 5], device=device)
    # It is told once.
    assert ops.embedding(np.array([[9]]), table, device=device).shape == (1, 1, 4)


def test_unknown_devices() -> None:
    x = np.zeros((1, 2), np.float32)
    for name in ("gpu", "cuda:", "cuda:x"):
        with pytest.raises(InvalidArgumentError, match=r"\[device\] must be cpu, cuda, or cuda:1"):
            ops.scale(x, 1.0, device=name)
    if "cuda" not in _core.device_names():
        with pytest.raises(InvalidArgumentError, match=r"\[cuda\].*device='cpu'"):
            ops.scale(x, 1.0, device="cuda")
