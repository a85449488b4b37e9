"""How a ControlNet of Stable Diffusion 3 is asked in a run of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.errors import InvalidArgumentError
from sdcore.models.controlnet_sd3 import SD3ControlNetModel
from sdcore.models.unet_graph import Features
from sdcore.pictures.fit import fitted_mask
from sdcore.pipelines.conditioning import Told
from sdcore.pipelines.control import Additions, Asked, Controller, fitted_control
from sdcore.pipelines.request import whole

__all__ = ["LatentsOf", "SD3Controller"]

Array = NDArray[np.float32]
# The latents [1, c, h, w] of pictures [1, 3, H, W] in [-1, 1], moved by the VAE's shift or not.
LatentsOf = Callable[[Array, bool], Array]

_CANNY = 1
_KINDS = ("blurred", "canny edges", "depth")


class SD3Controller(Controller):
    """Its picture is encoded by the model's VAE, once; the mean of what the encoder says, so that
    a picture is always the same (diffusers draws from it, from numbers of no seed)."""

    def __init__(
        self,
        asked: Asked,
        model: SD3ControlNetModel,
        mask: Image.Image | None,
        latents_of: LatentsOf,
    ) -> None:
        super().__init__(asked)
        self._model = model
        self._mask = mask
        self._latents_of = latents_of
        self._kind = _kind(model, asked.mode)
        takes_mask = model.config.extra_conditioning_channels > 0
        if takes_mask != (mask is not None):
            raise InvalidArgumentError(
                "[controlnet] this ControlNet is for inpainting: give control_mask, white where to "
                "paint"
                if takes_mask
                else "[controlnet] control_mask is for a ControlNet of Stable Diffusion 3 for "
                "inpainting, and this one takes none"
            )

    @cached_property
    def _features(self) -> Features:
        asked, config = self.asked, self._model.config
        picture = _scaled(fitted_control(asked.image, asked.width, asked.height), self._kind)
        if self._mask is None:
            shifted = not config.force_zeros_for_pooled_projection
            return self._model.embed(self._latents_of(picture, shifted))
        mask = fitted_mask(self._mask, asked.width, asked.height)
        # As alimama's pipeline in diffusers, which shifts these latents in any case.
        latents = self._latents_of(np.where(mask[None] > 0, np.float32(-1), picture), True)
        factor = asked.height // latents.shape[2]
        kept = 1 - mask[None, :, ::factor, ::factor]
        return self._model.embed(np.concatenate([latents, kept], axis=1))

    def add(self, found: Additions | None, x: Array, timestep: float, told: Told) -> Additions:
        return self._model.residuals(
            x,
            timestep,
            told.once(
                self._model,
                lambda: self._model.tell(told["encoder_hidden_states"], told["pooled_projections"]),
            ),
            (),
            self._features,
            self.asked.scale,
            found,
        )


def _scaled(picture: Array, kind: int | None) -> Array:
    """A picture in [0, 1] as it is encoded. Stability's for canny's edges was trained on edges of
    128 (Stability-AI/sd3.5, sd3_infer.py, and the model's page at Hugging Face), all others on
    pictures in [-1, 1]."""
    scaled: Array = picture * 127.5 + 0.5 if kind == _CANNY else picture * 2 - 1
    return scaled


def _kind(model: SD3ControlNetModel, given: int | None) -> int | None:
    """Of its pictures; what is none of Stability's passes it over."""
    if model.config.reads_text:
        return None
    kind = model.config.control_type if given is None else given
    if kind is not None and whole(kind, "control_mode", 0) >= len(_KINDS):
        names = ", ".join(f"{i} {name}" for i, name in enumerate(_KINDS))
        raise InvalidArgumentError(
            f"[controlnet] control_mode of Stability's ControlNets must be one of {names}, "
            f"got {kind!r}"
        )
    return kind
