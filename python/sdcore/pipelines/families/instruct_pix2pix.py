"""InstructPix2Pix (Brooks et al. 2023): a picture edited as the prompt says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.pipelines.families.stable_diffusion import StableDiffusionPipeline
from sdcore.pipelines.families.stable_diffusion_xl import StableDiffusionXLPipeline
from sdcore.pipelines.guidance import Guidance, Model, rescaled
from sdcore.pipelines.loading import Parts
from sdcore.pipelines.noise import Draws
from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.request import Prompt, Request, finite
from sdcore.pipelines.start import Start, first_noise, from_noise
from sdcore.schedulers import Scheduler
from sdcore.schedulers.edm_euler import EDMEulerScheduler

__all__ = ["StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _TwoGuidances(Guidance):
    """Toward the prompt and toward the picture: the paper's equation 3."""

    image_scale: float

    @property
    def guides(self) -> bool:
        return self.scale > 1.0 and self.image_scale >= 1.0

    def asked(self, request: Request) -> list[Prompt]:
        if not self.active:
            return request.prompts
        return [*request.prompts, *request.negative_prompts, *request.negative_prompts]

    def predict(self, model: Model, x: Array, index: int, steps: int) -> Array:
        if not self.active:
            return model(x)
        if not self.works_at(index, steps):
            return model(x, rows=slice(0, len(x)))
        both, image, neither = self.ask(model, x, 3)
        scale, image_scale = np.float32(self.scale), np.float32(self.image_scale)
        out: Array = neither + scale * (both - image) + image_scale * (image - neither)
        return rescaled(out, both, self.rescale)


def _arguments(base: type[DiffusionPipeline]) -> tuple[str, ...]:
    """Those of `base` that go with a picture and two guidances, and the second one's scale."""
    kept = (name for name in base.extra_arguments if not name.startswith(("denoising_", "pag_")))
    return (*kept, "image_guidance_scale")


class _Editing(DiffusionPipeline):
    """Eight channels into the UNet: latents, and those of `image`, which every call needs."""

    composes: ClassVar[bool] = False
    begins_from_latents: ClassVar[bool] = False
    # Whether those of `image` are scaled as latents are.
    scaled = False

    def guidance(self, request: Request) -> Guidance:
        return _TwoGuidances(
            request.guidance_scale,
            finite(request.extra.get("image_guidance_scale", 1.5), "image_guidance_scale"),
            **self.guidance_options(request),
        )

    def first_step(self, request: Request) -> int:
        return 0

    def start(self, request: Request, scheduler: Scheduler, noise: Draws) -> Start:
        if request.images is None:
            raise InvalidArgumentError(
                "[pipeline] this model edits pictures: it needs an image (img2img -i on the "
                "command line)"
            )
        if isinstance(self.vae, AutoencoderTiny) and not self.scaled:
            raise UnsupportedModelError(
                "[pipeline] this model reads latents before they are scaled, and a tiny "
                "autoencoder gives scaled ones: open it with its full VAE"
            )
        latents = from_noise(first_noise(self, request, noise), scheduler)
        images = np.concatenate([self.vae.encode(one[None]) for one in request.images])
        if self.scaled:
            images *= np.float32(self.vae.config.scaling_factor)
        # A row for each that guidance asks about: with the picture, with it, without it.
        return Start(latents, channels=np.concatenate([images, images, np.zeros_like(images)]))


class StableDiffusionInstructPix2PixPipeline(_Editing, StableDiffusionPipeline):
    """Stable Diffusion 1.x."""

    call_order: ClassVar[Sequence[str]] = ("image", "num_inference_steps")
    extra_arguments = _arguments(StableDiffusionPipeline)


class StableDiffusionXLInstructPix2PixPipeline(_Editing, StableDiffusionXLPipeline):
    """SDXL, and Stability's CosXL for editing, which its schedule tells."""

    call_order: ClassVar[Sequence[str]] = (
        "prompt_2",
        "image",
        "height",
        "width",
        "num_inference_steps",
    )
    extra_arguments = _arguments(StableDiffusionXLPipeline)

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        is_cosxl = isinstance(parts.scheduler, EDMEulerScheduler)
        self.scaled = bool(parts.settings.get("is_cosxl_edit", is_cosxl))
