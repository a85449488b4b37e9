"""Single ops on NumPy arrays, for tests, benchmarks and a look at what an op does.

Images are channels-last `[n, h, w, c]`, tokens `[n, t, c]`. Every function takes `dtype` ("f32",
"bf16" or, on GPUs, "f16"), `isa` and `threads`, and returns float32. Each builds a graph of one op
and runs it, so what is measured here is what a network does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore._core import Tensor
from sdcore.graph import Builder, Value

__all__ = [
    "activation",
    "add",
    "attention",
    "concat",
    "concat_tokens",
    "conv2d",
    "crop_embedding",
    "depth_to_space",
    "embedding",
    "geglu",
    "group_moments",
    "group_norm",
    "layer_norm",
    "matmul",
    "mean_tokens",
    "merge_tokens",
    "mul",
    "pool2d",
    "prelu",
    "relative_bias",
    "rms_norm",
    "scale",
    "sincos_embedding",
    "split_channels",
    "spread_tokens",
    "take",
    "timestep_embedding",
    "upsample",
]

Array = NDArray[np.float32]
Weight = ArrayLike | Tensor


def _run(
    op: str,
    inputs: Mapping[str, ArrayLike | None],
    weights: Mapping[str, Weight | None] | None = None,
    attrs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Array:
    """One node: `inputs`, then `weights` in the order of the op's own."""
    builder = Builder()
    arrays = {name: np.asarray(array) for name, array in inputs.items() if array is not None}
    values: list[Value | None] = [
        builder.input(name, "i32" if arrays[name].dtype.kind in "iu" else "f32")
        if name in arrays
        else None
        for name in inputs
    ]
    tensors: dict[str, Tensor] = {}
    for name, weight in (weights or {}).items():
        if weight is None:
            values.append(None)
            continue
        tensor = (
            weight
            if isinstance(weight, Tensor)
            else Tensor.from_array(np.ascontiguousarray(weight, dtype=np.float32))
        )
        tensors[name] = tensor
        values.append(Value(builder.graph, builder.graph.weight(name, list(tensor.shape))))
    first = values[0]
    assert first is not None
    builder.output("out", first.apply(op, *values[1:], **(attrs or {})))
    out: Array = _core.Network(builder.graph, tensors, **options).run(arrays)["out"]
    return out


def matmul(
    x: ArrayLike,
    weight: Weight,
    bias: Weight | None = None,
    int8_activations: bool = False,
    **options: Any,
) -> Array:
    """`x [..., i]` times the transpose of `weight [o, i]`, plus `bias [o]`. In bf16 mode
    `int8_activations` lets `x` be rounded to 8 bits for a quantized weight."""
    attrs = {"int8_activations": int8_activations}
    return _run("linear", {"x": x}, {"weight": weight, "bias": bias}, attrs, **options)


def conv2d(
    x: ArrayLike,
    weight: Weight,
    bias: Weight | None = None,
    stride: int = 1,
    padding: int | Sequence[int] = 0,
    **options: Any,
) -> Array:
    """Convolution of an image with `weight [o, i, kh, kw]`; padding is one number or top, left,
    bottom, right."""
    sides = [padding] * 4 if isinstance(padding, int) else list(padding)
    attrs = {"stride": stride, "padding": sides}
    return _run("conv2d", {"x": x}, {"weight": weight, "bias": bias}, attrs, **options)


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    heads: int,
    causal: bool = False,
    scale: float = 0.0,
    relative: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    **options: Any,
) -> Array:
    """softmax(q kᵀ · scale + relative + mask) v per head; a scale of 0 means 1/√(c / heads).
    `relative [1, tq + tk - 1, heads]` adds its row i - j + tk - 1 to query i and key j, `mask
    [n, tk]` one number a key."""
    attrs = {"heads": heads, "causal": causal, "scale": float(scale)}
    inputs = {"q": q, "k": k, "v": v, "relative": relative, "mask": mask}
    return _run("attention", inputs, attrs=attrs, **options)


def group_moments(x: ArrayLike, groups: int = 32, **options: Any) -> Array:
    """`[n, 2 * groups]`: the mean of each group over all pixels of an image, then the variances."""
    return _run("group_moments", {"x": x}, attrs={"groups": groups}, **options)


def group_norm(
    x: ArrayLike, weight: Weight, bias: Weight, groups: int = 32, eps: float = 1e-5, **options: Any
) -> Array:
    """Normalization over groups of channels and all pixels of an image."""
    attrs = {"groups": groups, "eps": float(eps)}
    return _run("group_norm", {"x": x}, {"weight": weight, "bias": bias}, attrs, **options)


def layer_norm(
    x: ArrayLike,
    weight: Weight | None = None,
    bias: Weight | None = None,
    eps: float = 1e-5,
    **options: Any,
) -> Array:
    """Normalization over the channels."""
    weights = {"weight": weight, "bias": bias}
    return _run("layer_norm", {"x": x}, weights, {"eps": float(eps)}, **options)


def rms_norm(x: ArrayLike, weight: Weight, eps: float = 1e-6, **options: Any) -> Array:
    """Each run of channels as long as `weight` divided by its root mean square."""
    return _run("rms_norm", {"x": x}, {"weight": weight}, {"eps": float(eps)}, **options)


def activation(x: ArrayLike, kind: str, **options: Any) -> Array:
    """silu, gelu, gelu_tanh, quick_gelu or relu."""
    return _run("activation", {"x": x}, attrs={"kind": kind}, **options)


def geglu(x: ArrayLike, **options: Any) -> Array:
    """`[..., 2c]` to `[..., c]`: the first half times gelu of the second."""
    return _run("geglu", {"x": x}, **options)


def add(a: ArrayLike, b: ArrayLike, **options: Any) -> Array:
    """Sum; `b` may be one vector an image."""
    return _run("add", {"a": a, "b": b}, **options)


def mul(a: ArrayLike, b: ArrayLike, **options: Any) -> Array:
    """Product; `b` may be one vector an image."""
    return _run("mul", {"a": a, "b": b}, **options)


def prelu(x: ArrayLike, slope: ArrayLike, **options: Any) -> Array:
    """x where it is above 0, else x times `slope`, which may be one vector an image."""
    return _run("prelu", {"x": x, "slope": slope}, **options)


def scale(x: ArrayLike, factor: float, **options: Any) -> Array:
    """x times a number."""
    return _run("scale", {"x": x}, attrs={"factor": float(factor)}, **options)


def concat(*arrays: ArrayLike, **options: Any) -> Array:
    """Side by side along the channels."""
    return _run("concat", {f"x{i}": array for i, array in enumerate(arrays)}, **options)


def concat_tokens(*arrays: ArrayLike, **options: Any) -> Array:
    """Tokens `[n, t, c]` one after another."""
    return _run("concat_tokens", {f"x{i}": array for i, array in enumerate(arrays)}, **options)


def split_channels(x: ArrayLike, parts: int, **options: Any) -> Array:
    """`[n, parts * c]` as tokens `[n, parts, c]`."""
    return _run("split_channels", {"x": x}, attrs={"parts": parts}, **options)


def merge_tokens(x: ArrayLike, **options: Any) -> Array:
    """Tokens `[n, k, c]` as `[n, k * c]`."""
    return _run("merge_tokens", {"x": x}, **options)


def depth_to_space(x: ArrayLike, size: int, **options: Any) -> Array:
    """`[n, h, w, size * size * c]` to `[n, h * size, w * size, c]`."""
    return _run("depth_to_space", {"x": x}, attrs={"size": size}, **options)


def relative_bias(x: ArrayLike, table: Weight, max_distance: int = 128, **options: Any) -> Array:
    """T5's bias `[1, 2t - 1, heads]` for tokens `x [n, t, c]` of a table `[buckets, heads]`."""
    return _run(
        "relative_bias", {"x": x}, {"table": table}, {"max_distance": max_distance}, **options
    )


def crop_embedding(x: ArrayLike, table: Weight, **options: Any) -> Array:
    """The middle, `[1, h, w, c]` for an image `x [n, h, w, …]`, of a table `[side * side, c]`."""
    return _run("crop_embedding", {"x": x}, {"table": table}, **options)


def sincos_embedding(
    x: ArrayLike, dim: int, base_size: int = 16, scale: float = 1.0, **options: Any
) -> Array:
    """Sinusoids `[1, h, w, dim]` of the places in an image `x [n, h, w, …]`."""
    attrs = {"dim": dim, "base_size": base_size, "scale": float(scale)}
    return _run("sincos_embedding", {"x": x}, attrs=attrs, **options)


def pool2d(
    x: ArrayLike,
    kind: str,
    kernel: Sequence[int],
    stride: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    **options: Any,
) -> Array:
    """The "max" or "mean" of windows of an image, `kernel` high and wide; padding is top, left,
    bottom, right, and does not count."""
    attrs = {"kind": kind, "kernel": list(kernel), "stride": stride, "padding": list(padding)}
    return _run("pool2d", {"x": x}, attrs=attrs, **options)


def upsample(x: ArrayLike, **options: Any) -> Array:
    """An image at twice its size, nearest neighbour."""
    return _run("upsample", {"x": x}, **options)


def embedding(ids: ArrayLike, table: Weight, **options: Any) -> Array:
    """Rows of `table [rows, c]` for `ids [n, t]`."""
    return _run("embedding", {"ids": ids}, {"table": table}, **options)


def mean_tokens(
    x: ArrayLike, groups: ArrayLike, image: ArrayLike, ratio: float, **options: Any
) -> Array:
    """The mean of each of the `groups [n, t]` of tokens, as many as `ratio` leaves of `image`'s."""
    inputs = {"x": x, "groups": np.asarray(groups, np.int32), "image": image}
    return _run("mean_tokens", inputs, attrs={"ratio": float(ratio)}, **options)


def spread_tokens(x: ArrayLike, groups: ArrayLike, **options: Any) -> Array:
    """To each token what its group has: token `groups [n, t]` of `x [n, t', c]`."""
    return _run("spread_tokens", {"x": x, "groups": np.asarray(groups, np.int32)}, **options)


def take(x: ArrayLike, index: ArrayLike, **options: Any) -> Array:
    """Token `index [n]` of each sequence of `x [n, t, c]`."""
    return _run("take", {"x": x, "index": np.asarray(index, np.int32)}, **options)


def timestep_embedding(
    t: ArrayLike,
    dim: int,
    flip_sin_to_cos: bool = True,
    downscale_freq_shift: float = 0.0,
    **options: Any,
) -> Array:
    """Sinusoids `[n, dim]` of time steps `[n]`."""
    attrs = {
        "dim": dim,
        "flip_sin_to_cos": flip_sin_to_cos,
        "downscale_freq_shift": float(downscale_freq_shift),
    }
    return _run(
        "timestep_embedding", {"t": np.asarray(t, dtype=np.float32)}, attrs=attrs, **options
    )
