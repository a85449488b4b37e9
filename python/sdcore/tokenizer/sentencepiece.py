"""SentencePiece's model files: a protocol buffer, of which a unigram tokenizer needs a few fields
(google/sentencepiece: sentencepiece_model.proto)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sdcore.errors import CheckpointError, UnsupportedModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_UNIGRAM = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | bytes]


@dataclass(frozen=True)
class Model:
    pieces: list[tuple[str, float, int]]  # text, score, type
    charsmap: bytes
    add_prefix: bool
    remove_extra_spaces: bool


def parse(data: bytes, where: str) -> Model:
    """Raises CheckpointError for what is no such file."""
    try:
        return _parse(data, where)
    except (IndexError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"[tokenizer] {where} is not a SentencePiece model: {error!r}"
        ) from error


def _parse(data: bytes, where: str) -> Model:
    pieces: list[tuple[str, float, int]] = []
    charsmap, add_prefix, remove_extra_spaces = b"", True, True
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_blob(value)))
        elif number == 2:
            kind = next((v for n, v in _fields(_blob(value)) if n == 3), _UNIGRAM)
            if kind != _UNIGRAM:
                raise UnsupportedModelError(
                    f"[tokenizer] {where} is a SentencePiece model of type {kind!r}; "
                    f"T5's is unigram, type {_UNIGRAM}"
                )
        elif number == 3:
            spec = dict(_fields(_blob(value)))
            charsmap = _blob(spec.get(2, b""))
            add_prefix = bool(spec.get(3, True))
            remove_extra_spaces = bool(spec.get(4, True))
    if not pieces:
        raise CheckpointError(f"[tokenizer] {where} is not a SentencePiece model: no pieces")
    return Model(pieces, charsmap, add_prefix, remove_extra_spaces)


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _blob(value).decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", _blob(value))
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _blob(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"a field is {value} where bytes belong")
    return value


def _fields(data: bytes) -> Iterator[Field]:
    """Numbers of fields, and their values: whole numbers, or the bytes of all else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise TypeError(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise IndexError(f"a field of {size} bytes at byte {at} goes beyond the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise TypeError(f"a number of more than ten bytes before byte {at}")
