"""ONNX files read and run by sdcore against onnx and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import tiny_faces
from sdcore import UnsupportedModelError
from sdcore.onnx import OnnxNetwork, read
from tiny_faces import Writer

LIMIT = 1e-5  # of float32 sums in another order


def both(
    model: onnx.ModelProto, path: Path, x: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What onnxruntime gives, and what sdcore gives."""
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: x})
    network = OnnxNetwork(read(path), *x.shape[2:])
    return theirs, list(network(x).values())


def same(theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> None:
    assert len(theirs) == len(ours) > 0
    for ref, out in zip(theirs, ours, strict=True):
        assert out.shape == ref.shape and np.ptp(ref) > 0
        assert np.linalg.norm(out - ref) <= LIMIT * np.linalg.norm(ref)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (tiny_faces.scrfd, (96, 160)),
        (tiny_faces.iresnet, (112, 112)),
        (lambda: tiny_faces.iresnet(normalises=True), (112, 112)),
        (tiny_faces.mobile_face_net, (112, 112)),
    ],
    ids=["scrfd", "iresnet", "iresnet of pixels", "mobilefacenet"],
)
def test_whole_networks(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], size: tuple[int, int]
) -> None:
    same(*both(make(), tmp_path / "x.onnx", normal(1, 3, *size)))


def test_another_size_of_one_network(tmp_path: Path) -> None:
    path, x = tmp_path / "x.onnx", normal(1, 3, 64, 128)
    theirs, _ = both(tiny_faces.scrfd(), path, x)
    network = OnnxNetwork(read(path), 96, 96).at(64, 128)
    same(theirs, list(network(x).values()))


def test_float16_weights(tmp_path: Path) -> None:
    """Widened: as if the file had them so in float32."""
    model = tiny_faces.iresnet()
    half = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor, wide in zip(half.graph.initializer, model.graph.initializer, strict=True):
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        wide.CopyFrom(numpy_helper.from_array(array.astype(np.float32), wide.name))
    x = normal(1, 3, 112, 112)
    theirs, _ = both(model, tmp_path / "wide.onnx", x)
    onnx.save(half, tmp_path / "half.onnx")
    same(theirs, list(OnnxNetwork(read(tmp_path / "half.onnx"), 112, 112)(x).values()))


# ---- one op at a time ----------------------------------------------------------------------------


def _conv(w: Writer, x: str, **given: Any) -> str:
    return w.add("Conv", x, w.normal(8, 6, 3, 2), w.normal(8), kernel_shape=[3, 2], **given)


def _excited(w: Writer, x: str) -> str:
    """A product with one number a channel that is computed, either way round."""
    mean = w.conv(w.add("GlobalAveragePool", x), 6, 6, 1)
    return w.add("Add", w.add("Mul", mean, x), w.add("Sub", x, mean))


def _joined(w: Writer, x: str) -> str:
    return w.add("Concat", x, w.conv(x, 6, 4), w.add("Relu", x), axis=1)


def _there_and_back(w: Writer, x: str) -> str:
    turned = w.add("Relu", w.add("Transpose", x, perm=[0, 2, 3, 1]))
    back = w.add("Transpose", turned, perm=[0, 3, 1, 2])
    return w.conv(w.add("Identity", back), 6, 5)


def _vector(w: Writer, x: str) -> str:
    """Axes of one that go and come, and a matrix that is not transposed."""
    v = w.add("GlobalAveragePool", x)
    v = w.add("Squeeze", v, axes=[2, -1])
    v = w.add("Gemm", v, w.normal(6, 9), w.normal(9), alpha=0.5, beta=2.0)
    v = w.add("Mul", v, w.normal(9))
    return w.add("Unsqueeze", v, axes=[0])


def _matrix_of_an_image(w: Writer, x: str) -> str:
    """Rows of the matrix go by channels, or by places where the image was turned."""
    flat = w.add("Reshape", w.conv(x, 6, 6), w.tensor(np.array([0, -1], np.int64)))
    a = w.add("MatMul", flat, w.normal(6 * 9 * 7, 5))
    turned = w.add("Flatten", w.add("Transpose", x, perm=[0, 2, 3, 1]))
    return w.add("Add", a, w.add("MatMul", turned, w.normal(6 * 9 * 7, 5)))


def _halves(w: Writer, x: str) -> str:
    """Arithmetic with constants on both sides, of one number and of one a channel."""
    x = w.add("Sub", w.tensor(np.float32(1.5)), x)
    x = w.add("Div", x, w.tensor(np.linspace(1, 2, 6, dtype=np.float32).reshape(1, 6, 1, 1)))
    x = w.add("Neg", w.add("Add", w.normal(6, 1, 1), x))
    return w.add("LeakyRelu", x, alpha=0.2)


def _shared(w: Writer, x: str) -> str:
    """A convolution that two read: its batch norm must stay."""
    y = w.conv(x, 6, 6)
    return w.add("Add", w.norm(y, 6), w.add("PRelu", y, w.tensor(np.full((1, 1, 1), 0.25, "f4"))))


def _folded(w: Writer, x: str) -> str:
    v = w.add("Flatten", w.norm(_conv(w, x), 8))
    size = 8 * 7 * 6
    return w.norm(w.add("Gemm", v, w.normal(5, size), transB=1, alpha=1.0, beta=1.0), 5)


def _pool(op: str, **given: Any) -> Callable[[Writer, str], str]:
    return lambda w, x: w.add(op, x, **given)


OPS: dict[str, Callable[[Writer, str], str]] = {
    "stride and padding": lambda w, x: _conv(w, x, strides=[2, 2], pads=[1, 0, 2, 1]),
    "no padding": lambda w, x: _conv(w, x, auto_pad="VALID"),
    "groups": lambda w, x: w.conv(x, 6, 9, groups=3, bias=True),
    "a channel each": lambda w, x: w.conv(x, 6, 12, groups=6, stride=2),
    "largest": _pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "largest, beyond": _pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "mean, beyond": _pool("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "mean at borders": _pool("AveragePool", kernel_shape=[3, 2], pads=[1, 1, 0, 0]),
    "batch norm alone": lambda w, x: w.norm(x, 6),
    "batch norm of one of two": _shared,
    "batch norms folded": _folded,
    "excited": _excited,
    "joined": _joined,
    "there and back": _there_and_back,
    "vector": _vector,
    "matrix of an image": _matrix_of_an_image,
    "halves": _halves,
    "sigmoid": lambda w, x: w.add("Sigmoid", w.conv(x, 6, 2)),
}


@pytest.mark.parametrize("name", OPS)
def test_ops(tmp_path: Path, name: str) -> None:
    w = Writer(3)
    model = w.model([1, 6, 9, 7], [OPS[name](w, "x")], "x")
    same(*both(model, tmp_path / "x.onnx", normal(1, 6, 9, 7)))


RESIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "Upsample": (9, {"mode": "nearest"}),
    "Resize 10": (10, {"mode": "nearest"}),
    "Resize 13": (13, {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}),
    "Resize prefers ceil": (13, {"nearest_mode": "round_prefer_ceil"}),
    "Resize floor": (
        13,
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
}


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize("times", [2, 4])
def test_resize(tmp_path: Path, name: str, times: int) -> None:
    opset, attributes = RESIZES[name]
    w = Writer(4, opset)
    scales = w.tensor(np.array([1, 1, times, times], np.float32))
    op, *_ = name.split()
    inputs = ["x", scales] if opset < 11 else ["x", "", scales]
    model = w.model([1, 6, 5, 7], [w.add(op, *inputs, **attributes)], "x")
    same(*both(model, tmp_path / "x.onnx", normal(1, 6, 5, 7)))


# ---- how tensors lie in a file -------------------------------------------------------------------

STORED = {
    "float32": (TensorProto.FLOAT, np.array([[1.5, -2, np.inf], [0, 3e-40, 1e38]], np.float32)),
    "float16": (TensorProto.FLOAT16, np.array([1.5, -2, 65504, 6e-8], np.float16)),
    "float64": (TensorProto.DOUBLE, np.array([1.5, 1e300])),
    "int32": (TensorProto.INT32, np.array([-1, 2**31 - 1, -(2**31)], np.int32)),
    "int64": (TensorProto.INT64, np.array([[-1], [2**62]])),
    "scalar": (TensorProto.FLOAT, np.array(2.5, np.float32)),
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("raw", [True, False])
def test_tensors(tmp_path: Path, name: str, raw: bool) -> None:
    kind, array = STORED[name]
    values = array.tobytes() if raw else array.reshape(-1).tolist()
    tensor = helper.make_tensor("t", kind, array.shape, values, raw=raw)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [], [tensor])
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    found = read(tmp_path / "x.onnx").tensors["t"]
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    """As files before version 4 of the format have them."""
    model = tiny_faces.iresnet()
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.insert(0, value)
    onnx.save(model, tmp_path / "x.onnx")
    (one,) = read(tmp_path / "x.onnx").inputs
    assert one.name == "input.1" and one.shape == (None, 3, 112, 112)


# ---- what is not run -----------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Writer], str], str]] = {
    "op": (lambda w: w.add("Softmax", "x"), "a Softmax: sdcore does not run this op"),
    "domain": (lambda w: w.add("Gelu", "x", domain="com.microsoft"), "a com.microsoft.Gelu"),
    "dilation": (lambda w: _conv(w, "x", dilations=[2, 2]), "it is dilated"),
    "strides": (lambda w: _conv(w, "x", strides=[1, 2]), "its strides are [1, 2]"),
    "auto_pad": (lambda w: _conv(w, "x", auto_pad="SAME_UPPER"), "its auto_pad is 'SAME_UPPER'"),
    "sigmoid inside": (lambda w: w.conv(w.add("Sigmoid", "x"), 6, 6), "it reads a sigmoid"),
    "rows joined": (lambda w: w.add("Concat", "x", "x", axis=2), "something else than channels"),
    "a constant of places": (lambda w: w.add("Add", "x", w.normal(9, 7)), "one number a channel"),
    "still trained": (
        lambda w: w.add("BatchNormalization", "x", *[w.normal(6)] * 4, training_mode=1),
        "still to be trained",
    ),
    "padding counted": (
        lambda w: w.add("AveragePool", "x", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        "its mean counts the padding",
    ),
    "cubic": (
        lambda w: w.add("Resize", "x", "", w.tensor(np.array([1, 1, 2, 2], "f4")), mode="cubic"),
        "only nearest is run",
    ),
    "three times": (
        lambda w: w.add("Resize", "x", "", w.tensor(np.array([1, 1, 3, 3], "f4"))),
        "9 x 7 into 27 x 21, which is not twice",
    ),
    "only the input": (lambda w: w.add("Identity", "x"), "is nothing that it computes"),
    "turned otherwise": (
        lambda w: w.add("Transpose", w.add("Relu", "x"), perm=[0, 3, 1, 2]),
        "neither channels first nor last",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_run_is_named(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    w = Writer(5)
    onnx.save(w.model([1, 6, 9, 7], [make(w)], "x"), tmp_path / "x.onnx")
    with pytest.raises(UnsupportedModelError) as caught:
        OnnxNetwork(read(tmp_path / "x.onnx"), 9, 7)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)
