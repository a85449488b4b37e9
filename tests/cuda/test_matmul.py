"""`linear` and `conv2d` by the GPU's kernels, against float64."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuda.devices import HALVES, Array, bound, error, normal, rng, rounded
from sdcore import InvalidArgumentError, _core, ops
from sdcore.graph import Builder, nn

SIZES = [
    # rows, inputs, outputs
    (1, 1, 1),
    (7, 33, 5),
    (17, 96, 33),
    (65, 64, 66),
    (77, 200, 130),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_linear(device: str, dtype: str, size: tuple[int, int, int]) -> None:
    m, k, n = size
    g = rng(m, k, n)
    x, w, bias = normal(g, 1, m, k), normal(g, n, k), normal(g, n)
    out = ops.matmul(x, w, bias, device=device, dtype=dtype)
    assert error(out, rounded(x, dtype) @ rounded(w, dtype).T + bias) < bound(k, "f32")


@pytest.mark.parametrize("size", [(12500, 32, 8), (1100, 40, 1300)], ids=str)
@pytest.mark.parametrize("dtype", HALVES)
def test_linear_of_many_rows_takes_the_wide_tile(
    device: str, dtype: str, size: tuple[int, int, int]
) -> None:
    m, k, n = size
    g = rng(m, k, n)
    x, w = normal(g, 1, m, k), normal(g, n, k)
    out = ops.matmul(x, w, device=device, dtype=dtype)
    assert error(out, rounded(x, dtype) @ rounded(w, dtype).T) < bound(k, "f32")
    # The narrow tile sums in the same order, so rows alone are the rows of many.
    few = ops.matmul(x[:, 70:135], w, device=device, dtype=dtype)
    np.testing.assert_array_equal(out[:, 70:135], few)


@pytest.mark.parametrize(
    "size",
    [(64, 64, 80), (128, 128, 80), (128, 72, 128), (120, 448, 160)],
    ids=str,
)
@pytest.mark.parametrize("dtype", HALVES)
def test_linear_takes_tiles_of_warpgroups(
    device: str, dtype: str, size: tuple[int, int, int]
) -> None:
    """What emulated90 takes them for is what fits one multiprocessor best."""
    m, k, n = size
    g = rng(m, k, n)
    x, w, bias = normal(g, 1, m, k), normal(g, n, k), normal(g, n)
    out = ops.matmul(x, w, bias, device=device, dtype=dtype)
    assert error(out, rounded(x, dtype) @ rounded(w, dtype).T + bias) < bound(k, "f32")


def test_long_sums_take_the_tallest_tile_of_warpgroups(device: str) -> None:
    g = rng(16)
    x, weight = normal(g, 1, 16, 16, 1024), normal(g, 128, 1024, 3, 3)
    out = ops.conv2d(x, weight, None, 1, 1, device=device, dtype="f16")
    image = torch.from_numpy(rounded(x, "f16")).permute(0, 3, 1, 2)
    ref = F.conv2d(image, torch.from_numpy(rounded(weight, "f16")), padding=1)
    assert error(out, ref.permute(0, 2, 3, 1).numpy()) < bound(1024 * 9, "f32")


@pytest.mark.parametrize("size", [(1, 8, 1), (2, 24, 5), (11, 40, 33), (9, 1280, 20)], ids=str)
def test_linear_of_images_of_one_pixel(device: str, dtype: str, size: tuple[int, int, int]) -> None:
    images, k, n = size
    g = rng(images, k, n)
    x, w, bias = normal(g, images, 1, k), normal(g, n, k), normal(g, n)
    out = ops.matmul(x, w, bias, device=device, dtype=dtype)
    assert error(out, rounded(x, dtype) @ rounded(w, dtype).T + bias) < bound(k, "f32")
    alone = ops.matmul(x[-1:], w, bias, device=device, dtype=dtype)
    np.testing.assert_array_equal(alone[0], out[-1])


CONVS = [
    # n, h, w, in, out, kernel, stride, padding (top, left, bottom, right)
    (1, 1, 1, 1, 1, (3, 3), 1, (1, 1, 1, 1)),
    (2, 9, 7, 32, 33, (3, 3), 1, (1, 1, 1, 1)),
    (2, 7, 9, 5, 3, (3, 3), 1, (1, 1, 1, 1)),
    (1, 10, 7, 4, 65, (3, 3), 1, (1, 1, 1, 1)),
    (2, 9, 10, 40, 16, (3, 3), 2, (1, 1, 1, 1)),
    (1, 8, 8, 64, 32, (3, 3), 2, (0, 0, 1, 1)),
    (1, 8, 9, 48, 20, (1, 1), 2, (0, 0, 0, 0)),
    (1, 11, 8, 16, 8, (5, 3), 1, (2, 1, 2, 1)),
    (1, 9, 9, 32, 8, (3, 3), 1, (0, 2, 1, 0)),
    # Of warpgroups: patches across images, beyond their edges, of every other pixel, of few
    # channels; more steps than stages; and parts of sums in a cluster.
    (2, 8, 8, 64, 80, (3, 3), 1, (1, 1, 1, 1)),
    (3, 5, 13, 72, 96, (3, 3), 1, (1, 1, 1, 1)),
    (2, 9, 12, 40, 16, (3, 3), 2, (1, 1, 1, 1)),
    (1, 12, 12, 64, 32, (3, 3), 2, (0, 0, 1, 1)),
    (1, 17, 6, 128, 16, (5, 3), 1, (2, 1, 2, 1)),
    (1, 9, 16, 48, 32, (1, 1), 2, (0, 0, 0, 0)),
    (2, 6, 8, 512, 32, (3, 3), 1, (1, 1, 1, 1)),
]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv2d(device: str, dtype: str, case: tuple) -> None:
    n, h, w, c_in, c_out, kernel, stride, padding = case
    g = rng(n, h, w, c_in, c_out)
    x, weight, bias = normal(g, n, h, w, c_in), normal(g, c_out, c_in, *kernel), normal(g, c_out)
    out = ops.conv2d(x, weight, bias, stride, padding, device=device, dtype=dtype)
    top, left, bottom, right = padding
    image = torch.from_numpy(rounded(x, dtype)).permute(0, 3, 1, 2)
    ref = F.conv2d(
        F.pad(image, (left, right, top, bottom)),
        torch.from_numpy(rounded(weight, dtype)),
        torch.from_numpy(bias).double(),
        stride=stride,
    )
    length = c_in * kernel[0] * kernel[1]
    assert error(out, ref.permute(0, 2, 3, 1).numpy()) < bound(length, "f32")


@pytest.mark.parametrize("channels", [40, 37])
def test_epilogue_and_slices(device: str, dtype: str, channels: int) -> None:
    """Bias, a vector an image, an activation and a residual in one kernel, whose inputs and output
    are slices of wider memory."""
    g = rng(channels)
    x, t, side = normal(g, 2, 6, 5, 24), normal(g, 2, channels), normal(g, 2, 6, 5, channels)
    b = Builder()
    image, vector, other = b.input("x"), b.input("t"), b.input("side")
    hidden = nn.conv2d(b.weights.conv, image, 24, channels) + vector
    hidden = nn.activation(hidden, "silu") + other
    both = nn.concat(hidden, nn.activation(other, "relu"))
    b.output("out", nn.conv2d(b.weights.last, both, 2 * channels, 8, kernel=1))
    weights = {
        name: normal(g, *shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        for name, shape in b.graph.weights.items()
    }
    tensors = {name: _core.Tensor.from_array(w) for name, w in weights.items()}
    network = _core.Network(b.graph, tensors, dtype=dtype, device=device)
    assert network.device.startswith(device)
    inputs = {"x": x, "t": t, "side": side}
    out = network.run(inputs)["out"]
    f64 = {name: torch.from_numpy(w).double() for name, w in weights.items()}
    planes = [torch.from_numpy(a).double() for a in (x, t, side)]
    hidden_ref = F.conv2d(
        planes[0].permute(0, 3, 1, 2), f64["conv.weight"], f64["conv.bias"], padding=1
    )
    hidden_ref = F.silu(hidden_ref + planes[1][:, :, None, None]) + planes[2].permute(0, 3, 1, 2)
    both_ref = torch.cat([hidden_ref, F.relu(planes[2].permute(0, 3, 1, 2))], 1)
    ref = F.conv2d(both_ref, f64["last.weight"], f64["last.bias"]).permute(0, 2, 3, 1).numpy()
    # Inputs, weights and what is between are rounded.
    assert error(out, ref) < 4 * bound(24 * 9, dtype)
    # Again and again, as it is replayed; and a picture of a batch is the picture made alone.
    for _ in range(2):
        np.testing.assert_array_equal(network.run(inputs)["out"], out)
    alone = network.run({name: a[1:] for name, a in inputs.items()})["out"]
    np.testing.assert_array_equal(alone[0], out[1])


@pytest.mark.parametrize("type", ["q8_0", "q4_0", "q4_K", "q5_K", "q6_K", "q5_1", "iq4_nl"])
@pytest.mark.parametrize("rows, dtype", [(3, "bf16"), (70, "bf16"), (70, "f16")])
@pytest.mark.parametrize("n", [67, 80])
def test_quantized(device: str, type: str, rows: int, dtype: str, n: int) -> None:
    """Like the unpacked weights, rounded; the last two types are unpacked on the way up."""
    g = rng(rows)
    k = 512
    x = normal(g, 1, rows, k)
    weight = _core.quantize(normal(g, n, k), type)
    values = gguf.dequantize(weight.data, gguf.GGMLQuantizationType[type.upper()]).reshape(n, k)
    if rows > 4 or type in ("q5_1", "iq4_nl"):  # blocks are multiplied with few rows as they are
        values = rounded(values, dtype)
    out = ops.matmul(x, weight, device=device, dtype=dtype)
    assert error(out, rounded(x, dtype) @ values.astype(np.float64).T) < bound(k, "f32")


def test_quantized_in_f32(device: str) -> None:
    g = rng()
    x, weight = normal(g, 1, 9, 256), _core.quantize(normal(g, 20, 256), "q4_K")
    ref: Array = x.astype(np.float64) @ weight.to_float().astype(np.float64).T
    assert error(ops.matmul(x, weight, device=device), ref) < bound(256, "f32")


@pytest.mark.parametrize("type", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("k", [64, 40])
def test_weights_in_f16(device: str, type: str, k: int) -> None:
    """Those of f16 files are multiplied as they are, subnormal ones too, and others rounded."""
    g = rng(k)
    x = normal(g, 1, 9, k)
    weight = _core.quantize(normal(g, 20, k) * np.logspace(-8, 0, k, dtype=np.float32), type)
    values = weight.to_float()
    out = ops.matmul(x, weight, device=device, dtype="f16")
    assert error(out, rounded(x, "f16") @ rounded(values, "f16").T) < bound(k, "f32")
    if type == "f16":
        np.testing.assert_array_equal(rounded(values, "f16"), values)


def test_weights_that_f16_cannot_hold_are_told(device: str) -> None:
    w = np.ones((3, 40), np.float32)
    for most in (65504.0, 65519.0):  # the nearest is the largest
        w[1, 7] = most
        out = ops.matmul(np.eye(40, dtype=np.float32)[None], w, device=device, dtype="f16")
        assert out.max() == 65504.0
    w[1, 7] = -65520.0
    for weight in (w, _core.quantize(w, "bf16")):
        with pytest.raises(InvalidArgumentError, match=r"beyond 65504.*use dtype bf16 or f32"):
            ops.matmul(np.ones((1, 1, 40)), weight, device=device, dtype="f16")
    assert ops.matmul(np.ones((1, 1, 40)), w, device=device, dtype="bf16").min() < -65000


def test_f16_overflows_to_infinity(device: str) -> None:
    """Sums are float32; what is stored is not cut off."""
    x, w = np.full((1, 1, 64), 300, np.float32), np.full((8, 64), 300, np.float32)
    assert (ops.matmul(x, w, device=device, dtype="f16") == 64 * 9e4).all()
    b = Builder()
    b.output("out", nn.concat(nn.linear(b.weights.w, b.input("x"), 64, 8, bias=False)))
    tensors = {"w.weight": _core.Tensor.from_array(w)}
    network = _core.Network(b.graph, tensors, dtype="f16", device=device)
    assert (network.run({"x": x})["out"] == np.inf).all()


def test_f16_is_not_the_cpu_s() -> None:
    x = np.ones((1, 1, 8), np.float32)
    with pytest.raises(InvalidArgumentError, match=r"f16 is for GPUs: on the CPU use auto, bf16"):
        ops.scale(x, 2.0, dtype="f16")
    with pytest.raises(
        InvalidArgumentError, match=r"\[dtype\] must be auto, f32, bf16 or f16, got"
    ):
        ops.scale(x, 2.0, dtype="float16")
