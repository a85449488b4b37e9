"""Blocks that several networks share."""

from __future__ import annotations

from collections.abc import Iterable

from sdcore.graph import Scope, Value, nn

__all__ = ["attention", "clip_layer", "feed_forward", "resnet", "timestep_mlp"]


def resnet(
    w: Scope,
    x: Value,
    c_in: int,
    c_out: int,
    *,
    groups: int,
    eps: float,
    act: str = "silu",
    temb: Value | None = None,
    temb_channels: int = 0,
) -> Value:
    """ResnetBlock2D. `temb` is the time embedding after its activation, `[n, temb_channels]`."""
    # First, so that the norm, which then reads x last, may write over it.
    shortcut = x if c_in == c_out else nn.conv2d(w.conv_shortcut, x, c_in, c_out, kernel=1)
    h = nn.activation(nn.group_norm(w.norm1, x, c_in, groups, eps), act)
    h = nn.conv2d(w.conv1, h, c_in, c_out)
    if temb is not None:
        h = h + nn.linear(w.time_emb_proj, temb, temb_channels, c_out)
    h = nn.activation(nn.group_norm(w.norm2, h, c_out, groups, eps), act)
    return nn.conv2d(w.conv2, h, c_out, c_out) + shortcut


def attention(
    w: Scope,
    x: Value,
    context: Value,
    channels: int,
    context_channels: int,
    heads: int,
    *,
    qkv_bias: bool,
    mask: Value | None = None,
    int8_activations: bool = False,
    beside: Iterable[tuple[Value, Value]] = (),
) -> Value:
    """Attention of tokens `x` to tokens `context`, without the residual. What the same queries
    find in the keys and values `beside`, each pair by itself, is added."""

    def project(w: Scope, x: Value, c_in: int, bias: bool = True) -> Value:
        return nn.linear(w, x, c_in, channels, bias, int8_activations)

    q = project(w.to_q, x, channels, qkv_bias)
    k = project(w.to_k, context, context_channels, qkv_bias)
    v = project(w.to_v, context, context_channels, qkv_bias)
    found = nn.attention(q, k, v, heads, mask=mask)
    for keys, values in beside:
        found = found + nn.attention(q, keys, values, heads)
    return project(w.to_out[0], found, channels)


def feed_forward(w: Scope, x: Value, channels: int, act: str) -> Value:
    """FeedForward four times as wide, without a gate and without the residual."""
    h = nn.activation(nn.linear(w.net[0].proj, x, channels, 4 * channels), act)
    return nn.linear(w.net[2], h, 4 * channels, channels)


def timestep_mlp(w: Scope, x: Value, c_in: int, c_out: int, act: str = "silu") -> Value:
    """TimestepEmbedding and PixArtAlphaTextProjection: two linear layers."""
    h = nn.activation(nn.linear(w.linear_1, x, c_in, c_out), act)
    return nn.linear(w.linear_2, h, c_out, c_out)


def clip_layer(
    w: Scope,
    x: Value,
    channels: int,
    hidden: int,
    heads: int,
    *,
    act: str,
    eps: float,
    causal: bool = False,
) -> Value:
    """CLIPEncoderLayer, of texts (causal) and of images."""
    c = channels
    h = nn.layer_norm(w.layer_norm1, x, c, eps)
    projections = (w.self_attn.q_proj, w.self_attn.k_proj, w.self_attn.v_proj)
    q, k, v = (nn.linear(projection, h, c, c) for projection in projections)
    h = nn.attention(q, k, v, heads, causal=causal)
    x = nn.linear(w.self_attn.out_proj, h, c, c) + x
    h = nn.layer_norm(w.layer_norm2, x, c, eps)
    h = nn.activation(nn.linear(w.mlp.fc1, h, c, hidden), act)
    return nn.linear(w.mlp.fc2, h, hidden, c) + x
