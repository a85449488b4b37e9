"""AutoencoderKL: pictures to latents and back, by diffusers' config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import UnsupportedModelError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Component, RunOptions, make_network, to_nchw, to_nhwc
from sdcore.models.blocks import attention, resnet
from sdcore.models.config import from_json, require_value

__all__ = ["AutoencoderKL", "VAEConfig", "build_decoder", "build_encoder"]

Array = NDArray[np.float32]

_EPS = 1e-6  # of every norm in this network


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


def _resnet(config: VAEConfig, w: Scope, x: Value, c_in: int, c_out: int) -> Value:
    return resnet(w, x, c_in, c_out, groups=config.norm_num_groups, eps=_EPS)


def _mid_block(config: VAEConfig, w: Scope, x: Value, c: int) -> Value:
    x = _resnet(config, w.resnets[0], x, c, c)
    if config.mid_block_add_attention:
        a = w.attentions[0]
        h = nn.flatten(nn.group_norm(a.group_norm, x, c, config.norm_num_groups, _EPS))
        h = attention(a, h, h, c, c, heads=1, qkv_bias=True) + nn.flatten(x)
        x = nn.unflatten(h, x)
    return _resnet(config, w.resnets[1], x, c, c)


def _norm_out(config: VAEConfig, w: Scope, x: Value, c: int) -> Value:
    return nn.silu(nn.group_norm(w, x, c, config.norm_num_groups, _EPS))


def build_encoder(config: VAEConfig) -> _core.Graph:
    """`sample` [n, h, w, in_channels] in [-1, 1] -> `moments` [n, h', w', 2 * latent_channels]."""
    b = Builder()
    w = b.weights.encoder
    channels = config.block_out_channels
    x = nn.conv2d(w.conv_in, b.input("sample"), config.in_channels, channels[0])
    for i, c in enumerate(channels):
        block = w.down_blocks[i]
        for k in range(config.layers_per_block):
            c_in = channels[max(i - 1, 0)] if k == 0 else c
            x = _resnet(config, block.resnets[k], x, c_in, c)
        if i < len(channels) - 1:
            # diffusers pads one row and one column after the image, none before.
            conv = block.downsamplers[0].conv
            x = nn.conv2d(conv, x, c, c, stride=2, padding=(0, 0, 1, 1))
    c, moments = channels[-1], 2 * config.latent_channels
    x = _mid_block(config, w.mid_block, x, c)
    x = nn.conv2d(w.conv_out, _norm_out(config, w.conv_norm_out, x, c), c, moments)
    if config.use_quant_conv:
        x = nn.conv2d(b.weights.quant_conv, x, moments, moments, kernel=1)
    b.output("moments", x)
    return b.graph


def build_decoder(config: VAEConfig) -> _core.Graph:
    """`latents` [n, h, w, latent_channels], unscaled -> `sample` [n, 8h, 8w, out_channels]."""
    b = Builder()
    w = b.weights.decoder
    channels = list(reversed(config.block_out_channels))
    z, x = config.latent_channels, b.input("latents")
    if config.use_post_quant_conv:
        x = nn.conv2d(b.weights.post_quant_conv, x, z, z, kernel=1)
    x = nn.conv2d(w.conv_in, x, z, channels[0])
    x = _mid_block(config, w.mid_block, x, channels[0])
    for i, c in enumerate(channels):
        block = w.up_blocks[i]
        for k in range(config.layers_per_block + 1):
            c_in = channels[max(i - 1, 0)] if k == 0 else c
            x = _resnet(config, block.resnets[k], x, c_in, c)
        if i < len(channels) - 1:
            x = nn.conv2d(block.upsamplers[0].conv, nn.upsample(x), c, c)
    x = _norm_out(config, w.conv_norm_out, x, channels[-1])
    b.output("sample", nn.conv2d(w.conv_out, x, channels[-1], config.out_channels))
    return b.graph


class AutoencoderKL:
    """`vae.encode(images)` and `vae.decode(latents)`, in diffusers' shapes, without scaling_factor;
    `scale` and `unscale` apply it.

    Pictures are float32 `[n, 3, h, w]` in [-1, 1].
    """

    def __init__(self, config: VAEConfig, encoder: _core.Network, decoder: _core.Network) -> None:
        self.config = config
        self.encoder = encoder
        self.decoder = decoder

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> VAEConfig:
        require_value("vae", config, "act_fn", "silu", "swish")
        for kind in config.get("down_block_types", ()):
            require_value(
                "vae", {"down_block_types": kind}, "down_block_types", "DownEncoderBlock2D"
            )
        typed = from_json(VAEConfig, config)
        for key in ("latents_mean", "latents_std"):
            values = getattr(typed, key)
            if values is not None and np.shape(values) != (typed.latent_channels,):
                raise UnsupportedModelError(
                    f"[vae] config field {key} must have {typed.latent_channels} values, "
                    f"got {values!r:.80}"
                )
        return typed

    @classmethod
    def from_component(
        cls, component: Component, options: RunOptions | None = None
    ) -> AutoencoderKL:
        """Raises CheckpointError naming every tensor that is missing or has another shape."""
        config = cls.read_config(component.config)
        encoder, decoder = build_encoder(config), build_decoder(config)
        weights = component.weights({**encoder.weights, **decoder.weights})
        networks = (
            make_network(
                graph, {name: weights[name] for name in graph.weights}, options or RunOptions()
            )
            for graph in (encoder, decoder)
        )
        return cls(config, *networks)

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.encoder, self.decoder)

    def release(self) -> None:
        """Gives back the memory of prepared weights until the next run."""
        for network in self.networks:
            network.release()

    @property
    def scale_factor(self) -> int:
        """Pixels a latent, along each side."""
        return int(2 ** (len(self.config.block_out_channels) - 1))

    def config_json(self) -> dict[str, Any]:
        """The config as it would stand in a config.json."""
        return asdict(self.config)

    def scale(self, latents: Array) -> Array:
        """The encoder's latents [n, c, h, w] as denoisers know them: of unit variance, about."""
        shift, factor = self._normalization()
        return (latents - shift) * factor

    def unscale(self, latents: Array) -> Array:
        """The way back: what `decode` takes."""
        shift, factor = self._normalization()
        return latents / factor + shift

    def _normalization(self) -> tuple[Array, Array]:
        """What to take away, and what to multiply by."""
        config = self.config
        factor = np.float32(config.scaling_factor)
        if config.latents_mean is None or config.latents_std is None:
            return np.array(config.shift_factor or 0, np.float32), np.array(factor)
        mean, std = (
            np.asarray(values, np.float32)[:, None, None]
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, factor / std

    def moments(self, images: ArrayLike) -> Array:
        """Means, then logarithms of variances: `[n, 2 * latent_channels, h, w]`."""
        x = to_nhwc(images, "[vae] images", self.config.in_channels)
        return to_nchw(self.encoder.run({"sample": x})["moments"])

    def encode(self, images: ArrayLike) -> Array:
        """The mean latents `[n, latent_channels, h, w]` (diffusers' `latent_dist.mean`)."""
        return self.moments(images)[:, : self.config.latent_channels]

    def decode(self, latents: ArrayLike) -> Array:
        """Pictures `[n, 3, 8h, 8w]` of latents `[n, c, h, w]`, once divided by scaling_factor."""
        x = to_nhwc(latents, "[vae] latents", self.config.latent_channels)
        return to_nchw(self.decoder.run({"latents": x})["sample"])
