"""What every writer of checkpoints shares: tensors that are made when their turn comes, and files
that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sdcore import _core
from sdcore.checkpoint.tensor import SIZES, ForeignTensor, Tensor
from sdcore.errors import FileError, InvalidArgumentError, SDCoreError

# Called after each piece with the bytes written since the last call.
Progress = Callable[[int], object]

_PIECE = 1 << 26
# Integers that the core does not hold, as NumPy names them.
_UNSIGNED = {"bool": "u1", "u8": "u1", "u16": "<u2", "u32": "<u4"}


@dataclass(frozen=True)
class Outgoing:
    """A tensor on its way into a file: all that a header says of it, and a function that makes its
    bytes (little-endian), piece by piece. So a model of any size passes through little memory."""

    name: str
    type: str  # as `Tensor.type`
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Any]]

    @property
    def nbytes(self) -> int:
        return stored_size(self.type, self.shape)


def outgoing(
    name: str, tensor: Tensor, type: str | None = None, importance: Any = None
) -> Outgoing:
    """`tensor` as it is stored, or in another `type`, converted a few rows at a time; `importance`
    as for `sdcore.quantize`."""
    type = type or tensor.type
    return Outgoing(name, type, tuple(tensor.shape), lambda: _pieces(tensor, type, importance))


def stored_size(type: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; InvalidArgumentError where its rows do not divide into blocks."""
    block, size = _block(type)
    if block > 1 and (not shape or shape[-1] % block):
        raise InvalidArgumentError(
            f"[checkpoint] {type} needs rows of a multiple of {block} elements, got {list(shape)}"
        )
    return math.prod(shape) // block * size


def write_pieces(file: BinaryIO | Any, tensor: Outgoing, progress: Progress | None = None) -> None:
    """All bytes of one tensor."""
    written = 0
    for piece in tensor.pieces():
        size = memoryview(piece).nbytes
        if size:
            file.write(piece)
            written += size
            if progress:
                progress(size)
    if written != tensor.nbytes:
        raise SDCoreError(
            f"[checkpoint] tensor '{tensor.name}' gave {written} bytes, not {tensor.nbytes}"
        )


def write_padding(file: BinaryIO, written: int, boundary: int) -> None:
    file.write(bytes(-written % boundary))


def beside(target: Path, ending: str) -> Path:
    """A path in the same folder that nothing has."""
    return target.with_name(f".sdcore-{os.urandom(8).hex()}.{ending}")


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, that gets its name when all went well; a failure leaves nothing behind. A
    link stays a link. It may replace a file that is being read."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileError(f"[file] cannot write '{path}': it is not a file")
    target = path.resolve() if path.is_symlink() else path
    temporary = beside(target, "partial")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, SDCoreError):
            raise
        raise FileError(f"[file] cannot write '{path}': {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _block(type: str) -> tuple[int, int]:
    """Elements and bytes of a block."""
    if type in SIZES:
        return 1, SIZES[type]
    for row in _core.types():
        if row["name"] == type:
            return int(str(row["block_size"])), int(str(row["block_bytes"]))
    raise InvalidArgumentError(f"[checkpoint] there is no type '{type}'")


def _pieces(tensor: Tensor, type: str, importance: Any = None) -> Iterator[Any]:
    for part in _parts(tensor):
        yield (part if part.type == type else _converted(part, type, importance)).data
        part.release()


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor cut between rows into parts of a moderate size, where cutting costs nothing."""
    if not isinstance(tensor, _core.Tensor | ForeignTensor) or tensor.nbytes <= _PIECE:
        yield tensor
        return
    count = tensor.shape[0]
    step = max(1, count * _PIECE // tensor.nbytes)
    for begin in range(0, count, step):
        yield tensor.rows(begin, min(begin + step, count))


def _converted(tensor: Tensor, type: str, importance: Any = None) -> Tensor:
    if tensor.type in _UNSIGNED:
        wider = np.frombuffer(tensor.data, _UNSIGNED[tensor.type]).astype(f"<i{SIZES[type]}")
        made: Tensor = _core.Tensor.from_array(wider.reshape(tensor.shape))
        return made
    if isinstance(tensor, _core.Tensor):
        return _core.quantize(tensor, type, importance)
    return _core.quantize(tensor.to_float(), type, importance)
