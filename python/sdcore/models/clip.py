"""CLIP's text encoder, as transformers' CLIPTextModel has it (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Model
from sdcore.models.config import from_json, require_value

__all__ = ["CLIPTextConfig", "CLIPTextModel", "build_clip"]

_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}


@dataclass(frozen=True)
class CLIPTextConfig:
    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


def _layer(w: Scope, x: Value, config: CLIPTextConfig) -> Value:
    c, eps = config.hidden_size, config.layer_norm_eps
    h = nn.layer_norm(w.layer_norm1, x, c, eps)
    q, k, v = (
        nn.linear(proj, h, c, c)
        for proj in (w.self_attn.q_proj, w.self_attn.k_proj, w.self_attn.v_proj)
    )
    h = nn.attention(q, k, v, config.num_attention_heads, causal=True)
    x = nn.linear(w.self_attn.out_proj, h, c, c) + x
    h = nn.layer_norm(w.layer_norm2, x, c, eps)
    h = nn.linear(w.mlp.fc1, h, c, config.intermediate_size)
    h = nn.activation(h, _ACTIVATIONS[config.hidden_act])
    return nn.linear(w.mlp.fc2, h, config.intermediate_size, c) + x


def build_clip(config: CLIPTextConfig) -> _core.Graph:
    """`input_ids` [n, t] -> `last_hidden_state` [n, t, hidden_size]."""
    b = Builder()
    w = b.weights.text_model
    tokens, c = config.max_position_embeddings, config.hidden_size
    x = nn.embedding(
        w.embeddings.token_embedding, b.input("input_ids", "i32"), config.vocab_size, c
    )
    x = x + w.embeddings.position_embedding.weight.tensor(1, tokens, c)
    for i in range(config.num_hidden_layers):
        x = _layer(w.encoder.layers[i], x, config)
    b.output("last_hidden_state", nn.layer_norm(w.final_layer_norm, x, c, config.layer_norm_eps))
    return b.graph


class CLIPTextModel(Model):
    """`text_encoder(input_ids)`: ids `[n, 77]` to hidden states `[n, 77, hidden_size]`, float32."""

    config: CLIPTextConfig

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> CLIPTextConfig:
        require_value("clip", config, "hidden_act", *_ACTIVATIONS)
        return from_json(CLIPTextConfig, config)

    @classmethod
    def build(cls, config: CLIPTextConfig) -> _core.Graph:
        return build_clip(config)

    def __call__(self, input_ids: ArrayLike) -> NDArray[np.float32]:
        ids = np.asarray(input_ids)
        if ids.ndim != 2 or ids.shape[1] != self.config.max_position_embeddings:
            raise InvalidArgumentError(
                f"[clip] input_ids must be [n, {self.config.max_position_embeddings}], "
                f"got {list(ids.shape)}"
            )
        return self.network.run({"input_ids": ids})["last_hidden_state"]
