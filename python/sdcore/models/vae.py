"""AutoencoderKL: pictures to latents and back, by diffusers' config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import UnsupportedModelError
from sdcore.models.base import Component, RunOptions, Tiled, make_networks, to_nchw, to_nhwc
from sdcore.models.config import from_json, require_value
from sdcore.models.vae_graphs import VAEConfig, build_decoder, build_encoder
from sdcore.models.vae_strips import StripDecoder, StripEncoder

__all__ = ["AutoencoderKL", "VAEConfig", "build_decoder", "build_encoder"]

Array = NDArray[np.float32]


class AutoencoderKL(Tiled):
    """`vae.encode(images)` and `vae.decode(latents)`, in diffusers' shapes, without scaling_factor;
    `scale` and `unscale` apply it.

    Pictures are float32 `[n, 3, h, w]` in [-1, 1]. `tiling` says whether they are done a strip at a
    time (vae_strips.py): less memory, more time, and the same within about a thousandth. None
    leaves that to whoever knows how much memory there is.
    """

    def __init__(self, config: VAEConfig, encoder: _core.Network, decoder: _core.Network) -> None:
        self.config = config
        self.encoder = encoder
        self.decoder = decoder
        self._forget_strips()

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
        graphs = build_encoder(config), build_decoder(config)
        return cls(config, *make_networks(component, graphs, options))

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.encoder, self.decoder)

    def release(self) -> None:
        super().release()
        self._forget_strips()

    def _forget_strips(self) -> None:
        self._strip_encoder = StripEncoder(self.config, self.encoder)
        self._strip_decoder = StripDecoder(self.config, self.decoder)

    @property
    def scale_factor(self) -> int:
        """Pixels a latent, along each side."""
        return self.config.scale_factor

    def config_json(self) -> dict[str, Any]:
        """The config as it would stand in a config.json."""
        return asdict(self.config)

    def scale(self, latents: Array) -> Array:
        """The encoder's latents [n, c, h, w] as denoisers know them: of unit variance, about."""
        shift, factor = self.normalization()
        return (latents - shift) * factor

    def unscale(self, latents: Array) -> Array:
        """The way back: what `decode` takes."""
        shift, factor = self.normalization()
        return latents / factor + shift

    def normalization(self) -> tuple[Array, Array]:
        """What `scale` takes away, and what it multiplies by: a number, or one a channel."""
        config = self.config
        factor = np.float32(config.scaling_factor)
        if config.latents_mean is None or config.latents_std is None:
            return np.array(config.shift_factor or 0, np.float32), np.array(factor)
        mean, std = (
            np.asarray(values, np.float32)[:, None, None]
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, factor / std

    def _in_strips(self, tiled: bool | None) -> bool:
        """A VAE of one level has none that is larger than the latents."""
        return bool(self.tiling if tiled is None else tiled) and self.scale_factor > 1

    def moments(self, images: ArrayLike, tiled: bool | None = None) -> Array:
        """Means, then logarithms of variances: `[n, 2 * latent_channels, h, w]`. `tiled` as
        `tiling`, which it is unless given."""
        x = to_nhwc(images, "[vae] images", self.config.in_channels)
        if self._in_strips(tiled):
            return to_nchw(self._strip_encoder(x))
        return to_nchw(self.encoder.run({"sample": x})["moments"])

    def encode(self, images: ArrayLike) -> Array:
        """The mean latents `[n, latent_channels, h, w]` (diffusers' `latent_dist.mean`)."""
        return self.moments(images)[:, : self.config.latent_channels]

    def decode(self, latents: ArrayLike, tiled: bool | None = None) -> Array:
        """Pictures `[n, 3, 8h, 8w]` of latents `[n, c, h, w]`, once divided by scaling_factor;
        `tiled` as for `moments`."""
        x = to_nhwc(latents, "[vae] latents", self.config.latent_channels)
        if self._in_strips(tiled):
            return to_nchw(self._strip_decoder(x))
        return to_nchw(self.decoder.run({"latents": x})["sample"])
