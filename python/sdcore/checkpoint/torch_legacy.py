"""PyTorch's format of before 1.6: four pickles (magic, version, machine, object), one that lists
the storages' keys, and then each storage's length and elements, little-endian always.

So where a tensor lies is known only when everything before has been read.
"""

from __future__ import annotations

import struct
from typing import Any, NoReturn

from sdcore.checkpoint.tensor import SIZES, Tensor
from sdcore.checkpoint.torch_pickle import KNOWN, Block, Storage, find_state, make_tensors, storage
from sdcore.checkpoint.unpickler import load
from sdcore.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


def read(file: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the plain values of a mapped file."""
    data = memoryview(file)
    dtypes: dict[str, str] = {}

    def fail(message: str) -> NoReturn:
        raise CheckpointError(f"[pickle] '{file.path}': {message}")

    def stored(identity: Any) -> Any:
        found = storage(identity)
        if isinstance(found, Storage) and dtypes.setdefault(found.key, found.dtype) != found.dtype:
            fail(f"storage {found.key!r:.80} is of two types")
        return found

    def next_pickle(at: int) -> tuple[Any, int]:
        return load(data, file.path, KNOWN, stored, at)

    magic, at = next_pickle(0)
    version, at = next_pickle(at)
    if magic != MAGIC or version != VERSION:
        fail(f"version {version!r:.40} of torch's legacy format, expected {VERSION}")
    _, at = next_pickle(at)  # sizes of C's types on the machine that wrote it
    root, at = next_pickle(at)
    keys, at = next_pickle(at)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        fail("its list of storages is no list of keys")
    blocks = _blocks(data, keys, dtypes, at, fail)

    def find(storage: Storage) -> Block:
        if storage.key not in blocks:
            fail(f"there is no storage {storage.key!r:.80}, which a tensor needs")
        return blocks[storage.key]

    state, scalars = find_state(root, file.path)
    return make_tensors(file, state, find), scalars


def _blocks(
    data: memoryview, keys: list[str], dtypes: dict[str, str], at: int, fail: Any
) -> dict[str, Block]:
    blocks: dict[str, Block] = {}
    for key in keys:
        if key not in dtypes:
            fail(f"nothing says what storage {key!r:.80} holds")
        if at + 8 > len(data):
            fail(f"the file is cut short at byte {len(data)}, before storage {key!r:.80}")
        (count,) = struct.unpack_from("<q", data, at)
        begin, nbytes = at + 8, count * SIZES[dtypes[key]]
        at = begin + nbytes
        if count < 0 or at > len(data):
            fail(f"storage {key!r:.80} of {count} elements ends past the file's {len(data)} bytes")
        blocks[key] = Block(nbytes, begin, _slice(data, begin, at))
    return blocks


def _slice(data: memoryview, begin: int, end: int) -> Any:
    return lambda: data[begin:end]
