"""What torch.save puts into its pickles: tensors that lie in storages elsewhere in the file, and
the dictionaries around them.

Two passes. Reading the pickle gives `Stored` descriptions, and only those that a model is made of
become tensors: in a file of training, most are the optimizer's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore.checkpoint.tensor import CORE_SIZES, SIZES, ForeignTensor, RemadeTensor, Tensor
from sdcore.checkpoint.unpickler import Known, Opaque, Stateful
from sdcore.errors import CheckpointError, UnsupportedModelError

MAX_AXES = 32  # NumPy's own bound
MAX_ITEMS = 1_000_000  # entries of all dictionaries together, each counted as often as it is met
MAX_NESTING = 16
MAX_NAME = 1024
# What an expanded tensor (stride 0) may take more than its storage does.
MAX_EXPANDED = 1 << 26


@dataclass(frozen=True, slots=True)
class Type:
    """A class of storages or a dtype."""

    dtype: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`count` elements of `dtype`, from the element `first` of what the file calls `key`."""

    key: str
    dtype: str
    count: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor by its storage. Offset and strides count elements of its own dtype."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """One past the last element that it reaches."""
        if not self.elements:
            return self.offset
        reach = (stride * (n - 1) for n, stride in zip(self.shape, self.strides, strict=True))
        return self.offset + sum(reach) + 1

    @property
    def is_contiguous(self) -> bool:
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != step:
                return not self.elements
            step *= n
        return True


@dataclass(frozen=True)
class Block:
    """Where a storage's bytes are: mapped at `offset` of the file, or given by `read`."""

    nbytes: int
    offset: int | None
    read: Callable[[], memoryview]
    is_big_endian: bool = False


# ---- the pickle ----------------------------------------------------------------------------------


def storage(identity: Any) -> Any:
    """A persistent id: ("storage", type, key, location, count), and in the legacy format None or
    (key of the view, first element, count) after it."""
    if not isinstance(identity, tuple) or not identity:
        raise ValueError("a persistent id that is no tuple")
    if identity[0] == "module":  # a class, beside its source code
        return identity[1]
    if identity[0] != "storage":
        return Opaque("object")
    _, type, key, _, count, *more = identity
    if isinstance(type, Opaque):
        return type
    if not isinstance(type, Type) or not isinstance(key, str) or not _is_size(count):
        raise ValueError("a storage without type, key or size")
    if not more or more[0] is None:
        return Storage(key, type.dtype, count)
    _, first, view_count = more[0]
    if not _is_size(first) or not _is_size(view_count) or first + view_count > count:
        raise ValueError(f"a view that is not inside its storage {key!r:.40}")
    return Storage(key, type.dtype, view_count, first)


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, dtype: str | None = None
) -> Any:
    if isinstance(storage, Opaque):
        return storage
    if not isinstance(storage, Storage) or not _is_size(offset):
        raise ValueError("a tensor without a storage or an offset")
    if not _is_sizes(shape) or not _is_sizes(strides) or len(shape) != len(strides):
        raise ValueError("a tensor whose sizes and strides do not agree")
    return Stored(storage, dtype or storage.dtype, offset, tuple(shape), tuple(strides))


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, type: Any, *_: Any
) -> Any:
    if isinstance(type, Opaque):
        return type
    if not isinstance(type, Type):
        raise ValueError("a tensor without a dtype")
    return _rebuild_tensor(storage, offset, shape, strides, dtype=type.dtype)


def _rebuild_from_type(function: Any, type: Any, arguments: Any, *_: Any) -> Any:
    # Only of these, for one inside the other could go on for ever.
    if not isinstance(function, Known) or function not in _REBUILD:
        return Opaque(getattr(function, "name", "a tensor's class"))
    return function.make(*arguments)


def _first(value: Any = None, *_: Any) -> Any:
    return value


def _new_dict(pairs: Any = (), *_: Any) -> dict[str, Any]:
    pairs = pairs if isinstance(pairs, list | tuple) else ()  # not a defaultdict's factory
    return {key: value for key, value in pairs if isinstance(key, str)}


class _ParameterDict(Stateful):
    def set_state(self, state: Any) -> None:
        parameters = state.get("_parameters") if isinstance(state, dict) else None
        if isinstance(parameters, dict):
            self.update(parameters)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_sizes(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) <= MAX_AXES and all(map(_is_size, value))


_REBUILD = (
    Known("torch._utils._rebuild_tensor", _rebuild_tensor),
    Known("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
    Known("torch._utils._rebuild_tensor_v3", _rebuild_tensor_v3),
    Known("torch._utils._rebuild_parameter", _first),
    Known("torch._utils._rebuild_parameter_with_state", _first),
    Known("torch.nn.parameter.Parameter", _first),
)
_OTHERS = (
    Known("torch._tensor._rebuild_from_type_v2", _rebuild_from_type),
    Known("torch.nn.modules.container.ParameterDict", lambda *_: _ParameterDict()),
    Known("torch.Size", _first),
    Known("collections.OrderedDict", _new_dict),
    Known("collections.defaultdict", _new_dict),
    Known("builtins.dict", _new_dict),
    Known("__builtin__.dict", _new_dict),
)
_STORAGE_CLASSES = {
    "Double": "f64", "Float": "f32", "Half": "f16", "BFloat16": "bf16", "Long": "i64", "Int": "i32",
    "Short": "i16", "Char": "i8", "Byte": "u8", "Bool": "bool", "ComplexFloat": "c64",
    "ComplexDouble": "c128", "Untyped": "u8",
}  # fmt: skip
_DTYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64",
    "int32": "i32", "int16": "i16", "int8": "i8", "uint64": "u64", "uint32": "u32", "uint16": "u16",
    "uint8": "u8", "bool": "bool", "complex64": "c64", "complex128": "c128",
    "float8_e4m3fn": "f8_e4m3", "float8_e5m2": "f8_e5m2", "float8_e8m0fnu": "f8_e8m0",
    "float8_e4m3fnuz": "f8_e4m3fnuz", "float8_e5m2fnuz": "f8_e5m2fnuz",
}  # fmt: skip
KNOWN: dict[str, Any] = {
    **{known.name: known for known in (*_REBUILD, *_OTHERS)},
    **{
        f"{module}.{name}Storage": Type(dtype)
        for name, dtype in _STORAGE_CLASSES.items()
        for module in ("torch", "torch.storage", "torch.cuda")
    },
    **{f"torch.{name}": Type(dtype) for name, dtype in _DTYPES.items()},
}
# The way back, for writing.
STORAGES = {dtype: name for name, dtype in _STORAGE_CLASSES.items() if name != "Untyped"}
DTYPES = {dtype: name for name, dtype in _DTYPES.items()}


# ---- from its object to named tensors ------------------------------------------------------------

# Where trainers keep the weights, beside epochs and optimizers; an average before what it is of.
_WRAPPERS = ("state_dict", "params_ema", "params", "model")


def find_state(root: Any, where: str) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The tensors by name, a dictionary's inside another as `outer.inner`, and the plain values
    beside them."""
    scalars: dict[str, Any] = {}
    for _ in range(MAX_NESTING):
        if not isinstance(root, dict):
            _refuse(root, where)
        scalars |= {k: v for k, v in root.items() if isinstance(v, str | int | float)}
        inner = _unwrapped(root)
        if inner is None:
            tensors = dict(_flattened(root, where))
            if not tensors and (other := [v for v in root.values() if isinstance(v, Opaque)]):
                _refuse(other[0], where)
            return tensors, scalars
        root = inner
    raise CheckpointError(f"[pickle] '{where}': its dictionaries nest without end")


def _unwrapped(root: dict[str, Any]) -> dict[str, Any] | None:
    values = [root.get(name) for name in _WRAPPERS]
    if len(root) == 1:
        values.extend(root.values())
    inner = [value for value in values if isinstance(value, dict)]
    deeper = inner[0] if inner and not _has_tensors(root) else None
    return next(filter(_has_tensors, inner), deeper)


def _has_tensors(values: dict[str, Any]) -> bool:
    """In itself or a dictionary in it: what is called "model" may be a network's settings."""
    inner = (value.values() for value in values.values() if isinstance(value, dict))
    return any(isinstance(v, Stored) for v in itertools.chain(values.values(), *inner))


def _flattened(root: dict[str, Any], where: str) -> Iterable[tuple[str, Stored]]:
    waiting: list[tuple[str, dict[str, Any], int]] = [("", root, 0)]
    items = 0
    while waiting:
        prefix, values, depth = waiting.pop()
        items += len(values) + 1
        if items > MAX_ITEMS or depth > MAX_NESTING:
            raise CheckpointError(f"[pickle] '{where}': its dictionaries nest without end")
        for key, value in values.items():
            if len(prefix) + len(key) > MAX_NAME:
                raise CheckpointError(f"[pickle] '{where}': a name of over {MAX_NAME} characters")
            if isinstance(value, Stored):
                yield prefix + key, value
            elif isinstance(value, dict):
                waiting.append((f"{prefix}{key}.", value, depth + 1))
            elif isinstance(value, Opaque) and value.name.startswith("torch._utils._rebuild_"):
                raise UnsupportedModelError(
                    f"[pickle] '{where}': tensor {prefix + key!r:.200} is of a kind that sdcore "
                    f"does not read ({value.name!r:.80})"
                )


def _refuse(root: Any, where: str) -> NoReturn:
    if isinstance(root, Opaque):
        raise UnsupportedModelError(
            f"[pickle] '{where}' holds a pickled {root.name!r:.80}, not its weights: save its "
            "state_dict()"
        )
    names = {Stored: "one tensor without a name", list: "a list", tuple: "a tuple"}
    what = names.get(type(root), f"a value of {type(root).__name__}")
    raise CheckpointError(f"[pickle] '{where}' holds {what}, not tensors by name")


# ---- tensors -------------------------------------------------------------------------------------


def make_tensors(
    file: Any, state: Mapping[str, Stored], find: Callable[[Storage], Block]
) -> dict[str, Tensor]:
    return {name: _tensor(file, name, stored, find) for name, stored in state.items()}


def _tensor(file: Any, name: str, stored: Stored, find: Callable[[Storage], Block]) -> Tensor:
    def fail(message: str) -> NoReturn:
        raise CheckpointError(f"[pickle] '{file.path}': tensor {name!r:.200} {message}")

    storage, size = stored.storage, SIZES[stored.dtype]
    room = storage.count * SIZES[storage.dtype]
    first = storage.first * SIZES[storage.dtype]
    block = find(storage)
    if first + room > block.nbytes:
        fail(f"needs {first + room} bytes of storage {storage.key!r:.80}, which has {block.nbytes}")
    if stored.end * size > room:
        fail(f"reaches byte {stored.end * size} of a storage of {room}")
    if stored.elements * size > max(room, MAX_EXPANDED):
        fail(f"of {list(stored.shape)} takes far more than its storage of {room} bytes")
    begin = first + stored.offset * size
    is_plain = stored.is_contiguous and not block.is_big_endian
    if is_plain and block.offset is not None:
        offset = block.offset + begin
        if stored.dtype in CORE_SIZES:
            mapped: Tensor = _core.Tensor.from_file(file, offset, stored.dtype, stored.shape)
            return mapped
        carrier = _core.Tensor.from_file(file, offset, "i8", [stored.elements * size])
        return ForeignTensor(name, stored.dtype, stored.shape, carrier)
    return CopiedTensor(name, stored, block, begin)


class CopiedTensor(RemadeTensor):
    """Stored with other strides, in the other byte order or compressed."""

    def __init__(self, name: str, stored: Stored, block: Block, begin: int) -> None:
        super().__init__(stored.dtype, stored.shape, name)
        self._stored = stored
        self._block = block
        self._begin = begin

    @property
    def data(self) -> Any:
        return self._elements().reshape(-1).view(np.uint8)

    def release(self) -> None:
        """The storage may be that of other tensors too."""

    def _elements(self) -> npt.NDArray[Any]:
        """As unsigned numbers, which have every size and no arithmetic."""
        stored, size = self._stored, SIZES[self.type]
        order = ">" if self._block.is_big_endian else "<"
        dtype = np.dtype(f"{order}u{size}" if size <= 8 else f"V{size}")
        if not stored.elements:
            return np.empty(stored.shape, dtype)
        span = (stored.end - stored.offset) * size
        data = np.frombuffer(self._block.read()[self._begin : self._begin + span], dtype)
        view = np.lib.stride_tricks.as_strided(
            data, stored.shape, [stride * size for stride in stored.strides], writeable=False
        )
        return np.ascontiguousarray(view, dtype.newbyteorder("=")).reshape(stored.shape)
