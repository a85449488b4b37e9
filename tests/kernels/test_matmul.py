"""`linear` and `conv2d` on every instruction set, against float64.

The bindings lay inputs among NaN and outputs among sentinels that they check, so every test here
also tests that a kernel keeps within its memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdcore import InvalidArgumentError, _core

kernels = _core.kernels
ISAS = _core.supported_isas()
DTYPES = ["f32", "bf16"]
Array = np.ndarray[Any, Any]

# Errors of stored results: rounding to bf16 errs less than 2^-9 over many, in one up to 2^-8.
STORE = {"f32": 2.0**-24, "bf16": 2.0**-9}


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng([17, *key])


def normal(generator: np.random.Generator, *shape: int) -> Array:
    return generator.standard_normal(shape, dtype=np.float32)


def rounded(x: Array, dtype: str) -> Array:
    """The value that a kernel of this dtype sees, as float64."""
    tensor = torch.from_numpy(x)
    return (tensor.bfloat16() if dtype == "bf16" else tensor).double().numpy()


def in_blocks(x: Array) -> Array:
    """bf16 activations as kernels of integers see them: 32 of a row at a time, as 8 bits between
    their lowest and highest."""
    blocks = torch.from_numpy(x).bfloat16().float().numpy().reshape(*x.shape[:-1], -1, 32)
    low = blocks.min(-1, keepdims=True)
    span = blocks.max(-1, keepdims=True) - low
    apart = span > np.finfo(np.float32).tiny * 256
    inverse = np.divide(np.float32(255), span, where=apart, out=np.zeros_like(span))
    scale = (span * np.float32(1 / 255)).astype(np.float64)
    values: Array = low + scale * np.rint((blocks - low) * inverse)
    return values.reshape(x.shape)


def in_even_blocks(x: Array, most: int) -> Array:
    """Numbers as kernels of wide integers see them: 32 of a row at a time, as integers up to `most`
    for the furthest from zero."""
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    apart = largest > np.finfo(np.float32).tiny * 256
    inverse = np.divide(np.float32(most), largest, where=apart, out=np.zeros_like(largest))
    scale = (largest * np.float32(1 / np.float32(most))).astype(np.float64)
    values: Array = scale * np.rint(blocks * inverse)
    return values.reshape(x.shape)


def seen(
    x: Array, weight: Array | _core.Tensor, dtype: str, isa: str, int8: bool = False
) -> tuple[Array, Array]:
    """Activations [..., channels] and a weight [outputs, channels, ...] with the roundings that
    their kernel makes, as float64. Winograd's are not among them."""
    stored = _core.Tensor.from_array(weight) if isinstance(weight, np.ndarray) else weight
    values: Array = stored.to_float()
    name = kernels.gemm_variant(stored, dtype, isa, int8_activations=int8)
    if not name.endswith("integers"):
        return rounded(x, dtype), rounded(values, dtype)
    if not name.endswith("wide_integers"):
        return in_blocks(x), values.astype(np.float64)
    floats = stored.type in ("f32", "f16", "bf16")
    rows = values.reshape(len(values), -1)
    weights = in_even_blocks(rows, 2047) if floats else rows.astype(np.float64)
    return in_even_blocks(rounded(x, "bf16"), 32767), weights.reshape(values.shape)


def product(
    x: Array, weight: Array | _core.Tensor, dtype: str, isa: str, int8: bool = False
) -> Array:
    """What a linear layer gives, with these roundings."""
    activations, weights = seen(x, weight, dtype, isa, int8)
    result: Array = activations @ weights.T
    return result


def error(out: Array, ref: Array) -> float:
    return float(np.linalg.norm(out - ref) / max(np.linalg.norm(ref), 1e-30))


def bound(length: int, out_dtype: str) -> float:
    """A sum of `length` float32 products of random sign errs like a random walk of half ulps."""
    return 4 * np.sqrt(length) * 2.0**-24 + STORE[out_dtype]


def conv_bound(channels: int, kernel: tuple[int, int], isa: str, dtype: str, out: str) -> float:
    """Images in bf16 may be multiplied as 16-bit integers (winograd_integers.h), which errs less
    than a rounding to bf16."""
    levels = ("avx2", "avx2_vnni", "avx512_vnni")
    integers = dtype == "bf16" and kernel == (3, 3) and isa in levels
    rounding = 2.0**-9 if integers and channels >= 16 else 0.0
    return bound(channels * kernel[0] * kernel[1], out) + rounding


def activate(x: Array, name: str) -> Array:
    t = torch.from_numpy(x)
    table = {
        "none": lambda: t,
        "silu": lambda: F.silu(t),
        "gelu": lambda: F.gelu(t),
        "gelu_tanh": lambda: F.gelu(t, approximate="tanh"),
        "quick_gelu": lambda: t * torch.sigmoid(1.702 * t),
        "relu": lambda: F.relu(t),
    }
    return table[name]().numpy()


def conv_ref(x: Array, w: Array, stride: int, padding: tuple[int, int, int, int]) -> Array:
    top, left, bottom, right = padding
    image = F.pad(torch.from_numpy(x).permute(0, 3, 1, 2), (left, right, top, bottom))
    return F.conv2d(image, torch.from_numpy(w), stride=stride).permute(0, 2, 3, 1).numpy()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


LINEAR_SIZES = [
    (1, 1, 1),
    (1, 32, 32),
    (2, 1280, 40),
    (7, 33, 5),
    (15, 64, 31),
    (16, 31, 16),
    (17, 96, 33),
    (29, 127, 17),
    (48, 320, 64),
    (77, 768, 101),
    (131, 160, 7),
    (257, 40, 129),
]


@pytest.mark.parametrize("size", LINEAR_SIZES, ids=str)
def test_linear(isa: str, dtype: str, size: tuple[int, int, int]) -> None:
    m, k, n = size
    g = rng(m, k, n)
    x, w = normal(g, m, k), normal(g, n, k)
    out = kernels.linear(x, w, dtype=dtype, out_dtype="f32", isa=isa)
    assert error(out, product(x, w, dtype, isa)) < bound(k, "f32")
    exact = rounded(x, dtype) @ w.astype(np.float64).T
    assert error(out, exact) < bound(k, dtype)


@pytest.mark.parametrize("slack", [0, 1, 32])
def test_rows_may_be_apart(isa: str, dtype: str, slack: int) -> None:
    g = rng(slack)
    x, w = normal(g, 3, 35, 64), normal(g, 50, 64)
    out = kernels.linear(x, w, dtype=dtype, isa=isa, slack=slack)
    assert error(out, product(x, w, dtype, isa)) < bound(64, dtype)


CONVS = [
    # n, h, w, in, out, kernel, stride, padding (top, left, bottom, right)
    (1, 1, 1, 1, 1, (3, 3), 1, (1, 1, 1, 1)),
    (2, 8, 8, 64, 48, (3, 3), 1, (1, 1, 1, 1)),
    (2, 16, 16, 32, 33, (3, 3), 1, (1, 1, 1, 1)),
    (1, 13, 24, 32, 40, (3, 3), 1, (1, 1, 1, 1)),
    (2, 7, 19, 5, 3, (3, 3), 1, (1, 1, 1, 1)),
    (1, 20, 17, 4, 65, (3, 3), 1, (1, 1, 1, 1)),
    (1, 12, 40, 40, 4, (3, 3), 1, (1, 1, 1, 1)),
    (2, 9, 10, 32, 16, (3, 3), 2, (1, 1, 1, 1)),
    (1, 16, 16, 64, 32, (3, 3), 2, (0, 0, 1, 1)),
    (1, 33, 35, 3, 16, (3, 3), 2, (1, 1, 1, 1)),
    (2, 6, 5, 32, 32, (1, 1), 1, (0, 0, 0, 0)),
    (1, 8, 9, 48, 20, (1, 1), 2, (0, 0, 0, 0)),
    (1, 11, 8, 16, 8, (5, 3), 1, (2, 1, 2, 1)),
    (1, 28, 28, 3, 24, (14, 14), 14, (0, 0, 0, 0)),
    (1, 9, 9, 32, 8, (3, 3), 1, (0, 2, 1, 0)),
    # By Winograd's method: several blocks of channels, and several rounds of tiles.
    (2, 21, 18, 130, 70, (3, 3), 1, (1, 1, 1, 1)),
    (1, 23, 6, 65, 34, (3, 3), 1, (0, 0, 0, 0)),
    (2, 78, 81, 17, 5, (3, 3), 1, (2, 1, 1, 0)),
    # In stacks of lines: those that reach back, panels of one output and of half, sums in parts.
    (2, 15, 31, 32, 49, (3, 3), 1, (1, 1, 1, 1)),
    (1, 4, 16, 352, 33, (3, 3), 1, (1, 1, 1, 1)),
    (1, 7, 32, 672, 16, (3, 3), 1, (1, 1, 1, 1)),
]


@pytest.mark.parametrize("halo", [0, 1, 3])
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv2d(isa: str, dtype: str, case: Any, halo: int) -> None:
    n, h, w, channels, outputs, kernel, stride, padding = case
    g = rng(h, w, channels, outputs)
    x, weight = normal(g, n, h, w, channels), normal(g, outputs, channels, *kernel)
    ref = conv_ref(*seen(x, weight, dtype, isa), stride, padding)
    out = kernels.conv2d(
        x, weight, stride=stride, padding=padding, halo=halo, dtype=dtype, out_dtype="f32", isa=isa
    )
    assert error(out, ref) < conv_bound(channels, kernel, isa, dtype, "f32")


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("activation", ["none", "silu", "gelu", "gelu_tanh", "quick_gelu", "relu"])
def test_epilogue(isa: str, dtype: str, out_dtype: str, activation: str) -> None:
    g = rng(len(activation))
    x, w = normal(g, 2, 6, 7, 32), normal(g, 37, 32, 3, 3) / 16
    bias, image_bias = normal(g, 37), normal(g, 2, 37)
    residual = normal(g, 2, 6, 7, 37)
    total = conv_ref(rounded(x, dtype), rounded(w, dtype), 1, (1, 1, 1, 1)) + bias
    total = total + rounded(image_bias, out_dtype)[:, None, None, :]
    ref = activate(total, activation) + rounded(residual, out_dtype)
    out = kernels.conv2d(
        x,
        w,
        bias,
        image_bias,
        residual,
        activation,
        padding=(1, 1, 1, 1),
        dtype=dtype,
        out_dtype=out_dtype,
        isa=isa,
    )
    # erf is good to 1.5e-7 and exp to a few ulps.
    assert error(out, ref) < conv_bound(32, (3, 3), isa, dtype, out_dtype) + 3e-7


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "quick_gelu", "relu"])
def test_activations_far_from_zero(isa: str, activation: str) -> None:
    x = np.array([[-200, -90, -30, -5, -1e-3, 0, 1e-3, 5, 30, 90, 200]], np.float32).T
    out = kernels.linear(x, np.ones((1, 1), np.float32), activation=activation, isa=isa)
    np.testing.assert_allclose(
        out, activate(x.astype(np.float64), activation), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 0, 1, 1)])
@pytest.mark.parametrize("width", [21, 32])
def test_result_depends_on_neither_threads_nor_batch_nor_halo(
    isa: str, dtype: str, width: int, padding: tuple[int, int, int, int]
) -> None:
    g = rng(3)
    x, w = normal(g, 3, 18, width, 64), normal(g, 72, 64, 3, 3)

    def conv(images: Array, threads: int, halo: int) -> Array:
        out: Array = kernels.conv2d(
            images, w, padding=padding, halo=halo, dtype=dtype, isa=isa, threads=threads
        )
        return out

    whole = conv(x, 1, 0)
    for threads in (2, 3):
        np.testing.assert_array_equal(conv(x, threads, 1), whole)
    for i in range(3):
        np.testing.assert_array_equal(conv(x[i : i + 1], 2, 0)[0], whole[i])


@pytest.mark.parametrize("outlier", [np.inf, np.nan])
def test_outliers_stay_in_their_tile(isa: str, dtype: str, outlier: float) -> None:
    """A pixel without end shows, and spoils no output that is further away than Winograd's tiles
    reach."""
    g = rng(9)
    x, w = normal(g, 1, 20, 20, 32), normal(g, 16, 32, 3, 3)
    clean = kernels.conv2d(x, w, padding=(1, 1, 1, 1), dtype=dtype, isa=isa)
    x[0, 3, 3, 5] = outlier
    out = kernels.conv2d(x, w, padding=(1, 1, 1, 1), dtype=dtype, isa=isa)
    assert not np.isfinite(out[0, 2:5, 2:5]).any()
    np.testing.assert_array_equal(out[0, 8:, 8:], clean[0, 8:, 8:])


def test_linear_row_is_the_same_alone(isa: str, dtype: str) -> None:
    g = rng(5)
    x, w = normal(g, 61, 352), normal(g, 90, 352)
    whole = kernels.linear(x, w, dtype=dtype, isa=isa, threads=2)
    for rows in (slice(0, 1), slice(5, 8), slice(20, 61)):
        alone = kernels.linear(x[rows], w, dtype=dtype, isa=isa, threads=1)
        np.testing.assert_array_equal(alone, whole[rows])


@pytest.mark.parametrize("type_name", ["f16", "bf16"])
def test_weights_of_16_bits(isa: str, dtype: str, type_name: str) -> None:
    g = rng(7)
    x, w = normal(g, 40, 96), normal(g, 50, 96)
    stored = _core.quantize(w, type_name)
    out = kernels.linear(x, stored, dtype=dtype, out_dtype="f32", isa=isa)
    assert error(out, product(x, stored, dtype, isa)) < bound(96, "f32")
    image, conv = normal(g, 1, 6, 6, 48), normal(g, 20, 48, 3, 3)
    stored = _core.quantize(conv, type_name)
    ref = conv_ref(rounded(image, dtype), rounded(stored.to_float(), dtype), 1, (1, 1, 1, 1))
    out = kernels.conv2d(image, stored, padding=(1, 1, 1, 1), dtype=dtype, out_dtype="f32", isa=isa)
    assert error(out, ref) < conv_bound(48, (3, 3), isa, dtype, "f32")


INTEGERS = [t["name"] for t in _core.types() if t["integers"]]
QUANTIZED = [t["name"] for t in _core.types() if t["block_size"] > 1 and t["can_quantize"]]


@cache  # finding the best blocks takes longer than the products
def quantized(type_name: str) -> _core.Tensor:
    return _core.quantize(normal(rng(12), 45, 768), type_name)


@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("type_name", QUANTIZED)
def test_quantized_weights(isa: str, dtype: str, type_name: str, rows: int) -> None:
    x, stored = normal(rng(11), rows, 768), quantized(type_name)
    exact = x.astype(np.float64) @ stored.to_float().astype(np.float64).T
    out = kernels.linear(x, stored, dtype=dtype, out_dtype="f32", isa=isa)
    assert error(out, product(x, stored, dtype, isa)) < bound(768, "f32")
    if dtype == "bf16":
        assert error(out, exact) < 2.0**-8


@pytest.mark.parametrize("type_name", QUANTIZED)
def test_a_row_is_the_same_among_many(isa: str, type_name: str) -> None:
    """For which weights are unpacked once, in place of in every task."""
    x, stored = normal(rng(13), 530, 768), quantized(type_name)
    many = kernels.linear(x, stored, dtype="bf16", isa=isa, threads=2)
    for rows in (slice(0, 33), slice(500, 530)):
        few = kernels.linear(x[rows], stored, dtype="bf16", isa=isa)
        np.testing.assert_array_equal(many[rows], few)


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("type_name", QUANTIZED)
def test_quantized_weights_and_int8_activations(isa: str, type_name: str, rows: int) -> None:
    x, stored = normal(rng(11), rows, 768), quantized(type_name)
    out = kernels.linear(x, stored, dtype="bf16", out_dtype="f32", isa=isa, int8_activations=True)
    assert error(out, product(x, stored, "bf16", isa, True)) < bound(768, "f32")


@pytest.mark.parametrize("type_name", INTEGERS)
def test_integers_are_multiplied_in_bf16_alone_and_where_it_is_allowed(
    isa: str, type_name: str
) -> None:
    stored = quantized(type_name)
    able = {"generic": True, "avx512": "avx2_vnni" in ISAS}
    name = kernels.gemm_variant(stored, "bf16", isa, int8_activations=True)
    assert name.endswith("integers") == able.get(isa, isa != "amx")
    assert kernels.gemm_variant(stored, "f32", isa, int8_activations=True).endswith("f32")
    wide = kernels.gemm_variant(stored, "bf16", isa)
    wanted = able.get(isa, isa not in ("avx512_bf16", "amx")) and isa != "generic"
    assert wide.endswith("wide_integers") == wanted
    assert wide.endswith("integers") == wanted


@pytest.mark.parametrize("type_name", INTEGERS)
def test_the_largest_integers_of_a_type_do_not_overflow(isa: str, type_name: str) -> None:
    """AVX2 adds products of bytes in 16 bits."""
    signs = np.where(np.arange(768) % 96 < 48, 1.0, -1.0)
    weight = np.stack([signs, np.abs(signs), -np.abs(signs)]).astype(np.float32)
    stored = _core.quantize(weight, type_name)
    x = np.tile(np.where(np.arange(768) % 32 == 0, -1.0, 1.0).astype(np.float32), (6, 1))
    out = kernels.linear(x, stored, dtype="bf16", out_dtype="f32", isa=isa, int8_activations=True)
    assert error(out, product(x, stored, "bf16", isa, True)) < bound(768, "f32")


INTEGER_SIZES = [(1, 32, 1), (2, 1280, 40), (14, 64, 31), (15, 96, 33), (17, 352, 16), (33, 608, 7)]


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("size", INTEGER_SIZES, ids=str)
@pytest.mark.parametrize("type_name", ["q8_0", "q4_1", "f16"])
@pytest.mark.parametrize("int8", [True, False])
def test_integers_at_awkward_sizes(
    isa: str, int8: bool, type_name: str, size: tuple[int, int, int], out_dtype: str
) -> None:
    m, k, n = size
    g = rng(m, k, n, 1)
    x, stored = normal(g, m, k), _core.quantize(normal(g, n, k), type_name)
    options = {"dtype": "bf16", "out_dtype": out_dtype, "isa": isa, "int8_activations": int8}
    out = kernels.linear(x, stored, **options)
    allowed = bound(k, out_dtype) * (2 if m * n == 1 else 1)
    assert error(out, product(x, stored, "bf16", isa, int8)) < allowed
    for rows in (slice(0, 1), slice(m // 2, m)):
        alone = kernels.linear(x[rows], stored, threads=2, **options)
        np.testing.assert_array_equal(alone, out[rows])


@pytest.mark.parametrize("int8", [True, False])
def test_integers_of_blocks_without_a_middle(isa: str, int8: bool) -> None:
    """Rows of zeros, of one number, of numbers too small to divide, of outliers; after SiLU."""
    g = rng(21)
    x = np.zeros((7, 64), np.float32)
    x[1] = -3
    x[2] = np.arange(64) * 1e-40
    x[3, 5] = 1e30
    x[4] = np.abs(normal(g, 64)) + 100
    x[5] = F.silu(torch.from_numpy(normal(g, 64))).numpy()
    x[6, :32] = 2
    stored = _core.quantize(normal(g, 20, 64), "q8_0")
    out = kernels.linear(x, stored, dtype="bf16", out_dtype="f32", isa=isa, int8_activations=int8)
    ref = product(x, stored, "bf16", isa, int8)
    for row in range(7):
        assert (
            np.abs(out[row] - ref[row]).max() <= bound(64, "f32") * np.abs(ref[row]).max() + 1e-35
        )


@pytest.mark.parametrize("type_name", ["f16", "q8_0"])
def test_16_bits_beside_outliers(isa: str, type_name: str) -> None:
    """Where one channel is a thousand times the others, as in trained transformers, what the others
    lose is less than what bf16 loses of that one."""
    g = rng(24)
    x, stored = normal(g, 20, 256), _core.quantize(normal(g, 50, 256), type_name)
    x[:, 40] *= 1000
    exact = x.astype(np.float64) @ stored.to_float().astype(np.float64).T
    bf16 = rounded(x, "bf16") @ rounded(stored.to_float(), "bf16").T
    out = kernels.linear(x, stored, dtype="bf16", out_dtype="f32", isa=isa)
    assert error(out, exact) < 1.01 * error(bf16, exact)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("int8", [True, False])
def test_integers_carry_what_is_not_finite(isa: str, int8: bool, value: float) -> None:
    x = normal(rng(22), 3, 96)
    x[1, 40] = value
    stored = _core.quantize(normal(rng(23), 5, 96), "q8_0")
    out = kernels.linear(x, stored, dtype="bf16", out_dtype="f32", isa=isa, int8_activations=int8)
    assert not np.isfinite(out[1]).any()
    assert np.isfinite(out[[0, 2]]).all()


@cache
def quantized_conv(type_name: str, *shape: int) -> _core.Tensor:
    """Folded into rows of whole blocks, as files have them."""
    w = normal(rng(13), *shape)
    return _core.quantize(w.reshape(-1, 256), type_name).unfold(shape)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(16, 64, 3, 3), (33, 256, 3, 3), (12, 32, 1, 32)], ids=str)
@pytest.mark.parametrize("type_name", ["q8_0", "q4_1", "q4_K", "q6_K"])
def test_quantized_convolution(
    isa: str, dtype: str, type_name: str, shape: tuple[int, ...], stride: int
) -> None:
    """Types whose blocks are integers are rounded to nothing else, where panels are not pairs; of
    pairs they become bf16 when a panel is read."""
    stored = quantized_conv(type_name, *shape)
    x = normal(rng(14), 2, 9, 40, shape[1])
    pairs = dtype == "bf16" and isa in ("avx512_bf16", "amx")
    exact = type_name in INTEGERS and not pairs
    weights = rounded(stored.to_float(), "f32" if exact else dtype)
    ref = conv_ref(rounded(x, dtype), weights, stride, (1, 1, 1, 1))
    out = kernels.conv2d(
        x, stored, stride=stride, padding=(1, 1, 1, 1), dtype=dtype, out_dtype="f32", isa=isa
    )
    kernel = shape[2:] if stride == 1 else (1, 1)
    rounding = conv_bound(shape[1], kernel, isa, dtype, "f32")
    assert error(out, ref) < rounding + bound(shape[1] * shape[2] * shape[3], "f32")


def test_every_level_has_its_variants() -> None:
    rows = kernels.gemm_variants()
    columns = ("isa", "dtype", "integers", "int8", "widens")
    listed = [tuple(row[column] for column in columns) for row in rows]
    assert listed[-1] == ("generic", "f32", False, False, False)
    for level in ISAS:
        # Levels above avx512 add nothing for float32, and those of VNNI integers alone.
        integers = level.endswith("vnni")
        assert (level, "bf16", integers, integers, False) in listed
    assert len(set(listed)) == len(listed)


def test_rows_are_widened_where_they_are_read_for_one_tap(isa: str) -> None:
    """And not where bf16 has instructions of its own, nor for convolutions; nor where rows are
    whole blocks, which are integers."""
    names = [
        kernels.gemm_variant(np.zeros((8, 8, taps, taps), np.float32), dtype="bf16", isa=isa)
        for taps in (1, 3)
    ]
    widens = isa in ("avx2", "avx2_vnni", "avx512", "avx512_vnni")
    assert [name.endswith("widened") for name in names] == [widens, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3)), np.zeros((4, 5))), "5 inputs, got 3"),
        ((np.zeros((2, 3)), np.zeros((4, 3, 3, 3))), "9 taps"),
        ((np.zeros((2, 3)), np.zeros((4, 3, 1, 1, 2))), r"\[4, 3, 1, 1, 2\]"),
    ],
)
def test_wrong_sizes_are_named(arguments: tuple[Array, Array], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        kernels.linear(*arguments)


def test_nothing_in_nothing_out(isa: str, dtype: str) -> None:
    out = kernels.linear(np.zeros((0, 8)), np.zeros((4, 8)), dtype=dtype, isa=isa)
    assert out.shape == (0, 4)


def test_what_the_benchmark_calls_runs(isa: str, dtype: str) -> None:
    common: dict[str, Any] = {"dtype": dtype, "isa": isa, "threads": 1, "repeats": 1}
    assert kernels.bench_conv2d((1, 8, 8, 32), 16, 3, 1, **common) > 0
    assert kernels.bench_linear(3, 64, 16, **common) > 0
    for weight_type in ("f16", "q8_0"):
        assert kernels.bench_pack((16, 32, 3, 3), weight_type=weight_type, **common) > 0
