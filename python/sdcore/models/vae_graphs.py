"""The graphs of AutoencoderKL, by diffusers' config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdcore import _core
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.blocks import attention, resnet

__all__ = [
    "EPS",
    "VAEConfig",
    "build_decoder",
    "build_encoder",
    "decoder_head",
    "encoder_tail",
]

EPS = 1e-6  # of every norm in this network


@dataclass(frozen=True)
class VAEConfig:
    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: Sequence[int] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: Sequence[float] | None = None  # of the encoder's latents, by channel
    latents_std: Sequence[float] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def scale_factor(self) -> int:
        """Pixels a latent, along each side."""
        return int(2 ** (len(self.block_out_channels) - 1))


def _resnet(config: VAEConfig, w: Scope, x: Value, c_in: int, c_out: int) -> Value:
    return resnet(w, x, c_in, c_out, groups=config.norm_num_groups, eps=EPS)


def _mid_block(config: VAEConfig, w: Scope, x: Value, c: int) -> Value:
    x = _resnet(config, w.resnets[0], x, c, c)
    if config.mid_block_add_attention:
        a = w.attentions[0]
        h = nn.flatten(nn.group_norm(a.group_norm, x, c, config.norm_num_groups, EPS))
        h = attention(a, h, h, c, c, heads=1, qkv_bias=True) + nn.flatten(x)
        x = nn.unflatten(h, x)
    return _resnet(config, w.resnets[1], x, c, c)


def _norm_out(config: VAEConfig, w: Scope, x: Value, c: int) -> Value:
    return nn.silu(nn.group_norm(w, x, c, config.norm_num_groups, EPS))


def build_encoder(config: VAEConfig) -> _core.Graph:
    """`sample` [n, h, w, in_channels] in [-1, 1] -> `moments` [n, h', w', 2 * latent_channels]."""
    b = Builder()
    w = b.weights.encoder
    channels = config.block_out_channels
    x = nn.conv2d(w.conv_in, b.input("sample"), config.in_channels, channels[0])
    for i, c in enumerate(channels[:-1]):
        x = _down_resnets(config, w, x, i)
        # diffusers pads one row and one column after the image, none before.
        conv = w.down_blocks[i].downsamplers[0].conv
        x = nn.conv2d(conv, x, c, c, stride=2, padding=(0, 0, 1, 1))
    b.output("moments", _encoder_tail(config, b, x))
    return b.graph


def encoder_tail(config: VAEConfig) -> _core.Graph:
    """The encoder from its last level on, of `x` [n, h', w', c] as it was sampled down to that."""
    b = Builder()
    b.output("moments", _encoder_tail(config, b, b.input("x")))
    return b.graph


def _down_resnets(config: VAEConfig, w: Scope, x: Value, level: int) -> Value:
    channels = config.block_out_channels
    for k in range(config.layers_per_block):
        c_in = channels[max(level - 1, 0) if k == 0 else level]
        x = _resnet(config, w.down_blocks[level].resnets[k], x, c_in, channels[level])
    return x


def _encoder_tail(config: VAEConfig, b: Builder, x: Value) -> Value:
    w, channels = b.weights.encoder, config.block_out_channels
    c, moments = channels[-1], 2 * config.latent_channels
    x = _down_resnets(config, w, x, len(channels) - 1)
    x = _mid_block(config, w.mid_block, x, c)
    x = nn.conv2d(w.conv_out, _norm_out(config, w.conv_norm_out, x, c), c, moments)
    if config.use_quant_conv:
        x = nn.conv2d(b.weights.quant_conv, x, moments, moments, kernel=1)
    return x


def build_decoder(config: VAEConfig) -> _core.Graph:
    """`latents` [n, h, w, latent_channels], unscaled -> `sample` [n, 8h, 8w, out_channels]."""
    b = Builder()
    w = b.weights.decoder
    channels = list(reversed(config.block_out_channels))
    x = _decoder_head(config, b)
    for i, c in enumerate(channels[:-1]):
        x = nn.conv2d(w.up_blocks[i].upsamplers[0].conv, nn.upsample(x), c, c)
        x = _up_resnets(config, w, x, i + 1)
    x = _norm_out(config, w.conv_norm_out, x, channels[-1])
    b.output("sample", nn.conv2d(w.conv_out, x, channels[-1], config.out_channels))
    return b.graph


def decoder_head(config: VAEConfig) -> _core.Graph:
    """The decoder's first level: `latents` -> `x` [n, h, w, c] before it is sampled up."""
    b = Builder()
    b.output("x", _decoder_head(config, b))
    return b.graph


def _decoder_head(config: VAEConfig, b: Builder) -> Value:
    w, c = b.weights.decoder, config.block_out_channels[-1]
    z, x = config.latent_channels, b.input("latents")
    if config.use_post_quant_conv:
        x = nn.conv2d(b.weights.post_quant_conv, x, z, z, kernel=1)
    x = nn.conv2d(w.conv_in, x, z, c)
    return _up_resnets(config, w, _mid_block(config, w.mid_block, x, c), 0)


def _up_resnets(config: VAEConfig, w: Scope, x: Value, level: int) -> Value:
    channels = list(reversed(config.block_out_channels))
    for k in range(config.layers_per_block + 1):
        c_in = channels[max(level - 1, 0) if k == 0 else level]
        x = _resnet(config, w.up_blocks[level].resnets[k], x, c_in, channels[level])
    return x
