"""Pictures as users have them: files, PIL's images and arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sdcore.errors import FileError, InvalidArgumentError

__all__ = ["ImageLike", "as_picture", "opaque"]

# An array is [h, w] or [h, w, 3]: uint8, or numbers in [0, 1].
ImageLike = Image.Image | NDArray[Any] | str | os.PathLike[str]


def as_picture(image: ImageLike, name: str) -> Image.Image:
    """An image upright and in memory; `name` is the argument's, for errors."""
    if isinstance(image, str | os.PathLike):
        return _read(Path(image), name)
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image)
    array = np.asarray(image)
    plain = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not plain or 0 in array.shape:
        raise InvalidArgumentError(
            f"[pipeline] {name} must be [h, w] or [h, w, 3], got {list(array.shape)}"
        )
    if array.dtype != np.uint8:
        array = np.round(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(array)


def _read(path: Path, name: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).copy()
    except (OSError, Image.DecompressionBombError) as error:
        raise FileError(f"[pipeline] cannot read {name} '{path}': {error}") from None


def opaque(picture: Image.Image) -> Image.Image:
    """In RGB, white where it is transparent."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
