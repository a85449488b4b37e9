"""What a file is, from its first bytes; its name is never asked."""

from __future__ import annotations

import re

from sdcore.errors import CheckpointError, SDCoreError, UnsupportedModelError

HEAD = 512

_BARE_PICKLE = (
    "is a pickle, but not one that torch.save wrote: save its tensors as .safetensors "
    "(never unpickle a file that you do not trust)"
)
_WEB_PAGE = "is a web page, not a model: the download failed or needs a login"
_POINTER = "is a git-lfs pointer, not the model itself: run 'git lfs pull' where it came from"
_TEXT = "is a text file, not a model: it begins with {!r}"
_TAR = "is a tar archive, or a PyTorch file of before 0.2, which sdcore does not read"
_UNKNOWN = "is not a model file: its first bytes are {}"

# First bytes, the kind of error, and what to say. First match wins.
_FOREIGN: tuple[tuple[bytes, type[SDCoreError], str], ...] = (
    # Not a safetensors header of 0x280 bytes.
    (rb"\x80[\x02-\x05](?!..\0{4} *\{)", UnsupportedModelError, _BARE_PICKLE),
    (rb"version https://git-lfs", CheckpointError, _POINTER),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", CheckpointError, _WEB_PAGE),
    (rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP", CheckpointError, "is a picture, not a model"),
    (rb"\x89HDF", UnsupportedModelError, "is an HDF5 file (Keras), which sdcore does not read"),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", CheckpointError, "is an archive: unpack it first"),
    (rb".{257}ustar", UnsupportedModelError, _TAR),
)
# PyTorch's formats: a zip archive, or a pickle of the magic number in protocol 2 to 5, 1, or 0.
_TORCH = (
    (rb"PK\x03\x04", "torch zip"),
    (rb"\x80[\x02-\x05](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", "torch legacy"),
    (rb"L119547037146038801333356L?\n\.", "torch legacy"),
)
# The version of the format, then who wrote it (onnx.proto).
_ONNX = rb"\x08[\x03-\x1f]\x12"
_FACES = (
    "is an ONNX file, of which sdcore reads those that find and know faces: give their folder as "
    "--face-model, in Python to FaceAnalysis.from_pretrained"
)


def sniff(head: bytes, size: int, where: str) -> str:
    """One of "gguf", "safetensors", "torch zip" and "torch legacy"; an error says what else the
    file is."""
    if head.startswith(b"GGUF"):
        return "gguf"
    for pattern, name in _TORCH:
        if re.match(pattern, head, re.DOTALL):
            return name
    refuse_foreign(head, size, where)
    # Eight bytes of length, then a JSON object. A text can have its brace there too, but no
    # header is as long as eight letters say.
    if head[8:].lstrip(b" ").startswith(b"{") and not _is_text(head[:8]):
        return "safetensors"
    if re.match(_ONNX, head, re.DOTALL):
        raise UnsupportedModelError(f"[checkpoint] '{where}' {_FACES}")
    raise CheckpointError(f"[checkpoint] '{where}' {_describe(head)}")


def refuse_foreign(head: bytes, size: int, where: str) -> None:
    """Raises the error that says what a file is that holds no network at all."""
    if size == 0:
        raise CheckpointError(f"[checkpoint] '{where}' is empty")
    for pattern, error, message in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            raise error(f"[checkpoint] '{where}' {message}")


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
