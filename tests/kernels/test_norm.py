"""Group and layer normalization against float64, at every instruction-set level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sdcore import InvalidArgumentError, _core

K = _core.kernels
# Those with kernels of their own.
ISAS = [isa for isa in _core.supported_isas() if isa in K.variants("norm")]
TOLERANCE = {"f32": 2e-6, "bf16": 2.0**-8}

isas = pytest.mark.parametrize("isa", ISAS)
dtypes = pytest.mark.parametrize("dtype", ["f32", "bf16"])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    t = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    return (t.bfloat16() if dtype == "bf16" else t).double().numpy()


def error(out: np.ndarray, ref: np.ndarray) -> float:
    assert out.shape == ref.shape
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


def group_norm(
    x: np.ndarray, w: Any, b: Any, groups: int, eps: float = 1e-5, activation: str = "none"
) -> np.ndarray:
    n, h, width, c = x.shape
    g = x.reshape(n, h * width, groups, c // groups)
    z = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + eps)
    z = z.reshape(x.shape) * w.astype(np.float64) + b.astype(np.float64)
    return z / (1 + np.exp(-z)) if activation == "silu" else z


SHAPES = [
    ((2, 3, 5, 32), 32),
    ((1, 9, 7, 90), 30),
    ((1, 8, 8, 1280), 32),
    ((2, 40, 36, 96), 32),
    ((1, 1, 1, 12), 4),
    ((1, 65, 17, 64), 1),
]


@isas
@dtypes
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_group_norm(isa: str, dtype: str, shape: Any, groups: int) -> None:
    x, w, b = normal(*shape), normal(shape[3], seed=1), normal(shape[3], seed=2)
    for activation in ("none", "silu"):
        ref = group_norm(rounded(x, dtype), w, b, groups, activation=activation)
        for pad, halo in [(0, 0), (7, 1)]:
            out = K.group_norm(
                x, w, b, groups, activation=activation, dtype=dtype, isa=isa,
                pad_channels=pad, halo=halo,
            )  # fmt: skip
            assert error(out, ref) < TOLERANCE[dtype]


@isas
@pytest.mark.parametrize("mean", [10.0, 1000.0, -1e5])
def test_group_norm_keeps_its_digits_at_a_large_mean(isa: str, mean: float) -> None:
    x = normal(1, 48, 50, 64) + np.float32(mean)
    x[..., ::2] += np.float32(3)
    w, b = np.ones(64, np.float32), np.zeros(64, np.float32)
    ref = group_norm(x.astype(np.float64), w, b, 16)
    assert error(K.group_norm(x, w, b, 16, isa=isa), ref) < 2e-6


@isas
def test_group_norm_when_a_chunk_begins_far_from_its_mean(isa: str) -> None:
    x = normal(1, 40, 64, 64) + np.float32(1000)
    x[:, 0, :16] = 0
    w, b = np.ones(64, np.float32), np.zeros(64, np.float32)
    ref = group_norm(x.astype(np.float64), w, b, 16)
    assert error(K.group_norm(x, w, b, 16, isa=isa), ref) < 2e-6


@isas
def test_group_norm_of_a_constant_is_the_bias(isa: str) -> None:
    b = normal(32)
    out = K.group_norm(np.full((1, 4, 4, 32), 7.25, np.float32), None, b, 8, isa=isa)
    np.testing.assert_allclose(out, np.broadcast_to(b, out.shape), atol=1e-6)


@isas
def test_group_norm_spreads_nan_over_its_group_only(isa: str) -> None:
    x = normal(2, 4, 4, 32)
    x[0, 2, 1, 5] = np.nan
    out = K.group_norm(x, None, None, 8, isa=isa)
    assert np.isnan(out[0, ..., 4:8]).all()
    assert np.isfinite(np.delete(out[0], range(4, 8), -1)).all()
    assert np.isfinite(out[1]).all()


@isas
@dtypes
@pytest.mark.parametrize("c", [1, 20, 33, 320, 768])
@pytest.mark.parametrize("pad", [0, 9])
def test_layer_norm(isa: str, dtype: str, c: int, pad: int) -> None:
    x, w, b = normal(2, 77, c) * 2 + 1, normal(c, seed=1), normal(c, seed=2)
    t = torch.from_numpy(rounded(x, dtype))
    for weight, bias in [(w, b), (None, None), (w, None)]:
        ref = torch.nn.functional.layer_norm(
            t, (c,), *(None if v is None else torch.from_numpy(v).double() for v in (weight, bias))
        ).numpy()
        out = K.layer_norm(x, weight, bias, dtype=dtype, isa=isa, pad_channels=pad)
        if c == 1 and bias is None:
            np.testing.assert_array_equal(out, 0)
        else:
            assert error(out, ref) < TOLERANCE[dtype]


@isas
@dtypes
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("terms", [("scale", "shift"), ("scale",), ("shift",)])
def test_layer_norm_then_scale_and_shift(
    isa: str, dtype: str, affine: bool, terms: tuple[str, ...]
) -> None:
    x = normal(3, 41, 70) * 2 + 1
    own = {name: normal(3, 70, seed=i) for i, name in enumerate(terms)}
    w, b = (normal(70, seed=5), normal(70, seed=6)) if affine else (None, None)
    t = torch.from_numpy(rounded(x, dtype))
    weights = (None if v is None else torch.from_numpy(v).double() for v in (w, b))
    ref = torch.nn.functional.layer_norm(t, (70,), *weights).numpy()
    if "scale" in own:
        ref = ref * (1 + rounded(own["scale"], dtype)[:, None])
    if "shift" in own:
        ref = ref + rounded(own["shift"], dtype)[:, None]
    out = K.layer_norm(x, w, b, dtype=dtype, isa=isa, **own)
    assert error(out, ref) < TOLERANCE[dtype]


def test_layer_norm_scales_by_one_vector_an_image() -> None:
    with pytest.raises(InvalidArgumentError, match="scale must be one vector of 8 channels"):
        K.layer_norm(normal(2, 3, 8), scale=normal(1, 8))


@isas
@dtypes
@pytest.mark.parametrize(("c", "size"), [(64, 64), (33, 11), (1536, 64), (4096, 4096), (20, 1)])
@pytest.mark.parametrize("pad", [0, 5])
def test_rms_norm(isa: str, dtype: str, c: int, size: int, pad: int) -> None:
    x, w = normal(2, 37, c) * 300, normal(size, seed=1)
    runs = rounded(x, dtype).reshape(2, 37, c // size, size)
    ref = runs / np.sqrt((runs**2).mean(-1, keepdims=True) + 1e-6) * w
    out = K.rms_norm(x, w, dtype=dtype, isa=isa, pad_channels=pad)
    assert error(out, ref.reshape(x.shape)) < TOLERANCE[dtype]


def test_channels_must_divide_by_the_weights() -> None:
    with pytest.raises(
        InvalidArgumentError, match="must divide by the weight's size, got 10 and 4"
    ):
        K.rms_norm(normal(1, 2, 10), normal(4))


@isas
def test_layer_norm_keeps_its_digits_at_a_large_mean(isa: str) -> None:
    x = normal(1, 9, 320) + np.float32(1e4)
    ref = torch.nn.functional.layer_norm(torch.from_numpy(x).double(), (320,)).numpy()
    assert error(K.layer_norm(x, isa=isa), ref) < 2e-6


@isas
@dtypes
def test_threads_and_batch_do_not_change_bits(isa: str, dtype: str) -> None:
    x, w, b = normal(3, 33, 40, 96), normal(96, seed=1), normal(96, seed=2)
    tokens = x.reshape(3, -1, 96)
    whole = K.group_norm(x, w, b, 32, dtype=dtype, isa=isa, threads=1)
    layer = K.layer_norm(tokens, w, b, dtype=dtype, isa=isa, threads=1)
    for threads in (2, 3):
        np.testing.assert_array_equal(
            whole, K.group_norm(x, w, b, 32, dtype=dtype, isa=isa, threads=threads)
        )
        np.testing.assert_array_equal(
            layer, K.layer_norm(tokens, w, b, dtype=dtype, isa=isa, threads=threads)
        )
    for i in range(3):
        one = slice(i, i + 1)
        np.testing.assert_array_equal(
            whole[one], K.group_norm(x[one], w, b, 32, dtype=dtype, isa=isa)
        )
        np.testing.assert_array_equal(
            layer[one], K.layer_norm(tokens[one], w, b, dtype=dtype, isa=isa)
        )


def test_channels_must_divide_by_groups() -> None:
    with pytest.raises(InvalidArgumentError, match=r"must divide by groups, got 322 and 32"):
        K.group_norm(normal(1, 2, 2, 322), None, None, 32)


def test_the_last_variant_is_portable() -> None:
    assert K.variants("norm")[-1] == "generic"
