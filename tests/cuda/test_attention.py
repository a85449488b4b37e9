"""`attention` by the GPU's kernels, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cuda.devices import STORE, Array, error, normal, rng, rounded
from sdcore import InvalidArgumentError, _core
from sdcore.graph import Builder, nn

SHAPES = [
    # n, queries, keys, heads, head size
    (1, 1, 1, 1, 8),
    (2, 70, 65, 3, 40),
    (1, 33, 77, 2, 64),
    (1, 66, 130, 1, 80),
    (1, 20, 35, 2, 128),
    (1, 40, 70, 1, 160),
    (1, 35, 50, 1, 512),
    (1, 17, 40, 2, 5),
    (1, 9, 20, 1, 300),
    # Kernels by warpgroups have 64 or 128 queries a block, and their keys in turns: few are one.
    (1, 65, 80, 1, 40),
    (2, 129, 81, 1, 24),
    (1, 129, 96, 1, 40),
    (1, 20, 97, 2, 40),
    (1, 200, 700, 1, 40),
    (1, 70, 77, 1, 48),
    (1, 30, 81, 2, 56),
    (1, 131, 720, 1, 64),
    (2, 66, 80, 1, 80),
    (1, 40, 270, 1, 72),
    (1, 65, 97, 2, 80),
    (1, 129, 640, 1, 80),
    (1, 33, 128, 1, 96),
    (1, 17, 129, 1, 128),
    (1, 129, 500, 1, 128),
    (1, 65, 64, 2, 160),
    (2, 65, 81, 1, 136),
    (1, 70, 450, 1, 160),
    (1, 20, 48, 1, 512),
    (1, 15, 49, 1, 512),
    (1, 66, 230, 1, 512),
]


def attention(
    device: str, dtype: str, q: Array, k: Array, v: Array, heads: int, **options: Any
) -> Array:
    """The op with something after it, so that its output is held in `dtype` as in a network."""
    arrays = {"q": q, "k": k, "v": v}
    arrays |= {name: options.pop(name) for name in ("relative", "mask") if name in options}
    b = Builder()
    inputs = {name: b.input(name) for name in arrays}
    b.output("out", nn.concat(nn.attention(heads=heads, **inputs, **options)))
    out: Array = _core.Network(b.graph, {}, dtype=dtype, device=device).run(arrays)["out"]
    return out


def reference(
    q: Array, k: Array, v: Array, heads: int, causal: bool, relative: Array, mask: Array
) -> Array:
    n, tq, c = q.shape
    tk = k.shape[1]
    parts = [a.reshape(n, -1, heads, c // heads).transpose(0, 2, 1, 3) for a in (q, k, v)]
    scores = parts[0] @ parts[1].transpose(0, 1, 3, 2) / np.sqrt(c // heads)
    i, j = np.arange(tq)[:, None], np.arange(tk)[None, :]
    scores = scores + relative[0][i - j + tk - 1].transpose(2, 0, 1)[None]
    scores = scores + mask[:, None, None, :]
    if causal:
        scores = np.where(j > i, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ parts[2]
    return out.transpose(0, 2, 1, 3).reshape(n, tq, c)


EXTRAS = [
    (shape, extra)
    for shape in SHAPES
    for extra in ("", "causal", "bias")
    if not extra or shape[-1] in (5, 40, 64, 512)
]


@pytest.mark.parametrize("shape, extra", EXTRAS, ids=str)
def test_attention(
    device: str, dtype: str, shape: tuple[int, int, int, int, int], extra: str
) -> None:
    n, tq, tk, heads, size = shape
    g = rng(*shape)
    q, k, v = (normal(g, n, t, heads * size) for t in (tq, tk, tk))
    relative, mask = np.zeros((1, tq + tk - 1, heads), np.float32), np.zeros((n, tk), np.float32)
    options = {}
    if extra == "bias":
        relative, mask = normal(g, *relative.shape), normal(g, *mask.shape)
        mask[:, -3:] = -10000.0
        options = {"relative": relative, "mask": mask}
    causal = extra == "causal"
    out = attention(device, dtype, q, k, v, heads, causal=causal, **options)
    seen = [rounded(a, dtype) for a in (q, k, v)]
    ref = reference(*seen, heads, causal, rounded(relative, dtype), rounded(mask, dtype))
    # In 16 bits the weights of keys are rounded too.
    assert error(out, ref) < (2e-6 if dtype == "f32" else 2 * STORE[dtype])


@pytest.mark.parametrize("keys, size", [(77, 64), (200, 40), (150, 160)])
def test_an_image_of_a_batch_is_the_image_alone(
    device: str, dtype: str, keys: int, size: int
) -> None:
    g = rng(keys)
    q, k, v = (normal(g, 3, t, 2 * size) for t in (70, keys, keys))
    out = attention(device, dtype, q, k, v, 2)
    for i in range(3):
        alone = attention(device, dtype, q[i : i + 1], k[i : i + 1], v[i : i + 1], 2)
        np.testing.assert_array_equal(alone[0], out[i])


@pytest.mark.parametrize("tokens, heads, size", [(77, 2, 64), (130, 3, 40), (100, 1, 160)])
def test_slices_of_wider_rows(device: str, dtype: str, tokens: int, heads: int, size: int) -> None:
    """What a concat puts side by side is read where it lies."""
    g = rng(tokens)
    arrays = {name: normal(g, 2, tokens, heads * size) for name in "qkv"}
    b = Builder()
    q, k, v = (nn.silu(b.input(name)) for name in "qkv")
    b.output("rows", nn.concat(nn.concat(q, k, v)))
    b.output("out", nn.concat(nn.attention(q, k, v, heads)))
    outputs = _core.Network(b.graph, {}, dtype=dtype, device=device).run(arrays)
    seen = np.split(outputs["rows"].astype(np.float64), 3, -1)
    zeros = np.zeros((1, 2 * tokens - 1, heads)), np.zeros((2, tokens))
    ref = reference(*seen, heads, False, *zeros)
    assert error(outputs["out"], ref) < (2e-6 if dtype == "f32" else 2 * STORE[dtype])


def test_large_scores_do_not_overflow(device: str, dtype: str) -> None:
    g = rng()
    q, k, v = (100 * normal(g, 1, 40, 32) for _ in range(3))
    out = attention(device, dtype, q, k, v, 1)
    zeros = np.zeros((1, 79, 1)), np.zeros((1, 40))
    ref = reference(*(rounded(a, dtype) for a in (q, k, v)), 1, False, *zeros)
    assert error(out, ref) < (2e-4 if dtype == "f32" else 2 * STORE[dtype])


def test_too_large_heads(device: str, dtype: str) -> None:
    q = np.zeros((1, 2, 520), np.float32)
    with pytest.raises(InvalidArgumentError, match="heads have at most 512 numbers"):
        attention(device, dtype, q, q, q, 1)
