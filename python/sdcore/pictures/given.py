"""What a user gives as a picture, made one kind of thing."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sdcore.errors import FileError, InvalidArgumentError

__all__ = ["ImageLike", "as_levels", "as_numbers", "as_picture", "is_latents", "opaque", "singly"]

# A path, the bytes of a file, an image of Pillow's in any mode, or an array [h, w], [h, w, c] or
# [1, h, w, c] of 1, 3 or 4 channels: bools, whole numbers of 8 or 16 bits, or floats from 0 to 1.
ImageLike = Image.Image | NDArray[Any] | str | os.PathLike[str] | bytes

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def singly(images: Any) -> list[Any]:
    """Each of what was given as pictures: those of a list, or of an array [n, h, w, c]; a tensor of
    PyTorch's may be [n, c, h, w] or [c, h, w], as its own models have them."""
    if isinstance(images, list | tuple):
        return [one for given in images for one in singly(given)]
    if len(getattr(images, "shape", ())) == 4:
        return [one for row in images for one in singly(row)]
    if _is_tensor(images) and images.ndim == 3 and images.shape[2] not in _CHANNELS:
        return [images.permute(1, 2, 0)]
    return [images]


def is_latents(image: Any, channels: int) -> bool:
    """Whether it is [n, channels, h, w] of a VAE with so many, and no picture."""
    shape = tuple(getattr(image, "shape", ()))
    is_picture = shape[-1:] and shape[-1] in _CHANNELS and not _is_tensor(image)
    return len(shape) == 4 and shape[1] == channels and channels not in (1, 3) and not is_picture


def _is_tensor(image: Any) -> bool:
    return callable(getattr(image, "permute", None))


def as_picture(image: ImageLike, name: str) -> Image.Image:
    """An image upright, in memory and of 8 bits, in the mode L, RGB or RGBA; `name` is the
    argument's, for errors.

    16 bits are scaled to 8, which Pillow's own `convert` clips. They are those of uint16, and whole
    numbers of another type that go past 255, as Pillow reads files of 16 bits into its mode I.
    Raises FileError where there is no picture to be read, and InvalidArgumentError for an array of
    another shape, and for numbers that are no levels: floats outside 0 to 1 or none at all.
    """
    if not isinstance(image, Image.Image | str | os.PathLike | bytes):
        return Image.fromarray(_eight_bits(as_numbers(image, name), name))
    upright = _upright(image, name)
    if _holds_numbers(upright):
        return Image.fromarray(_eight_bits(np.asarray(upright), name))
    return _converted(upright, name)


def as_levels(image: ImageLike, name: str) -> NDArray[np.float32]:
    """How bright a picture is, `[h, w]`, in any unit: one of 8 bits in its own, and numbers, of 16
    bits or floats, stay what they are. Raises as `as_picture` does."""
    if isinstance(image, Image.Image | str | os.PathLike | bytes):
        upright = _upright(image, name)
        numbers = upright if _holds_numbers(upright) else _converted(upright, name).convert("L")
        levels = np.asarray(numbers, np.float32)
    else:
        array = as_numbers(image, name)
        grey = array if array.ndim == 2 else np.asarray(as_picture(array, name).convert("L"))
        levels = np.asarray(grey, np.float32)
    if not np.isfinite(levels).all():
        raise InvalidArgumentError(f"[picture] {name} must hold finite numbers")
    return levels


def as_numbers(image: Any, name: str) -> NDArray[Any]:
    """An array as `[h, w]`, `[h, w, 3]` or `[h, w, 4]`, its numbers as they are."""
    try:
        array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:  # of lists, and of other libraries
        raise InvalidArgumentError(f"[picture] {name} is no array: {error}") from None
    if array.dtype.kind not in "buif":
        raise InvalidArgumentError(
            f"[picture] {name} must be a path, the bytes of a file, a PIL image or an array of "
            f"numbers, got {type(image).__name__}"
        )
    shape = list(array.shape)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if (array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in _CHANNELS)) or not array.size:
        raise InvalidArgumentError(
            f"[picture] {name} must be [h, w], [h, w, c] or [1, h, w, c] of 1, 3 or 4 channels, "
            f"got {shape}"
        )
    return array


def opaque(picture: Image.Image) -> Image.Image:
    """In RGB, white where it is transparent."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _upright(image: Image.Image | str | os.PathLike[str] | bytes, name: str) -> Image.Image:
    """As it is stored, in memory, turned as a camera says that it was held."""
    what = name if isinstance(image, Image.Image | bytes) else f"{name} '{os.fspath(image)}'"
    try:
        if isinstance(image, Image.Image):
            return ImageOps.exif_transpose(image)
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as stored:
            return ImageOps.exif_transpose(stored)
    except UnidentifiedImageError:
        raise FileError(
            f"[picture] cannot read {what}: it is no picture such as a PNG, JPEG or WebP"
        ) from None
    except Exception as error:  # Pillow raises many kinds for broken files
        why = getattr(error, "strerror", None) or error
        raise FileError(f"[picture] cannot read {what}: {why}") from None


def _holds_numbers(image: Image.Image) -> bool:
    """Pillow's modes for 16 bits, 32 bits and floats."""
    return image.mode.startswith(("I", "F"))


def _converted(image: Image.Image, name: str) -> Image.Image:
    plain = "L" if image.mode in ("1", "L") else "RGB"
    mode = "RGBA" if image.has_transparency_data else plain
    try:
        return image.convert(mode)
    except ValueError:
        raise InvalidArgumentError(
            f"[picture] {name} has Pillow's mode {image.mode}, which does not become {mode}"
        ) from None


def _eight_bits(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == bool:
        array = array * 255
    low, high = array.min(), array.max()
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        if not np.isfinite(low) or not np.isfinite(high):
            raise InvalidArgumentError(f"[picture] {name} must hold finite numbers")
        if float(low) * 255 < -0.5 or float(high) * 255 >= 255.5:
            raise InvalidArgumentError(
                f"[picture] {name} of floats must be from 0 to 1, got {low:g} to {high:g}: divide "
                "by 255 what has 8 bits, and take (x + 1) / 2 of what is from -1 to 1"
            )
        array = np.round(array * array.dtype.type(255))
    elif low < 0 or high > 0xFFFF:
        raise InvalidArgumentError(
            f"[picture] {name} of whole numbers must be of 8 or 16 bits, 0 to 255 or to 65535, got "
            f"{low} to {high}"
        )
    elif (kind, size) == ("u", 2) or high > 0xFF:
        array = (array.astype(np.uint32) + 128) // 257  # 65535 is 255 * 257
    return array.astype(np.uint8)
