"""Products of a vector with a matrix."""

from __future__ import annotations

import numpy as np

from sdcore.graph import nn
from sdcore.onnx.call import CHW, HWC, Array, Call, Computed, op


@op("Gemm")
def gemm(call: Call) -> Computed:
    matrix = call.numbers(1, "matrix", 2)
    if call.attribute("transA", 0):
        call.refuse("its first matrix is transposed")
    if not call.attribute("transB", 0):
        matrix = matrix.T
    bias = call.operand(2)
    if bias is not None:
        bias = call.constant(2, "bias").reshape(-1) * call.attribute("beta", 1.0)
        if bias.size not in (1, len(matrix)):
            call.damaged(f"its bias has {bias.size} numbers, for {len(matrix)} channels")
        bias = np.broadcast_to(bias, len(matrix))
    alpha = call.attribute("alpha", 1.0)
    if alpha != 1:
        call.make(matrix.size)
        matrix = matrix * np.float32(alpha)
    return _product(call, matrix, bias)


@op("MatMul")
def matmul(call: Call) -> Computed:
    return _product(call, call.numbers(1, "matrix", 2).T, None)


def _product(call: Call, matrix: Array, bias: Array | None) -> Computed:
    """Of a matrix `[out, in]`."""
    x = call.computed()
    c_out, c_in = matrix.shape
    if x.shape != (1, c_in):
        call.refuse(f"it multiplies {list(x.shape)} and a matrix of {c_in} rows")
    if not x.is_in(HWC):
        if not x.is_in(CHW):
            call.refuse("it reads numbers that are neither channels first nor channels last")
        call.make(matrix.size)
        by_axis = matrix.reshape(c_out, x.channels, x.height, x.width)
        matrix = by_axis.transpose(0, 2, 3, 1).reshape(c_out, c_in)
    if not matrix.flags.c_contiguous:
        call.make(matrix.size)
    vector = x.value if x.is_vector else nn.merge_tokens(nn.flatten(x.value))
    value = vector.apply(
        "linear",
        call.weights.add(matrix),
        None if bias is None else call.weights.add(bias),
    )
    return Computed(value, 1, 1, c_out, (1, c_out), axes=("n", "c"), is_vector=True)
