"""SD3Transformer2DModel: the denoiser of Stable Diffusion 3 and 3.5 (MMDiT, Esser et al. 2024), by
diffusers' config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Model, to_nchw, to_nhwc, tokens_of
from sdcore.models.blocks import feed_forward, timestep_mlp
from sdcore.models.config import from_json, require_value

__all__ = ["SD3Config", "SD3Transformer2DModel", "build_mmdit"]

_EPS = 1e-6  # of every norm in this network
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


@dataclass(frozen=True)
class _Projections:
    """Where the weights of a stream's queries, keys and values are."""

    q: Scope
    k: Scope
    v: Scope
    norm_q: Scope
    norm_k: Scope


class _MMDiT:
    """The graph, written down as diffusers walks it."""

    def __init__(self, config: SD3Config) -> None:
        self.config = config
        self.c = config.channels
        self.b = Builder()

    def build(self, skip_layers: Sequence[int]) -> _core.Graph:
        config, b, w, c = self.config, self.b, self.b.weights, self.c
        p = config.patch_size
        sample = b.input("sample")
        patches = nn.conv2d(
            w.pos_embed.proj, sample, config.in_channels, c, kernel=p, stride=p, padding=0
        )
        x = nn.flatten(
            patches
            + nn.crop_embedding(w.pos_embed.pos_embed, patches, config.pos_embed_max_size, c)
        )
        self.temb = nn.silu(self.time_text_embedding(w.time_text_embed))
        context: Value | None = nn.linear(
            w.context_embedder, b.input("encoder_hidden_states"), config.joint_attention_dim, c
        )
        for i in range(config.num_layers):
            if i not in skip_layers:
                assert context is not None
                x, context = self.block(i, w.transformer_blocks[i], x, context)
        scale, shift = self.modulation(w.norm_out.linear, 2)
        x = nn.linear(
            w.proj_out,
            nn.ada_layer_norm(x, scale, shift, _EPS),
            c,
            p * p * (config.out_channels or config.in_channels),
        )
        b.output("sample", nn.depth_to_space(nn.unflatten(x, patches), p))
        return b.graph

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

    def block(self, i: int, w: Scope, x: Value, context: Value) -> tuple[Value, Value | None]:
        """JointTransformerBlock; the last one leaves no context behind."""
        last = i == self.config.num_layers - 1
        dual = i in self.config.dual_attention_layers
        shift, scale, gate, shift_ff, scale_ff, gate_ff, *second = self.modulation(
            w.norm1.linear, 9 if dual else 6
        )
        if last:
            scale_c, shift_c = self.modulation(w.norm1_context.linear, 2)
        else:
            shift_c, scale_c, *rest = self.modulation(w.norm1_context.linear, 6)
        out, out_c = self.joint_attention(
            w.attn,
            nn.ada_layer_norm(x, scale, shift, _EPS),
            nn.ada_layer_norm(context, scale_c, shift_c, _EPS),
        )
        before = x
        x = x + nn.linear(w.attn.to_out[0], out, self.c, self.c) * gate
        if dual:
            shift_2, scale_2, gate_2 = second
            h = nn.ada_layer_norm(before, scale_2, shift_2, _EPS)
            x = x + self.self_attention(w.attn2, h) * gate_2
        h = nn.ada_layer_norm(x, scale_ff, shift_ff, _EPS)
        x = x + feed_forward(w.ff, h, self.c, "gelu_tanh") * gate_ff
        if last:
            return x, None
        gate_c, shift_ff, scale_ff, gate_ff = rest
        context = context + nn.linear(w.attn.to_add_out, out_c, self.c, self.c) * gate_c
        h = nn.ada_layer_norm(context, scale_ff, shift_ff, _EPS)
        return x, context + feed_forward(w.ff_context, h, self.c, "gelu_tanh") * gate_ff

    def project(self, w: _Projections, x: Value) -> tuple[Value, Value, Value]:
        q, k, v = (nn.linear(part, x, self.c, self.c) for part in (w.q, w.k, w.v))
        if self.config.qk_norm is not None:
            size = self.config.attention_head_dim
            q, k = nn.rms_norm(w.norm_q, q, size, _EPS), nn.rms_norm(w.norm_k, k, size, _EPS)
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
    return _MMDiT(config).build(skip_layers)


class SD3Transformer2DModel(Model):
    """`transformer(sample, timestep, encoder_hidden_states, pooled_projections)` in diffusers'
    shapes."""

    config: SD3Config

    def __init__(self, config: SD3Config, network: _core.Network) -> None:
        super().__init__(config, network)
        self._shorter: dict[tuple[int, ...], _core.Network] = {}

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.network, *self._shorter.values())

    def with_network(self, network: _core.Network) -> SD3Transformer2DModel:
        other = super().with_network(network)
        other._shorter = {}
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

    def __call__(
        self,
        sample: ArrayLike,
        timestep: ArrayLike,
        encoder_hidden_states: ArrayLike,
        pooled_projections: ArrayLike,
        skip_layers: Sequence[int] = (),
    ) -> NDArray[np.float32]:
        """The velocity for `sample` [n, in_channels, h, w], float32.

        `timestep` is one number or one an image; `encoder_hidden_states` is [n, t, d] and
        `pooled_projections` [n, p]. `skip_layers` are blocks to leave out.
        """
        x = to_nhwc(sample, "[mmdit] sample", self.config.in_channels)
        n = x.shape[0]
        inputs = {
            "sample": x,
            "timestep": np.broadcast_to(np.asarray(timestep, np.float32).reshape(-1), (n,)),
            "encoder_hidden_states": tokens_of(encoder_hidden_states, n, "mmdit"),
            "pooled_projections": np.asarray(pooled_projections, np.float32),
        }
        return to_nchw(self._network(tuple(skip_layers)).run(inputs)["sample"])

    def _network(self, skip_layers: tuple[int, ...]) -> _core.Network:
        if not skip_layers:
            return self.network
        last = self.config.num_layers - 1
        if odd := [i for i in skip_layers if not 0 <= i <= last]:
            raise InvalidArgumentError(f"[mmdit] skip_layers must be 0 to {last}, got {odd[0]}")
        # The same weights under a shorter graph.
        if skip_layers not in self._shorter:
            shorter = build_mmdit(self.config, skip_layers)
            self._shorter[skip_layers] = self.in_graph(shorter)
        return self._shorter[skip_layers]
