"""AutoencoderTiny: a small autoencoder that was distilled from a full one (madebyollin/taesd), by
diffusers' config.

Its latents are the denoiser's: what the full VAE's would be once scaled. So it is for all families
that were trained on that VAE, with a scaling factor of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import CheckpointError, UnsupportedModelError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Component, RunOptions, Tiled, make_networks, to_nchw, to_nhwc
from sdcore.models.config import from_json, require_value

__all__ = [
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "build_tiny_decoder",
    "build_tiny_encoder",
]

Array = NDArray[np.float32]

_BOUND = np.float32(3)  # which the decoder bends latents into: its `Clamp`


@dataclass(frozen=True)
class AutoencoderTinyConfig:
    """A level is a convolution, which samples up or down but for the outermost, and its blocks.
    `num_encoder_blocks` is empty where there is a decoder alone."""

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: Sequence[int] = (64, 64, 64, 64)
    decoder_block_out_channels: Sequence[int] = (64, 64, 64, 64)
    latent_channels: int = 4
    num_encoder_blocks: Sequence[int] = (1, 3, 3, 3)
    num_decoder_blocks: Sequence[int] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float | None = 0.0

    @property
    def scale_factor(self) -> int:
        """Pixels a latent, along each side."""
        return int(2 ** (len(self.num_decoder_blocks) - 1))


def _block(w: Scope, x: Value, c: int) -> Value:
    """AutoencoderTinyBlock."""
    h = nn.activation(nn.conv2d(w.conv[0], x, c, c), "relu")
    h = nn.activation(nn.conv2d(w.conv[2], h, c, c), "relu")
    return nn.activation(nn.conv2d(w.conv[4], h, c, c) + x, "relu")


def build_tiny_encoder(config: AutoencoderTinyConfig) -> _core.Graph:
    """`sample` [n, h, w, in_channels] in [0, 1] -> `latents` [n, h', w', latent_channels]."""
    b = Builder()
    layers, i = b.weights.encoder.layers, 0
    x, c = b.input("sample"), config.encoder_block_out_channels[0]
    for level, blocks in enumerate(config.num_encoder_blocks):
        if level == 0:
            x = nn.conv2d(layers[i], x, config.in_channels, c)
        else:
            x = nn.conv2d(layers[i], x, c, c, stride=2, bias=False)
        for k in range(blocks):
            x = _block(layers[i + 1 + k], x, c)
        i += 1 + blocks
    b.output("latents", nn.conv2d(layers[i], x, c, config.latent_channels))
    return b.graph


def build_tiny_decoder(config: AutoencoderTinyConfig) -> _core.Graph:
    """`latents` [n, h, w, latent_channels], bent into bounds -> `sample` [n, h', w', out_channels]
    in [0, 1], about."""
    b = Builder()
    layers, c = b.weights.decoder.layers, config.decoder_block_out_channels[0]
    x = nn.conv2d(layers[0], b.input("latents"), config.latent_channels, c)
    x, i = nn.activation(x, "relu"), 2  # layer 1 is the activation
    last = len(config.num_decoder_blocks) - 1
    for level, blocks in enumerate(config.num_decoder_blocks):
        for k in range(blocks):
            x = _block(layers[i + k], x, c)
        i += blocks
        if level < last:
            x = nn.conv2d(layers[i + 1], nn.upsample(x), c, c, bias=False)
            i += 2  # the layer before the convolution samples up
    b.output("sample", nn.conv2d(layers[i], x, c, config.out_channels))
    return b.graph


class AutoencoderTiny(Tiled):
    """`vae.encode(images)` and `vae.decode(latents)`, in diffusers' shapes; `scale` and `unscale`
    are those of its config, which change nothing with the factor of 1 that it has.

    Pictures are float32 `[n, 3, h, w]` in [-1, 1]. A file may bring the decoder alone. `tiling` is
    what full VAEs have, and is passed over: whole pictures take two fifths of a full VAE's memory.
    """

    def __init__(
        self,
        config: AutoencoderTinyConfig,
        encoder: _core.Network | None,
        decoder: _core.Network,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.decoder = decoder

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> AutoencoderTinyConfig:
        require_value("vae", config, "act_fn", "relu")
        require_value("vae", config, "upsample_fn", "nearest")
        require_value("vae", config, "upsampling_scaling_factor", 2)
        typed = from_json(AutoencoderTinyConfig, config)
        for side in ("encoder", "decoder"):
            channels = getattr(typed, f"{side}_block_out_channels")
            blocks = getattr(typed, f"num_{side}_blocks")
            if len(channels) != len(blocks) or len(set(channels)) > 1:
                raise UnsupportedModelError(
                    f"[vae] config field {side}_block_out_channels must be one number, once for "
                    f"each of the {len(blocks)} levels, got {channels!r:.80}"
                )
        return typed

    @classmethod
    def from_component(
        cls, component: Component, options: RunOptions | None = None
    ) -> AutoencoderTiny:
        """Raises CheckpointError naming every tensor that is missing or has another shape."""
        config = cls.read_config(component.config)
        if not config.num_decoder_blocks:
            raise CheckpointError(
                "[vae] this tiny autoencoder has an encoder alone, which cannot draw: give the "
                "file that has its decoder, too"
            )
        graphs = [build_tiny_decoder(config)]
        if config.num_encoder_blocks:
            graphs.append(build_tiny_encoder(config))
        decoder, *encoder = make_networks(component, graphs, options)
        return cls(config, encoder[0] if encoder else None, decoder)

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.decoder,) if self.encoder is None else (self.encoder, self.decoder)

    @property
    def scale_factor(self) -> int:
        """Pixels a latent, along each side."""
        return self.config.scale_factor

    def config_json(self) -> dict[str, Any]:
        """The config as it would stand in a config.json."""
        return asdict(self.config)

    def scale(self, latents: Array) -> Array:
        """The encoder's latents [n, c, h, w] as denoisers know them."""
        scaled: Array = (latents - self._shift) * self.config.scaling_factor
        return scaled

    def unscale(self, latents: Array) -> Array:
        """The way back: what `decode` takes."""
        unscaled: Array = latents / self.config.scaling_factor + self._shift
        return unscaled

    @property
    def _shift(self) -> float:
        return self.config.shift_factor or 0.0

    def require_encoder(self) -> _core.Network:
        """Raises UnsupportedModelError where there is a decoder alone."""
        if self.encoder is None:
            raise UnsupportedModelError(
                "[vae] this tiny autoencoder has a decoder alone, and cannot begin from a picture: "
                "give a vae= with both, such as diffusers' folder or file of it, or a full VAE"
            )
        return self.encoder

    def encode(self, images: ArrayLike) -> Array:
        """Latents `[n, latent_channels, h, w]` (diffusers' `latents`)."""
        x = to_nhwc(images, "[vae] images", self.config.in_channels)
        return to_nchw(self.require_encoder().run({"sample": (x + 1) / 2})["latents"])

    def decode(self, latents: ArrayLike, tiled: bool | None = None) -> Array:
        """Pictures `[n, 3, 8h, 8w]` of latents `[n, c, h, w]`; `tiled` as `tiling`."""
        x = to_nhwc(latents, "[vae] latents", self.config.latent_channels)
        # Here and not in the graph: latents are few, and no op bends numbers so.
        sample = self.decoder.run({"latents": np.tanh(x / _BOUND) * _BOUND})["sample"]
        return to_nchw(sample * np.float32(2) - np.float32(1))
