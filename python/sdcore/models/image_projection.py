"""From what an image encoder says of a picture to tokens that a UNet reads beside the text: the
projections of IP-Adapter (Ye et al. 2023), under diffusers' names (models/embeddings.py)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Model
from sdcore.models.config import from_json

__all__ = [
    "PROJECTIONS",
    "IPAdapterFaceIDImageProjection",
    "IPAdapterFullImageProjection",
    "IPAdapterPlusImageProjection",
    "ImageProjection",
    "InstantIDImageProjection",
    "Projection",
    "ProjectionConfig",
    "resampled",
]


@dataclass(frozen=True)
class ProjectionConfig:
    """What the shapes of a projection say; no file has a config."""

    embed_dim: int  # channels of what it takes
    cross_attention_dim: int  # and of the tokens that it gives
    hidden_dim: int = 0  # inside
    num_tokens: int = 4  # of one image
    depth: int = 0  # blocks of a resampler
    heads: int = 0
    dim_head: int = 64
    ff_dim: int = 0


class Projection(Model):
    """`projection(embeds)`: what is said of each image to its tokens `[n, t, c]`, float32.

    `reads` is what it takes: "image_embeds" `[n, d]` or "hidden_states" `[n, tokens, d]` of CLIP's
    image encoder, or "face" `[n, d]`, insightface's embedding of a face. `usual_scale` is how
    much is made of the tokens to begin with.
    """

    config: ProjectionConfig
    reads: ClassVar[str]
    usual_scale: ClassVar[float] = 1.0

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> ProjectionConfig:
        return from_json(ProjectionConfig, config)

    @classmethod
    def build(cls, config: ProjectionConfig) -> _core.Graph:
        b = Builder()
        b.output("tokens", cls.tokens(b, b.input("embeds"), config))
        return b.graph

    @staticmethod
    @abstractmethod
    def tokens(b: Builder, x: Value, config: ProjectionConfig) -> Value:
        """`[n, t, cross_attention_dim]`."""

    def __call__(self, embeds: ArrayLike) -> NDArray[np.float32]:
        x = np.asarray(embeds, np.float32)
        sizes = 3 if self.reads == "hidden_states" else 2
        if x.ndim != sizes or x.shape[-1] != self.config.embed_dim or 0 in x.shape:
            wanted = ["n", *["tokens"] * (sizes - 2), self.config.embed_dim]
            raise InvalidArgumentError(
                f"[ip-adapter] {self.reads} must be [{', '.join(map(str, wanted))}], "
                f"got {list(x.shape)}"
            )
        x = self.arranged(x)
        return self.network.run({"embeds": x, **self.constants(len(x))})["tokens"]

    def arranged(self, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        """As the graph takes them."""
        return embeds

    def constants(self, n: int) -> dict[str, NDArray[Any]]:
        """Further inputs of the graph."""
        return {}


class ImageProjection(Projection):
    """Of the first IP-Adapters: one linear layer."""

    reads = "image_embeds"

    @staticmethod
    def tokens(b: Builder, x: Value, config: ProjectionConfig) -> Value:
        c, count = config.cross_attention_dim, config.num_tokens
        x = nn.linear(b.weights.image_embeds, x, config.embed_dim, c * count)
        return nn.layer_norm(b.weights.norm, nn.split_channels(x, count), c)


class IPAdapterFullImageProjection(Projection):
    """Of whole faces: a token for each of the encoder's."""

    reads = "hidden_states"

    @staticmethod
    def tokens(b: Builder, x: Value, config: ProjectionConfig) -> Value:
        c = config.cross_attention_dim
        x = _feed_forward(b.weights.ff, x, config.embed_dim, config.hidden_dim, c)
        return nn.layer_norm(b.weights.norm, x, c)


class IPAdapterFaceIDImageProjection(Projection):
    """FaceID and its portraits."""

    reads = "face"

    @staticmethod
    def tokens(b: Builder, x: Value, config: ProjectionConfig) -> Value:
        c, count = config.cross_attention_dim, config.num_tokens
        x = _feed_forward(b.weights.ff, x, config.embed_dim, config.hidden_dim, c * count)
        return nn.layer_norm(b.weights.norm, nn.split_channels(x, count), c)


class IPAdapterPlusImageProjection(Projection):
    """Plus: a resampler, whose queries look at all tokens of the encoder (Alayrac et al. 2022,
    Flamingo)."""

    reads = "hidden_states"

    @staticmethod
    def tokens(b: Builder, x: Value, config: ProjectionConfig) -> Value:
        # The same queries for each image: rows of a table.
        ids = b.input("query_ids", "i32")
        table = b.weights.latents.tensor(config.num_tokens, config.hidden_dim)
        return resampled(b.weights, x, ids.apply("embedding", table), config)

    def constants(self, n: int) -> dict[str, NDArray[Any]]:
        count = self.config.num_tokens
        return {"query_ids": np.tile(np.arange(count, dtype=np.int32), (n, 1))}


class InstantIDImageProjection(IPAdapterPlusImageProjection):
    """InstantID's (Wang et al. 2024): a resampler of the faces of one person, each a token of what
    it looks at. However many there are, `[n, d]`, they make the tokens of one image, `[1, t, c]`.
    """

    reads = "face"
    usual_scale = 0.8  # of its published examples

    def arranged(self, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        return embeds[None]


def resampled(w: Scope, x: Value, latents: Value, config: ProjectionConfig) -> Value:
    """What `latents` `[n, t, hidden_dim]` find in the tokens x: `[n, t, cross_attention_dim]`."""
    c, out = config.hidden_dim, config.cross_attention_dim
    x = nn.linear(w.proj_in, x, config.embed_dim, c)
    for i in range(config.depth):
        latents = _block(w.layers[i], x, latents, config)
    return nn.layer_norm(w.norm_out, nn.linear(w.proj_out, latents, c, out), out)


def _block(w: Scope, x: Value, latents: Value, config: ProjectionConfig) -> Value:
    """IPAdapterPlusImageProjectionBlock."""
    c, inner = config.hidden_dim, config.heads * config.dim_head
    queries = nn.layer_norm(w.ln1, latents, c)
    seen = nn.concat_tokens(nn.layer_norm(w.ln0, x, c), queries)
    q, k, v = (
        nn.linear(projection, of, c, inner, bias=False)
        for projection, of in ((w.attn.to_q, queries), (w.attn.to_k, seen), (w.attn.to_v, seen))
    )
    h = nn.attention(q, k, v, config.heads)
    latents = nn.linear(w.attn.to_out[0], h, inner, c, bias=False) + latents
    h = nn.layer_norm(w.ff[0], latents, c)
    return _feed_forward(w.ff[1], h, c, config.ff_dim, c, bias=False) + latents


def _feed_forward(
    w: Scope, x: Value, c_in: int, hidden: int, c_out: int, bias: bool = True
) -> Value:
    h = nn.activation(nn.linear(w.net[0].proj, x, c_in, hidden, bias), "gelu")
    return nn.linear(w.net[2], h, hidden, c_out, bias)


PROJECTIONS: Mapping[str, type[Projection]] = {
    kind.__name__: kind
    for kind in (
        ImageProjection,
        IPAdapterFullImageProjection,
        IPAdapterFaceIDImageProjection,
        IPAdapterPlusImageProjection,
        InstantIDImageProjection,
    )
}
