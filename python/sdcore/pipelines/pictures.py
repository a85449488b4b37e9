"""Between latents and pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.models.vae import AutoencoderKL

__all__ = ["decode", "to_pil"]

Array = NDArray[np.float32]


def decode(vae: AutoencoderKL, latents: Array) -> Array:
    """Latents [n, c, h, w] to pictures [n, H, W, 3] in [0, 1], one at a time to keep memory low."""
    config = vae.config
    unscaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
    images = np.concatenate([vae.decode(one[None]) for one in unscaled])
    pixels: Array = np.clip(images.transpose(0, 2, 3, 1) / 2 + 0.5, 0.0, 1.0)
    return pixels.astype(np.float32)


def to_pil(pixels: Array) -> list[Image.Image]:
    """Pictures [n, H, W, 3] in [0, 1] as images of 8 bits."""
    return [Image.fromarray(image) for image in np.round(pixels * 255).astype(np.uint8)]
