"""Pictures as CLIP's image encoder takes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.pictures.given import opaque

__all__ = ["clip_pixels"]

# Of the pictures that CLIP was trained on (Radford et al. 2021; openai/CLIP, clip/clip.py).
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def clip_pixels(picture: Image.Image, side: int) -> NDArray[np.float32]:
    """`[3, side, side]`, normalised: the middle of the picture, whose shorter side is made `side`
    pixels by PIL's bicubic filter, as transformers' CLIPImageProcessor does it. What is transparent
    is white."""
    picture = opaque(picture)
    shorter = min(picture.size)
    size = tuple(int(side * length / shorter) for length in picture.size)
    picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in size)
    middle = picture.crop((left, top, left + side, top + side))
    pixels = np.asarray(middle, np.float32) / np.float32(255)
    normalised: NDArray[np.float32] = ((pixels - _MEAN) / _STD).transpose(2, 0, 1)
    return normalised
