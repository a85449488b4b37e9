"""Pictures as files that carry their settings in the words of A1111's web UI.

The text ("infotext") is the prompt, the negative prompt and one last line of `key: value` pairs, as
`create_infotext` in AUTOMATIC1111/stable-diffusion-webui writes it, so that other tools read it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from sdcore.errors import CheckpointError, FileError

__all__ = [
    "FORMATS",
    "Infotext",
    "encoded",
    "parameters_of",
    "picture_format",
    "read_png_parameters",
    "save_picture",
]

log = logging.getLogger("sdcore")

# What pictures are written as, by the ending of a file's name.
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

_KEYWORD = "parameters"  # of the PNG text chunk
_EXIF, _USER_COMMENT = 0x8769, 0x9286  # where JPEG and WebP files have it
_UNICODE = b"UNICODE\0"
_MOST_IN_JPEG = 65_000  # bytes of text: a segment of the file has 16 bits for its length
_NEGATIVE = "Negative prompt:"
_NO_KEY = re.compile(r"[^\w \-/]")
_VALUE = re.compile(r'\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_MIN_PAIRS = 3  # fewer, and the last line is still prompt: A1111's rule


@dataclass(frozen=True)
class Infotext:
    """`settings` are written in their order, None ones left out; read, they are strings."""

    prompt: str = ""
    negative_prompt: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        negative = f"\n{_NEGATIVE} {self.negative_prompt}" if self.negative_prompt else ""
        pairs = [_pair(key, str(v)) for key, v in self.settings.items() if v is not None]
        return f"{self.prompt}{negative}\n{', '.join(pairs)}".strip()

    @classmethod
    def parse(cls, text: str) -> Infotext:
        *lines, last = text.strip().split("\n")
        pairs = list(_pairs(last))
        if len(pairs) < _MIN_PAIRS:
            lines, pairs = [*lines, last], []
        starts = (i for i, line in enumerate(lines) if line.startswith(_NEGATIVE))
        split = next(starts, len(lines))
        negative = "\n".join(lines[split:]).removeprefix(_NEGATIVE)
        settings = {key: _unquote(value) for key, value in pairs}
        return cls("\n".join(lines[:split]).strip(), negative.strip(), settings)


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    r"""From colon to colon, what A1111's expression finds: it takes quadratic time where none is.

    `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`
    """
    begin = 0
    while (colon := line.find(":", begin)) >= 0:
        key = _NO_KEY.split(line[begin:colon])[-1].lstrip(" -/")
        begin = colon + 1
        if len(key) > 1:
            value = _VALUE.match(line, begin)
            assert value is not None  # whatever comes, up to a comma
            yield key, value[1]
            begin = value.end()


def _pair(key: str, value: str) -> str:
    if any(mark in value for mark in ",:\n"):
        value = json.dumps(value, ensure_ascii=False)
    return key if key == value else f"{key}: {value}"


def _unquote(value: str) -> str:
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def encoded(
    image: Image.Image, parameters: str = "", file_format: str = "png", quality: int = 95
) -> bytes:
    """The bytes of a "png", "jpeg" or "webp" file; `quality`, up to 100, is of the last two.
    Settings that are too long for a JPEG are left out with a warning."""
    file = io.BytesIO()
    if file_format == "png":
        chunks = PngImagePlugin.PngInfo()
        if parameters:
            chunks.add_text(_KEYWORD, parameters)  # tEXt if Latin-1, else iTXt
        image.save(file, format="PNG", pnginfo=chunks)
    else:
        exif = Image.Exif()
        text = parameters.encode("utf-16-be", "replace")
        if file_format == "jpeg" and len(text) > _MOST_IN_JPEG:
            log.warning("[image] left out the settings, which are too long for a JPEG file")
        elif text:
            exif.get_ifd(_EXIF)[_USER_COMMENT] = _UNICODE + text
        image.save(file, format=file_format.upper(), quality=quality, exif=exif)
    return file.getvalue()


def parameters_of(image: Image.Image) -> str | None:
    """The settings in a picture, as text; None if it has none."""
    image.load()  # text chunks may follow the pixels
    text = image.info.get(_KEYWORD)
    if text is not None:
        return str(text)
    comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT)
    if isinstance(comment, bytes) and comment.startswith(_UNICODE):
        return comment.removeprefix(_UNICODE).decode("utf-16-be", "replace")
    return None


def save_picture(
    image: Image.Image, path: Path, parameters: str = "", *, overwrite: bool = False
) -> None:
    """Writes a picture, as `FORMATS` says or as PNG, under a temporary name and renames it, so a
    file there is always whole.

    Raises FileError where there is such a file already, or none can be written.
    """
    path = Path(os.path.realpath(path))  # renaming onto a link would replace the link
    if path.exists() and not overwrite:
        raise FileError(f"[output] '{path}' exists already")
    temporary = path.with_name(f".sdcore-{os.urandom(8).hex()}.part")
    try:
        try:
            # Not tempfile, whose files only their owner may read.
            with temporary.open("xb") as file:
                file.write(encoded(image, parameters, FORMATS.get(path.suffix.lower(), "png")))
                file.flush()
                os.fsync(file.fileno())  # some file systems report a full disk only here
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"[output] cannot write '{path}': {error.strerror or error}") from error


def read_png_parameters(path: Path) -> str | None:
    """The settings in a picture, PNG or any other that has them, as text; None if it has none."""
    try:
        with Image.open(path) as image:
            return parameters_of(image)
    except UnidentifiedImageError:
        raise CheckpointError(f"[image] '{path}' is not a picture") from None
    except OSError as error:
        raise FileError(f"[image] cannot read '{path}': {error.strerror or error}") from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow says it
        raise CheckpointError(f"[image] '{path}' is damaged: {error}") from None


def picture_format(path: Path) -> str | None:
    """That of `FORMATS` by a file's first bytes; None for what is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if head.startswith(b"RIFF") and head[8:] == b"WEBP" else None
