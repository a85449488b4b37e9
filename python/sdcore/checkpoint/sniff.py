"""What a file is, from its first bytes; its name is never asked."""

from __future__ import annotations

import re

from sdcore.errors import CheckpointError, SDCoreError, UnsupportedModelError

HEAD = 512

_PICKLE = (
    "is a PyTorch pickle ({}), which sdcore does not read yet: convert it to .safetensors "
    "(never unpickle a file that you do not trust)"
)
_WEB_PAGE = "is a web page, not a model: the download failed or needs a login"
_POINTER = "is a git-lfs pointer, not the model itself: run 'git lfs pull' where it came from"
_TEXT = "is a text file, not a model: it begins with {!r}"
_UNKNOWN = "is not a model file: its first bytes are {}"

# First bytes, the kind of error, and what to say. First match wins.
_FOREIGN: tuple[tuple[bytes, type[SDCoreError], str], ...] = (
    (rb"PK\x03\x04", UnsupportedModelError, _PICKLE.format("a zip archive, as torch.save writes")),
    (rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9", UnsupportedModelError, _PICKLE.format("of torch < 1.6")),
    (rb"\x80[\x02-\x05]", UnsupportedModelError, _PICKLE.format("a bare one")),
    (rb"version https://git-lfs", CheckpointError, _POINTER),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", CheckpointError, _WEB_PAGE),
    (rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP", CheckpointError, "is a picture, not a model"),
    (rb"\x89HDF", UnsupportedModelError, "is an HDF5 file (Keras), which sdcore does not read"),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", CheckpointError, "is an archive: unpack it first"),
)


def sniff(head: bytes, size: int, where: str) -> str:
    """Either "gguf" or "safetensors"; an error says what else the file is."""
    if size == 0:
        raise CheckpointError(f"[checkpoint] '{where}' is empty")
    if head.startswith(b"GGUF"):
        return "gguf"
    for pattern, error, message in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            raise error(f"[checkpoint] '{where}' {message}")
    # Eight bytes of length, then a JSON object. A text can have its brace there too, but no
    # header is as long as eight letters say.
    if head[8:].lstrip(b" ").startswith(b"{") and not _is_text(head[:8]):
        return "safetensors"
    raise CheckpointError(f"[checkpoint] '{where}' {_describe(head)}")


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(data):  # not just a character cut in two
            return False
        text = data[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


def _describe(head: bytes) -> str:
    if not _is_text(head):
        return _UNKNOWN.format(head[:8].hex(" "))
    line = head.decode("utf-8", "ignore").strip().splitlines() or [""]
    return _TEXT.format(line[0][:40])
