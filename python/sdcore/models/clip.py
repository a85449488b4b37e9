"""CLIP's text encoder, as transformers' CLIPTextModel and CLIPTextModelWithProjection have it
(Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Model
from sdcore.models.blocks import clip_layer
from sdcore.models.config import from_json, require_value

__all__ = ["CLIPTextConfig", "CLIPTextModel", "TextStates", "build_clip"]

_ACTIVATIONS = ("quick_gelu", "gelu")
_PROJECTS = "CLIPTextModelWithProjection"
# In old configs by mistake; there transformers takes the highest id for the end of the text.
_LEGACY_EOS = 2
_TABLE = "text_model.embeddings.token_embedding.weight"


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
    architectures: Sequence[str] | None = None
    projection_dim: int = 512
    eos_token_id: int | None = 49407

    @property
    def projects(self) -> bool:
        """Whether what it pools goes through `text_projection`."""
        return _PROJECTS in (self.architectures or ())

    @property
    def pooled_size(self) -> int:
        """Channels of what it pools."""
        return self.projection_dim if self.projects else self.hidden_size

    @property
    def end_id(self) -> int | None:
        """The id at whose first place it pools; None: that of the highest id."""
        return None if self.eos_token_id == _LEGACY_EOS else self.eos_token_id


@dataclass(frozen=True)
class TextStates:
    """`hidden_states` [n, t, hidden_size], float32; `pooled`, where it was asked for: the state of
    the end token, [n, projection_dim] of a model with projection, else [n, hidden_size]."""

    hidden_states: NDArray[np.float32]
    pooled: NDArray[np.float32] | None = None


def _layer(w: Scope, x: Value, config: CLIPTextConfig) -> Value:
    return clip_layer(
        w,
        x,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        act=config.hidden_act,
        eps=config.layer_norm_eps,
        causal=True,
    )


def build_clip(
    config: CLIPTextConfig,
    skip: int = 0,
    final_norm: bool = True,
    pooled: bool | None = None,
    embedded: bool = False,
) -> _core.Graph:
    """`input_ids` [n, t], or where they are `embedded` already `inputs_embeds` [n, t, hidden_size],
    -> `last_hidden_state` [n, t, hidden_size] without the last `skip` layers, with the final norm
    or without; and `end` [n] -> `pooled`, of all layers, with both.

    `pooled` None asks for it where the model has a projection.
    """
    b = Builder()
    w = b.weights.text_model
    tokens, c = config.max_position_embeddings, config.hidden_size
    if embedded:
        x = b.input("inputs_embeds")
    else:
        ids = b.input("input_ids", "i32")
        x = nn.embedding(w.embeddings.token_embedding, ids, config.vocab_size, c)
    x = x + w.embeddings.position_embedding.weight.tensor(1, tokens, c)
    pooled = config.projects if pooled is None else pooled
    states = [x]
    for i in range(config.num_hidden_layers - (0 if pooled else skip)):
        states.append(_layer(w.encoder.layers[i], states[-1], config))

    def norm(x: Value) -> Value:
        return nn.layer_norm(w.final_layer_norm, x, c, config.layer_norm_eps)

    state = states[config.num_hidden_layers - skip]
    b.output("last_hidden_state", norm(state) if final_norm else state)
    if pooled:
        last = nn.take(norm(states[-1]), b.input("end", "i32"))
        if config.projects:
            last = nn.linear(b.weights.text_projection, last, c, config.projection_dim, bias=False)
        b.output("pooled", last)
    return b.graph


class CLIPTextModel(Model):
    """`text_encoder(input_ids)`: ids `[n, 77]` to hidden states `[n, 77, hidden_size]`, float32.

    `encode` gives other hidden states, and the pooled one.
    """

    config: CLIPTextConfig

    def __init__(self, config: CLIPTextConfig, network: _core.Network) -> None:
        super().__init__(config, network)
        self._networks: dict[tuple[int, bool, bool, bool], _core.Network] = {}

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.network, *self._networks.values())

    def with_network(self, network: _core.Network) -> CLIPTextModel:
        other = super().with_network(network)
        other._networks = {}
        return other

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> CLIPTextConfig:
        require_value("clip", config, "hidden_act", *_ACTIVATIONS)
        require_value("clip", config, "use_attention_mask", False, None)
        return from_json(CLIPTextConfig, config)

    @classmethod
    def build(cls, config: CLIPTextConfig) -> _core.Graph:
        return build_clip(config)

    def __call__(self, input_ids: ArrayLike) -> NDArray[np.float32]:
        return self.encode(input_ids).hidden_states

    def encode(
        self,
        input_ids: ArrayLike,
        *,
        skip: int = 0,
        final_norm: bool = True,
        pooled: bool = False,
        more: NDArray[np.float32] | None = None,
    ) -> TextStates:
        """Hidden states without the last `skip` layers, normed or as they are, and the pooled one.
        Ids beyond the vocabulary stand for the rows of `more` [k, hidden_size].

        SD 1.x and 2.x read `skip=clip_skip`; SDXL `skip=clip_skip + 1, final_norm=False`.
        """
        ids = np.asarray(input_ids)
        if ids.ndim != 2 or ids.shape[1] != self.config.max_position_embeddings:
            raise InvalidArgumentError(
                f"[clip] input_ids must be [n, {self.config.max_position_embeddings}], "
                f"got {list(ids.shape)}"
            )
        if not 0 <= skip < self.config.num_hidden_layers:
            raise InvalidArgumentError(
                f"[clip] skip must be from 0 to {self.config.num_hidden_layers - 1}: the text "
                f"encoder has {self.config.num_hidden_layers} layers, got {skip}"
            )
        own = ids if more is None else self._embedded(ids, more)
        inputs = {"input_ids" if more is None else "inputs_embeds": own}
        if pooled:
            inputs["end"] = self._ends(ids)
        out = self.network_for(skip, final_norm, pooled, more is not None).run(inputs)
        return TextStates(out["last_hidden_state"], out.get("pooled"))

    def _embedded(self, ids: NDArray[Any], more: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vectors of ids, `[n, t, hidden_size]`: rows of the table, and of `more` beyond it."""
        known = self.config.vocab_size
        unique, places = np.unique(ids, return_inverse=True)
        if unique[0] < 0 or unique[-1] >= known + len(more):
            raise InvalidArgumentError(
                f"[clip] input_ids must be from 0 to {known + len(more) - 1}, got "
                f"{unique[0]} to {unique[-1]}"
            )
        table = self.network.tensors[_TABLE]
        rows = [
            table.rows(i, i + 1).to_float()[0] if i < known else more[i - known]
            for i in map(int, unique)
        ]
        vectors: NDArray[np.float32] = np.stack(rows)[places.reshape(ids.shape)]
        return vectors

    def network_for(
        self, skip: int, final_norm: bool, pooled: bool, embedded: bool = False
    ) -> _core.Network:
        """The network of `build_clip` with these arguments."""
        key = (skip, final_norm, pooled, embedded)
        if key not in self._networks:
            self._networks[key] = self.in_graph(build_clip(self.config, *key))
        return self._networks[key]

    def _ends(self, ids: NDArray[Any]) -> NDArray[np.int32]:
        """Where each text ends, as transformers finds it."""
        # An id beyond the vocabulary must not pass for the end.
        highest = np.where(ids < self.config.vocab_size, ids, -1)
        found = highest if self.config.end_id is None else ids == self.config.end_id
        return np.asarray(np.argmax(found, axis=1), dtype=np.int32)
