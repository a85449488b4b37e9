"""Which parts of a pipeline may be exchanged for others while it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcore.checkpoint import FAMILIES
from sdcore.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.models.base import Placed, Tiled

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["check_latents", "require_part"]


def require_part(pipe: DiffusionPipeline, name: str, part: Any) -> None:
    """Raises SDCoreError unless this can take the place of the part of that name: an autoencoder of
    the same latents, a tokenizer, or none where the model can do without."""
    now = getattr(pipe, name)
    if part is now or (part is None and name in pipe.optional):
        return
    if not isinstance(part, Tiled if name == "vae" else Placed if now is None else type(now)):
        raise InvalidArgumentError(
            f"[pipeline] {name} must be a part of a pipeline of sdcore's, which compiles its "
            f"graphs by itself, got {type(part).__name__}; paths are for opening"
        )
    if pipe.is_adapted(name):
        raise InvalidArgumentError(
            f"[pipeline] {name} stays the one that the model was opened with, for adapters are "
            "made for it: open the other model"
        )
    if name == "vae":
        check_latents(pipe, part)


def check_latents(pipe: DiffusionPipeline, vae: Any) -> None:
    """The VAE's latents are the denoiser's, which may also give their variance."""
    config, channels = pipe.denoiser.config, vae.config.latent_channels
    out = config.out_channels or config.in_channels
    if out not in (channels, 2 * channels):
        raise CheckpointError(
            f"[pipeline] vae has latents of {channels} channels, and the denoiser gives {out}: "
            "it is another model's"
        )
    full = FAMILIES[pipe.family].configs.get("vae", {})
    if isinstance(vae, AutoencoderTiny) and "latents_mean" in full:
        raise UnsupportedModelError(
            f"[pipeline] {FAMILIES[pipe.family].title} scales its latents otherwise than a "
            "tiny autoencoder does: leave out vae=, which takes the model's own"
        )
