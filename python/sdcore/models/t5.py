"""T5's text encoder, as transformers' T5EncoderModel has it (Raffel et al. 2019; v1.1: Shazeer
2020, "GLU variants improve transformer")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Model, key_mask
from sdcore.models.config import from_json, require_value

__all__ = ["T5Config", "T5EncoderModel", "build_t5"]

# transformers' names; its "gelu_new" is the approximation by tanh.
_FEED_FORWARD = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
}


@dataclass(frozen=True)
class T5Config:
    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"


def _attention(w: Scope, x: Value, relative: Value, mask: Value, config: T5Config) -> Value:
    inner = config.num_heads * config.d_kv
    q, k, v = (nn.linear(proj, x, config.d_model, inner, bias=False) for proj in (w.q, w.k, w.v))
    # T5 does not divide scores by the root of their depth; its initial weights do.
    h = nn.attention(q, k, v, config.num_heads, scale=1.0, relative=relative, mask=mask)
    return nn.linear(w.o, h, inner, config.d_model, bias=False)


def _feed_forward(w: Scope, x: Value, config: T5Config) -> Value:
    act, gated = _FEED_FORWARD[config.feed_forward_proj]
    wide, c = config.d_ff, config.d_model
    first = w.wi_0 if gated else w.wi
    h = nn.activation(nn.linear(first, x, c, wide, bias=False), act)
    if gated:
        h = h * nn.linear(w.wi_1, x, c, wide, bias=False)
    return nn.linear(w.wo, h, wide, c, bias=False)


def build_t5(config: T5Config) -> _core.Graph:
    """`input_ids` [n, t], `mask` [n, t] added to scores -> `last_hidden_state` [n, t, d_model]."""
    b = Builder()
    c, eps = config.d_model, config.layer_norm_epsilon
    blocks = b.weights.encoder.block
    x = nn.embedding(b.weights.shared, b.input("input_ids", "i32"), config.vocab_size, c)
    mask = b.input("mask")
    # The first block's table is that of all.
    relative = nn.relative_bias(
        blocks[0].layer[0].SelfAttention.relative_attention_bias,
        x,
        config.relative_attention_num_buckets,
        config.num_heads,
        config.relative_attention_max_distance,
    )
    for i in range(config.num_layers):
        attention, feed = blocks[i].layer[0], blocks[i].layer[1]
        h = nn.rms_norm(attention.layer_norm, x, c, eps)
        x = _attention(attention.SelfAttention, h, relative, mask, config) + x
        h = nn.rms_norm(feed.layer_norm, x, c, eps)
        x = _feed_forward(feed.DenseReluDense, h, config) + x
    b.output("last_hidden_state", nn.rms_norm(b.weights.encoder.final_layer_norm, x, c, eps))
    return b.graph


class T5EncoderModel(Model):
    """`text_encoder(input_ids, attention_mask)`: ids `[n, t]` and a mask `[n, t]` of ones where
    tokens are and zeros where padding is (None: all are tokens), to hidden states
    `[n, t, d_model]`, float32."""

    config: T5Config

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> T5Config:
        require_value("t5", config, "feed_forward_proj", *_FEED_FORWARD)
        return from_json(T5Config, config)

    @classmethod
    def build(cls, config: T5Config) -> _core.Graph:
        return build_t5(config)

    def __call__(
        self, input_ids: ArrayLike, attention_mask: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        ids = np.asarray(input_ids)
        if ids.ndim != 2:
            raise InvalidArgumentError(f"[t5] input_ids must be [n, tokens], got {list(ids.shape)}")
        mask = key_mask(attention_mask, (ids.shape[0], ids.shape[1]), "[t5] attention_mask")
        return self.network.run({"input_ids": ids, "mask": mask})["last_hidden_state"]
