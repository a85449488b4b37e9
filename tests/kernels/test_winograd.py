"""Winograd's convolution in 16-bit integers (winograd_integers.h), where its numbers are at their
limits. Shapes and everything else are in test_matmul.py."""

from __future__ import annotations

import numpy as np
import pytest
from test_matmul import Array, conv_ref, error, normal, rng, rounded

from sdcore import _core

kernels = _core.kernels
WITH_INTEGERS = ("avx2", "avx2_vnni", "avx512_vnni")
LEVELS = [isa for isa in _core.supported_isas() if isa in WITH_INTEGERS]
PADDING = (1, 1, 1, 1)

# The points of the method along one axis: (polynomials of the patch, of the weights).
A, B = 0.75, 1.5
PATCH = np.array(
    [
        [A * A * B * B, 0, -A * A - B * B, 0, 1, 0],
        [0, -A * B * B, -B * B, A, 1, 0],
        [0, A * B * B, -B * B, -A, 1, 0],
        [0, -B * A * A, -A * A, B, 1, 0],
        [0, B * A * A, -A * A, -B, 1, 0],
        [0, A * A * B * B, 0, -A * A - B * B, 0, 1],
    ]
)
WEIGHT = np.array(
    [[1, 0, 0], [1, A, A * A], [1, -A, A * A], [1, B, B * B], [1, -B, B * B], [0, 0, 1]]
)

pytestmark = pytest.mark.skipif(not LEVELS, reason="no level of this processor has it")


@pytest.fixture(params=LEVELS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def conv(x: Array, w: Array, isa: str) -> Array:
    out: Array = kernels.conv2d(x, w, padding=PADDING, dtype="bf16", out_dtype="f32", isa=isa)
    return out


def exact(x: Array, w: Array) -> Array:
    return conv_ref(rounded(x, "bf16"), rounded(w, "bf16"), 1, PADDING)


@pytest.mark.parametrize("channels", [64, 80, 320])
@pytest.mark.parametrize("point", [(0, 0), (1, 1), (2, 1), (3, 4), (5, 3), (0, 5)], ids=str)
def test_sums_do_not_overflow_at_any_point(isa: str, channels: int, point: tuple[int, int]) -> None:
    """Every channel holds what is largest at one point, in patch and weights, and all with one
    sign: no sum of products can be larger for such norms. The roundings of all channels are the
    same too, and add up; a sum that left its 32 bits would be wrong by more than itself."""
    y, x = point
    image = np.zeros((1, 16, 16, channels), np.float32)
    patch = np.sign(np.outer(PATCH[y], PATCH[x])).astype(np.float32)
    image[0, 3:9, 7:13] = patch[:, :, None]
    w = np.outer(WEIGHT[y], WEIGHT[x]).astype(np.float32)
    w = np.broadcast_to(w, (20, channels, 3, 3)).copy()
    assert error(conv(image, w, isa), exact(image, w)) < 2.0**-7


@pytest.mark.parametrize("of_weights", [False, True])
def test_one_number_among_small_ones(isa: str, of_weights: bool) -> None:
    """It meets nine weights or pixels, whose roundings have no others to be averaged with."""
    g = rng(31)
    x, w = normal(g, 1, 16, 16, 64), normal(g, 20, 64, 3, 3)
    if of_weights:
        w[:, 9, 1, 2] = 1e4
    else:
        x[0, 6, 6, 9] = 1e4
    assert error(conv(x, w, isa), exact(x, w)) < 2.0**-8


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_sizes_do_not_matter(isa: str, size: float) -> None:
    """Nor does one output's matter to another."""
    g = rng(32)
    x = normal(g, 1, 12, 12, 48)
    w = normal(g, 20, 48, 3, 3)
    w[:10] *= np.float32(size)
    out, ref = conv(x, w, isa), exact(x, w)
    assert error(out[..., :10], ref[..., :10]) < 2.0**-9
    assert error(out[..., 10:], ref[..., 10:]) < 2.0**-9
    assert error(conv(x * np.float32(size), w, isa), exact(x * np.float32(size), w)) < 2.0**-9


def test_nothing_is_nothing(isa: str) -> None:
    g = rng(33)
    x, w = normal(g, 2, 12, 12, 64), normal(g, 20, 64, 3, 3)
    x[1] = 0
    w[7] = 0
    out = conv(x, w, isa)
    assert not out[1].any()
    assert not out[..., 7].any()
    assert out[0, ..., 8].all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_without_end_show_in_their_output_alone(isa: str, value: float) -> None:
    g = rng(34)
    x, w = normal(g, 1, 12, 12, 64), normal(g, 20, 64, 3, 3)
    clean = conv(x, w, isa)
    w[7, 40, 2, 1] = value
    out = conv(x, w, isa)
    assert not np.isfinite(out[..., 7]).any()
    np.testing.assert_array_equal(np.delete(out, 7, -1), np.delete(clean, 7, -1))
