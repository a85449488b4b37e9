"""Elementwise kernels, resampling and embedding against float64, at every instruction-set level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from sdcore import InvalidArgumentError, _core

K = _core.kernels
# Those with kernels of their own.
ISAS = [isa for isa in _core.supported_isas() if isa in K.variants("elementwise")]
# Rounding of the result to the type, as a bound on ||error|| / ||ref||.
TOLERANCE = {"f32": 1e-6, "bf16": 2.0**-8}
ACTIVATIONS = {
    "none": lambda x: x,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.relu,
}

isas = pytest.mark.parametrize("isa", ISAS)
dtypes = pytest.mark.parametrize("dtype", ["f32", "bf16"])


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """What the kernel gets to see, as float64."""
    t = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    return (t.bfloat16() if dtype == "bf16" else t).double().numpy()


def error(out: np.ndarray, ref: Any) -> float:
    ref = np.asarray(ref, np.float64)
    assert out.shape == ref.shape
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@isas
@dtypes
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_match_float64(isa: str, dtype: str, activation: str) -> None:
    x = np.linspace(-12, 12, 4001, dtype=np.float32).reshape(1, 1, 4001)
    ref = ACTIVATIONS[activation](torch.from_numpy(rounded(x, dtype))).numpy()
    out = K.unary(x, activation, dtype=dtype, isa=isa)
    assert error(out, ref) < TOLERANCE[dtype]
    if dtype == "f32":  # every value on its own, far tails included
        np.testing.assert_allclose(out, ref, rtol=3e-6, atol=1e-9)


@isas
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "quick_gelu", "relu"])
def test_activations_at_the_ends(isa: str, activation: str) -> None:
    x = np.array([[-3e38, -1e4, -100, -0.0, 0, 1e-38, 100, 1e4, 3e38, np.inf, np.nan]], np.float32)
    out = K.unary(x, activation, isa=isa)[0]
    # A factor that should be 0 may be the least normal float; no more than that of x may remain.
    np.testing.assert_allclose(out[:3], 0, atol=1e-30)
    np.testing.assert_array_equal(out[6:10], x[0, 6:10])
    assert np.isnan(out[10])


@isas
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 20), (2, 3, 5, 33), (1, 4, 4, 96)])
@pytest.mark.parametrize("types", [("f32", "bf16"), ("bf16", "f32"), ("bf16", "bf16")])
def test_copy_converts_types_and_strides(
    isa: str, shape: tuple[int, ...], types: tuple[str, str]
) -> None:
    x = normal(1, *shape)[0] if len(shape) > 1 else normal(1, *shape)
    for pad, halo in [(0, 0), (1, 0), (6, 1)]:
        out = K.unary(
            x, "none", dtype=types[0], out_dtype=types[1], isa=isa, pad_channels=pad, halo=halo
        )
        np.testing.assert_array_equal(out, rounded(x, "bf16"))


@isas
def test_bf16_rounds_to_nearest_even(isa: str) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, 5000, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([bits, np.array([0x00008000, 0x7F7FFFFF, 0x3F808000], np.uint32)])
    x = x.view(np.float32)[None]
    out = K.unary(x, "none", out_dtype="bf16", isa=isa)
    np.testing.assert_array_equal(out, rounded(x, "bf16").astype(np.float32))


@isas
@dtypes
@pytest.mark.parametrize("op", ["add", "mul", "prelu"])
@pytest.mark.parametrize("b_shape", [(2, 3, 5, 37), (2, 1, 1, 37), (1, 1, 1, 37), (1, 3, 5, 37)])
@pytest.mark.parametrize("pad", [0, 5])
def test_binary_repeats_b(isa: str, dtype: str, op: str, b_shape: Any, pad: int) -> None:
    a, b = normal(2, 3, 5, 37), normal(*b_shape, seed=1)
    x, y = rounded(a, dtype), rounded(b, dtype)
    out = K.binary(a, b, op, dtype=dtype, isa=isa, pad_channels=pad, halo=pad % 2)
    ref = {"add": x + y, "mul": x * y, "prelu": np.where(x > 0, x, x * y)}[op]
    assert error(out, ref) < TOLERANCE[dtype]


@isas
@dtypes
@pytest.mark.parametrize("c", [1, 20, 64, 1283])
@pytest.mark.parametrize("pad", [0, 3])
def test_geglu(isa: str, dtype: str, c: int, pad: int) -> None:
    x = normal(2, 7, 2 * c)
    value, gate = torch.from_numpy(rounded(x, dtype)).chunk(2, -1)
    out = K.geglu(x, dtype=dtype, isa=isa, pad_channels=pad)
    assert error(out, value * torch.nn.functional.gelu(gate)) < TOLERANCE[dtype]


@isas
@dtypes
def test_scale(isa: str, dtype: str) -> None:
    x = normal(2, 3, 3, 4)
    out = K.scale(x, 1 / 0.18215, dtype=dtype, isa=isa, pad_channels=2, halo=1)
    assert error(out, rounded(x, dtype) / 0.18215) < TOLERANCE[dtype]


@isas
def test_threads_do_not_change_bits(isa: str) -> None:
    x, b = normal(3, 40, 41, 30), normal(3, 1, 1, 30, seed=1)
    runs = [
        (K.unary(x, "gelu", isa=isa, threads=n), K.binary(x, b, "mul", isa=isa, threads=n))
        for n in (1, 2, 3)
    ]
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dim", [320, 256, 6, 33])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_timestep_embedding_is_diffusers(dim: int, flip: bool, shift: float) -> None:
    t = np.array([0, 1, 17.5, 500, 981, 999], np.float32)
    ref = get_timestep_embedding(
        torch.from_numpy(t), dim, flip_sin_to_cos=flip, downscale_freq_shift=shift
    )
    out = K.timestep_embedding(t, dim, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    # torch's exp is right to one unit in the last place, which the angle t * frequency magnifies.
    last_place = 2.0**-23 * t[:, None] + 1e-6
    assert (np.abs(out - ref.numpy()) <= last_place).all()
    # With the frequencies rounded rightly the sinusoids are exact to float.
    half = dim // 2
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32)
    frequency = np.exp((exponent / np.float32(half - shift)).astype(np.float64)).astype(np.float32)
    angle = (t[:, None] * frequency).astype(np.float64)
    halves = [np.cos(angle), np.sin(angle)] if flip else [np.sin(angle), np.cos(angle)]
    np.testing.assert_allclose(out[:, : 2 * half], np.concatenate(halves, 1), atol=1e-6, rtol=0)
    assert dim % 2 == 0 or (out[:, -1] == 0).all()


@dtypes
@pytest.mark.parametrize("size", [(14, 10), (7, 5), (21, 15), (13, 9), (8, 23), (3, 2)])
def test_upsample_is_torch_nearest(dtype: str, size: tuple[int, int]) -> None:
    x = normal(2, 7, 5, 12)
    nchw = torch.from_numpy(rounded(x, dtype)).permute(0, 3, 1, 2)
    ref = torch.nn.functional.interpolate(nchw, size=size, mode="nearest").permute(0, 2, 3, 1)
    for pad, halo in [(0, 0), (5, 0), (2, 2)]:
        out = K.upsample_nearest(x, size, dtype=dtype, pad_channels=pad, halo=halo)
        np.testing.assert_array_equal(out, ref.numpy())


@dtypes
@pytest.mark.parametrize("c", [3, 70])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), 2, (1, 1)), ((2, 2), 2, (0, 0)), ((7, 5), 1, (0, 0)), ((3, 2), 1, (2, 0))],
)
def test_pools_are_torch_s(
    dtype: str, c: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]
) -> None:
    """Of images that are below 0, so that a border of zeros would show."""
    x = normal(2, 7, 5, c) - 9
    seen = torch.from_numpy(rounded(x, dtype)).permute(0, 3, 1, 2)
    sides = (padding[1], padding[1], padding[0], padding[0])
    bordered = torch.nn.functional.pad(seen, sides, value=-torch.inf)
    inside = torch.nn.functional.pad(torch.ones_like(seen), sides)
    sums = torch.nn.functional.pad(seen, sides)
    refs = {
        "max": torch.nn.functional.max_pool2d(bordered, kernel, stride),
        "mean": torch.nn.functional.avg_pool2d(sums, kernel, stride)
        / torch.nn.functional.avg_pool2d(inside, kernel, stride),
    }
    for kind, ref in refs.items():
        size = tuple(ref.shape[2:])
        for pad, halo in [(0, 0), (5, 0), (2, 2)]:
            out = K.pool2d(x, kind, kernel, stride, padding, size, dtype=dtype, pad_channels=pad,
                           halo=halo)  # fmt: skip
            assert error(out, ref.permute(0, 2, 3, 1)) < TOLERANCE[dtype] * (kind == "mean") + 1e-9


@dtypes
@pytest.mark.parametrize("type_name", ["f32", "f16", "bf16"])
def test_embedding_rows(dtype: str, type_name: str) -> None:
    table = torch.from_numpy(normal(11, 40))
    stored = {"f32": table, "f16": table.half(), "bf16": table.bfloat16()}[type_name]
    ids = np.array([[0, 10, 3, 3], [7, 1, 0, 10]], np.int32)
    raw = stored.contiguous().view(torch.uint8).numpy()
    out = K.embedding(ids, raw, (11, 40), type_name, dtype=dtype, pad_channels=3)
    np.testing.assert_array_equal(out, rounded(stored.float().numpy(), dtype)[ids])


@pytest.mark.parametrize("bad", [-1, 11, math.inf])
def test_embedding_rejects_ids_outside(bad: float) -> None:
    table = normal(11, 4)
    ids = np.array([[0, 2**31 - 1 if bad == math.inf else bad]], np.int32)
    with pytest.raises(InvalidArgumentError, match=r"\[embedding\] id .* at position 1"):
        K.embedding(ids, table, (11, 4), "f32")


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\[binary\] b \[1, 1, 2, 4\]"):
        K.binary(normal(1, 3, 4), normal(1, 2, 4), "add")


def test_every_variant_is_tested() -> None:
    assert set(K.variants("elementwise")) >= {"generic"}
    assert K.variants("elementwise")[-1] == "generic"
