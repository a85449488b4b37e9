"""A reader of Python's pickle format that runs nothing: what a file asks to import or to call is
looked up in a table of the caller's, and becomes an inert `Opaque` where it is not there.

The opcodes are those of protocols 0 to 5, as the standard library's pickletools describes them.
Unlike pickle's, its dictionaries keep text keys only: nothing else names a tensor, and the hash of
a nested tuple can take for ever.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sdcore.errors import CheckpointError

MAX_BYTES = 1 << 26  # a thousand tensors take a tenth of a megabyte
MAX_STEPS = 2_000_000
MAX_INTEGER = 255  # bytes
MAX_LINE = 4096


@dataclass(frozen=True, eq=False, slots=True)
class Opaque:
    """Something in the file that nobody here knows or needs. It takes anything and keeps nothing,
    so it cannot nest."""

    name: str


@dataclass(frozen=True, eq=False)
class Known:
    """A global that the caller knows: `make` stands in for it."""

    name: str
    make: Callable[..., Any]


class Stateful(dict[str, Any]):
    """A mapping that is filled by its state, as torch's ParameterDict."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


# Whoever names one of these wants to run something. They would be inert here like all unknown
# globals, but a file that tries has to be reported.
_CODE_MODULES = frozenset([
    "_pickle", "_posixsubprocess", "_winapi", "asyncio", "bdb", "cProfile", "codeop",
    "commands", "ctypes", "ftplib", "http", "httplib", "imp", "importlib", "marshal",
    "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "pip", "pkgutil", "popen2",
    "posix", "pty", "pydoc", "requests", "runpy", "shutil", "smtplib", "socket", "ssl",
    "subprocess", "sys", "thread", "timeit", "urllib", "urllib2", "webbrowser",
])  # fmt: skip
_CODE_BUILTINS = frozenset([
    "__import__", "apply", "breakpoint", "compile", "delattr", "eval", "exec", "execfile",
    "file", "getattr", "globals", "input", "locals", "open", "raw_input", "reload", "setattr",
    "vars",
])  # fmt: skip
_CODE_NAMES = frozenset([
    "_io.FileIO", "_io.open", "_io.open_code", "code.InteractiveInterpreter", "code.interact",
    "functools.reduce", "io.FileIO", "io.open", "numpy.load", "torch.compile", "torch.load",
    "torch.serialization.load", "torch.storage._load_from_bytes", "types.CodeType",
    "types.FunctionType",
])  # fmt: skip
_CODE_PARTS = ("torch.hub.", "torch.jit.", "torch.utils.cpp_extension.", "numpy.testing.")


def load(
    data: memoryview,
    where: str,
    known: Mapping[str, Any],
    stored: Callable[[Any], Any],
    begin: int = 0,
) -> tuple[Any, int]:
    """The object of the pickle at `begin`, and where that pickle ends.

    `known` maps global names to what they become; `stored` turns a persistent id into an object.
    """
    machine = _Machine(data[: begin + MAX_BYTES], where, known, stored, begin)
    try:
        return machine.run(), machine.position
    except CheckpointError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, struct.error) as error:
        reason = str(error) if isinstance(error, ValueError | struct.error) else "wrong operands"
        raise machine.error(f"damaged at byte {machine.position}: {reason:.120}") from error


_MARK = object()


class _Machine:
    def __init__(
        self,
        data: memoryview,
        where: str,
        known: Mapping[str, Any],
        stored: Callable[[Any], Any],
        begin: int,
    ) -> None:
        self.data = data
        self.where = where
        self.known = known
        self.stored = stored
        self.position = begin
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = MAX_STEPS

    def run(self) -> Any:
        while (code := self._take(1)[0]) != pickle.STOP[0]:
            step = _STEPS.get(code)
            if step is None:
                raise self.error(
                    f"opcode {code:#04x} at byte {self.position - 1} is not one of a model's"
                )
            self._spend(1)
            step(self)
        return self._pop()

    def _spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise self.error(f"its pickle takes more than {MAX_STEPS} steps")

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"[pickle] '{self.where}': {message}")

    # ---- operands

    def _take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise self.error(
                f"cut short, or above the limit, at byte {len(self.data)} of its pickle"
            )
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(value)

    def _counted(self, form: str) -> bytes:
        return bytes(self._take(self._number(form)))

    def _line(self) -> bytes:
        length = bytes(self.data[self.position : self.position + MAX_LINE]).find(b"\n")
        if length < 0:
            raise self.error(f"no end of the line at byte {self.position}")
        return bytes(self._take(length + 1)[:-1])

    # ---- the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark in place of a value")
        return value

    def _top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise ValueError("a mark in place of a value")
        return value

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def pop(self) -> None:
        self.stack.pop()

    def dup(self) -> None:
        self.push(self._top())

    # ---- the memo

    def put(self, index: int) -> None:
        self.memo[index] = self._top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"nothing is remembered as {index}")
        self.push(self.memo[index])

    # ---- containers

    def make_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Opaque):
            raise ValueError("appends to what is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, dict):
            target.update(_text_keys(values))
        elif not isinstance(target, Opaque):
            raise ValueError("sets items of what is no dictionary")

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self.set_items([key, value])

    def add_items(self) -> None:
        self._pop_to_mark()
        if not isinstance(self._top(), Opaque):
            raise ValueError("adds to what is no set")

    def frozen_set(self) -> None:
        self._pop_to_mark()
        self.push(Opaque("frozenset"))

    # ---- globals and objects

    def find(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if _runs_code(module, name, full):
            raise self.error(
                f"it asks to run {full!r:.100}, which no model needs: do not trust this file "
                "(nothing was run)"
            )
        found = self.known.get(full)
        return Opaque(full) if found is None else found

    def find_on_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a global whose name is no text")
        self.push(self.find(module, name))

    def find_in_lines(self) -> Any:
        module, name = self._line().decode(), self._line().decode()
        return self.find(module, name)

    def call(self) -> None:
        arguments, target = self._pop(), self._pop()
        self.push(self._called(target, arguments))

    def call_with_names(self) -> None:
        self._pop()
        self.call()

    def call_lines(self) -> None:
        target = self.find_in_lines()
        self.push(self._called(target, tuple(self._pop_to_mark())))

    def call_marked(self) -> None:
        target, *arguments = self._pop_to_mark()
        self.push(self._called(target, tuple(arguments)))

    def _called(self, target: Any, arguments: Any) -> Any:
        if isinstance(target, Known) and isinstance(arguments, tuple):
            try:
                made = target.make(*arguments)
                # A copy of something that is remembered costs the file nothing, so count it.
                self._spend(len(made) if isinstance(made, dict) else 0)
                return made
            except (TypeError, ValueError) as error:
                raise self.error(f"{target.name} has wrong operands: {error!s:.120}") from error
        name = getattr(target, "name", None)
        if not isinstance(name, str):
            raise ValueError("calls what is no global")
        return Opaque(name)

    def build(self) -> None:
        state, target = self._pop(), self._top()
        # Elsewhere it is attributes, such as the _metadata of a state dict.
        if isinstance(target, Stateful):
            target.set_state(state)
            self._spend(len(target))


def _runs_code(module: str, name: str, full: str) -> bool:
    if module in ("builtins", "__builtin__"):
        return name.split(".", 1)[0] in _CODE_BUILTINS
    root = full.split(".", 1)[0]
    return root in _CODE_MODULES or full in _CODE_NAMES or full.startswith(_CODE_PARTS)


def _text_keys(values: list[Any]) -> dict[str, Any]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    return {
        key: value
        for key, value in zip(values[::2], values[1::2], strict=True)
        if isinstance(key, str)
    }


def _integer(data: bytes) -> int:
    if len(data) > MAX_INTEGER:
        raise ValueError(f"an integer of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _integer_line(line: bytes) -> int | bool:
    if line in (b"00", b"01"):  # how protocol 0 writes a bool
        return line == b"01"
    text = line.rstrip(b"L")
    if len(text) > 2 * MAX_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _python2_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
        raise ValueError("a string without quotes")
    decoded, _ = codecs.escape_decode(line[1:-1])
    return _python2_text(decoded)


def _float(machine: _Machine) -> None:
    (value,) = struct.unpack(">d", machine._take(8))
    machine.push(value)


_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: lambda m: m._take(1),
    pickle.FRAME: lambda m: m._take(8),
    # constants
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: lambda m: m.push(_integer_line(m._line())),
    pickle.LONG: lambda m: m.push(_integer_line(m._line())),
    pickle.BININT: lambda m: m.push(m._number("<i")),
    pickle.BININT1: lambda m: m.push(m._number("<B")),
    pickle.BININT2: lambda m: m.push(m._number("<H")),
    pickle.LONG1: lambda m: m.push(_integer(m._counted("<B"))),
    pickle.LONG4: lambda m: m.push(_integer(m._counted("<I"))),
    pickle.FLOAT: lambda m: m.push(float(m._line())),
    pickle.BINFLOAT: _float,
    pickle.STRING: lambda m: m.push(_quoted(m._line())),
    pickle.BINSTRING: lambda m: m.push(_python2_text(m._counted("<I"))),
    pickle.SHORT_BINSTRING: lambda m: m.push(_python2_text(m._counted("<B"))),
    pickle.UNICODE: lambda m: m.push(m._line().decode("raw-unicode-escape")),
    pickle.BINUNICODE: lambda m: m.push(m._counted("<I").decode()),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m._counted("<B").decode()),
    pickle.BINUNICODE8: lambda m: m.push(m._counted("<Q").decode()),
    pickle.BINBYTES: lambda m: m.push(m._counted("<I")),
    pickle.SHORT_BINBYTES: lambda m: m.push(m._counted("<B")),
    pickle.BINBYTES8: lambda m: m.push(m._counted("<Q")),
    pickle.BYTEARRAY8: lambda m: m.push(m._counted("<Q")),
    # containers
    pickle.MARK: lambda m: m.push(_MARK),
    pickle.POP: _Machine.pop,
    pickle.POP_MARK: lambda m: m._pop_to_mark(),
    pickle.DUP: _Machine.dup,
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE: lambda m: m.push(tuple(m._pop_to_mark())),
    pickle.TUPLE1: lambda m: m.make_tuple(1),
    pickle.TUPLE2: lambda m: m.make_tuple(2),
    pickle.TUPLE3: lambda m: m.make_tuple(3),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m._pop_to_mark()),
    pickle.APPEND: lambda m: m.append([m._pop()]),
    pickle.APPENDS: lambda m: m.append(m._pop_to_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: lambda m: m.push(_text_keys(m._pop_to_mark())),
    pickle.SETITEM: _Machine.set_item,
    pickle.SETITEMS: lambda m: m.set_items(m._pop_to_mark()),
    pickle.EMPTY_SET: lambda m: m.push(Opaque("set")),
    pickle.ADDITEMS: _Machine.add_items,
    pickle.FROZENSET: _Machine.frozen_set,
    # the memo
    pickle.PUT: lambda m: m.put(int(m._line())),
    pickle.BINPUT: lambda m: m.put(m._number("<B")),
    pickle.LONG_BINPUT: lambda m: m.put(m._number("<I")),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.GET: lambda m: m.get(int(m._line())),
    pickle.BINGET: lambda m: m.get(m._number("<B")),
    pickle.LONG_BINGET: lambda m: m.get(m._number("<I")),
    # globals and objects
    pickle.GLOBAL: lambda m: m.push(m.find_in_lines()),
    pickle.STACK_GLOBAL: _Machine.find_on_stack,
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.NEWOBJ_EX: _Machine.call_with_names,
    pickle.INST: _Machine.call_lines,
    pickle.OBJ: _Machine.call_marked,
    pickle.BUILD: _Machine.build,
    pickle.PERSID: lambda m: m.push(m.stored(m._line().decode())),
    pickle.BINPERSID: lambda m: m.push(m.stored(m._pop())),
}
_STEPS = {code[0]: step for code, step in _OPCODES.items()}
