"""PyTorch's zip format (since 1.6): `<root>/data.pkl`, and a storage in each `<root>/data/<key>`.

Storages are stored as they are and found through their local headers, whose sizes are zero; the
sizes are in the central directory. Zip's own layout: PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

from sdcore.checkpoint.tensor import Tensor
from sdcore.checkpoint.torch_pickle import KNOWN, Block, Storage, find_state, make_tensors, storage
from sdcore.checkpoint.unpickler import MAX_BYTES, load
from sdcore.errors import CheckpointError, UnsupportedModelError

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_MAX_COMMENT = 65535
_MAX_DEFLATION = 1032  # zlib's own statement of the most that it can do
# Of all that is compressed, together: weights shrink little, so more than this is a bomb.
_MAX_UNPACKED = 1 << 28  # bytes, or so many times the file
_MAX_GROWTH = 64


@dataclass(frozen=True)
class Entry:
    name: str
    method: int
    flags: int
    packed: int  # bytes in the file
    size: int  # and when unpacked
    header: int  # offset of the local header


def read(file: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the plain values of a mapped file."""
    archive = _Archive(file)
    root = archive.root()
    order = archive.text(root + "byteorder")
    if order not in ("", "little", "big"):
        archive.fail(f"byteorder is {order!r:.40}")
    if archive.entries[root + "data.pkl"].size > MAX_BYTES:
        archive.fail(f"a pickle above the limit of {MAX_BYTES} bytes")
    data = archive.content(root + "data.pkl")
    state, scalars = find_state(load(data, file.path, KNOWN, storage)[0], file.path)

    def find(storage: Storage) -> Block:
        return archive.block(f"{root}data/{storage.key}", order == "big")

    return make_tensors(file, state, cache(find)), scalars


class _Archive:
    def __init__(self, file: Any) -> None:
        self.path = file.path
        self.data = memoryview(file)
        self._unpacked: tuple[str, memoryview] | None = None
        try:
            self.entries = self._central_directory()
            self._begins = self._payloads()
        except struct.error:
            self.fail("its directory points outside the file")

    def fail(self, message: str) -> NoReturn:
        raise CheckpointError(f"[zip] '{self.path}': {message}")

    def root(self) -> str:
        """What comes before data.pkl, in every name; any text, even none."""
        roots = [
            name.removesuffix("data.pkl")
            for name in self.entries
            if name == "data.pkl" or name.endswith("/data.pkl")
        ]
        if not roots:
            raise UnsupportedModelError(
                f"[zip] '{self.path}' is a zip archive without a data.pkl, so PyTorch did not "
                "write it: unpack it first"
            )
        root = min(roots, key=len)
        if root + "constants.pkl" in self.entries:
            raise UnsupportedModelError(
                f"[zip] '{self.path}' is a TorchScript program, not its weights: save its "
                "state_dict()"
            )
        return root

    def text(self, name: str) -> str:
        if name not in self.entries or self.entries[name].size > 100:
            return ""
        return bytes(self.content(name)).decode("utf-8", "replace").strip()

    def block(self, name: str, is_big_endian: bool) -> Block:
        entry = self.entries.get(name)
        if entry is None:
            self.fail(f"there is no {name!r:.200}, which a tensor needs")
        offset = self._begins[name] if entry.method == _STORED else None
        return Block(entry.size, offset, lambda: self._storage(name), is_big_endian)

    def _storage(self, name: str) -> memoryview:
        """Only the last one is kept: tensors that share a storage come one after another."""
        held = self._unpacked
        if held is None or held[0] != name:
            held = self._unpacked = name, self.content(name)
        return held[1]

    def content(self, name: str) -> memoryview:
        entry, begin = self.entries[name], self._begins[name]
        packed = self.data[begin : begin + entry.packed]
        if entry.method == _STORED:
            return packed
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            unpacked = machine.decompress(packed, entry.size + 1)
        except zlib.error as error:
            self.fail(f"{name!r:.200} does not unpack: {error}")
        if len(unpacked) != entry.size or not machine.eof:
            self.fail(f"{name!r:.200} does not unpack to its {entry.size} bytes")
        return memoryview(unpacked)

    # ---- the directory

    def _central_directory(self) -> dict[str, Entry]:
        count, size, begin = self._end()
        if begin + size > len(self.data) or count > size // _CENTRAL.size:
            self.fail(f"its directory of {count} entries at byte {begin} is not in the file")
        entries: dict[str, Entry] = {}
        position = begin
        for _ in range(count):
            entry, position = self._entry(position)
            if entry.name in entries:
                self.fail(f"{entry.name!r:.200} is there twice")
            entries[entry.name] = entry
        unpacked = sum(entry.size for entry in entries.values() if entry.method == _DEFLATED)
        if unpacked > max(_MAX_UNPACKED, _MAX_GROWTH * len(self.data)):
            self.fail(f"its {len(self.data)} bytes would unpack to {unpacked}")
        return entries

    def _end(self) -> tuple[int, int, int]:
        """Entries, and the bytes and offset of the central directory."""
        at = self._find_end()
        _, _, _, _, count, size, begin, _ = _END.unpack_from(self.data, at)
        locator = at - _LOCATOR64.size
        if locator < 0 or bytes(self.data[locator : locator + 4]) != b"PK\x06\x07":
            return count, size, begin
        _, _, at, _ = _LOCATOR64.unpack_from(self.data, locator)
        if at > locator or bytes(self.data[at : at + 4]) != b"PK\x06\x06":
            self.fail(f"no zip64 directory at byte {at}")
        *_, count, size, begin = _END64.unpack_from(self.data, at)
        return count, size, begin

    def _find_end(self) -> int:
        """The last record of the file, before a comment of any length."""
        tail = max(0, len(self.data) - _MAX_COMMENT - _END.size)
        at = bytes(self.data[tail:]).rfind(b"PK\x05\x06")
        if at < 0 or tail + at + _END.size > len(self.data):
            self.fail("the file is cut short: a zip archive ends in its directory")
        return tail + at

    def _entry(self, at: int) -> tuple[Entry, int]:
        fields = _CENTRAL.unpack_from(self.data, at)
        signature, flags, method, header = fields[0], fields[3], fields[4], fields[-1]
        packed, size, n_name, n_extra, n_comment = fields[8:13]
        if signature != b"PK\x01\x02":
            self.fail(f"no entry of its directory at byte {at}")
        at += _CENTRAL.size
        name = bytes(self.data[at : at + n_name]).decode("utf-8", "replace")
        extra = bytes(self.data[at + n_name : at + n_name + n_extra])
        size, packed, header = self._wide(name, extra, [size, packed, header])
        if flags & _ENCRYPTED:
            self.fail(f"{name!r:.200} is encrypted")
        if method not in (_STORED, _DEFLATED):
            self.fail(f"{name!r:.200} is compressed by method {method}, expected 0 or 8")
        limit = packed if method == _STORED else packed * _MAX_DEFLATION
        if size > limit or (method == _STORED and size != packed):
            self.fail(f"{name!r:.200} cannot hold {size} bytes in {packed}")
        entry = Entry(name, method, flags, packed, size, header)
        return entry, at + n_name + n_extra + n_comment

    def _wide(self, name: str, extra: bytes, values: list[int]) -> list[int]:
        """The zip64 field has those values that do not fit 32 bits, in this order."""
        missing = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
        at = 0
        while missing and at + 4 <= len(extra):
            id, size = struct.unpack_from("<2H", extra, at)
            if id == 1 and size >= 8 * len(missing) and at + 4 + size <= len(extra):
                for i in missing:
                    (values[i],) = struct.unpack_from("<Q", extra, at + 4)
                    at += 8
                return values
            at += 4 + size
        if missing:
            self.fail(f"{name!r:.200} lacks its 64-bit sizes")
        return values

    # ---- the payloads

    def _payloads(self) -> dict[str, int]:
        """Where each begins. None may lie over another: zip bombs are made so."""
        begins: dict[str, int] = {}
        end = 0
        for entry in sorted(self.entries.values(), key=lambda entry: entry.header):
            if entry.header < end:
                self.fail(f"{entry.name!r:.200} lies over the entry before it")
            signature, *_, n_name, n_extra = _LOCAL.unpack_from(self.data, entry.header)
            if signature != b"PK\x03\x04":
                self.fail(f"no header of {entry.name!r:.200} at byte {entry.header}")
            begin = entry.header + _LOCAL.size + n_name + n_extra
            end = begin + entry.packed
            if end > len(self.data):
                self.fail(f"{entry.name!r:.200} ends at byte {end} of {len(self.data)}")
            begins[entry.name] = begin
        return begins
