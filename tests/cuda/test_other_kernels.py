"""Norms, elementwise operations, embeddings and what moves pixels, by the GPU's kernels.

Those that compute are held against float64, the others against the processor's kernels, which have
tests of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuda.devices import ONE_ARCHITECTURE, STORE, Array, error, normal, rng, rounded
from sdcore import InvalidArgumentError, _core, ops
from sdcore.graph import Builder, Scope, Value, nn

IMAGES = [(1, 1, 1, 32), (2, 9, 7, 64), (1, 33, 20, 40), (2, 5, 5, 12), (1, 4, 3, 2560)]
LIMIT = STORE | {"f32": 2e-6}


@pytest.fixture(params=ONE_ARCHITECTURE)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


def beside_its_input(
    device: str,
    dtype: str,
    x: Array,
    tensors: dict[str, Array],
    norm: Callable[[Scope, Value], Value],
    **inputs: Array,
) -> tuple[Array, Array]:
    """What a norm reads, not negative, and what it makes of it; both are in `dtype`, and side by
    side in one buffer, so that pixels are further apart than channels."""
    b = Builder()
    hidden = nn.activation(b.input("x"), "relu")
    b.output("out", nn.concat(hidden, norm(b.weights.n, hidden)))
    weights = {f"n.{name}": _core.Tensor.from_array(a) for name, a in tensors.items()}
    network = _core.Network(b.graph, weights, dtype=dtype, device=device)
    out = network.run({"x": x, **inputs})["out"]
    return out[..., : x.shape[-1]], out[..., x.shape[-1] :]


def affine_of(g: np.random.Generator, c: int) -> dict[str, Array]:
    return {"weight": normal(g, c), "bias": normal(g, c)}


# Pixels and channels, groups.
GROUPS = [
    ((2, 8, 8, 320), 32),  # whole in shared memory; vectors of two groups
    ((1, 24, 25, 40), 4),  # just whole in 16 bits
    ((1, 24, 26, 40), 4),  # just not
    ((1, 16, 24, 64), 1),  # whole, one group
    ((1, 9, 50, 64), 1),
    ((2, 40, 31, 96), 8),  # the last tile has fewer pixels than threads read at once
    ((1, 23, 29, 192), 48),  # vectors of two groups of four
    ((1, 270, 260, 64), 8),  # chunks of more than a tile
    ((1, 3, 3, 64), 8),  # fewer pixels than rows
    ((2, 7, 9, 96), 32),  # groups that vectors do not fit
    ((1, 6, 5, 160), 32),
    ((2, 3, 5, 12), 2),  # some groups are whole vectors, but a pixel is not
    ((1, 4, 3, 36), 6),
]


@pytest.mark.parametrize(("shape", "groups"), GROUPS, ids=str)
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_group_norm_in_its_own_type(
    device: str, dtype: str, shape: tuple[int, ...], groups: int, mean: float
) -> None:
    g = rng(*shape)
    x, tensors = normal(g, *shape) + np.float32(mean), affine_of(g, shape[-1])
    seen, out = beside_its_input(
        device, dtype, x, tensors, lambda w, h: nn.group_norm(w, h, shape[-1], groups, 1e-5)
    )
    t = torch.from_numpy(np.ascontiguousarray(seen)).double().permute(0, 3, 1, 2)
    ref = F.group_norm(t, groups, *(torch.from_numpy(a).double() for a in tensors.values()))
    assert error(out, ref.permute(0, 2, 3, 1).numpy()) < max(LIMIT[dtype], mean * 2e-7)


@pytest.mark.parametrize("shape", [(3, 8, 8, 320), (3, 60, 60, 64), (3, 5, 6, 12)], ids=str)
def test_a_picture_is_the_same_in_any_batch(
    device: str, dtype: str, shape: tuple[int, ...]
) -> None:
    g = rng(*shape)
    c = shape[-1]
    x, tensors = normal(g, *shape), affine_of(g, c)
    norms: list[Callable[[Scope, Value], Value]] = [
        lambda w, h: nn.silu(nn.group_norm(w, h, c, 4, 1e-5)),
        lambda w, h: nn.layer_norm(w, h, c),
    ]
    for norm in norms:
        together = beside_its_input(device, dtype, x, tensors, norm)[1]
        for i in range(3):
            alone = beside_its_input(device, dtype, x[i : i + 1], tensors, norm)[1]
            np.testing.assert_array_equal(alone[0], together[i])


def test_more_images_than_a_grid_takes(device: str) -> None:
    x, weight = np.zeros((65536, 1, 1, 8), np.float32), np.ones(8, np.float32)
    with pytest.raises(InvalidArgumentError, match=r"\[group_norm\] 65536 images of 1 x 1 x 8"):
        ops.group_norm(x, weight, weight, 1, device=device)


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


# How lanes share pixels: eight, sixteen or a warp; what registers do not hold; channels one by one.
@pytest.mark.parametrize("c", [8, 72, 320, 640, 1280, 2048, 2568, 4096, 4104, 30])
def test_layer_and_rms_norm_in_their_own_type(device: str, dtype: str, c: int) -> None:
    g = rng(c)
    x, tensors = normal(g, 2, 13, c) + np.float32(3), affine_of(g, c)
    seen, out = beside_its_input(device, dtype, x, tensors, lambda w, h: nn.layer_norm(w, h, c))
    centred = seen - seen.mean(-1, keepdims=True, dtype=np.float64)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    assert error(out, normed * tensors["weight"] + tensors["bias"]) < LIMIT[dtype]
    for size in {c, 8 if c % 8 == 0 else c}:
        weight = tensors["weight"][:size]
        seen, out = beside_its_input(
            device, dtype, x, {"weight": weight}, lambda w, h, n=size: nn.rms_norm(w, h, n)
        )
        runs = seen.astype(np.float64).reshape(2, 13, -1, size)
        ref = runs / np.sqrt((runs**2).mean(-1, keepdims=True) + 1e-6) * weight
        assert error(out, ref.reshape(x.shape)) < LIMIT[dtype]


@pytest.mark.parametrize("c", [40, 1152, 4104])
def test_modulated_layer_norm_in_its_own_type(device: str, dtype: str, c: int) -> None:
    g = rng(c)
    x, scale, shift = normal(g, 2, 5, c), normal(g, 2, c), normal(g, 2, c)
    b = Builder()
    hidden = nn.activation(b.input("x"), "relu")
    vectors = [nn.activation(b.input(name), "relu") for name in ("scale", "shift")]
    b.output("out", nn.concat(hidden, nn.ada_layer_norm(hidden, *vectors)))
    network = _core.Network(b.graph, {}, dtype=dtype, device=device)
    out = network.run({"x": x, "scale": scale, "shift": shift})["out"]
    seen, factor, offset = (np.maximum(rounded(a, dtype), 0) for a in (x, scale, shift))
    centred = seen - seen.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    assert error(out[..., c:], normed * (1 + factor[:, None]) + offset[:, None]) < LIMIT[dtype]


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
    same_as_cpu(device, dtype, lambda **o: ops.prelu(x, vector, **o))
    same_as_cpu(device, dtype, lambda **o: ops.scale(x, -0.3, **o))
    same_as_cpu(device, dtype, lambda **o: ops.geglu(np.concatenate([x, y], 3), **o))
    if dtype == "f32":  # else it needs something after it; whole networks have that
        same_as_cpu(device, dtype, lambda **o: ops.upsample(x, **o))
        for kind in ("max", "mean"):
            window = {"kind": kind, "kernel": (3, 2), "stride": 2, "padding": (2, 0, 1, 1)}
            same_as_cpu(device, dtype, lambda window=window, **o: ops.pool2d(x, **window, **o))
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
