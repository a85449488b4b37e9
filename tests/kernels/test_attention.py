"""Attention against float64 at every instruction-set level."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdcore import InvalidArgumentError, _core

K = _core.kernels
# Those with kernels of their own.
ISAS = [isa for isa in _core.supported_isas() if isa in K.variants("attention")]

isas = pytest.mark.parametrize("isa", ISAS)
dtypes = pytest.mark.parametrize("dtype", ["f32", "bf16"])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(x: np.ndarray, dtype: str) -> torch.Tensor:
    t = torch.from_numpy(np.ascontiguousarray(x))
    return t.bfloat16() if dtype == "bf16" else t


def torch_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    split = [t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(*split, is_causal=causal, scale=scale)
    return out.transpose(1, 2).flatten(2).double().numpy()


def error(out: np.ndarray, ref: np.ndarray) -> float:
    assert out.shape == ref.shape
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


def check(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, dtype: str, isa: str, **options: object
) -> None:
    seen = [rounded(x, dtype) for x in (q, k, v)]
    core = {key: options[key] for key in ("causal", "scale") if key in options}
    ref = torch_attention(*(t.double() for t in seen), heads, **core)  # type: ignore[arg-type]
    out = K.attention(q, k, v, heads, dtype=dtype, isa=isa, **options)
    if dtype == "f32":
        # Sums of d and of tk terms in float32, and logits that are off by their last bit.
        assert error(out, ref) < 2e-6
    else:
        assert error(out, ref) <= 1.5 * error(torch_attention(*seen, heads, **core), ref)  # type: ignore[arg-type]


# n, tq, tk, heads, d
SHAPES = [
    (1, 1, 1, 1, 8),
    (2, 33, 77, 3, 40),
    (1, 129, 130, 2, 64),
    (1, 65, 97, 2, 20),
    (1, 17, 31, 1, 33),
    (1, 150, 300, 1, 80),
    (1, 16, 257, 2, 160),
    (1, 140, 270, 1, 512),
]


@isas
@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pad", [0, 3])
def test_matches_float64(
    isa: str, dtype: str, shape: tuple[int, int, int, int, int], pad: int
) -> None:
    n, tq, tk, heads, d = shape
    q, k, v = (normal(n, t, heads * d, seed=i) for i, t in enumerate((tq, tk, tk)))
    check(q, k, v, heads, dtype, isa, pad_channels=pad)


@isas
@dtypes
@pytest.mark.parametrize("t", [1, 16, 77, 300])
def test_causal(isa: str, dtype: str, t: int) -> None:
    q, k, v = (normal(2, t, 2 * 64, seed=i) for i in range(3))
    check(q, k, v, 2, dtype, isa, causal=True)


@isas
@dtypes
def test_hidden_keys_weigh_nothing_whatever_their_values(isa: str, dtype: str) -> None:
    if dtype == "bf16" and isa in ("avx2", "avx2_vnni", "avx512_vnni"):
        pytest.skip("values of neighbouring keys share a scale there")
    q, k, v = (normal(1, 70, 40, seed=i) for i in range(3))
    seen = K.attention(q, k, v, 1, dtype=dtype, isa=isa, causal=True)
    v[0, 35:] = 1e38
    out = K.attention(q, k, v, 1, dtype=dtype, isa=isa, causal=True)
    np.testing.assert_array_equal(out[0, :35], seen[0, :35])


@isas
@dtypes
@pytest.mark.parametrize("lengths", [(40, 200), (200, 40)])
def test_causal_with_other_lengths(isa: str, dtype: str, lengths: tuple[int, int]) -> None:
    tq, tk = lengths
    q, k, v = (normal(1, t, 48, seed=i) for i, t in enumerate((tq, tk, tk)))
    check(q, k, v, 2, dtype, isa, causal=True)


@isas
@dtypes
def test_scale(isa: str, dtype: str) -> None:
    q, k, v = (normal(1, 50, 48, seed=i) for i in range(3))
    check(q, k, v, 2, dtype, isa, scale=0.5)


def float64_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    heads: int,
    bias: np.ndarray,  # [n, heads, tq, tk]
    scale: float,
    kind: torch.dtype = torch.float64,
) -> np.ndarray:
    split = [
        torch.from_numpy(x).to(kind).unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v)
    ]
    out = torch.nn.functional.scaled_dot_product_attention(
        *split, attn_mask=torch.from_numpy(bias).to(kind), scale=scale
    )
    return out.transpose(1, 2).flatten(2).double().numpy()


@isas
@dtypes
@pytest.mark.parametrize("shape", [(2, 1, 1, 1, 8), (2, 33, 97, 3, 40), (1, 150, 300, 2, 64)])
@pytest.mark.parametrize("terms", ["relative", "mask", "both"])
def test_relative_positions_and_masked_keys(
    isa: str, dtype: str, shape: tuple[int, int, int, int, int], terms: str
) -> None:
    n, tq, tk, heads, d = shape
    q, k, v = (
        rounded(normal(n, t, heads * d, seed=i), dtype).float().numpy()
        for i, t in enumerate((tq, tk, tk))
    )
    given: dict[str, np.ndarray] = {}
    bias = np.zeros((n, heads, tq, tk))
    if terms != "mask":
        table = rounded(3 * normal(1, tq + tk - 1, heads, seed=3), dtype).float().numpy()
        given["relative"] = table
        distance = np.arange(tq)[:, None] - np.arange(tk)[None, :] + tk - 1
        bias += table[0][distance].transpose(2, 0, 1)
    if terms != "relative":
        seen = np.arange(tk)[None, :] < np.array([max(1, tk // 3), tk])[:n, None]
        given["mask"] = np.where(seen, 0, np.float32(-(2.0**13)))
        bias += given["mask"][:, None, None, :]
    ref = float64_attention(q, k, v, heads, bias, 0.25)
    out = K.attention(q, k, v, heads, scale=0.25, dtype=dtype, isa=isa, **given)
    if dtype == "f32":
        assert error(out, ref) < 2e-6
    else:
        torch_own = float64_attention(q, k, v, heads, bias, 0.25, torch.bfloat16)
        assert error(out, ref) <= 1.5 * error(torch_own, ref)


def test_terms_of_another_shape_are_refused() -> None:
    x = normal(2, 4, 40)
    with pytest.raises(InvalidArgumentError, match=r"relative must be \[1, tq \+ tk - 1, heads\]"):
        K.attention(x, x, x, 2, relative=normal(1, 8, 2))
    with pytest.raises(InvalidArgumentError, match=r"mask must be \[n, tk\]"):
        K.attention(x, x, x, 2, mask=normal(1, 4))


@isas
@dtypes
@pytest.mark.parametrize("offset", [-1.0, 1.0])
def test_large_logits_stay_finite(isa: str, dtype: str, offset: float) -> None:
    # All logits near +-2e5: only their differences may matter. Keys grow, so the maximum moves in
    # every tile.
    q = np.full((1, 20, 32), 64 * offset, np.float32)
    k = np.full((1, 400, 32), 500, np.float32) + np.arange(400, dtype=np.float32)[:, None] // 8 * 8
    v = normal(1, 400, 32, seed=2)
    out = K.attention(q, k, v, 1, dtype=dtype, isa=isa)
    ref = torch_attention(*(rounded(x, dtype).double() for x in (q, k, v)), 1)
    assert np.isfinite(out).all()
    assert error(out, ref) < (1e-5 if dtype == "f32" else 2.0**-8)


@isas
@dtypes
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_stays_in_its_row(isa: str, dtype: str, bad: float) -> None:
    q, k, v = (normal(1, t, 40, seed=i) for i, t in enumerate((70, 300, 300)))
    good = K.attention(q, k, v, 1, dtype=dtype, isa=isa)
    q[0, 33, 5] = bad
    out = K.attention(q, k, v, 1, dtype=dtype, isa=isa)
    assert np.isnan(out[0, 33]).all()
    np.testing.assert_array_equal(np.delete(out[0], 33, 0), np.delete(good[0], 33, 0))


@isas
@dtypes
@pytest.mark.parametrize("nan", [0, 1, 4, 8, 15])
@pytest.mark.parametrize("moved", [0, 1, 4, 8, 15])
def test_nan_hides_no_largest_score(isa: str, dtype: str, nan: int, moved: int) -> None:
    # Only one query's largest score moves after the first keys, beside one that is NaN.
    q, k, v = np.zeros((1, 16, 40)), np.zeros((1, 600, 40)), normal(1, 600, 40)
    q[0, moved] = k[0, 500] = 1
    good = K.attention(q, k, v, 1, dtype=dtype, isa=isa)
    q[0, nan] = np.nan
    out = K.attention(q, k, v, 1, dtype=dtype, isa=isa)
    np.testing.assert_array_equal(np.delete(out[0], nan, 0), np.delete(good[0], nan, 0))


@isas
@dtypes
@pytest.mark.parametrize("terms", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_nan_of_a_key_reaches_the_queries_that_see_it(
    isa: str, dtype: str, terms: bool, causal: bool
) -> None:
    q, k, v = (normal(1, t, 40, seed=i) for i, t in enumerate((70, 300, 300)))
    given = {"mask": normal(1, 300), "relative": normal(1, 369, 1)} if terms else {}
    k[0, 50, 7] = np.nan
    out = K.attention(q, k, v, 1, dtype=dtype, isa=isa, causal=causal, **given)
    seen = 50 if causal else 0
    assert np.isnan(out[0, seen:]).all()
    assert np.isfinite(out[0, :seen]).all()


@isas
@dtypes
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_of_a_value_stays_in_its_channel(isa: str, dtype: str, bad: float) -> None:
    q, k, v = (normal(1, t, 40, seed=i) for i, t in enumerate((20, 300, 300)))
    v[0, 50, 7] = bad
    out = K.attention(q, k, v, 1, dtype=dtype, isa=isa)
    assert not np.isfinite(out[0, :, 7]).any()
    assert np.isfinite(np.delete(out[0], 7, 1)).all()


def uneven(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of very different sizes, where 16-bit integers with a common scale lose some."""
    q, k, v = (normal(1, t, 2 * 40, seed=i) for i, t in enumerate((50, 300, 300)))
    if name == "far from 1":
        return q * np.float32(1e15), k * np.float32(1e-15), v * np.float32(1e20)
    if name == "a few large":
        k[:, ::97] *= 30
        v[:, 50::97] *= 100
    if name == "large scores":
        q *= 20
    if name == "values from 0.001 to 1000":
        v *= np.exp(2 * normal(*v.shape, seed=3))
    if name == "large in one channel, small in another":
        q[..., 3] *= 100
        v[..., 5] *= np.float32(1e-6)
    if name == "zero queries":
        q[:, ::2] = 0
    return q, k, v


@isas
@pytest.mark.parametrize(
    "name",
    [
        "far from 1",
        "a few large",
        "large scores",
        "values from 0.001 to 1000",
        "large in one channel, small in another",
        "zero queries",
    ],
)
def test_numbers_of_uneven_size(isa: str, name: str) -> None:
    check(*uneven(name), 2, "bf16", isa)


@isas
@pytest.mark.parametrize("tk", [1, 127, 128, 300])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_integers_fit(isa: str, tk: int, sign: float) -> None:
    # Equal weights of equal values, in which every product and every sum is as large as it can be.
    x = np.full((1, tk, 512), 255, np.float32)
    out = K.attention(x[:, :1], x, sign * x, 1, dtype="bf16", isa=isa)
    np.testing.assert_array_equal(out, sign * x[:, :1])


@isas
@dtypes
def test_threads_and_batch_do_not_change_bits(isa: str, dtype: str) -> None:
    q, k, v = (normal(3, t, 3 * 40, seed=i) for i, t in enumerate((270, 100, 100)))
    whole = K.attention(q, k, v, 3, dtype=dtype, isa=isa, threads=1)
    for threads in (2, 3):
        np.testing.assert_array_equal(
            whole, K.attention(q, k, v, 3, dtype=dtype, isa=isa, threads=threads)
        )
    for i in range(3):
        s = slice(i, i + 1)
        np.testing.assert_array_equal(
            whole[s], K.attention(q[s], k[s], v[s], 3, dtype=dtype, isa=isa)
        )


def test_errors_name_what_is_wrong() -> None:
    x = normal(1, 4, 40)
    with pytest.raises(InvalidArgumentError, match="must divide by heads, got 40 and 3"):
        K.attention(x, x, x, 3)
    with pytest.raises(InvalidArgumentError, match=r"k \[1, 1, 4, 20\]"):
        K.attention(x, x[..., :20], x, 2)
    with pytest.raises(InvalidArgumentError, match="scale must be positive"):
        K.attention(x, x, x, 2, scale=-1.0)


def test_the_last_variant_is_portable() -> None:
    assert K.variants("attention")[-1] == "generic"
