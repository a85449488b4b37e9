"""Linear layers that may have their activations in 8 bits: which they are, and what becomes of it
between the graph and the kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import sdcore
from sdcore import _core
from sdcore.graph import Builder, nn
from sdcore.models.base import RunOptions
from sdcore.models.unet_graph import UNetConfig, build_unet
from sdcore.models.vae import VAEConfig, build_decoder

ISAS = _core.supported_isas()
C = 64


def layers(graph: _core.Graph) -> list[str]:
    """The weights of linear layers that may have such activations, in order."""
    text = str(graph)
    names = dict(re.findall(r'^(%\d+) = weight "([^"]+)"', text, re.MULTILINE))
    found = re.findall(r"= linear\(%\d+, (%\d+).*int8_activations=true", text)
    return [names[weight] for weight in found]


def test_self_attention_and_feed_forward_of_a_unet_have_them() -> None:
    names = layers(build_unet(UNetConfig()))
    pattern = r"(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))\.weight$"
    assert len(names) == 16 * 6
    assert all(re.search(pattern, name) for name in names)


def test_attention_to_the_text_alone_has_none() -> None:
    graph = build_unet(UNetConfig(only_cross_attention=(True, False, False, True)))
    names = [name for name in layers(graph) if name.startswith("down_blocks.0") and "attn" in name]
    assert not names


def test_it_is_written_only_where_it_is_so() -> None:
    graph = build_unet(UNetConfig())
    assert layers(_core.Graph.parse(str(graph))) == layers(graph)
    assert "int8" not in str(build_decoder(VAEConfig()))


@cache
def two_layers(int8: bool) -> tuple[_core.Graph, Mapping[str, _core.Tensor]]:
    """All that is folded into a linear layer: an activation, a vector an image, a residual."""
    b = Builder()
    w, x = b.weights, b.input("x")
    h = nn.silu(nn.linear(w.first, x, C, 96, int8_activations=int8))
    h = nn.linear(w.second, h, 96, C, int8_activations=int8)
    b.output("y", h + b.input("image_bias") + x)
    g = np.random.default_rng(3)
    weights = {}
    for name, shape in b.graph.weights.items():
        values = g.standard_normal(shape, dtype=np.float32) / 8
        weights[name] = (
            _core.quantize(values, "q8_0") if len(shape) == 2 else _core.Tensor.from_array(values)
        )
    return b.graph, weights


def inputs() -> dict[str, np.ndarray]:
    """Numbers that bf16 holds."""
    g = np.random.default_rng(4)
    shapes = {"x": (2, 19, C), "image_bias": (2, C)}
    return {
        name: np.rint(g.standard_normal(shape, np.float32) * 32) / 32
        for name, shape in shapes.items()
    }


def run(int8: bool, dtype: str, isa: str) -> np.ndarray:
    graph, weights = two_layers(int8)
    out: np.ndarray = _core.Network(graph, dict(weights), dtype=dtype, isa=isa).run(inputs())["y"]
    return out


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_folded_into_a_layer_leaves_it_so(isa: str) -> None:
    weights, given = two_layers(True)[1], inputs()
    first, second = (
        {
            "w": weights[f"{name}.weight"],
            "bias": weights[f"{name}.bias"].to_float(),
            "dtype": "bf16",
            "isa": isa,
            "int8_activations": True,
        }
        for name in ("first", "second")
    )
    h = _core.kernels.linear(given["x"], activation="silu", **first)
    y = _core.kernels.linear(
        h,
        image_bias=given["image_bias"][:, None, None],
        residual=given["x"][:, None],
        out_dtype="f32",
        **second,
    )
    np.testing.assert_array_equal(run(True, "bf16", isa), y)


@pytest.mark.parametrize("isa", ISAS)
def test_f32_is_exact_whatever_a_layer_may_have(isa: str) -> None:
    np.testing.assert_array_equal(run(True, "f32", isa), run(False, "f32", isa))


def test_two_layers_of_one_weight_may_differ() -> None:
    b = Builder()
    x = b.input("x")
    for name, int8 in (("integers", True), ("floats", False)):
        out = nn.linear(b.weights.w, x, C, C, bias=False, int8_activations=int8)
        b.output(name, out)
    weight = _core.quantize(np.eye(C, dtype=np.float32), "q8_0")
    options = {"dtype": "bf16", "isa": "generic"}
    out = _core.Network(b.graph, {"w.weight": weight}, **options).run({"x": inputs()["x"]})
    for name, int8 in (("integers", True), ("floats", False)):
        alone = sdcore.ops.matmul(inputs()["x"], weight, int8_activations=int8, **options)
        np.testing.assert_array_equal(out[name], alone)
    assert not np.array_equal(out["integers"], out["floats"])


def test_a_saved_network_keeps_it(tmp_path: Path) -> None:
    graph, weights = two_layers(True)
    _core.save_model(tmp_path / "net.gguf", {"net": (graph, dict(weights))}, {})
    graphs, _ = _core.load_model(tmp_path / "net.gguf")
    assert layers(graphs["net"][0]) == ["first.weight", "second.weight"]


@pytest.mark.parametrize("isa", ISAS)
def test_auto_is_bf16_where_integers_are_multiplied(isa: str) -> None:
    """AVX-512 BF16 has integers of 8 bits, and for what needs more its own products."""
    options = RunOptions(isa=isa)
    able = {"generic": False, "avx512": "avx2_vnni" in ISAS}.get(isa, True)
    graph, weights = two_layers(True)
    floats = {name: _core.Tensor.from_array(w.to_float()) for name, w in weights.items()}
    assert options.resolved_dtype(graph, weights) == ("bf16" if able else "f32")
    wanted = "bf16" if able and isa != "avx512_bf16" else "f32"
    assert options.resolved_dtype(graph, floats) == wanted
    assert options.resolved_dtype(*two_layers(False)) == wanted
    assert RunOptions("f32", isa=isa).resolved_dtype(graph, weights) == "f32"


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("isa", ISAS[1:])
def test_a_profile_tells_them_apart(isa: str, int8: bool, dtype: str) -> None:
    graph, weights = two_layers(int8)
    network = _core.Network(graph, dict(weights), dtype=dtype, isa=isa)
    kinds = {kind for _, kind, _, _ in network.profile(inputs())[1] if "linear" in kind}
    variant = _core.kernels.gemm_variant(weights["first.weight"], dtype, isa, int8_activations=int8)
    bits = "int16" if variant.endswith("wide_integers") else "int8"
    assert kinds == {f"linear {bits}" if variant.endswith("integers") else "linear"}
