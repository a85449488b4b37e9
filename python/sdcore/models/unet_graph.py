"""The graph of the UNet of Stable Diffusion 1.x, 2.x and XL, by diffusers' config, and its variants
of the same weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.blocks import attention, resnet
from sdcore.models.config import per_block

__all__ = [
    "DOWN_BLOCKS",
    "FIXED",
    "MIDDLES",
    "MOST_MERGED",
    "UP_BLOCKS",
    "Features",
    "Residuals",
    "UNetConfig",
    "UNetGraph",
    "Variant",
    "build_unet",
    "build_variant",
    "text_attentions",
]

# Fields whose other values change the network in ways that are not built.
FIXED: Mapping[str, tuple[object, ...]] = {
    "resnet_time_scale_shift": ("default",),
    "dual_cross_attention": (False, None),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "addition_embed_type": (None, "text_time"),
    "time_embedding_type": ("positional", None),
    "timestep_post_act": (None,),
    "cross_attention_norm": (None,),
    "attention_type": ("default", None),
    "center_input_sample": (False, None),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "mid_block_scale_factor": (1, 1.0),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False, None),
    "mid_block_only_cross_attention": (None, False),
    "dropout": (0, 0.0),
    "act_fn": ("silu", "swish"),
}
MIDDLES = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")


@dataclass(frozen=True)
class UNetConfig:
    in_channels: int = 4
    out_channels: int = 4
    sample_size: int | None = None
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: Sequence[str] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Sequence[str] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
    layers_per_block: int | Sequence[int] = 2
    downsample_padding: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | Sequence[int] = 1280
    # Of each level, or of each of its layers; the other one is of the way up, where that differs.
    transformer_layers_per_block: int | Sequence[int | Sequence[int]] = 1
    reverse_transformer_layers_per_block: Sequence[int | Sequence[int]] | None = None
    # A number of heads, whatever its name says (huggingface/diffusers issue 2011).
    attention_head_dim: int | Sequence[int] = 8
    num_attention_heads: int | Sequence[int] | None = None
    # Whether a level's first attention reads the text too, in place of the image.
    only_cross_attention: bool | Sequence[bool] = False
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    time_cond_proj_dim: int | None = None
    time_embedding_dim: int | None = None


@dataclass(frozen=True)
class _Level:
    """One resolution: what its blocks are made of."""

    channels: int
    layers: int
    heads: int
    depths: Sequence[int]  # transformer blocks of each layer on the way down
    context: int  # channels of the text
    only_cross: bool


# The share of tokens that may be merged: one of each four stays.
MOST_MERGED = 0.75


@dataclass(frozen=True)
class Variant:
    """The same weights in another graph. `perturbed` are expressions that the names of attentions
    to replace by the identity match somewhere, as in diffusers. With `keeps` the features that come
    up to skip number `keeps` (0 is that of `conv_in`) are handed out as "deep"; with `reuses` they
    are taken in, and all that is below them is left out (Ma et al. 2023, DeepCache). `merges` is
    the share of the tokens that others stand for in the self-attentions of the largest size (Bolya
    et al. 2023, token merging). `images` IP-Adapters add what the attentions to the text find in
    tokens of pictures (Ye et al. 2023, section 3.2.2). A `controlled` one adds residuals, which it
    takes in, to the skips and the middle (Zhang et al. 2023, ControlNet). `adapted` features, one a
    level and one more for the middle, are taken in and added on the way down (Mou et al. 2023,
    T2I-Adapter)."""

    perturbed: tuple[str, ...] = ()
    keeps: int | None = None
    reuses: int | None = None
    merges: float = 0.0
    images: int = 0
    controlled: bool = False
    adapted: int = 0

    def perturbs(self, name: str) -> bool:
        return any(re.search(layer, name) for layer in self.perturbed)


# Where the network runs: on a GPU they stay there.
Features = NDArray[np.float32] | _core.DeviceArray
# What is added, in the graph's layout: by ControlNets "down.0" to the first skip and so on, and
# "mid"; by T2I-Adapters "level.0" to what comes down from the first level and so on.
Residuals = Mapping[str, Features]


class UNetGraph:
    """The graph, written down as diffusers walks it."""

    def __init__(self, config: UNetConfig, variant: Variant | None = None) -> None:
        self.config = config
        self.variant = variant or Variant()
        self.b = Builder()
        self.temb_channels = config.time_embedding_dim or config.block_out_channels[0] * 4
        n = len(config.block_out_channels)
        layers = per_block(config.layers_per_block, n, "unet", "layers_per_block")
        heads = per_block(
            config.num_attention_heads or config.attention_head_dim,
            n,
            "unet",
            "attention_head_dim",
        )
        depth = "transformer_layers_per_block"
        depths = per_block(config.transformer_layers_per_block, n, "unet", depth)
        depths = [per_block(d, k, "unet", depth) for d, k in zip(depths, layers, strict=True)]
        context = per_block(config.cross_attention_dim, n, "unet", "cross_attention_dim")
        only_cross = per_block(config.only_cross_attention, n, "unet", "only_cross_attention")
        columns = (config.block_out_channels, layers, heads, depths, context, only_cross)
        self.levels = [_Level(*values) for values in zip(*columns, strict=True)]
        attending = [i for i, kind in enumerate(config.down_block_types) if "CrossAttn" in kind]
        self.largest = self.levels[attending[0]] if attending else None
        self.left = _skips(self.levels)  # skips that the way up has yet to read
        self.perturbed = 0  # attentions that are replaced
        # Of IP-Adapters: the tokens of each, and which row of their scales an attention has.
        self.images: list[Value] = []
        self.rows: dict[str, int] = {}
        self.skips: list[tuple[Value, int]] = []  # and their channels
        self.features: list[Value] = []  # of T2I-Adapters

    def build(self) -> _core.Graph:
        config, b, w = self.config, self.b, self.b.weights
        x = self.first()
        if self.variant.images:
            self.images = [b.input(f"ip_hidden_states_{i}") for i in range(self.variant.images)]
            self.ip_scales = b.input("ip_scales")
            names = text_attentions(build_unet(config).weights)
            self.rows = {name: row for row, name in enumerate(names)}
        self.features = [b.input(f"level.{i}") for i in range(self.variant.adapted)]
        x = self.way_down(x)
        if self.variant.controlled:
            self.skips = [
                (skip + b.input(f"down.{i}"), c) for i, (skip, c) in enumerate(self.skips)
            ]
        if self.variant.reuses is None:
            x = self.adapted(self.mid_block(w.mid_block, x), len(self.levels))
            if self.variant.controlled:
                x = x + b.input("mid")
        c = self.levels[-1].channels
        for i, depths in enumerate(_up_depths(config, self.levels)):
            x, c = self.up_block(w.up_blocks[i], x, c, i, depths)
        x = nn.silu(nn.group_norm(w.conv_norm_out, x, c, config.norm_num_groups, config.norm_eps))
        b.output("sample", nn.conv2d(w.conv_out, x, c, config.out_channels))
        return b.graph

    def first(self) -> Value:
        """What everything reads, and the first convolution."""
        config, b, w = self.config, self.b, self.b.weights
        sample, t = b.input("sample"), b.input("timestep")
        self.context = b.input("encoder_hidden_states")
        self.temb = nn.silu(self.time_embedding(w, t))
        return nn.conv2d(w.conv_in, sample, config.in_channels, config.block_out_channels[0])

    def way_down(self, x: Value) -> Value:
        """Through all levels, leaving `skips` behind."""
        self.skips = [(x, self.config.block_out_channels[0])]
        for i in range(len(self.levels)):
            x = self.down_block(self.b.weights.down_blocks[i], x, i)
        return x

    def is_enough(self) -> bool:
        """Whether the way down has come to where the deep features take its place."""
        reuses = self.variant.reuses
        return reuses is not None and len(self.skips) > reuses

    def deep_features(self, x: Value) -> Value:
        """What comes up to the layer that reads the next skip: handed out or taken in there."""
        if self.left - 1 == self.variant.reuses:
            return self.b.input("deep")
        if self.left - 1 == self.variant.keeps:
            self.b.output("deep", x)
        return x

    def adapted(self, x: Value, level: int) -> Value:
        return x + self.features[level] if level < len(self.features) else x

    def time_embedding(self, w: Scope, t: Value) -> Value:
        config, dim = self.config, self.config.block_out_channels[0]
        x = nn.timestep_embedding(t, dim, config.flip_sin_to_cos, config.freq_shift)
        if config.time_cond_proj_dim:
            cond = self.b.input("timestep_cond")
            x = (
                nn.linear(
                    w.time_embedding.cond_proj, cond, config.time_cond_proj_dim, dim, bias=False
                )
                + x
            )
        emb = self.mlp(w.time_embedding, x, dim)
        if config.addition_embed_type == "text_time":
            size = config.addition_time_embed_dim or 256
            ids = nn.timestep_embedding(
                self.b.input("time_ids"), size, config.flip_sin_to_cos, config.freq_shift
            )
            joined = nn.concat(self.b.input("text_embeds"), ids)
            width = config.projection_class_embeddings_input_dim or 0
            emb = self.mlp(w.add_embedding, joined, width) + emb
        return emb

    def mlp(self, w: Scope, x: Value, c_in: int) -> Value:
        """TimestepEmbedding."""
        x = nn.silu(nn.linear(w.linear_1, x, c_in, self.temb_channels))
        return nn.linear(w.linear_2, x, self.temb_channels, self.temb_channels)

    def resnet(self, w: Scope, x: Value, c_in: int, c_out: int) -> Value:
        return resnet(
            w,
            x,
            c_in,
            c_out,
            groups=self.config.norm_num_groups,
            eps=self.config.norm_eps,
            temb=self.temb,
            temb_channels=self.temb_channels,
        )

    def down_block(self, w: Scope, x: Value, i: int) -> Value:
        level = self.levels[i]
        c = level.channels
        c_in = self.levels[max(i - 1, 0)].channels
        attends = self.config.down_block_types[i] == "CrossAttnDownBlock2D"
        shrinks = i < len(self.levels) - 1
        for k in range(level.layers):
            if self.is_enough():
                return x
            x = self.resnet(w.resnets[k], x, c_in if k == 0 else c, c)
            if attends:
                x = self.transformer(w.attentions[k], x, level, level.depths[k])
            if k == level.layers - 1 and (attends or not shrinks):
                x = self.adapted(x, i)
            self.skips.append((x, c))
        if shrinks and not self.is_enough():
            p = self.config.downsample_padding
            # Without padding, diffusers adds one row and one column of zeros after the image.
            padding = p if p else (0, 0, 1, 1)
            x = nn.conv2d(w.downsamplers[0].conv, x, c, c, stride=2, padding=padding)
            if not attends:  # where SDXL's first level has come to the adapter's size
                x = self.adapted(x, i)
            self.skips.append((x, c))
        return x

    def mid_block(self, w: Scope, x: Value) -> Value:
        """Distilled models have one resnet there (UNetMidBlock2D), or nothing."""
        if self.config.mid_block_type is None:
            return x
        level = replace(self.levels[-1], only_cross=False)  # diffusers' never is
        c = level.channels
        x = self.resnet(w.resnets[0], x, c, c)
        if self.config.mid_block_type == "UNetMidBlock2D":
            return x
        x = self.transformer(w.attentions[0], x, level, level.depths[0])
        return self.resnet(w.resnets[1], x, c, c)

    def up_block(
        self, w: Scope, x: Value, c_in: int, i: int, depths: Sequence[int]
    ) -> tuple[Value, int]:
        level = self.levels[len(self.levels) - 1 - i]
        c = level.channels
        last = self.left if self.variant.reuses is None else self.variant.reuses + 1
        for k in range(level.layers + 1):
            x = self.deep_features(x)
            self.left -= 1
            if self.left >= last:  # what comes before the deep features
                c_in = c
                continue
            skip, c_skip = self.skips.pop()
            x = self.resnet(w.resnets[k], nn.concat(x, skip), c_in + c_skip, c)
            c_in = c
            if self.config.up_block_types[i] == "CrossAttnUpBlock2D":
                x = self.transformer(w.attentions[k], x, level, depths[k])
        if i < len(self.levels) - 1 and self.left < last:
            # To the size of the next skip, which odd sizes make one less than twice.
            x = nn.conv2d(w.upsamplers[0].conv, nn.upsample(x, self.skips[-1][0]), c, c)
        return x, c

    def transformer(self, w: Scope, image: Value, level: _Level, depth: int) -> Value:
        """Transformer2DModel; its 1x1 convolutions are linear layers over tokens."""
        c = level.channels
        x = nn.group_norm(w.norm, image, c, self.config.norm_num_groups, 1e-6)
        x = nn.linear(w.proj_in, nn.flatten(x), c, c)
        for k in range(depth):
            x = self.transformer_block(w.transformer_blocks[k], x, image, level)
        x = nn.linear(w.proj_out, x, c, c) + nn.flatten(image)
        return nn.unflatten(x, image)

    def transformer_block(self, w: Scope, x: Value, image: Value, level: _Level) -> Value:
        """BasicTransformerBlock. Its self-attention and feed-forward bear activations in 8 bits;
        the text's keys and values do not."""
        c, heads = level.channels, level.heads
        h = nn.layer_norm(w.norm1, x, c)
        read, width = (self.context, level.context) if level.only_cross else (h, c)
        if not level.only_cross and self.variant.perturbs(str(w.attn1)):
            self.perturbed += 1
            # Each token attends to itself alone (Ahn et al. 2024, perturbed-attention guidance).
            own = nn.linear(w.attn1.to_v, h, c, c, bias=False, int8_activations=True)
            x = nn.linear(w.attn1.to_out[0], own, c, c, int8_activations=True) + x
        elif self.variant.merges and level is self.largest and not level.only_cross:
            ratio = self.variant.merges
            groups = nn.token_groups(x, image, ratio)
            fewer = nn.mean_tokens(h, groups, image, ratio)
            out = attention(
                w.attn1, fewer, fewer, c, width, heads, qkv_bias=False, int8_activations=True
            )
            x = nn.spread_tokens(out, groups) + x
        else:
            int8 = not level.only_cross
            out = attention(
                w.attn1, h, read, c, width, heads, qkv_bias=False, int8_activations=int8
            )
            x = out + x
        h = nn.layer_norm(w.norm2, x, c)
        images = self.image_keys_and_values(w.attn2, level)
        h = attention(
            w.attn2, h, self.context, c, level.context, heads, qkv_bias=False, beside=images
        )
        x = h + x
        h = nn.layer_norm(w.norm3, x, c)
        h = nn.geglu(nn.linear(w.ff.net[0].proj, h, c, 8 * c, int8_activations=True))
        return nn.linear(w.ff.net[2], h, 4 * c, c, int8_activations=True) + x

    def image_keys_and_values(self, w: Scope, level: _Level) -> Iterator[tuple[Value, Value]]:
        """Of each IP-Adapter's tokens; values are linear in them, so they take the scale."""
        c_in, c = level.context, level.channels
        for i, tokens in enumerate(self.images):
            scale = nn.token(self.ip_scales, i * len(self.rows) + self.rows[str(w)])
            yield (
                nn.linear(w.processor.to_k_ip[i], tokens, c_in, c, bias=False),
                nn.linear(w.processor.to_v_ip[i], tokens * scale, c_in, c, bias=False),
            )


def text_attentions(weights: Iterable[str]) -> list[str]:
    """The paths of a UNet's attentions to the text, from the names of its weights, in the order in
    which diffusers counts attention processors: the way down, the way up, and the middle last."""
    ways = ("down_blocks", "up_blocks", "mid_block")
    end = ".to_q.weight"
    paths = [name.removesuffix(end) for name in weights if name.endswith(f".attn2{end}")]

    def place(path: str) -> tuple[int, list[int]]:
        way, *rest = path.split(".")
        return ways.index(way), [int(part) for part in rest if part.isdecimal()]

    return sorted(paths, key=place)


def build_unet(config: UNetConfig) -> _core.Graph:
    """`sample` [n, h, w, c], `timestep` [n], `encoder_hidden_states` [n, t, d] -> `sample`."""
    return UNetGraph(config).build()


def build_variant(config: UNetConfig, variant: Variant) -> _core.Graph:
    unet = UNetGraph(config, variant)
    branch = variant.keeps if variant.reuses is None else variant.reuses
    if branch is not None and not 0 <= branch < unet.left - 1:
        raise InvalidArgumentError(
            f"[unet] cache_branch_id must be 0 to {unet.left - 2}, got {branch}"
        )
    graph = unet.build()
    if variant.perturbed and not unet.perturbed:
        raise InvalidArgumentError(
            f"[unet] pag_applied_layers {list(variant.perturbed)} name no self-attention; use a "
            "part of a name such as mid, up_blocks.1 or down_blocks.2.attentions.0"
        )
    return graph


def _up_depths(config: UNetConfig, levels: Sequence[_Level]) -> Iterator[list[int]]:
    """Transformer blocks of each layer on the way up, from its first level on."""
    key, n = "transformer_layers_per_block", len(levels)
    depths = per_block(config.transformer_layers_per_block, n, "unet", key)[::-1]
    if config.reverse_transformer_layers_per_block is not None:
        key = f"reverse_{key}"
        depths = per_block(config.reverse_transformer_layers_per_block, n, "unet", key)
    for depth, level in zip(depths, reversed(levels), strict=True):
        yield per_block(depth, level.layers + 1, "unet", key)


def _skips(levels: Sequence[_Level]) -> int:
    return sum(level.layers + 1 for level in levels)  # one a layer, and one before each level
