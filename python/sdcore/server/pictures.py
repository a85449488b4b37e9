"""Pictures as they travel."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError

from sdcore.errors import SDCoreError
from sdcore.image_io import encoded
from sdcore.pictures.given import as_picture
from sdcore.server.fields import FieldError

__all__ = ["MOST_SIDE", "in_base64", "picture", "picture_from_text", "seen", "stored_picture"]

MOST_SIDE = 8192  # pixels of a picture that is sent or drawn
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_URL_SAFE = str.maketrans("-_", "+/")  # the other alphabet of base64


def in_base64(
    image: Image.Image, text: str = "", file_format: str = "png", quality: int = 95
) -> str:
    """A file with its settings in it."""
    return base64.b64encode(encoded(image, text, file_format, quality)).decode()


def picture_from_text(text: Any, name: str) -> Image.Image:
    """A picture in base64 as pipelines see it: upright, and of 8 bits."""
    return seen(stored_picture(text, name), name)


def picture(data: bytes, name: str) -> Image.Image:
    """The same of a file."""
    return seen(_stored(data, name), name)


def stored_picture(text: Any, name: str) -> Image.Image:
    """A picture in base64, or in a data URL, as it is stored. Addresses and paths are never
    followed."""
    if not isinstance(text, str):
        raise FieldError(name, "must be a picture in base64")
    return _stored(_decoded(text, name), name)


def _decoded(text: str, name: str) -> bytes:
    """Of either alphabet, with or without padding and line breaks. What a data URL calls itself
    does not matter: the file says what it is."""
    text = text.strip()
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().rstrip().endswith("base64"):
            raise FieldError(name, "must be a data URL in base64")
        text = unquote(text)
    plain = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(name, "must be a picture in base64 or a data URL") from None


def seen(image: Image.Image, name: str) -> Image.Image:
    """A stored picture as pipelines see it. Raises FieldError."""
    try:
        return as_picture(image, name)
    except SDCoreError as error:
        raise FieldError(name, f"is not a picture that can be used: {error}") from None


def _stored(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if max(image.size) > MOST_SIDE:
            raise FieldError(name, f"has more than {MOST_SIDE} pixels a side: {image.size}")
        image.load()
        return image
    except FieldError:
        raise
    except Exception as error:  # Pillow raises many kinds for broken files
        why = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise FieldError(
            name, f"is not a picture that can be read ({', '.join(_FORMATS)}){why}"
        ) from None
