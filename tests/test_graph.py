"""Graphs as values: built, printed, parsed, planned without weights, saved and run again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdcore
from published_sizes import SDXL
from sdcore import _core
from sdcore.graph import Builder, nn
from sdcore.models.clip import CLIPTextConfig, build_clip
from sdcore.models.unet_graph import UNetConfig, build_unet
from sdcore.models.vae import VAEConfig, build_decoder, build_encoder

RNG = np.random.default_rng(0)

SD15 = UNetConfig(cross_attention_dim=768)
SDXL_INPUTS = {
    "sample": (1, 128, 128, 4),
    "timestep": (1,),
    "encoder_hidden_states": (1, 77, 2048),
    "text_embeds": (1, 1280),
    "time_ids": (1, 6),
}


def parameters(graph: _core.Graph) -> int:
    return sum(int(np.prod(shape)) for shape in graph.weights.values())


# Tensors and parameters as counted from diffusers' and transformers' own modules.
@pytest.mark.parametrize(
    ("graphs", "tensors", "millions"),
    [
        ([build_unet(SD15)], 686, 859.52),
        ([build_unet(SDXL)], 1680, 2567.46),
        (
            [
                build(VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2))
                for build in (build_encoder, build_decoder)
            ],
            248,
            83.65,
        ),
        (
            [
                build_clip(
                    CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
                )
            ],
            196,
            123.06,
        ),
    ],
    ids=["sd15", "sdxl", "vae", "clip"],
)
def test_networks_have_the_published_weights(
    graphs: list[_core.Graph], tensors: int, millions: float
) -> None:
    assert sum(len(graph.weights) for graph in graphs) == tensors
    assert round(sum(map(parameters, graphs)) / 1e6, 2) == pytest.approx(millions, abs=0.01)


def test_a_full_size_model_is_planned_in_milliseconds_without_weights() -> None:
    graph = build_unet(SDXL)
    start = time.perf_counter()
    plan = graph.plan(SDXL_INPUTS, dtype="bf16")
    elapsed = time.perf_counter() - start
    assert plan["outputs"] == {"sample": (1, 128, 128, 4)}
    # More than the largest pair of values that must exist together, less than all of them.
    assert 2 * 128 * 128 * 960 * 2 < plan["arena_bytes"] < 512 * 2**20
    assert elapsed < 0.5


def test_text_gives_the_same_graph_back() -> None:
    for graph in (build_unet(SDXL), build_decoder(VAEConfig())):
        text = str(graph)
        assert str(_core.Graph.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no output"),
        ("%0 = input", "line 1: expected"),
        ('%0 = input "x" f16', "f32 or i32"),
        ('%1 = input "x" f32', "numbered in order"),
        ('%0 = weight "w" [0]', "cannot have the shape"),
        ('%0 = weight "w" [9999999999, 9999999999, 9]', "cannot have the shape"),
        ('%0 = input "x" f32\n%1 = boil(%0)', "no op named 'boil'"),
        ('%0 = input "x" f32\n%1 = scale(%7) factor=2', "not a value of this graph"),
        ('%0 = input "x" f32\n%1 = scale(%0) fctor=2.0', "no attribute 'fctor'; it has factor"),
        ('%0 = input "x" f32\n%1 = scale(%0) factor="2"', "'factor' must be a number"),
        ('%0 = input "x" f32\n%1 = linear(%0)', "input 'weight' is missing"),
        ('%0 = input "x" f32\n%1 = linear(%0, %0)', "'weight' must be a weight"),
        (
            '%0 = input "x" f32\n%1 = weight "w" [2, 2]\n%2 = linear(%0, %1) int8_activations=1',
            "'int8_activations' must be true or false",
        ),
        ('%0 = input "x" f32\noutput "y" = %0', "must be the result of an op"),
        ('%0 = input "x" f32\n%1 = scale(%0) factor=2.0 tail', "expected '='"),
    ],
)
def test_bad_text_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(sdcore.SDCoreError, match=says):
        _core.Graph.parse(text)


def test_sizes_that_do_not_fit_name_the_layer() -> None:
    graph = build_unet(SD15)
    inputs = {"sample": (1, 64, 64, 5), "timestep": (1,), "encoder_hidden_states": (1, 77, 768)}
    with pytest.raises(
        sdcore.InvalidArgumentError, match=r"\[conv2d\] x must have 4 channels.*conv_in\.weight"
    ):
        graph.plan(inputs)
    with pytest.raises(sdcore.InvalidArgumentError, match="input 'timestep' is missing"):
        graph.plan({"sample": (1, 64, 64, 4), "encoder_hidden_states": (1, 77, 768)})


def small_network() -> tuple[_core.Graph, dict[str, np.ndarray]]:
    """Every way in which a value can be placed: skips, concats of views and of inputs, a border."""
    b = Builder()
    w = b.weights
    x, extra = b.input("x"), b.input("extra")
    h = nn.conv2d(w.first, x, 3, 8)
    tokens = nn.linear(w.mix, nn.flatten(h), 8, 8) + nn.flatten(h)
    skip = nn.unflatten(tokens, h)
    down = nn.conv2d(w.down, skip, 8, 8, stride=2)
    up = nn.upsample(nn.silu(nn.group_norm(w.norm, down, 8, 4, 1e-5)), skip)
    joined = nn.concat(nn.conv2d(w.up, up, 8, 8), skip, extra)
    twice = nn.concat(joined, skip)
    b.output("y", nn.conv2d(w.last, twice, 26, 5))
    b.output("joined", joined)
    weights = {
        name: RNG.standard_normal(shape).astype(np.float32) * 0.2
        for name, shape in b.graph.weights.items()
    }
    return b.graph, weights


def small_inputs() -> dict[str, np.ndarray]:
    return {
        "x": RNG.standard_normal((2, 7, 6, 3), dtype=np.float32),
        "extra": RNG.standard_normal((2, 7, 6, 2), dtype=np.float32),
    }


def small_reference(w: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = {name: torch.from_numpy(array).double() for name, array in {**w, **inputs}.items()}

    def conv(name: str, x: Any, stride: int = 1) -> Any:
        return functional.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], stride, 1)

    h = conv("first", t["x"].permute(0, 3, 1, 2))
    mix = functional.linear(h.permute(0, 2, 3, 1), t["mix.weight"], t["mix.bias"])
    skip = mix.permute(0, 3, 1, 2) + h
    down = functional.group_norm(conv("down", skip, 2), 4, t["norm.weight"], t["norm.bias"])
    up = functional.interpolate(functional.silu(down), size=(7, 6))
    joined = torch.cat([conv("up", up), skip, t["extra"].permute(0, 3, 1, 2)], 1)
    y = conv("last", torch.cat([joined, skip], 1))
    return {"y": y.permute(0, 2, 3, 1).numpy(), "joined": joined.permute(0, 2, 3, 1).numpy()}


def tensors(weights: dict[str, np.ndarray]) -> dict[str, _core.Tensor]:
    return {name: _core.Tensor.from_array(array) for name, array in weights.items()}


@pytest.mark.parametrize("isa", _core.supported_isas())
def test_placement_and_fusion_do_not_change_the_result(isa: str) -> None:
    graph, weights = small_network()
    inputs = small_inputs()
    network = _core.Network(graph, tensors(weights), isa=isa)
    ref = small_reference(weights, inputs)
    for _ in range(2):  # the second run finds a used arena
        out = network.run(inputs)
        for name, expected in ref.items():
            assert np.linalg.norm(out[name] - expected) <= 2e-6 * np.linalg.norm(expected), name


def test_a_side_path_is_a_change_of_the_weight() -> None:
    graph, weights = small_network()
    inputs = small_inputs()
    base = _core.Network(graph, tensors(weights))
    before = base.run(inputs)
    low, changed = {}, {}
    for name, rank in {"mix": 2, "down": 3, "last": 1}.items():
        out, *rest = weights[f"{name}.weight"].shape
        low[f"{name}.lora_down"] = RNG.standard_normal((rank, *rest)).astype(np.float32)
        low[f"{name}.lora_up"] = RNG.standard_normal((out, rank)).astype(np.float32)
        delta = np.tensordot(low[f"{name}.lora_up"], low[f"{name}.lora_down"], 1)
        changed[f"{name}.weight"] = weights[f"{name}.weight"] + delta
    sided = graph.with_side_paths({"mix.weight": 2, "down.weight": 3, "last.weight": 1})
    assert str(_core.Graph.parse(str(sided))) == str(sided)
    beside = base.with_weights(tensors(low), sided)
    ref = small_reference({**weights, **changed}, inputs)
    for network in (beside, base.with_weights(tensors(changed))):
        out = network.run(inputs)
        for name, expected in ref.items():
            assert np.linalg.norm(out[name] - expected) <= 4e-6 * np.linalg.norm(expected), name
    assert set(beside.tensors) == {*weights, *low}
    for name, array in base.run(inputs).items():
        assert np.array_equal(array, before[name])  # the one that shares its weights is as it was
    with pytest.raises(sdcore.InvalidArgumentError, match=r"no linear or conv2d.*'norm\.weight'"):
        graph.with_side_paths({"norm.weight": 2})
    with pytest.raises(sdcore.CheckpointError, match=r"'mix\.lora_up' is missing"):
        base.with_weights({}, sided)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_saved_network_gives_the_same_bits(tmp_path: Path, dtype: str) -> None:
    graph, weights = small_network()
    inputs = small_inputs()
    before = _core.Network(graph, tensors(weights), dtype=dtype).run(inputs)
    path = tmp_path / "network.gguf"
    _core.save_model(path, {"net": (graph, tensors(weights))}, {"general.name": ("string", "n")})
    graphs, metadata = _core.load_model(path)
    assert metadata == {"general.name": ("string", "n")}
    loaded, stored = graphs["net"]
    assert str(loaded) == str(graph)
    after = _core.Network(loaded, stored, dtype=dtype).run(inputs)
    for name in before:
        assert np.array_equal(before[name], after[name])
    with pytest.raises(sdcore.CheckpointError, match="holds no graph"):
        sdcore.gguf.write(path, {}, tensors(weights))
        _core.load_model(path)


def test_a_saved_network_needs_all_its_weights(tmp_path: Path) -> None:
    graph, weights = small_network()
    del weights["mix.bias"]
    path = tmp_path / "network.gguf"
    with pytest.raises(sdcore.InvalidArgumentError, match=r"'mix\.bias' is missing"):
        _core.save_model(path, {"net": (graph, tensors(weights))}, {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(sdcore.CheckpointError, match=r"'mix\.bias' is missing"):
        _core.Network(graph, tensors(weights))


def test_graphs_share_weights() -> None:
    graph, weights = small_network()
    network = _core.Network(graph, tensors(weights))
    b = Builder()
    b.output("h", nn.conv2d(b.weights.first, b.input("x"), 3, 8))
    x = small_inputs()["x"]
    other = network.with_graph(b.graph)
    assert np.array_equal(
        other.run({"x": x})["h"],
        _core.Network(b.graph, tensors(weights)).run({"x": x})["h"],
    )
    b = Builder()
    b.output("h", nn.conv2d(b.weights.nowhere, b.input("x"), 3, 8))
    with pytest.raises(sdcore.CheckpointError, match=r"'nowhere\.weight' is missing"):
        network.with_graph(b.graph)


def test_every_op_is_there_for_arrays() -> None:
    views = {"crop_rows", "flatten", "slice_tokens", "unflatten"}  # they move nothing
    whole = {"token_groups"}  # gives whole numbers, which no graph hands out
    names = {"matmul" if name == "linear" else name for name in _core.op_names()} - views - whole
    assert names == set(sdcore.ops.__all__)


def test_single_ops_are_numpys() -> None:
    x = RNG.standard_normal((2, 5, 12), dtype=np.float32)
    w, b = RNG.standard_normal((7, 12)), RNG.standard_normal(7)
    ref = x.astype(np.float64) @ w.T + b
    assert np.allclose(sdcore.ops.matmul(x, w, b), ref, rtol=1e-5, atol=1e-5)
    assert np.allclose(sdcore.ops.scale(x, -2.0), -2 * x)
    assert np.allclose(sdcore.ops.concat(x, 2 * x, x), np.concatenate([x, 2 * x, x], -1))
    q8 = sdcore.quantize(RNG.standard_normal((6, 64)).astype(np.float32), "q8_0")
    y = RNG.standard_normal((3, 64), dtype=np.float32)
    quantized = sdcore.ops.matmul(y, q8)
    assert np.allclose(quantized, y @ sdcore.dequantize(q8).T, rtol=1e-4, atol=1e-4)
    ids = np.array([[1, 0, 5]])
    assert np.array_equal(sdcore.ops.embedding(ids, w)[0], w.astype(np.float32)[[1, 0, 5]])
    with pytest.raises(sdcore.SDCoreError, match="7"):
        sdcore.ops.embedding(np.array([[7]]), w)
    groups = np.array([[0, 1, 0, 2], [2, 0, 1, 1]])
    spread = sdcore.ops.spread_tokens(x, groups)
    assert np.array_equal(spread, np.stack([x[i][groups[i]] for i in range(2)]))
    fewer = sdcore.ops.mean_tokens(spread, groups, np.zeros((2, 2, 2, 1), np.float32), 0.25)
    assert np.allclose(fewer, x[:, :3])
    assert np.array_equal(sdcore.ops.take(x, [4, 1]), np.stack([x[0, 4], x[1, 1]]))
    with pytest.raises(sdcore.SDCoreError, match="index 5 is outside a sequence of 5"):
        sdcore.ops.take(x, [0, 5])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_run_with_squares_sums_what_comes_into_linear_layers(dtype: str) -> None:
    b = Builder()
    w = b.weights
    image = b.input("image")
    tokens = nn.flatten(nn.conv2d(w.first, image, 3, 6))
    b.output("tokens", tokens)
    b.output("y", nn.linear(w.second, nn.silu(nn.linear(w.mix, tokens, 6, 5)), 5, 4))
    weights = {
        name: RNG.standard_normal(shape).astype(np.float32)
        for name, shape in b.graph.weights.items()
    }
    network = _core.Network(b.graph, tensors(weights), dtype=dtype)
    inputs = {"image": RNG.standard_normal((2, 7, 5, 3)).astype(np.float32)}
    outputs, squares = network.run_with_squares(inputs)
    np.testing.assert_array_equal(outputs["y"], network.run(inputs)["y"])
    assert set(squares) == {"mix.weight", "second.weight"}

    rows = outputs["tokens"].astype(np.float64).reshape(-1, 6)
    mixed = rows @ weights["mix.weight"].T.astype(np.float64) + weights["mix.bias"]
    for name, want in {"mix.weight": rows, "second.weight": mixed / (1 + np.exp(-mixed))}.items():
        sums, count = squares[name]
        assert count == 2 * 7 * 5
        want = (want**2).sum(0)
        assert (
            np.linalg.norm(sums - want) / np.linalg.norm(want) < {"f32": 1e-5, "bf16": 2e-2}[dtype]
        )


def test_what_is_read_last_is_written_over_and_nothing_else():
    x = np.random.default_rng(5).standard_normal((1, 6, 5, 32)).astype(np.float32)
    wide = x.repeat(2, 1).repeat(2, 2)
    silu = wide / (1 + np.exp(-wide.astype(np.float64)))

    def run(again):
        b = Builder()
        y = nn.upsample(b.input("x"))
        z = nn.silu(y)
        b.output("out", z * y if again else z)
        network = _core.Network(b.graph, {}, dtype="f32")
        out = network.run({"x": x})["out"]
        return out, b.graph.plan({"x": list(x.shape)}, "f32")["arena_bytes"]

    out, arena = run(again=False)
    np.testing.assert_allclose(out, silu, rtol=1e-5, atol=1e-6)
    assert arena < wide.nbytes * 1.5  # one image, and the small x
    out, _ = run(again=True)
    np.testing.assert_allclose(out, silu * wide, rtol=1e-5, atol=1e-6)


# A convolution of an upsampled image takes its 2 x 2 pixels once each where no faster method is.
@pytest.mark.parametrize("size", [(5, 9), (1, 1), (16, 12)])
@pytest.mark.parametrize("isa", _core.supported_isas())
def test_an_upsample_is_folded_into_the_convolution_that_reads_it(isa, size):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    height, width = size

    def run(rows):
        b = Builder()
        w = b.weights
        x, like, bias = b.input("x"), b.input("like"), b.input("bias")
        h = nn.conv2d(w.conv, nn.upsample(x, like), 40, 35)
        b.output("y", nn.silu(h + bias) + like)
        weights = {
            name: RNG.standard_normal(shape).astype(np.float32) * 0.1
            for name, shape in b.graph.weights.items()
        }
        inputs = {
            "x": RNG.standard_normal((2, height, width, 40), dtype=np.float32),
            "like": RNG.standard_normal((2, rows, 2 * width, 35), dtype=np.float32),
            "bias": RNG.standard_normal((2, 35), dtype=np.float32),
        }
        network = _core.Network(b.graph, tensors(weights), dtype="bf16", isa=isa)
        out, ops = network.profile(inputs)
        t = {name: torch.from_numpy(a).double() for name, a in {**weights, **inputs}.items()}
        up = functional.interpolate(t["x"].permute(0, 3, 1, 2), size=(rows, 2 * width))
        h = functional.conv2d(up, t["conv.weight"], t["conv.bias"], padding=1)
        expected = functional.silu(h.permute(0, 2, 3, 1) + t["bias"][:, None, None]) + t["like"]
        error = np.linalg.norm(out["y"] - expected.numpy()) / float(expected.norm())
        return error, [op for op, *_ in ops]

    error, ops = run(2 * height)
    assert error < 4e-3
    assert ("upsample" in ops) == (isa not in ("avx512_bf16", "amx"))
    error, ops = run(2 * height - 1)
    assert error < 4e-3
    assert "upsample" in ops
