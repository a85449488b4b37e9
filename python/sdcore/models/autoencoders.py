"""The VAE of a model, full or tiny: its config says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdcore import _core
from sdcore.models.autoencoder_tiny import (
    AutoencoderTiny,
    AutoencoderTinyConfig,
    build_tiny_decoder,
)
from sdcore.models.base import Component, RunOptions
from sdcore.models.vae import AutoencoderKL, VAEConfig, build_decoder

__all__ = ["AnyAutoencoder", "Autoencoder", "AutoencoderConfig", "decoder_graph"]

Autoencoder = AutoencoderKL | AutoencoderTiny
AutoencoderConfig = VAEConfig | AutoencoderTinyConfig


class AnyAutoencoder:
    """What makes an AutoencoderKL or an AutoencoderTiny of a part, as its config says."""

    @staticmethod
    def _class(config: Mapping[str, Any]) -> type[AutoencoderKL] | type[AutoencoderTiny]:
        return AutoencoderTiny if config.get("_class_name") == "AutoencoderTiny" else AutoencoderKL

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> AutoencoderConfig:
        return cls._class(config).read_config(config)

    @classmethod
    def from_component(cls, component: Component, options: RunOptions | None = None) -> Autoencoder:
        """Raises CheckpointError naming every tensor that is missing or has another shape."""
        return cls._class(component.config).from_component(component, options)


def decoder_graph(config: AutoencoderConfig) -> _core.Graph:
    """`latents` -> `sample`."""
    if isinstance(config, AutoencoderTinyConfig):
        return build_tiny_decoder(config)
    return build_decoder(config)
