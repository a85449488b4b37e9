"""ONNX files that are damaged, or ask for more than any network needs: one clear error each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tiny_faces
from sdcore import CheckpointError, FaceAnalysis, SDCoreError, UnsupportedModelError
from sdcore.onnx import OnnxNetwork, read
from tiny_faces import Writer
from writing import write_anew


def refusal(path: Path, content: bytes) -> SDCoreError:
    write_anew(path, content)
    with pytest.raises(SDCoreError) as caught:
        OnnxNetwork(read(path), 16, 16)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < 600
    return caught.value


def test_cut_short_anywhere(tmp_path: Path) -> None:
    w = Writer(1)
    end = w.add("Relu", w.norm(w.conv("x", 3, 4), 4))
    whole = w.model([1, 3, 16, 16], [end], "x").SerializeToString()
    for size in [*range(0, len(whole), 5), *range(len(whole) - 9, len(whole))]:
        error = refusal(tmp_path / "x.onnx", whole[:size])
        assert type(error) in (CheckpointError, UnsupportedModelError), error


def field(number: int, wire: int, data: bytes = b"") -> bytes:
    return bytes([number << 3 | wire]) + data


def _many_fields() -> bytes:
    """A graph of empty nodes, two bytes each."""
    return whole(field(1, 2, b"\0") * 100_000)


def whole(graph: bytes) -> bytes:
    """A file of a graph, with a version of its ops."""
    size, length = len(graph), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return field(8, 2, b"\x02\x10\x0b") + field(7, 2, length + bytes([size])) + graph


BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    "a page": (b"<!DOCTYPE html><html>", "is a web page"),
    "a text": (b"hello, this is no network", "it is no ONNX file, or damaged"),
    "no graph": (field(1, 0, b"\x08"), "there is no graph in it"),
    "no version": (field(7, 2, b"\0"), "it does not say which version its ops are of"),
    "a length beyond": (field(7, 2, b"\xff" * 9 + b"\x01"), "has 0"),
    "a number without an end": (field(1, 0, b"\xff" * 11), "a number does not end"),
    "a graph that is a number": (
        whole(b"")[:4] + field(7, 0, b"\x01"),
        "field 7 of a message is of another type",
    ),
    "a name that is no text": (
        whole(field(1, 2, b"\x03" + field(4, 2, b"\x01\xff"))),
        "a name is no text",
    ),
    "too many fields": (_many_fields(), "it has more than 100000 fields"),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes(tmp_path: Path, name: str) -> None:
    content, message = BYTES[name]
    assert message in str(refusal(tmp_path / "x.onnx", content))


# ---- sound bytes of networks that make no sense --------------------------------------------------


def sized(*dims: int) -> Callable[[Writer], str]:
    """A weight that says that it has so many numbers."""

    def make(w: Writer) -> str:
        end = w.conv("x", 3, 4)
        del w.tensors[-1].dims[:]
        w.tensors[-1].dims.extend(dims)
        return end

    return make


def _external(w: Writer) -> str:
    end = w.conv("x", 3, 4)
    tensor = w.tensors[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return end


def _eights(w: Writer) -> str:
    """A type of 8 bits."""
    w.tensors.append(helper.make_tensor("t", TensorProto.INT8, [1], b"\1", raw=True))
    return w.add("Add", "x", "t")


def _groups(w: Writer) -> str:
    """A few megabytes that would be many gigabytes without groups."""
    x = w.conv("x", 3, 1 << 14, 1)
    return w.conv(x, 1 << 14, 1 << 14, 1, groups=1 << 14)


def _enlarged(w: Writer) -> str:
    x = w.conv("x", 3, 4)
    for _ in range(20):
        x = w.add("Resize", x, "", w.tensor(np.array([1, 1, 2, 2], np.float32)))
    return x


def _doubled(w: Writer) -> str:
    sizes = w.tensor(np.zeros(1000, np.int64))
    for _ in range(40):
        sizes = w.add("Concat", sizes, sizes, axis=0)
    return w.add("Reshape", "x", sizes)


def _filled(w: Writer) -> str:
    many = w.tensor(np.array([1 << 20, 1 << 20], np.int64))
    return w.add("Add", "x", w.add("ConstantOfShape", many))


def _multiplied(w: Writer) -> str:
    row, column = w.tensor(np.zeros((1, 1 << 17), "f4")), w.tensor(np.zeros((1 << 17, 1), "f4"))
    return w.add("Add", "x", w.add("Mul", row, column))


def _cast(w: Writer) -> str:
    x = w.tensor(np.zeros(1 << 22, np.float16))
    for _ in range(40):
        x = w.add("Cast", x, to=TensorProto.FLOAT16)
    return w.add("Add", "x", x)


def _reshaped_by(*sizes: int) -> Callable[[Writer], str]:
    return lambda w: w.add("Reshape", w.conv("x", 3, 4), w.tensor(np.array(sizes, np.int64)))


NETWORKS: dict[str, tuple[Callable[[Writer], str], str]] = {
    "a weight of too many": (sized(1 << 31, 1 << 31), "has the sizes [2147483648, 2147483648]"),
    "a weight of a negative size": (sized(-4, -3, 3, 3), "has the sizes [-4, -3, 3, 3]"),
    "a weight of many axes": (sized(*[1] * 99), "has the sizes [1, 1,"),
    "a weight of fewer": (sized(4, 3, 3, 2), "takes 72 numbers, the file has 108"),
    "a weight of none": (sized(0, 3, 3, 3), "takes 0 numbers, the file has 108"),
    "a file beside it": (_external, "is in a file of its own: save the model as one file"),
    "bytes": (_eights, "is of type 3, and only float32"),
    "groups": (_groups, "a Conv: with it more than 134217728 weights would be made"),
    "enlarged": (_enlarged, "numbers"),
    "doubled": (_doubled, "it joins more than 1024 constants"),
    "filled": (_filled, "it makes [1048576, 1048576]"),
    "multiplied": (_multiplied, "it computes from 131072 constants, more than 1024"),
    "cast": (_cast, "a Cast: with it more than 134217728 weights would be made"),
    "channels": (lambda w: w.conv("x", 5, 4), "does not fit 3 channels"),
    "long steps": (lambda w: w.conv("x", 3, 4, 1, stride=17), "its stride is 17"),
    "a kernel larger than the image": (
        lambda w: w.add("Conv", "x", w.normal(2, 3, 17, 1)), "17 x 1 is larger than an image"),
    "no such input": (lambda w: w.add("Relu", "y"), "nothing gives 'y'"),
    "itself": (lambda w: w.add("Relu", "Relu_0_0"), "nothing gives 'Relu_0_0'"),
    "fewer numbers": (_reshaped_by(1, 7), "it makes [1, 4, 16, 16] into [1, 7]"),
    "sizes of zero": (_reshaped_by(0, 0, 0, 0, 0), "into [1, 4, 16, 16, 0]"),
    "two open sizes": (_reshaped_by(-1, -1), "into [-1, -1]"),
    "an axis that is not there": (
        lambda w: w.add("Flatten", w.conv("x", 3, 4), axis=9), "its axis is 9, of 4"),
    "a text for a number": (
        lambda w: w.add("Flatten", w.conv("x", 3, 4), axis="one"), "its axis is 'one'"),
    "an axis twice": (lambda w: w.add("Squeeze", w.conv("x", 3, 4), axes=[0, -4]), "its axes are"),
    "a perm of others": (
        lambda w: w.add("Transpose", w.conv("x", 3, 4), perm=[0, 1, 2, 2]), "its perm is [0, 1, 2"),
    "slopes of another size": (
        lambda w: w.add("PRelu", "x", w.normal(4, 1, 1)), "is not one number a channel"),
    "padding like the window": (
        lambda w: w.add("MaxPool", "x", kernel_shape=[2, 2], pads=[2] * 4), "is not less than"),
    "no window": (lambda w: w.add("MaxPool", "x"), "its kernel is [0, 0]"),
    "a place beyond": (
        lambda w: w.add("Add", "x", w.add("Gather", w.tensor(np.zeros(3)),
                                          w.tensor(np.int64(5)))), "out of bounds"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(tmp_path: Path, name: str) -> None:
    make, message = NETWORKS[name]
    w = Writer(2, opset=12)
    end = make(w)
    model = w.model([1, 3, 16, 16], [end], "x")
    assert message in str(refusal(tmp_path / "x.onnx", model.SerializeToString()))


def test_names_may_be_anything(tmp_path: Path) -> None:
    """Those of tensors, nodes and outputs."""
    odd = 'a "b"\n%0 = é' * 9
    w = Writer(1)
    end = w.norm(w.conv("x", 3, 4), 4)
    w.nodes[-1].output[0] = odd
    weight = w.tensors[0].name
    w.tensors[0].name = w.nodes[0].input[1] = odd + "w"
    model = w.model([1, 3, 16, 16], [odd], "x")
    assert end != odd and weight != odd
    onnx.save(model, tmp_path / "x.onnx")
    found = OnnxNetwork(read(tmp_path / "x.onnx"), 16, 16)(np.ones((1, 3, 16, 16)))
    assert found[odd].shape == (1, 4, 16, 16)


def test_inputs_that_are_no_image(tmp_path: Path) -> None:
    for shape in ([1, 3], [1, "c", 16, 16], [1, 9999, 16, 16]):
        w = Writer(1)
        onnx.save(w.model(shape, [w.add("Relu", "x")], "x"), tmp_path / "x.onnx")
        with pytest.raises(UnsupportedModelError, match=r"takes one image \[n, c, h, w\]"):
            OnnxNetwork(read(tmp_path / "x.onnx"), 16, 16)


def test_a_folder_with_a_damaged_file(tmp_path: Path) -> None:
    folder = tiny_faces.pack(tmp_path / "pack")
    path = folder / "glintr100.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"glintr100.onnx': the file is cut short"):
        FaceAnalysis.from_pretrained(folder)
