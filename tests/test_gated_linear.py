"""A linear layer of values and gates, which some instruction sets multiply at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdcore import _core
from sdcore.graph import Builder, nn

Array = np.ndarray

FUSES = _core.default_isa() == "amx"


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def error(out: Array, ref: Array) -> float:
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


def gated(x: Array, tensors: dict[str, Any], c: int, side: Array | None) -> tuple[Array, list[str]]:
    b = Builder()
    out = nn.geglu(nn.linear(b.weights.w, b.input("x"), x.shape[-1], 2 * c))
    b.output("out", out if side is None else out + b.input("side"))
    network = _core.Network(b.graph, tensors, dtype="bf16")
    result, times = network.profile({"x": x} | ({} if side is None else {"side": side}))
    return result["out"], [op for _, op, _, _ in times]


def torch_gated(x: Array, w: Array, bias: Array, side: Array | None, kind: torch.dtype) -> Array:
    seen = torch.from_numpy(x).bfloat16().to(kind)
    both = F.linear(seen, torch.from_numpy(w).bfloat16().to(kind), torch.from_numpy(bias).to(kind))
    values, gates = both.chunk(2, -1)
    out = values * F.gelu(gates)
    if side is not None:
        out = out + torch.from_numpy(side).bfloat16().to(kind)
    return out.double().numpy()


@pytest.mark.parametrize("rows", [1, 33, 70])
@pytest.mark.parametrize(("inputs", "c"), [(72, 16), (64, 48), (320, 1280), (96, 40)])
@pytest.mark.parametrize("added", [False, True])
def test_matches_float64(rows: int, inputs: int, c: int, added: bool) -> None:
    """Of twice 40 outputs the halves fill no panels, and geglu stays an op of its own."""
    x, w, bias = normal(0, 2, rows, inputs), normal(1, 2 * c, inputs), normal(2, 2 * c)
    w /= np.float32(np.sqrt(inputs))
    side = normal(3, 2, rows, c) if added else None
    tensors = {"w.weight": _core.Tensor.from_array(w), "w.bias": _core.Tensor.from_array(bias)}
    out, names = gated(x, tensors, c, side)
    assert ("geglu" in names) == (not FUSES or c == 40)
    ref = torch_gated(x, w, bias, side, torch.float64)
    assert error(out, ref) <= 1.5 * error(torch_gated(x, w, bias, side, torch.bfloat16), ref)


@pytest.mark.parametrize("type", ["q8_0", "q4_K", "q6_K", "q5_1", "iq4_nl", "f16"])
def test_quantized(type: str) -> None:
    """Those that stay in blocks are unpacked a panel at a time, values and gates."""
    x, bias = normal(0, 1, 9, 512), normal(1, 192)
    stored = _core.quantize(normal(2, 192, 512) / np.float32(np.sqrt(512)), type)
    out, _ = gated(x, {"w.weight": stored, "w.bias": _core.Tensor.from_array(bias)}, 96, None)
    w = stored.to_float()
    ref = torch_gated(x, w, bias, None, torch.float64)
    assert error(out, ref) <= 1.5 * error(torch_gated(x, w, bias, None, torch.bfloat16), ref)


def test_far_gates() -> None:
    """Where a gate is closed nothing is left, and where it is open the value alone."""
    x = np.eye(2, dtype=np.float32)[None]
    w = np.zeros((64, 2), np.float32)
    w[:32, :] = np.arange(1, 33)[:, None]
    w[32:, 0], w[32:, 1] = 100, -100
    tensors = {"w.weight": w, "w.bias": np.zeros(64, np.float32)}
    stored = {name: _core.Tensor.from_array(a) for name, a in tensors.items()}
    out, _ = gated(x, stored, 32, None)
    np.testing.assert_allclose(out[0, 0], np.arange(1, 33) * 100.0, rtol=1e-5)
    assert np.abs(out[0, 1]).max() < 1e-3
