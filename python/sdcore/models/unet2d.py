"""UNet2DModel: a denoiser of pixels that reads no text, as consistency models have it (Song et al.
2023; the network is that of Dhariwal and Nichol 2021), by diffusers' config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Component, Model, RunOptions, make_network, to_nchw, to_nhwc
from sdcore.models.blocks import attention
from sdcore.models.config import from_json, require_value

__all__ = ["UNet2DConfig", "UNet2DModel", "build_unet2d"]

# Fields whose other values change the network in ways that are not built; defaults are diffusers'.
_FIXED: Mapping[str, tuple[tuple[object, ...], object]] = {
    "resnet_time_scale_shift": (("scale_shift",), "default"),
    "downsample_type": (("resnet",), "conv"),
    "upsample_type": (("resnet",), "conv"),
    "class_embed_type": ((None,), None),
    "time_embedding_type": (("positional",), "positional"),
    "center_input_sample": ((False,), False),
    "mid_block_scale_factor": ((1, 1.0), 1),
    "mid_block_type": (("UNetMidBlock2D",), "UNetMidBlock2D"),
    "add_attention": ((True,), True),
    "dropout": ((0, 0.0), 0.0),
    "act_fn": (("silu", "swish"), "silu"),
}
_DOWN_BLOCKS = ("ResnetDownsampleBlock2D", "AttnDownBlock2D")
_UP_BLOCKS = ("ResnetUpsampleBlock2D", "AttnUpBlock2D")
# Averages of four pixels, as a convolution whose weights no file has.
_POOL = "average_pool"


@dataclass(frozen=True)
class UNet2DConfig:
    sample_size: int | None = None
    in_channels: int = 3
    out_channels: int = 3
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: Sequence[str] = ()
    up_block_types: Sequence[str] = ()
    block_out_channels: Sequence[int] = (224, 448, 672, 896)
    layers_per_block: int = 2
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    num_class_embeds: int | None = None
    time_embedding_dim: int | None = None


class _UNet2D:
    """The graph, written down as diffusers walks it."""

    def __init__(self, config: UNet2DConfig) -> None:
        self.config = config
        self.b = Builder()
        self.temb_channels = config.time_embedding_dim or config.block_out_channels[0] * 4

    def build(self) -> _core.Graph:
        config, b, w = self.config, self.b, self.b.weights
        first, last = config.block_out_channels[0], config.block_out_channels[-1]
        self.temb = nn.silu(self.embedding(w))
        x = nn.conv2d(w.conv_in, b.input("sample"), config.in_channels, first)
        self.skips = [(x, first)]
        for i in range(len(config.block_out_channels)):
            x = self.down_block(w.down_blocks[i], x, i)
        x = self.resnet(w.mid_block.resnets[0], x, last, last)
        groups = config.attn_norm_num_groups
        assert groups is not None  # read_config saw to it
        x = self.attention(w.mid_block.attentions[0], x, last, groups)
        x = self.resnet(w.mid_block.resnets[1], x, last, last)
        c = last
        for i in range(len(config.block_out_channels)):
            x, c = self.up_block(w.up_blocks[i], x, c, i)
        x = nn.silu(nn.group_norm(w.conv_norm_out, x, c, config.norm_num_groups, config.norm_eps))
        b.output("sample", nn.conv2d(w.conv_out, x, c, config.out_channels))
        return b.graph

    def embedding(self, w: Scope) -> Value:
        config, dim, c = self.config, self.config.block_out_channels[0], self.temb_channels
        t = self.b.input("timestep")
        x = nn.timestep_embedding(t, dim, config.flip_sin_to_cos, config.freq_shift)
        x = nn.silu(nn.linear(w.time_embedding.linear_1, x, dim, c))
        x = nn.linear(w.time_embedding.linear_2, x, c, c)
        if config.num_class_embeds is None:
            return x
        labels = self.b.input("class_labels", "i32")
        return x + nn.merge_tokens(
            nn.embedding(w.class_embedding, labels, config.num_class_embeds, c)
        )

    def resnet(self, w: Scope, x: Value, c_in: int, c_out: int, resample: Any = None) -> Value:
        """ResnetBlock2D, told the time as a scale and a shift; `resample` changes the size of
        what it reads."""
        groups, eps = self.config.norm_num_groups, self.config.norm_eps
        h = nn.silu(nn.group_norm(w.norm1, x, c_in, groups, eps))
        if resample is not None:
            x, h = resample(x, c_in), resample(h, c_in)
        shortcut = x if c_in == c_out else nn.conv2d(w.conv_shortcut, x, c_in, c_out, kernel=1)
        h = nn.conv2d(w.conv1, h, c_in, c_out)
        told = nn.linear(w.time_emb_proj, self.temb, self.temb_channels, 2 * c_out)
        parts = nn.split_channels(told, 2)
        h = nn.group_norm(w.norm2, h, c_out, groups, eps)
        h = h + h * nn.token(parts, 0) + nn.token(parts, 1)
        return nn.conv2d(w.conv2, nn.silu(h), c_out, c_out) + shortcut

    def attention(self, w: Scope, image: Value, c: int, groups: int) -> Value:
        x = nn.flatten(nn.group_norm(w.group_norm, image, c, groups, self.config.norm_eps))
        heads = c // (self.config.attention_head_dim or c)
        x = attention(w, x, x, c, c, heads, qkv_bias=True) + nn.flatten(image)
        return nn.unflatten(x, image)

    def down_block(self, w: Scope, x: Value, i: int) -> Value:
        config = self.config
        c = config.block_out_channels[i]
        c_in = config.block_out_channels[max(i - 1, 0)]
        for k in range(config.layers_per_block):
            x = self.resnet(w.resnets[k], x, c_in if k == 0 else c, c)
            if config.down_block_types[i] == "AttnDownBlock2D":
                x = self.attention(w.attentions[k], x, c, config.norm_num_groups)
            self.skips.append((x, c))
        if i < len(config.block_out_channels) - 1:
            x = self.resnet(w.downsamplers[0], x, c, c, self.pooled)
            self.skips.append((x, c))
        return x

    def up_block(self, w: Scope, x: Value, c_in: int, i: int) -> tuple[Value, int]:
        config = self.config
        c = config.block_out_channels[-1 - i]
        for k in range(config.layers_per_block + 1):
            skip, c_skip = self.skips.pop()
            x = self.resnet(w.resnets[k], nn.concat(x, skip), c_in + c_skip, c)
            c_in = c
            if config.up_block_types[i] == "AttnUpBlock2D":
                x = self.attention(w.attentions[k], x, c, config.norm_num_groups)
        if i < len(config.block_out_channels) - 1:
            x = self.resnet(w.upsamplers[0], x, c, c, lambda value, _: nn.upsample(value))
        return x, c

    def pooled(self, x: Value, c: int) -> Value:
        w = getattr(self.b.weights, _POOL)[c]
        return nn.conv2d(w, x, c, c, kernel=2, stride=2, padding=0, bias=False)


def build_unet2d(config: UNet2DConfig) -> _core.Graph:
    """`sample` [n, h, w, c], `timestep` [n], and `class_labels` [n, 1] of a model with classes ->
    `sample`."""
    return _UNet2D(config).build()


class UNet2DModel(Model):
    """`unet(sample, timestep, class_labels)` in diffusers' shapes."""

    config: UNet2DConfig

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> UNet2DConfig:
        for key, (allowed, default) in _FIXED.items():
            require_value("unet", {key: config.get(key, default)}, key, *allowed)
        typed = from_json(UNet2DConfig, config)
        for kinds, known in (("down_block_types", _DOWN_BLOCKS), ("up_block_types", _UP_BLOCKS)):
            for kind in getattr(typed, kinds):
                require_value("unet", {kinds: kind}, kinds, *known)
        levels = len(typed.block_out_channels)
        if not levels == len(typed.down_block_types) == len(typed.up_block_types):
            raise UnsupportedModelError(
                f"[unet] config has {levels} block_out_channels, {len(typed.down_block_types)} "
                f"down_block_types and {len(typed.up_block_types)} up_block_types: each level has "
                "one of each"
            )
        if typed.attn_norm_num_groups is None:
            raise UnsupportedModelError("[unet] config field attn_norm_num_groups must be a number")
        return typed

    @classmethod
    def build(cls, config: UNet2DConfig) -> _core.Graph:
        return build_unet2d(config)

    @classmethod
    def from_component(cls, component: Component, options: RunOptions | None = None) -> UNet2DModel:
        """Raises CheckpointError naming every tensor that is missing or has another shape."""
        config = cls.read_config(component.config)
        graph = cls.build(config)
        pools = {name: shape for name, shape in graph.weights.items() if name.startswith(_POOL)}
        own = {name: shape for name, shape in graph.weights.items() if name not in pools}
        weights = dict(component.weights(own))
        for name, (c, *_) in pools.items():
            quarter = np.broadcast_to(
                np.eye(c, dtype=np.float32)[..., None, None] / 4, (c, c, 2, 2)
            )
            weights[name] = _core.Tensor.from_array(np.ascontiguousarray(quarter))
        return cls(config, make_network(graph, weights, options or RunOptions()))

    def tell(self, class_labels: ArrayLike | None = None) -> ArrayLike | None:
        """What a call takes in its place: itself, of which next to nothing is computed."""
        return class_labels

    def __call__(
        self, sample: ArrayLike, timestep: ArrayLike, class_labels: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """What the model gives for `sample` [n, c, h, w], float32. `timestep` is one number or one
        an image; `class_labels` [n] are whole numbers, of a model with classes."""
        x = to_nhwc(sample, "[unet] sample", self.config.in_channels)
        n, classes = len(x), self.config.num_class_embeds
        t = np.broadcast_to(np.asarray(timestep, dtype=np.float32).reshape(-1), (n,))
        inputs: dict[str, ArrayLike] = {"sample": x, "timestep": t}
        if classes is not None:
            labels = np.asarray(-1 if class_labels is None else class_labels)
            if labels.shape != (n,) or labels.min() < 0 or labels.max() >= classes:
                raise InvalidArgumentError(
                    f"[unet] class_labels must be {n} numbers from 0 to {classes - 1}, "
                    f"got {labels.tolist()!r:.80}"
                )
            inputs["class_labels"] = labels.astype(np.int32)[:, None]
        return to_nchw(self.network.run(inputs)["sample"])
