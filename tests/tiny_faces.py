"""Tiny random networks that find and know faces, as ONNX files in the topology of real ones.

SCRFD-10G: ResNetV1e, PAFPN and SCRFDHead of deepinsight/insightface, detection/scrfd
(configs/scrfd/scrfd_10g_bnkps.py), with the nodes that its export to opset 11 leaves. ArcFace:
IResNet of recognition/arcface_torch/backbones/iresnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writer:
    """A network as it is written, with random weights."""

    def __init__(self, seed: int, opset: int = 11) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, list(inputs), names, f"{op}_{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        return names[0]

    def tensor(self, array: Any) -> str:
        name = f"tensor_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        values = mean + scale * self.random.standard_normal(shape)
        return self.tensor(values.astype(np.float32))

    def conv(
        self, x: str, c_in: int, c_out: int, k: int = 3, stride: int = 1, bias: bool = False,
        groups: int = 1,
    ) -> str:  # fmt: skip
        weight = self.normal(
            c_out, c_in // groups, k, k, scale=(2 * groups / (c_in * k * k)) ** 0.5
        )
        inputs = [x, weight, *([self.normal(c_out, scale=0.1)] if bias else [])]
        return self.add("Conv", *inputs, kernel_shape=[k, k], strides=[stride] * 2,
                        pads=[k // 2] * 4, dilations=[1, 1], group=groups)  # fmt: skip

    def norm(self, x: str, c: int) -> str:
        parts = [
            self.normal(c, scale=0.1, mean=1.0),
            self.normal(c, scale=0.1),
            self.normal(c, scale=0.1),
            self.tensor(self.random.uniform(0.5, 1.5, c).astype(np.float32)),
        ]
        return self.add("BatchNormalization", x, *parts, epsilon=1e-5, momentum=0.9)

    def block(self, x: str, c_in: int, c_out: int, k: int = 3, stride: int = 1) -> str:
        return self.add("Relu", self.norm(self.conv(x, c_in, c_out, k, stride), c_out))

    def prelu(self, x: str, c: int) -> str:
        slopes = self.random.uniform(-0.3, 0.5, (c, 1, 1)).astype(np.float32)
        return self.add("PRelu", x, self.tensor(slopes))

    def model(
        self, shape: Sequence[int | str], outputs: Sequence[str], name: str = "input.1"
    ) -> onnx.ModelProto:
        def value(name: str, shape: Sequence[int | str] | None) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes, "faces", [value(name, shape)], [value(o, None) for o in outputs],
            self.tensors,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=6, producer_name="pytorch")


def scrfd(seed: int = 0, planes: Sequence[int] = (8, 12, 12, 20), surest: float = -2.0) -> Any:
    """`surest` moves the scores: at -5 a few places of a picture have 0.5."""
    w, neck = Writer(seed), 12
    # ResNetV1e: three convolutions in place of one of 7 x 7, and means before shortcuts.
    x = w.block("input.1", 3, 6, stride=2)
    x = w.block(x, 6, 6)
    x = w.block(x, 6, planes[0])
    x = w.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    levels, c = [], planes[0]
    for stage, (count, c_out) in enumerate(zip((2, 1, 1, 1), planes, strict=True)):
        for i in range(count):
            stride = 2 if stage and not i else 1
            short = x
            if stride == 2:
                short = w.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
            if stride == 2 or c != c_out:
                short = w.norm(w.conv(short, c, c_out, 1), c_out)
            y = w.norm(w.conv(w.block(x, c, c_out, stride=stride), c_out, c_out), c_out)
            x, c = w.add("Relu", w.add("Add", y, short)), c_out
        levels.append(x)
    # PAFPN: down from the smallest level, and up again.
    sides = [w.conv(x, c, neck, 1, bias=True) for x, c in zip(levels[1:], planes[1:], strict=True)]
    for i in (2, 1):
        sides[i - 1] = w.add("Add", sides[i - 1], _upsampled(w, sides[i], sides[i - 1]))
    inner = [w.conv(x, neck, neck, bias=True) for x in sides]
    for i in range(2):
        down = w.conv(inner[i], neck, neck, stride=2, bias=True)
        inner[i + 1] = w.add("Add", inner[i + 1], down)
    outs = [inner[0], *(w.conv(x, neck, neck, bias=True) for x in inner[1:])]
    ends: list[list[str]] = [[], [], []]
    for x in outs:
        for i in range(2):
            x = w.block(x, neck if i == 0 else 16, 16)
        bias = w.tensor(np.full(2, surest, np.float32))
        weight = w.normal(2, 16, 3, 3, scale=0.05)
        scores = w.add("Conv", x, weight, bias, kernel_shape=[3, 3], pads=[1] * 4)
        boxes = w.add("Mul", w.conv(x, 16, 8, bias=True), w.normal(1, scale=0.1, mean=1.0))
        boxes = w.add("Add", boxes, w.tensor(np.float32(1.5)))
        points = w.conv(x, 16, 20, bias=True)
        ends[0].append(w.add("Sigmoid", _rows(w, scores, 1)))
        ends[1].append(_rows(w, boxes, 4))
        ends[2].append(_rows(w, points, 10))
    return w.model(["?", 3, "?", "?"], [*ends[0], *ends[1], *ends[2]])


def _upsampled(w: Writer, x: str, like: str) -> str:
    """As PyTorch writes F.interpolate(x, size=like.shape[2:]) for sizes that are not known."""
    sizes = []
    for axis in (2, 3):
        one = w.add("Gather", w.add("Shape", like), w.tensor(np.int64(axis)), axis=0)
        sizes.append(w.add("Unsqueeze", one, axes=[0]))
    wanted = w.add("Concat", *sizes, axis=0)
    bounds = [w.tensor(np.array([one], np.int64)) for one in (0, 2, 0)]
    before = w.add("Slice", w.add("Shape", x), *bounds)
    both = w.add("Concat", before, w.add("Cast", wanted, to=TensorProto.INT64), axis=0)
    return w.add("Resize", x, w.tensor(np.empty(0, np.float32)), w.tensor(np.empty(0, np.float32)),
                 both, coordinate_transformation_mode="asymmetric", mode="nearest",
                 nearest_mode="floor", cubic_coeff_a=-0.75)  # fmt: skip


def _rows(w: Writer, x: str, each: int) -> str:
    """Without a batch, as in the files that insightface hands out."""
    turned = w.add("Transpose", x, perm=[2, 3, 0, 1])
    return w.add("Reshape", turned, w.tensor(np.array([-1, each], np.int64)))


def iresnet(
    seed: int = 1, planes: Sequence[int] = (8, 12, 16, 20), normalises: bool = False, dim: int = 512
) -> Any:
    """`normalises`: as in files made with MXNet, the network takes pixels from 0 to 255."""
    w = Writer(seed)
    x = "input.1"
    if normalises:
        x = w.add("Sub", x, w.tensor(np.float32(127.5)))
        x = w.add("Mul", x, w.tensor(np.float32(1 / 128)))
    x = w.prelu(w.norm(w.conv(x, 3, planes[0]), planes[0]), planes[0])
    c = planes[0]
    for count, c_out in zip((2, 1, 2, 1), planes, strict=True):
        for i in range(count):
            stride = 2 if i == 0 else 1
            y = w.norm(w.conv(w.norm(x, c), c, c_out), c_out)
            y = w.norm(w.conv(w.prelu(y, c_out), c_out, c_out, stride=stride), c_out)
            short = w.norm(w.conv(x, c, c_out, 1, stride), c_out) if stride == 2 else x
            x, c = w.add("Add", y, short), c_out
    x = w.add("Dropout", w.add("Flatten", w.norm(x, c), axis=1))
    size = c * 7 * 7
    matrix = w.normal(dim, size, scale=size**-0.5)
    x = w.add("Gemm", x, matrix, w.normal(dim), alpha=1.0, beta=1.0, transB=1)
    return w.model(["None", 3, 112, 112], [w.norm(x, dim)])


def mobile_face_net(seed: int = 2) -> Any:
    """MobileFaceNet of recognition/arcface_torch/backbones/mobilefacenet.py: convolutions a channel
    each, the last as large as the image."""
    w, c = Writer(seed), 16
    x = w.prelu(w.norm(w.conv("input.1", 3, c, stride=2), c), c)
    x = w.prelu(w.norm(w.conv(x, c, c, groups=c), c), c)
    for stride in (2, 1, 2, 2):
        y = w.prelu(w.norm(w.conv(x, c, 2 * c, 1), 2 * c), 2 * c)
        y = w.prelu(w.norm(w.conv(y, 2 * c, 2 * c, stride=stride, groups=2 * c), 2 * c), 2 * c)
        y = w.norm(w.conv(y, 2 * c, c, 1), c)
        x = w.add("Add", x, y) if stride == 1 else y
    whole = w.normal(c, 1, 7, 7, scale=1 / 7)
    x = w.norm(w.add("Conv", x, whole, group=c, kernel_shape=[7, 7], pads=[0] * 4), c)
    x = w.add("Reshape", x, w.tensor(np.array([0, -1], np.int64)))
    x = w.add("MatMul", x, w.normal(c, 512, scale=0.25))
    return w.model(["None", 3, 112, 112], [w.norm(x, 512)])


def pack(folder: Path, seed: int = 0, surest: float = -2.0, dim: int = 512) -> Path:
    """A folder as insightface's antelopev2 is, with a file that is of no use here."""
    folder.mkdir(parents=True)
    onnx.save(scrfd(seed, surest=surest), folder / "scrfd_10g_bnkps.onnx")
    onnx.save(iresnet(seed + 1, dim=dim), folder / "glintr100.onnx")
    w = Writer(0)
    points = w.add("GlobalAveragePool", w.conv("input.1", 3, 212))
    onnx.save(w.model(["None", 3, 192, 192], [points]), folder / "2d106det.onnx")
    return folder
