"""Protocol Buffers as they lie in a file: a bounded reader of messages.

A message is fields one after another: a varint of number and wire type, then a varint, 8 bytes, 4
bytes, or a length and so many bytes (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from sdcore.errors import CheckpointError

__all__ = ["Fields", "Source"]

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_SIZES = {_EIGHT: 8, _FOUR: 4}
# Of a file together: a network of a hundred layers has some ten thousand, and each is an object.
_MAX_FIELDS = 100_000

Value = int | memoryview


class Source:
    """The file that messages are of: what errors name, and how much it may still ask for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._left = _MAX_FIELDS

    def fail(self, message: str) -> NoReturn:
        raise CheckpointError(f"[onnx] '{self.path}': {message}")

    def count(self, fields: int) -> None:
        """Raises CheckpointError where a file asks for more than it can mean."""
        self._left -= fields
        if self._left < 0:
            self.fail(f"it has more than {_MAX_FIELDS} fields")


class Fields:
    """Those of one message by their numbers. Of a field that is to be there once the last counts,
    as everywhere in this format."""

    def __init__(self, source: Source, data: memoryview) -> None:
        self.source = source
        self._found: dict[int, list[tuple[int, Value]]] = {}
        for number, wire, value in _fields(source, data):
            self._found.setdefault(number, []).append((wire, value))

    def __contains__(self, number: int) -> bool:
        return number in self._found

    def integer(self, number: int, default: int = 0) -> int:
        found = self.integers(number)
        return found[-1] if found else default

    def integers(self, number: int) -> list[int]:
        """All of a repeated field, which may be packed."""
        found: list[int] = []
        for wire, value in self._found.get(number, ()):
            if isinstance(value, int):
                found.append(_signed(value))
            elif wire == _BYTES:
                at = 0
                while at < len(value):
                    self.source.count(1)
                    one, at = _varint(self.source, value, at)
                    found.append(_signed(one))
            else:
                self._wrong(number)
        return found

    def numbers(self, number: int, dtype: str) -> npt.NDArray[np.float64 | np.float32]:
        """All of a repeated field of "<f4" or "<f8", which may be packed."""
        wire = _FOUR if dtype == "<f4" else _EIGHT
        pieces = []
        for kind, value in self._found.get(number, ()):
            if isinstance(value, int) or kind not in (wire, _BYTES) or len(value) % _SIZES[wire]:
                self._wrong(number)
            pieces.append(np.frombuffer(value, dtype))
        return np.concatenate(pieces) if pieces else np.empty(0, dtype)

    def bytes(self, number: int) -> memoryview:
        return (self._all_bytes(number) or [memoryview(b"")])[-1]

    def text(self, number: int) -> str:
        return self._decoded(self.bytes(number))

    def texts(self, number: int) -> list[str]:
        return [self._decoded(value) for value in self._all_bytes(number)]

    def message(self, number: int) -> Fields:
        """Empty where it is not there."""
        return Fields(self.source, self.bytes(number))

    def messages(self, number: int) -> Iterator[Fields]:
        for value in self._all_bytes(number):
            yield Fields(self.source, value)

    def _all_bytes(self, number: int) -> list[memoryview]:
        found = []
        for wire, value in self._found.get(number, ()):
            if isinstance(value, int) or wire != _BYTES:
                self._wrong(number)
            found.append(value)
        return found

    def _decoded(self, value: memoryview) -> str:
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            self.source.fail(f"it is damaged: a name is no text, {bytes(value[:20])!r}")

    def _wrong(self, number: int) -> NoReturn:
        self.source.fail(f"it is damaged: field {number} of a message is of another type")


def _fields(source: Source, data: memoryview) -> Iterator[tuple[int, int, Value]]:
    at = 0
    while at < len(data):
        source.count(1)
        key, at = _varint(source, data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(source, data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(source, data, at)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            source.fail(f"it is no ONNX file, or damaged: a field has the wire type {wire}")
        if size > len(data) - at:
            source.fail(
                f"the file is cut short, or damaged: a field of {size} bytes has {len(data) - at}"
            )
        yield number, wire, data[at : at + size]
        at += size


def _varint(source: Source, data: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; up to 64 bits."""
    value = shift = 0
    while True:
        if at == len(data) or shift == 70:
            source.fail("the file is cut short, or damaged: a number does not end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
