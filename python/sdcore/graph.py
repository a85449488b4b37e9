"""Writing a network: values, weights by their path, and one function an op.

A graph has no sizes of activations in it. Images are `[n, h, w, c]`, tokens `[n, t, c]`, a vector
per image `[n, c]`. Weights have PyTorch's shapes: linear `[out, in]`, conv `[out, in, kh, kw]`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdcore import _core

__all__ = ["Builder", "Scope", "Value", "nn"]


class Value:
    """The result of an op, an input or a weight."""

    __slots__ = ("graph", "id")

    def __init__(self, graph: _core.Graph, value_id: int) -> None:
        self.graph = graph
        self.id = value_id

    def __add__(self, other: Value) -> Value:
        return self.apply("add", other)

    def __mul__(self, other: Value) -> Value:
        return self.apply("mul", other)

    def apply(self, op: str, *others: Value | None, **attrs: object) -> Value:
        """The op of that name with this value as its first input."""
        inputs = [self.id, *(None if other is None else other.id for other in others)]
        return Value(self.graph, self.graph.add(op, inputs, **attrs))


class Scope:
    """A place in the tree of weights: `w.down_blocks[0].resnets[1].conv1`, as diffusers has it."""

    def __init__(self, graph: _core.Graph, path: str = "") -> None:
        self._graph = graph
        self._path = path

    def __getattr__(self, name: str) -> Scope:
        if name.startswith("__"):
            raise AttributeError(name)
        return Scope(self._graph, f"{self._path}.{name}" if self._path else name)

    def __str__(self) -> str:
        return self._path

    def __getitem__(self, index: int) -> Scope:
        return Scope(self._graph, f"{self._path}.{index}")

    def tensor(self, *shape: int) -> Value:
        """The weight at this path."""
        return Value(self._graph, self._graph.weight(self._path, list(shape)))


class Builder:
    """Collects a graph: `Builder()`, inputs, ops through `sdcore.graph.nn`, outputs, `.graph`."""

    def __init__(self) -> None:
        self.graph = _core.Graph()
        self.weights = Scope(self.graph)

    def input(self, name: str, dtype: str = "f32") -> Value:
        """An array given at each run; `dtype` is "f32" or "i32"."""
        return Value(self.graph, self.graph.input(name, dtype))

    def output(self, name: str, value: Value) -> None:
        """Hands a value out under a name."""
        self.graph.output(name, value.id)


class nn:
    """Layers with weights at a scope, and the ops that have none."""

    @staticmethod
    def linear(
        w: Scope,
        x: Value,
        c_in: int,
        c_out: int,
        bias: bool = True,
        int8_activations: bool = False,
    ) -> Value:
        """`int8_activations`: in bf16 mode, `x` may be rounded to 8 bits for a quantized weight."""
        attrs = {"int8_activations": True} if int8_activations else {}
        weight = w.weight.tensor(c_out, c_in)
        return x.apply("linear", weight, w.bias.tensor(c_out) if bias else None, **attrs)

    @staticmethod
    def conv2d(
        w: Scope,
        x: Value,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | Sequence[int] | None = None,
        bias: bool = True,
    ) -> Value:
        """`padding` is one number, or top, left, bottom, right; None keeps the size at stride 1."""
        if padding is None:
            padding = kernel // 2
        sides = [padding] * 4 if isinstance(padding, int) else list(padding)
        weight = w.weight.tensor(c_out, c_in, kernel, kernel)
        return x.apply(
            "conv2d",
            weight,
            w.bias.tensor(c_out) if bias else None,
            stride=stride,
            padding=sides,
        )

    @staticmethod
    def group_norm(
        w: Scope, x: Value, channels: int, groups: int, eps: float, moments: Value | None = None
    ) -> Value:
        """By the means and variances of `x`, or by `moments` of an image that `x` is a part of."""
        return x.apply(
            "group_norm",
            w.weight.tensor(channels),
            w.bias.tensor(channels),
            *([] if moments is None else [moments]),
            groups=groups,
            eps=float(eps),
        )

    @staticmethod
    def group_moments(x: Value, groups: int) -> Value:
        """`[n, 2 * groups]`: the mean of each group over an image, then the variances."""
        return x.apply("group_moments", groups=groups)

    @staticmethod
    def crop_rows(x: Value, top: int, bottom: int) -> Value:
        """An image without its first and last rows."""
        return x.apply("crop_rows", top=top, bottom=bottom)

    @staticmethod
    def layer_norm(w: Scope, x: Value, channels: int, eps: float = 1e-5) -> Value:
        return x.apply(
            "layer_norm", w.weight.tensor(channels), w.bias.tensor(channels), eps=float(eps)
        )

    @staticmethod
    def ada_layer_norm(x: Value, scale: Value, shift: Value, eps: float = 1e-6) -> Value:
        """A layer norm without weights, times 1 + `scale` plus `shift`, `[n, c]` each."""
        return x.apply("layer_norm", None, None, scale, shift, eps=float(eps))

    @staticmethod
    def rms_norm(w: Scope, x: Value, size: int, eps: float = 1e-6) -> Value:
        """Each run of `size` channels divided by its root mean square."""
        return x.apply("rms_norm", w.weight.tensor(size), eps=float(eps))

    @staticmethod
    def embedding(w: Scope, ids: Value, rows: int, channels: int) -> Value:
        return ids.apply("embedding", w.weight.tensor(rows, channels))

    @staticmethod
    def take(x: Value, index: Value) -> Value:
        """One token of each sequence: `[n, t, c]` and `[n]` whole numbers to `[n, c]`."""
        return x.apply("take", index)

    @staticmethod
    def prelu(x: Value, slope: Value) -> Value:
        """x where it is above 0, else x times `slope`: as x, or repeated over its pixels."""
        return x.apply("prelu", slope)

    @staticmethod
    def activation(x: Value, kind: str) -> Value:
        return x.apply("activation", kind=kind)

    @staticmethod
    def silu(x: Value) -> Value:
        return x.apply("activation", kind="silu")

    @staticmethod
    def geglu(x: Value) -> Value:
        """`[..., 2c]` to `[..., c]`: the first half times gelu of the second."""
        return x.apply("geglu")

    @staticmethod
    def attention(
        q: Value,
        k: Value,
        v: Value,
        heads: int,
        causal: bool = False,
        scale: float = 0.0,
        relative: Value | None = None,
        mask: Value | None = None,
    ) -> Value:
        """A `scale` of 0 means 1/√(c / heads). `relative` `[1, tq + tk - 1, heads]` adds its row
        i - j + tk - 1 to the score of query i and key j, `mask` `[n, tk]` one number a key."""
        extra = [relative, mask] if mask is not None else [relative] if relative is not None else []
        return q.apply("attention", k, v, *extra, heads=heads, causal=causal, scale=float(scale))

    @staticmethod
    def relative_bias(w: Scope, x: Value, buckets: int, heads: int, max_distance: int) -> Value:
        """T5's learned bias of relative positions among the tokens of `x`, for `attention`."""
        table = w.weight.tensor(buckets, heads)
        return x.apply("relative_bias", table, max_distance=max_distance)

    @staticmethod
    def concat(*values: Value) -> Value:
        """Side by side along the channels."""
        return values[0].apply("concat", *values[1:])

    @staticmethod
    def concat_tokens(*values: Value) -> Value:
        """One after another along the tokens."""
        return values[0].apply("concat_tokens", *values[1:])

    @staticmethod
    def first_tokens(x: Value, like: Value) -> Value:
        """As many tokens from the beginning as `like` has."""
        return x.apply("slice_tokens", like)

    @staticmethod
    def last_tokens(x: Value, like: Value) -> Value:
        """As many tokens from the end as `like` has."""
        return x.apply("slice_tokens", like, last=True)

    @staticmethod
    def token(x: Value, index: int) -> Value:
        """One token, `[n, 1, c]`."""
        return x.apply("slice_tokens", begin=index)

    @staticmethod
    def split_channels(x: Value, parts: int) -> Value:
        """`[n, parts * c]` as tokens `[n, parts, c]`."""
        return x.apply("split_channels", parts=parts)

    @staticmethod
    def merge_tokens(x: Value) -> Value:
        """Tokens `[n, k, c]` as one vector an image, `[n, k * c]`."""
        return x.apply("merge_tokens")

    @staticmethod
    def token_groups(x: Value, image: Value, ratio: float) -> Value:
        """`[n, t]` whole numbers: which tokens of an image of that size are to be one, so that
        `ratio` of them are fewer. Tokens that are alike and near each other."""
        return x.apply("token_groups", image, ratio=float(ratio))

    @staticmethod
    def mean_tokens(x: Value, groups: Value, image: Value, ratio: float) -> Value:
        """`[n, t', c]`: the mean of each of the groups that were made for this image and ratio."""
        return x.apply("mean_tokens", groups, image, ratio=float(ratio))

    @staticmethod
    def spread_tokens(x: Value, groups: Value) -> Value:
        """`[n, t', c]` to `[n, t, c]`: to each token what its group has."""
        return x.apply("spread_tokens", groups)

    @staticmethod
    def depth_to_space(x: Value, size: int) -> Value:
        """`[n, h, w, size * size * c]` to `[n, h * size, w * size, c]`."""
        return x.apply("depth_to_space", size=size)

    @staticmethod
    def crop_embedding(w: Scope, x: Value, side: int, channels: int) -> Value:
        """The middle of `side` x `side` position embeddings, of the size of the image `x`."""
        return x.apply("crop_embedding", w.tensor(side * side, channels))

    @staticmethod
    def sincos_embedding(x: Value, dim: int, base_size: int, scale: float) -> Value:
        """Sinusoids of the places in an image `x`, diffusers' get_2d_sincos_pos_embed."""
        return x.apply("sincos_embedding", dim=dim, base_size=base_size, scale=float(scale))

    @staticmethod
    def pool2d(
        x: Value, kind: str, kernel: Sequence[int], stride: int, padding: Sequence[int]
    ) -> Value:
        """The "max" or "mean" of windows, `kernel` high and wide; `padding` is top, left, bottom,
        right, and less than the kernel: what lies outside of the image does not count."""
        return x.apply(
            "pool2d", kind=kind, kernel=list(kernel), stride=stride, padding=list(padding)
        )

    @staticmethod
    def upsample(x: Value, like: Value | None = None) -> Value:
        """Nearest neighbour to twice the size, or to the size of `like`."""
        return x.apply("upsample", *([] if like is None else [like]))

    @staticmethod
    def flatten(x: Value) -> Value:
        """An image as tokens."""
        return x.apply("flatten")

    @staticmethod
    def unflatten(x: Value, like: Value) -> Value:
        """Tokens as an image of the size of `like`."""
        return x.apply("unflatten", like)

    @staticmethod
    def timestep_embedding(
        t: Value, dim: int, flip_sin_to_cos: bool, downscale_freq_shift: float
    ) -> Value:
        return t.apply(
            "timestep_embedding",
            dim=dim,
            flip_sin_to_cos=flip_sin_to_cos,
            downscale_freq_shift=float(downscale_freq_shift),
        )
