"""Where to paint."""

from __future__ import annotations

from PIL import Image, ImageOps

__all__ = ["binary", "coverage"]


def coverage(mask: Image.Image) -> Image.Image:
    """How much is to be painted, in the mode L: how white a mask is, or how opaque one that is
    transparent anywhere, as in the web UI (create_binary_mask of its modules/images.py)."""
    if mask.has_transparency_data:
        alpha = mask.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != 255:
            return alpha
    return mask.convert("L")


def binary(mask: Image.Image, *, invert: bool = False) -> Image.Image:
    """White where to paint, from half of it on, and black elsewhere."""
    shape = coverage(mask).point(lambda value: 255 if value > 127 else 0)
    return ImageOps.invert(shape) if invert else shape
