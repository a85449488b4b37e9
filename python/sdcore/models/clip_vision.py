"""CLIP's image encoder, as transformers' CLIPVisionModelWithProjection has it (Radford et al. 2021;
its transformer is that of Dosovitskiy et al. 2020, ViT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Value, nn
from sdcore.models.base import Model, to_nhwc
from sdcore.models.blocks import clip_layer
from sdcore.models.config import from_json, require_value

__all__ = [
    "CLIPVisionConfig",
    "CLIPVisionModelWithProjection",
    "build_clip_vision",
    "pooled_state",
    "vision_inputs",
    "vision_states",
]

_ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class CLIPVisionConfig:
    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @property
    def tokens(self) -> int:
        """One for the whole image, and one a patch."""
        return 1 + (self.image_size // self.patch_size) ** 2


def build_clip_vision(config: CLIPVisionConfig, projected: bool = True) -> _core.Graph:
    """`pixel_values` [n, h, w, 3], and `class_ids` [n, 1], zeros, -> `image_embeds` [n,
    projection_dim]; or where it is not to be `projected` `hidden_states` [n, tokens, hidden_size],
    those before the last layer."""
    b = Builder()
    x = vision_states(b, config, config.num_hidden_layers - (not projected))
    if not projected:
        b.output("hidden_states", x)
        return b.graph
    projection = b.weights.visual_projection
    pooled = pooled_state(b, x, config)
    out = nn.linear(projection, pooled, config.hidden_size, config.projection_dim, bias=False)
    b.output("image_embeds", out)
    return b.graph


def vision_states(b: Builder, config: CLIPVisionConfig, layers: int) -> Value:
    """`[n, tokens, hidden_size]` after so many layers, of the inputs of `build_clip_vision`."""
    w, c, eps = b.weights.vision_model, config.hidden_size, config.layer_norm_eps
    kernel = config.patch_size
    x = nn.conv2d(
        w.embeddings.patch_embedding,
        b.input("pixel_values"),
        config.num_channels,
        c,
        kernel,
        stride=kernel,
        padding=0,
        bias=False,
    )
    # The same vector for each image: a table of one row.
    whole = b.input("class_ids", "i32").apply(
        "embedding", w.embeddings.class_embedding.tensor(1, c)
    )
    x = nn.concat_tokens(whole, nn.flatten(x))
    x = x + w.embeddings.position_embedding.weight.tensor(1, config.tokens, c)
    x = nn.layer_norm(w.pre_layrnorm, x, c, eps)
    for i in range(layers):
        x = clip_layer(
            w.encoder.layers[i],
            x,
            c,
            config.intermediate_size,
            config.num_attention_heads,
            act=config.hidden_act,
            eps=eps,
        )
    return x


def pooled_state(b: Builder, x: Value, config: CLIPVisionConfig) -> Value:
    """`[n, hidden_size]`: what the last states say of the whole image."""
    whole = nn.merge_tokens(nn.token(x, 0))
    norm = b.weights.vision_model.post_layernorm
    return nn.layer_norm(norm, whole, config.hidden_size, config.layer_norm_eps)


def vision_inputs(
    pixel_values: ArrayLike, config: CLIPVisionConfig, what: str
) -> dict[str, NDArray[Any]]:
    """Those of the graphs, of images `[n, 3, side, side]`; `what` is what errors call them."""
    x = to_nhwc(pixel_values, what, config.num_channels)
    side = config.image_size
    if x.shape[1:3] != (side, side):
        raise InvalidArgumentError(
            f"{what} must be {side} x {side}, got {x.shape[1]} x {x.shape[2]}"
        )
    return {"pixel_values": x, "class_ids": np.zeros((len(x), 1), np.int32)}


class CLIPVisionModelWithProjection(Model):
    """`image_encoder(pixel_values)`: `[n, 3, side, side]`, normalised, to `image_embeds` `[n,
    projection_dim]`, float32. `hidden_states` gives the states before the last layer."""

    config: CLIPVisionConfig

    def __init__(self, config: CLIPVisionConfig, network: _core.Network) -> None:
        super().__init__(config, network)
        self._before_last: _core.Network | None = None

    def with_network(self, network: _core.Network) -> CLIPVisionModelWithProjection:
        other = super().with_network(network)
        other._before_last = None
        return other

    def release(self) -> None:
        super().release()
        self._before_last = None

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> CLIPVisionConfig:
        require_value("clip_vision", config, "hidden_act", *_ACTIVATIONS)
        return from_json(CLIPVisionConfig, config)

    @classmethod
    def build(cls, config: CLIPVisionConfig) -> _core.Graph:
        return build_clip_vision(config)

    def __call__(self, pixel_values: ArrayLike) -> NDArray[np.float32]:
        return self.network.run(self._inputs(pixel_values))["image_embeds"]

    def hidden_states(self, pixel_values: ArrayLike) -> NDArray[np.float32]:
        """`[n, tokens, hidden_size]`: transformers' `hidden_states[-2]`."""
        network = self._before_last  # which another thread may release
        if network is None:
            network = self.in_graph(build_clip_vision(self.config, projected=False))
            self._before_last = network
        return network.run(self._inputs(pixel_values))["hidden_states"]

    def _inputs(self, pixel_values: ArrayLike) -> dict[str, NDArray[Any]]:
        return vision_inputs(pixel_values, self.config, "[clip_vision] pixel_values")
