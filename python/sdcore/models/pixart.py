"""PixArtTransformer2DModel: the denoiser of PixArt-α and -Σ (Chen et al. 2023 and 2024), by
diffusers' config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import (
    Component,
    Model,
    RunOptions,
    as_conditions,
    key_mask,
    make_network,
    run_with,
    text_shape,
    to_nchw,
    to_nhwc,
    tokens_of,
)
from sdcore.models.blocks import attention, feed_forward, timestep_mlp
from sdcore.models.config import from_json, require_value

__all__ = ["PixArtConfig", "PixArtTransformer2DModel", "build_pixart"]

_TIME_CHANNELS = 256
_NORM_OUT_EPS = 1e-6
# Fields whose other values change the network in ways that are not built.
_FIXED = {
    "activation_fn": ("gelu-approximate",),
    "norm_type": ("ada_norm_single",),
    "norm_elementwise_affine": (False,),
    "attention_type": ("default", None),
    "attention_bias": (True,),
}


@dataclass(frozen=True)
class PixArtConfig:
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = 8
    num_layers: int = 28
    cross_attention_dim: int | None = 1152
    sample_size: int = 128
    patch_size: int = 2
    norm_eps: float = 1e-6
    interpolation_scale: float | None = None
    use_additional_conditions: bool | None = None
    caption_channels: int | None = None
    # Σ's blocks whose keys and values are made smaller, and by how much a side (Chen et al. 2024,
    # section 3.3). Not of diffusers, which has no such blocks.
    kv_compress_layers: tuple[int, ...] = ()
    kv_compress_scale: int = 1

    @property
    def channels(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def knows_sizes(self) -> bool:
        """Whether it is told the picture's size and aspect ratio."""
        if self.use_additional_conditions is None:
            return self.sample_size == 128
        return self.use_additional_conditions


class _PixArt:
    """The graph, written down as diffusers walks it."""

    def __init__(self, config: PixArtConfig) -> None:
        self.config = config
        self.c = config.channels
        self.b = Builder()

    def build(self) -> _core.Graph:
        config, b, w, c = self.config, self.b, self.b.weights, self.c
        p = config.patch_size
        patches = nn.conv2d(
            w.pos_embed.proj,
            b.input("sample"),
            config.in_channels,
            c,
            kernel=p,
            stride=p,
            padding=0,
        )
        places = nn.sincos_embedding(
            patches,
            c,
            config.sample_size // p,
            config.interpolation_scale or max(config.sample_size // 64, 1),
        )
        self.patches = patches
        x = nn.flatten(patches + places)
        embedded = self.time_embedding(w.adaln_single.emb)
        self.modulation = nn.split_channels(
            nn.linear(w.adaln_single.linear, nn.silu(embedded), c, 6 * c), 6
        )
        self.context = self.caption(w.caption_projection)
        self.mask = b.input("mask")
        for i in range(config.num_layers):
            x = self.block(w.transformer_blocks[i], x, i in config.kv_compress_layers)
        # Shift first; both grow with the embedded time alone.
        table = nn.split_channels(nn.concat(embedded, embedded), 2) + w.scale_shift_table.tensor(
            1, 2, c
        )
        x = nn.ada_layer_norm(x, nn.token(table, 1), nn.token(table, 0), _NORM_OUT_EPS)
        x = nn.linear(w.proj_out, x, c, p * p * (config.out_channels or config.in_channels))
        b.output("sample", nn.depth_to_space(nn.unflatten(x, patches), p))
        return b.graph

    def time_embedding(self, w: Scope) -> Value:
        t = nn.timestep_embedding(self.b.input("timestep"), _TIME_CHANNELS, True, 0)
        emb = timestep_mlp(w.timestep_embedder, t, _TIME_CHANNELS, self.c)
        if not self.config.knows_sizes:
            return emb
        # Height, width and their ratio are embedded one by one, a third of the channels each.
        sizes = nn.concat(
            self.numbers(w.resolution_embedder, self.b.input("resolution"), 2),
            self.numbers(w.aspect_ratio_embedder, self.b.input("aspect_ratio"), 1),
        )
        return emb + sizes

    def numbers(self, w: Scope, x: Value, count: int) -> Value:
        """`[n, count]` numbers to `[n, count * c / 3]`."""
        h = nn.timestep_embedding(x, _TIME_CHANNELS, True, 0)
        h = nn.split_channels(h, count)
        return nn.merge_tokens(timestep_mlp(w, h, _TIME_CHANNELS, self.c // 3))

    def caption(self, w: Scope) -> Value:
        context = self.b.input("encoder_hidden_states")
        width = self.config.caption_channels
        return context if width is None else timestep_mlp(w, context, width, self.c, "gelu_tanh")

    def block(self, w: Scope, x: Value, compresses: bool) -> Value:
        """BasicTransformerBlock with adaLN-single: one modulation for all, and a table of its
        own."""
        c, heads, eps = self.c, self.config.num_attention_heads, self.config.norm_eps
        parts = self.modulation + w.scale_shift_table.tensor(1, 6, c)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (nn.token(parts, i) for i in range(6))
        h = nn.ada_layer_norm(x, scale, shift, eps)
        if compresses:
            seen = self.compressed_attention(w.attn1, h)
        else:
            seen = attention(w.attn1, h, h, c, c, heads, qkv_bias=True)
        x = x + seen * gate
        text = self.config.cross_attention_dim or c
        x = x + attention(w.attn2, x, self.context, c, text, heads, qkv_bias=True, mask=self.mask)
        h = nn.ada_layer_norm(x, scale_ff, shift_ff, eps)
        return x + feed_forward(w.ff, h, c, "gelu_tanh") * gate_ff

    def compressed_attention(self, w: Scope, x: Value) -> Value:
        """To fewer keys: those of a square of tokens become one. Keys and values are linear in the
        tokens, and so is what makes them fewer, so that one convolution does both: see
        `_compressing`."""
        c, scale = self.c, self.config.kv_compress_scale
        image = nn.unflatten(x, self.patches)
        q = nn.linear(w.to_q, x, c, c)
        k, v = (
            nn.layer_norm(
                w.norm,
                nn.flatten(nn.conv2d(made, image, c, c, kernel=scale, stride=scale, padding=0)),
                c,
            )
            for made in (w.to_k, w.to_v)
        )
        return nn.linear(w.to_out[0], nn.attention(q, k, v, self.config.num_attention_heads), c, c)


def build_pixart(config: PixArtConfig) -> _core.Graph:
    """`sample` [n, h, w, in_channels], `timestep` [n], `encoder_hidden_states` [n, t, d], `mask`
    [n, t] added to scores -> `sample` [n, h, w, out_channels]. α at 1024 pixels also takes
    `resolution` [n, 2] (height and width) and `aspect_ratio` [n, 1]."""
    return _PixArt(config).build()


Sizes = Mapping[str, Sequence[int]]


def _stored(sizes: Sizes, config: PixArtConfig) -> dict[str, Sequence[int]]:
    """The tensors that a file has for the graph's weights: `sr`, a convolution of each channel by
    itself, apart from the layers before it."""
    stored = dict(sizes)
    c, scale = config.channels, config.kv_compress_scale
    for i in config.kv_compress_layers:
        at = f"transformer_blocks.{i}.attn1"
        stored |= {f"{at}.{name}.weight": (c, c) for name in ("to_k", "to_v")}
        stored |= {f"{at}.sr.weight": (c, 1, scale, scale), f"{at}.sr.bias": (c,)}
    return stored


def _compressing(
    tensors: Mapping[str, Any], config: PixArtConfig, dtype: str
) -> dict[str, _core.Tensor]:
    """The graph's weights of a file's: `sr` after a linear layer is one convolution, with as many
    multiplications as the layer had."""
    weights = dict(tensors)
    for i in config.kv_compress_layers:
        at = f"transformer_blocks.{i}.attn1"
        sr, shift = (weights.pop(f"{at}.sr.{leaf}").to_float() for leaf in ("weight", "bias"))
        for name in (f"{at}.to_k", f"{at}.to_v"):
            linear, bias = (weights[f"{name}.{leaf}"].to_float() for leaf in ("weight", "bias"))
            both = linear[:, :, None, None] * sr
            weights[f"{name}.weight"] = _core.quantize(both, dtype)
            weights[f"{name}.bias"] = _core.Tensor.from_array(bias * sr.sum((1, 2, 3)) + shift)
    return weights


class PixArtTransformer2DModel(Model):
    """`transformer(sample, timestep, encoder_hidden_states, encoder_attention_mask)` in diffusers'
    shapes."""

    steady = ("encoder_hidden_states", "mask", "resolution", "aspect_ratio")
    config: PixArtConfig

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> PixArtConfig:
        for key, allowed in _FIXED.items():
            require_value("pixart", config, key, *allowed)
        return from_json(PixArtConfig, config)

    @classmethod
    def build(cls, config: PixArtConfig) -> _core.Graph:
        return build_pixart(config)

    @classmethod
    def from_component(
        cls, component: Component, options: RunOptions | None = None
    ) -> PixArtTransformer2DModel:
        config = cls.read_config(component.config)
        if not config.kv_compress_layers:
            return super().from_component(component, options)
        graph, options = cls.build(config), options or RunOptions()
        stored = component.weights(_stored(graph.weights, config))
        weights = _compressing(stored, config, options.resolved_dtype(graph, stored))
        return cls(config, make_network(graph, weights, options))

    def tell(
        self,
        encoder_hidden_states: ArrayLike,
        encoder_attention_mask: ArrayLike | None = None,
        **conditions: ArrayLike,
    ) -> _core.Steady:
        """What several calls are told alike, to be given in place of all of these."""
        return _core.Steady(
            self._conditions(encoder_hidden_states, encoder_attention_mask, conditions)
        )

    @staticmethod
    def _conditions(
        states: ArrayLike, mask: ArrayLike | None, others: Mapping[str, ArrayLike]
    ) -> dict[str, Any]:
        context = tokens_of(states, "pixart")
        hidden = key_mask(mask, context.shape[:2], "[pixart] encoder_attention_mask")
        return {"encoder_hidden_states": context, "mask": hidden, **others}

    def __call__(
        self,
        sample: ArrayLike,
        timestep: ArrayLike,
        encoder_hidden_states: ArrayLike | _core.Steady,
        encoder_attention_mask: ArrayLike | None = None,
        **conditions: ArrayLike,
    ) -> NDArray[np.float32]:
        """Noise (and, in further channels, its variance) for `sample` [n, in_channels, h, w],
        float32.

        `timestep` is one number or one an image; `encoder_hidden_states` is [n, t, d] and
        `encoder_attention_mask` [n, t], ones where tokens are (None: all). `conditions` are the
        further inputs of the config: `resolution` [n, 2] and `aspect_ratio` [n, 1]. What `tell`
        makes of these three takes their place, for calls that have them in common.
        """
        x = to_nhwc(sample, "[pixart] sample", self.config.in_channels)
        n = x.shape[0]
        told = as_conditions(
            encoder_hidden_states,
            lambda states: self._conditions(states, encoder_attention_mask, conditions),
        )
        text_shape(told, "pixart", n)
        inputs = {
            "sample": x,
            "timestep": np.broadcast_to(np.asarray(timestep, np.float32).reshape(-1), (n,)),
        }
        return to_nchw(run_with(self.network, inputs, told)["sample"])
