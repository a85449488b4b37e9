"""PhotoMaker's ID encoder (Li et al. 2024): pictures of a person as words of a prompt, under the
names of TencentARC/PhotoMaker (photomaker/model.py, model_v2.py, resampler.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Component, Model, RunOptions, make_network
from sdcore.models.clip_vision import CLIPVisionConfig, pooled_state, vision_inputs, vision_states
from sdcore.models.config import from_json, require_value
from sdcore.models.image_projection import ProjectionConfig, resampled

__all__ = ["PhotoMakerConfig", "PhotoMakerIDEncoder"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class PhotoMakerConfig:
    """What the shapes of an ID encoder say; no file has a config. `resampler` is version 2's,
    `id_embeddings_dim` that of the face embeddings that it takes, and 0 in version 1."""

    vision: CLIPVisionConfig
    embed_dim: int  # channels of the states of both text encoders side by side
    id_embeddings_dim: int = 0
    token_dim: int = 0  # inside token_proj
    resampler: ProjectionConfig = field(default_factory=lambda: ProjectionConfig(0, 0, 0, 1))

    @property
    def num_tokens(self) -> int:
        """Words that a picture stands for: 1 in version 1, 2 in version 2."""
        return self.resampler.num_tokens


class PhotoMakerIDEncoder(Model):
    """`id_encoder(pixel_values)`: pictures `[n, 3, side, side]`, normalised, to ID tokens
    `[n, num_tokens, embed_dim]`, float32; version 2 also takes `id_embeds` `[n, 512]`,
    insightface's embeddings of their faces. `fuse` puts them into a prompt."""

    config: PhotoMakerConfig

    def __init__(self, config: PhotoMakerConfig, network: _core.Network) -> None:
        super().__init__(config, network)
        self._fuse = self.in_graph(_build_fuse(config))

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.network, self._fuse)

    def with_network(self, network: _core.Network) -> PhotoMakerIDEncoder:
        other = super().with_network(network)
        other._fuse = other.in_graph(_build_fuse(self.config))
        return other

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> PhotoMakerConfig:
        require_value("photomaker", config["vision"], "hidden_act", "quick_gelu", "gelu")
        parts: dict[str, Any] = {"vision": from_json(CLIPVisionConfig, config["vision"])}
        if "resampler" in config:
            parts["resampler"] = from_json(ProjectionConfig, config["resampler"])
        return PhotoMakerConfig(**{**config, **parts})

    @classmethod
    def build(cls, config: PhotoMakerConfig) -> _core.Graph:
        """`pixel_values`, `class_ids` as of `build_clip_vision`, and in version 2 `id_embeds`
        [n, d] -> `id_tokens` [n, num_tokens, embed_dim]."""
        b = Builder()
        x = vision_states(b, config.vision, config.vision.num_hidden_layers)
        tokens = _qformer(b, x, config) if config.id_embeddings_dim else _projected(b, x, config)
        b.output("id_tokens", tokens)
        return b.graph

    @classmethod
    def from_component(
        cls, component: Component, options: RunOptions | None = None
    ) -> PhotoMakerIDEncoder:
        config = cls.read_config(component.config)
        weights = component.weights(cls.all_weights(config))
        return cls(config, make_network(cls.build(config), weights, options or RunOptions()))

    @classmethod
    def all_weights(cls, config: PhotoMakerConfig) -> dict[str, tuple[int, ...]]:
        """The shapes of what both graphs need, by name."""
        return {**cls.build(config).weights, **_build_fuse(config).weights}

    def __call__(self, pixel_values: ArrayLike, id_embeds: ArrayLike | None = None) -> Array:
        inputs = vision_inputs(pixel_values, self.config.vision, "[photomaker] pixel_values")
        if dim := self.config.id_embeddings_dim:
            embeds, n = np.asarray(id_embeds, np.float32), len(inputs["pixel_values"])
            if embeds.shape != (n, dim):
                raise InvalidArgumentError(
                    f"[photomaker] id_embeds must be [{n}, {dim}], got {list(embeds.shape)}"
                )
            inputs["id_embeds"] = embeds
        tokens = self.network.run(inputs)["id_tokens"]
        return tokens.reshape(-1, self.config.num_tokens, self.config.embed_dim)

    def fuse(self, prompt_embeds: ArrayLike, id_tokens: ArrayLike) -> Array:
        """The states of class words `[n, k, embed_dim]`, one an ID token, as the person's: the
        FuseModule's fuse_fn. `id_tokens` has the same shape."""
        states, tokens = (np.asarray(x, np.float32) for x in (prompt_embeds, id_tokens))
        if states.ndim != 3 or states.shape != tokens.shape:
            raise InvalidArgumentError(
                f"[photomaker] prompt_embeds and id_tokens must be [n, k, {self.config.embed_dim}],"
                f" got {list(states.shape)} and {list(tokens.shape)}"
            )
        return self._fuse.run({"prompt_embeds": states, "id_embeds": tokens})["fused"]


def _projected(b: Builder, x: Value, config: PhotoMakerConfig) -> Value:
    """Version 1: one token of two projections, as wide as one text encoder each."""
    vision, pooled = config.vision, pooled_state(b, x, config.vision)
    widths = (vision.projection_dim, config.embed_dim - vision.projection_dim)
    scopes = (b.weights.visual_projection, b.weights.visual_projection_2)
    return nn.concat(
        *(
            nn.linear(w, pooled, vision.hidden_size, width, bias=False)
            for w, width in zip(scopes, widths, strict=True)
        )
    )


def _qformer(b: Builder, x: Value, config: PhotoMakerConfig) -> Value:
    """Version 2's QFormerPerceiver: tokens of the face, and what they find in the picture."""
    w, c, count = b.weights.qformer_perceiver, config.embed_dim, config.num_tokens
    h = nn.linear(w.token_proj[0], b.input("id_embeds"), config.id_embeddings_dim, config.token_dim)
    h = nn.linear(w.token_proj[2], nn.activation(h, "gelu"), config.token_dim, c * count)
    tokens = nn.layer_norm(w.token_norm, nn.split_channels(h, count), c)
    return resampled(w.perceiver_resampler, x, tokens, config.resampler) + tokens


def _build_fuse(config: PhotoMakerConfig) -> _core.Graph:
    """`prompt_embeds`, `id_embeds` [n, k, embed_dim] -> `fused` [n, k, embed_dim]."""
    b = Builder()
    w, c = b.weights.fuse_module, config.embed_dim
    states = b.input("prompt_embeds")
    x = _mlp(w.mlp1, nn.concat(states, b.input("id_embeds")), 2 * c, c) + states
    x = _mlp(w.mlp2, x, c, c) + x
    b.output("fused", nn.layer_norm(w.layer_norm, x, c))
    return b.graph


def _mlp(w: Scope, x: Value, c_in: int, c: int) -> Value:
    h = nn.linear(w.fc1, nn.layer_norm(w.layernorm, x, c_in), c_in, c)
    return nn.linear(w.fc2, nn.activation(h, "gelu"), c, c)
