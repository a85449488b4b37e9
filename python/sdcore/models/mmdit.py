"""SD3Transformer2DModel: the denoiser of Stable Diffusion 3 and 3.5 (MMDiT, Esser et al. 2024), by
diffusers' config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import (
    Model,
    as_conditions,
    run_with,
    text_shape,
    to_nchw,
    to_nhwc,
    tokens_of,
)
from sdcore.models.blocks import feed_forward, timestep_mlp
from sdcore.models.config import from_json, require_value

__all__ = [
    "NORM_EPS",
    "BlockResiduals",
    "MMDiTGraph",
    "SD3Config",
    "SD3Transformer2DModel",
    "build_mmdit",
]

NORM_EPS = 1e-6  # of every norm in this network
_TIME_CHANNELS = 256


@dataclass(frozen=True)
class SD3Config:
    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    out_channels: int | None = 16
    pos_embed_max_size: int = 96
    dual_attention_layers: Sequence[int] = ()
    qk_norm: str | None = None

    @property
    def channels(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


# What ControlNets add, in the graph's layout, [n, tokens, channels] each: "6.0" to "6.5" is from
# those of six blocks, of which each speaks to as many of the transformer's.
BlockResiduals = Mapping[str, NDArray[np.float32] | _core.DeviceArray]


@dataclass(frozen=True)
class _Variant:
    """The same weights in another graph: without the blocks `skips`, and with what ControlNets of
    so many blocks (`controls`) add."""

    skips: tuple[int, ...] = ()
    controls: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Projections:
    """Where the weights of a stream's queries, keys and values are."""

    q: Scope
    k: Scope
    v: Scope
    norm_q: Scope
    norm_k: Scope


class MMDiTGraph:
    """The graph, written down as diffusers walks it."""

    def __init__(self, config: SD3Config) -> None:
        self.config = config
        self.c = config.channels
        self.b = Builder()

    def build(self, variant: _Variant) -> _core.Graph:
        config, b, w, c = self.config, self.b, self.b.weights, self.c
        p = config.patch_size
        patches = self.placed(self.patches(w.pos_embed.proj, b.input("sample"), config.in_channels))
        x = nn.flatten(patches)
        self.temb = nn.silu(self.time_text_embedding(w.time_text_embed))
        context: Value | None = self.texts()
        added = {k: [b.input(f"{k}.{i}") for i in range(k)] for k in variant.controls}
        for i in range(config.num_layers):
            last = i == config.num_layers - 1
            if i not in variant.skips:
                assert context is not None
                dual = i in config.dual_attention_layers
                x, context = self.block(w.transformer_blocks[i], x, context, dual, last)
            if not last:
                # Also where a block is left out, as in diffusers.
                for k, residuals in added.items():
                    x = x + residuals[int(i / (config.num_layers / k))]
        scale, shift = self.modulation(w.norm_out.linear, 2)
        x = nn.linear(
            w.proj_out,
            nn.ada_layer_norm(x, scale, shift, NORM_EPS),
            c,
            p * p * (config.out_channels or config.in_channels),
        )
        b.output("sample", nn.depth_to_space(nn.unflatten(x, patches), p))
        return b.graph

    def patches(self, w: Scope, image: Value, c_in: int) -> Value:
        p = self.config.patch_size
        return nn.conv2d(w, image, c_in, self.c, kernel=p, stride=p, padding=0)

    def placed(self, patches: Value) -> Value:
        """With the positions of the patches."""
        places, side = self.b.weights.pos_embed.pos_embed, self.config.pos_embed_max_size
        return patches + nn.crop_embedding(places, patches, side, self.c)

    def texts(self) -> Value:
        states = self.b.input("encoder_hidden_states")
        w = self.b.weights.context_embedder
        return nn.linear(w, states, self.config.joint_attention_dim, self.c)

    def time_text_embedding(self, w: Scope) -> Value:
        t = nn.timestep_embedding(self.b.input("timestep"), _TIME_CHANNELS, True, 0)
        time = timestep_mlp(w.timestep_embedder, t, _TIME_CHANNELS, self.c)
        pooled = self.b.input("pooled_projections")
        text = timestep_mlp(w.text_embedder, pooled, self.config.pooled_projection_dim, self.c)
        return text + time

    def modulation(self, w: Scope, parts: int) -> list[Value]:
        """What a block's norms and gates are multiplied with and moved by, `[n, 1, c]` each."""
        both = nn.split_channels(nn.linear(w, self.temb, self.c, parts * self.c), parts)
        return [nn.token(both, i) for i in range(parts)]

    def block(
        self, w: Scope, x: Value, context: Value, dual: bool, last: bool
    ) -> tuple[Value, Value | None]:
        """JointTransformerBlock; the last one leaves no context behind."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff, *second = self.modulation(
            w.norm1.linear, 9 if dual else 6
        )
        if last:
            scale_c, shift_c = self.modulation(w.norm1_context.linear, 2)
        else:
            shift_c, scale_c, *rest = self.modulation(w.norm1_context.linear, 6)
        out, out_c = self.joint_attention(
            w.attn,
            nn.ada_layer_norm(x, scale, shift, NORM_EPS),
            nn.ada_layer_norm(context, scale_c, shift_c, NORM_EPS),
        )
        before = x
        x = x + nn.linear(w.attn.to_out[0], out, self.c, self.c) * gate
        if dual:
            shift_2, scale_2, gate_2 = second
            h = nn.ada_layer_norm(before, scale_2, shift_2, NORM_EPS)
            x = x + self.self_attention(w.attn2, h) * gate_2
        h = nn.ada_layer_norm(x, scale_ff, shift_ff, NORM_EPS)
        x = x + feed_forward(w.ff, h, self.c, "gelu_tanh") * gate_ff
        if last:
            return x, None
        gate_c, shift_ff, scale_ff, gate_ff = rest
        context = context + nn.linear(w.attn.to_add_out, out_c, self.c, self.c) * gate_c
        h = nn.ada_layer_norm(context, scale_ff, shift_ff, NORM_EPS)
        return x, context + feed_forward(w.ff_context, h, self.c, "gelu_tanh") * gate_ff

    def project(self, w: _Projections, x: Value) -> tuple[Value, Value, Value]:
        q, k, v = (nn.linear(part, x, self.c, self.c) for part in (w.q, w.k, w.v))
        if self.config.qk_norm is not None:
            size = self.config.attention_head_dim
            q, k = (
                nn.rms_norm(w.norm_q, q, size, NORM_EPS),
                nn.rms_norm(w.norm_k, k, size, NORM_EPS),
            )
        return q, k, v

    def joint_attention(self, w: Scope, x: Value, context: Value) -> tuple[Value, Value]:
        """Both streams attend to both."""
        own = self.project(_Projections(w.to_q, w.to_k, w.to_v, w.norm_q, w.norm_k), x)
        added = self.project(
            _Projections(w.add_q_proj, w.add_k_proj, w.add_v_proj, w.norm_added_q, w.norm_added_k),
            context,
        )
        q, k, v = (nn.concat_tokens(a, b) for a, b in zip(own, added, strict=True))
        out = nn.attention(q, k, v, self.config.num_attention_heads)
        return nn.first_tokens(out, x), nn.last_tokens(out, context)

    def self_attention(self, w: Scope, x: Value) -> Value:
        q, k, v = self.project(_Projections(w.to_q, w.to_k, w.to_v, w.norm_q, w.norm_k), x)
        out = nn.attention(q, k, v, self.config.num_attention_heads)
        return nn.linear(w.to_out[0], out, self.c, self.c)


def build_mmdit(config: SD3Config, skip_layers: Sequence[int] = ()) -> _core.Graph:
    """`sample` [n, h, w, in_channels], `timestep` [n], `encoder_hidden_states` [n, t, d],
    `pooled_projections` [n, p] -> `sample` [n, h, w, out_channels].

    `skip_layers` are blocks to leave out, for skip-layer guidance."""
    return MMDiTGraph(config).build(_Variant(tuple(skip_layers)))


class SD3Transformer2DModel(Model):
    """`transformer(sample, timestep, encoder_hidden_states, pooled_projections)` in diffusers'
    shapes."""

    steady = ("encoder_hidden_states", "pooled_projections")
    config: SD3Config

    def __init__(self, config: SD3Config, network: _core.Network) -> None:
        super().__init__(config, network)
        self._variants: dict[_Variant, _core.Network] = {}

    def release(self) -> None:
        super().release()
        self._variants = {}

    def with_network(self, network: _core.Network) -> SD3Transformer2DModel:
        other = super().with_network(network)
        other._variants = {}
        return other

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> SD3Config:
        require_value("mmdit", config, "qk_norm", None, "rms_norm")
        typed = from_json(SD3Config, config)
        require_value(
            "mmdit",
            {"caption_projection_dim": typed.caption_projection_dim},
            "caption_projection_dim",
            typed.channels,
        )
        return typed

    @classmethod
    def build(cls, config: SD3Config) -> _core.Graph:
        return build_mmdit(config)

    def tell(self, encoder_hidden_states: ArrayLike, pooled_projections: ArrayLike) -> _core.Steady:
        """What several calls are told alike, to be given in place of both."""
        return _core.Steady(self._conditions(encoder_hidden_states, pooled_projections))

    @staticmethod
    def _conditions(states: ArrayLike, pooled: ArrayLike) -> dict[str, NDArray[np.float32]]:
        return {
            "encoder_hidden_states": tokens_of(states, "mmdit"),
            "pooled_projections": np.asarray(pooled, np.float32),
        }

    def __call__(
        self,
        sample: ArrayLike,
        timestep: ArrayLike,
        encoder_hidden_states: ArrayLike | _core.Steady,
        pooled_projections: ArrayLike = (),
        skip_layers: Sequence[int] = (),
        residuals: Callable[[], BlockResiduals | None] | None = None,
    ) -> NDArray[np.float32]:
        """The velocity for `sample` [n, in_channels, h, w], float32.

        `timestep` is one number or one an image; `encoder_hidden_states` is [n, t, d] and
        `pooled_projections` [n, p]. `skip_layers` are blocks to leave out. `residuals` gives what
        ControlNets add (`SD3ControlNetModel.residuals`). What `tell` makes of states and
        projections takes the place of both, for calls that have them in common.
        """
        x = to_nhwc(sample, "[mmdit] sample", self.config.in_channels)
        n = x.shape[0]
        added = (None if residuals is None else residuals()) or {}
        inputs = {
            "sample": x,
            "timestep": np.broadcast_to(np.asarray(timestep, np.float32).reshape(-1), (n,)),
            **added,
        }
        told = as_conditions(
            encoder_hidden_states, lambda states: self._conditions(states, pooled_projections)
        )
        text_shape(told, "mmdit", n)
        depths = sorted({int(name.partition(".")[0]) for name in added})
        variant = _Variant(tuple(skip_layers), tuple(depths))
        return to_nchw(run_with(self._network(variant), inputs, told)["sample"])

    def _network(self, variant: _Variant) -> _core.Network:
        if variant == _Variant():
            return self.network
        last = self.config.num_layers - 1
        if odd := [i for i in variant.skips if not 0 <= i <= last]:
            raise InvalidArgumentError(f"[mmdit] skip_layers must be 0 to {last}, got {odd[0]}")
        # The same weights under another graph.
        if variant not in self._variants:
            self._variants[variant] = self.in_graph(MMDiTGraph(self.config).build(variant))
        return self._variants[variant]
