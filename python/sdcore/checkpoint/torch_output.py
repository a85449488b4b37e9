"""Writing what torch.load reads, without torch: its zip format (since 1.6), a pickle of protocol 2
and each tensor's elements in an entry of their own, as torch/serialization.py lays them out."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from sdcore.checkpoint.output import Outgoing, Progress, whole_file, write_pieces
from sdcore.checkpoint.torch_pickle import DTYPES, STORAGES
from sdcore.errors import InvalidArgumentError

ROOT = "archive"
# Where torch begins each storage, so that it can be mapped; its padding is an extra field "FB".
ALIGNMENT = 64
_PADDING_ID = 0x4246
_LOCAL_HEADER = 30
_DATE = (1980, 1, 1, 0, 0, 0)  # the same input, the same bytes

Scalar = str | int | float | bool


def write(
    path: str | os.PathLike[str],
    tensors: Sequence[Outgoing],
    metadata: Mapping[str, Scalar] | None = None,
    progress: Progress | None = None,
    *,
    nested: bool = False,
) -> None:
    """Writes a dictionary of tensors. `nested` puts them under "state_dict", with the metadata
    beside it as Lightning does; metadata makes it so too."""
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgumentError(f"[pickle] tensor '{twice}' occurs twice")
    content = _Pickle()
    if nested or metadata:
        content.dictionary({**(metadata or {}), "state_dict": tensors})
    else:
        content.value(tensors)
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(file, "data.pkl"), content.finished())
        archive.writestr(_entry(file, "byteorder"), "little")
        for i, tensor in enumerate(tensors):
            entry = _entry(file, f"data/{i}")
            entry.file_size = tensor.nbytes  # known now: is it one that takes 64 bits?
            with archive.open(entry, "w") as out:
                write_pieces(out, tensor, progress)
        archive.writestr(_entry(file, "version"), "3\n")


def _entry(file: BinaryIO, name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{ROOT}/{name}", _DATE)
    begin = file.tell() + _LOCAL_HEADER + len(entry.filename) + 4
    padding = -begin % ALIGNMENT
    entry.extra = struct.pack("<2H", _PADDING_ID, padding) + b"Z" * padding
    return entry


class _Pickle:
    """Opcodes of protocol 2, as the standard library's pickletools describes them."""

    def __init__(self) -> None:
        self._out = bytearray(pickle.PROTO + b"\x02")
        self._storages = 0

    def finished(self) -> bytes:
        return bytes(self._out + pickle.STOP)

    def dictionary(self, values: Mapping[str, Scalar | Sequence[Outgoing]]) -> None:
        self._out += pickle.EMPTY_DICT + pickle.MARK
        for key, value in values.items():
            self.value(key)
            self.value(value)
        self._out += pickle.SETITEMS

    def value(self, value: Scalar | Sequence[Outgoing]) -> None:
        if isinstance(value, bool):
            self._out += pickle.NEWTRUE if value else pickle.NEWFALSE
        elif isinstance(value, str):
            text = value.encode("utf-8", "surrogatepass")
            self._out += pickle.BINUNICODE + struct.pack("<I", len(text)) + text
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            self._out += pickle.BINFLOAT + struct.pack(">d", value)
        else:
            self._out += pickle.EMPTY_DICT + pickle.MARK
            for tensor in value:
                self.value(tensor.name)
                self._tensor(tensor)
            self._out += pickle.SETITEMS

    def _tensor(self, tensor: Outgoing) -> None:
        storage = STORAGES.get(tensor.type)
        dtype = DTYPES.get(tensor.type)
        if dtype is None:
            raise InvalidArgumentError(
                f"[pickle] PyTorch has no dtype for {tensor.type} of '{tensor.name}'"
            )
        # A dtype without a storage class of its own is said beside bytes without one.
        self._global("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3")
        self._out += pickle.MARK
        self._storage(*(("torch", f"{storage}Storage") if storage else _UNTYPED), tensor)
        self._integer(0)
        self._integers(tensor.shape)
        self._integers(_strides(tensor.shape))
        self._out += pickle.NEWFALSE  # no gradient, and no hooks
        self._global("collections", "OrderedDict")
        self._out += pickle.EMPTY_TUPLE + pickle.REDUCE
        if not storage:
            self._global("torch", dtype)
        self._out += pickle.TUPLE + pickle.REDUCE

    def _storage(self, module: str, name: str, tensor: Outgoing) -> None:
        count = 1
        for size in tensor.shape:
            count *= size
        self._out += pickle.MARK
        self.value("storage")
        self._global(module, name)
        self.value(str(self._storages))
        self.value("cpu")
        self._integer(tensor.nbytes if (module, name) == _UNTYPED else count)
        self._out += pickle.TUPLE + pickle.BINPERSID
        self._storages += 1

    def _global(self, module: str, name: str) -> None:
        self._out += pickle.GLOBAL + f"{module}\n{name}\n".encode()

    def _integers(self, values: Sequence[int]) -> None:
        self._out += pickle.MARK
        for value in values:
            self._integer(value)
        self._out += pickle.TUPLE

    def _integer(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self._out += pickle.BININT + struct.pack("<i", value)
        else:
            encoded = pickle.encode_long(value)
            self._out += pickle.LONG1 + bytes([len(encoded)]) + encoded


_UNTYPED = ("torch.storage", "UntypedStorage")


def _strides(shape: Sequence[int]) -> list[int]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return strides
