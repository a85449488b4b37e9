"""Files of torch.save that mean harm, or are damaged: one clear error, nothing run, no crash."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from test_pickles import STATE, every_form, rezipped, same, saved

from sdcore import CheckpointError, UnsupportedModelError, checkpoint
from sdcore.checkpoint.tensor import core_tensor
from writing import write_anew


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@every_form
@pytest.mark.parametrize("inside", [True, False])
def test_nothing_runs(tmp_path, form, inside):
    bombs = [
        Call(os.system, f"touch {tmp_path}/gone"),
        Call(os.mkdir, f"{tmp_path}/gone"),
        Call(eval, f"open('{tmp_path}/gone', 'w')"),
        Call(exec, f"open('{tmp_path}/gone', 'w')"),
        Call(open, f"{tmp_path}/gone", "w"),
        Call(__import__, "os"),
    ]
    for bomb in bombs:
        path = saved(tmp_path / "x", {"state_dict": STATE, "x": bomb} if inside else bomb, form)
        name = bomb.call[0].__name__
        with pytest.raises(CheckpointError, match=rf"asks to run '\w+\.{name}'") as caught:
            checkpoint.open(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert not (tmp_path / "gone").exists()


def test_unknown_globals_do_nothing(tmp_path):
    path = saved(tmp_path / "x", {**STATE, "x": Call(np.save, str(tmp_path / "gone"), 3)})
    same(path, STATE)
    assert not list(tmp_path.glob("gone*"))


def test_known_harmless_classes(tmp_path):
    """Of modules that can do harm elsewhere."""
    path = saved(tmp_path / "x", {**STATE, "x": io.BytesIO(b"extra"), "y": type(None), "z": {1, 2}})
    same(path, STATE)


@pytest.mark.parametrize("name", ["os.system", "posix.system", "nt.system", "subprocess.Popen",
    "builtins.eval", "__builtin__.eval", "builtins.getattr", "torch.hub.load", "torch.load",
    "runpy.run_path", "importlib.import_module", "pty.spawn", "sys.exit", "_pickle.loads",
    "numpy.testing._private.utils.runstring", "os.path.join"])  # fmt: skip
@pytest.mark.parametrize("how", ["GLOBAL", "STACK_GLOBAL", "INST"])
def test_dangerous_globals_are_named(tmp_path, name, how):
    module, _, function = name.rpartition(".")
    lines = f"{module}\n{function}\n".encode()
    texts = b"".join(b"\x8c" + bytes([len(i)]) + i.encode() for i in (module, function))
    code = {"GLOBAL": b"c" + lines, "STACK_GLOBAL": texts + b"\x93", "INST": b"(i" + lines}[how]
    with pytest.raises(CheckpointError, match=f"asks to run '{name}'"):
        checkpoint.open(archive(tmp_path / "x", PROTO + b"}U\1a" + code + b"s."))


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def by_name(module, name):
    return f"c{module}\n{name}\n".encode()


def disguises(command):
    """os.system, in other words than `cos\\nsystem\\n(S'…'\\ntR.`"""
    run = text(command) + b"\x85"
    system, posix = by_name("os", "system"), by_name("posix", "system")
    partial = by_name("functools", "partial")
    return {
        "posix": posix + run + b"R",
        "old Windows": by_name("nt", "system") + run + b"R",
        "names from the memo": text("system") + b"q\1" + text("os") + b"h\1\x93" + run + b"R",
        "names with dots": text("os") + text("path.os.system") + b"\x93" + run + b"R",
        "instance": b"(" + text(command) + b"ios\nsystem\n",
        "object": b"(" + system + text(command) + b"o",
        "new object": system + run + b"\x81",
        "new object of keywords": system + run + b"}\x92",
        "state of a function": system + b"}" + text("a") + text(command) + b"sb",
        "partial": partial + system + text(command) + b"\x86R)R",
        "attribute": by_name("builtins", "getattr") + by_name("os", "path") + text("os") + b"\x86R",
        "operator": by_name("operator", "attrgetter") + text("system") + b"\x85R",
        "factory": by_name("collections", "defaultdict") + system + b"\x85R",
        "reconstructor": by_name("copy_reg", "_reconstructor") + system
            + by_name("__builtin__", "object") + b"N\x87R",
        "another pickle": by_name("_pickle", "loads") + text(command) + b"\x85R",
        "code": by_name("types", "CodeType") + b")R",
        "in torch": by_name("torch._utils", "_rebuild_parameter") + system + b"\x85R",
        "in a set": by_name("builtins", "set") + b"]" + system + b"a\x85R",
        "as a storage": b"(" + text("storage") + system + text("0") + text("cpu") + b"K\4tQ",
        "as a key": b"}" + system + text(command) + b"s",
        "put back": system + b"q\7" + b"0" + b"h\7" + run + b"R",
        "binary name": b"U\2osU\6system\x93" + run + b"R",
    }  # fmt: skip


@pytest.mark.parametrize("name", disguises(""))
@pytest.mark.parametrize("place", ["whole", "beside"])
def test_disguises(tmp_path, name, place):
    """Alone, or beside a tensor that is sound; none runs, and each is told for what it is."""
    code = disguises(f"touch {tmp_path}/gone")[name]
    data = PROTO + code + b"."
    if place == "beside":
        data = tensor_pickle()[:-2] + b"s" + text("x") + code + b"s."
    path = archive(tmp_path / "x", data, {"0": bytes(16)})
    with pytest.raises(CheckpointError, match="asks to run '") as caught:
        checkpoint.open(path)
    assert "\n" not in str(caught.value) and type(caught.value) is CheckpointError
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def archive(path, data, storages=()):
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a/data.pkl", data)
        for key, content in dict(storages).items():
            out.writestr(f"a/data/{key}", content)
    return path


PROTO = b"\x80\x02"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def tensor_pickle(offset=0, shape=(2,), strides=(1,), count=4, key="0"):
    """{"t": a tensor of these}, written with pickle's own constants."""

    def constant(value):
        return pickle.dumps(value, 2)[2:-1]

    identity = b"(" + constant("storage") + b"ctorch\nFloatStorage\n" + constant(key)
    identity += constant("cpu") + constant(count) + b"tQ"
    arguments = identity + constant(offset) + constant(shape) + constant(strides) + b"\x89}t"
    return PROTO + b"}" + constant("t") + REBUILD + b"(" + arguments + b"Rs."


def test_tensor_pickle(tmp_path):
    path = archive(tmp_path / "x", tensor_pickle(), {"0": bytes(16)})
    same(path, {"t": torch.zeros(2)})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"offset": 3}, "reaches byte 20 of a storage of 16"),
        ({"offset": -1}, "without a storage or an offset"),
        ({"offset": 2**62}, "reaches byte"),
        ({"offset": 2**63}, "offset"),
        ({"shape": (-1,)}, "sizes and strides"),
        ({"strides": (-1,)}, "sizes and strides"),
        ({"shape": (2, 2)}, "sizes and strides"),
        ({"shape": (5,)}, "reaches byte 20"),
        ({"strides": (4,)}, "reaches byte 20"),
        ({"shape": (2**62,), "strides": (0,)}, "far more than its storage"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, "far more than its storage"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, "sizes and strides"),
        ({"shape": ("a",)}, "sizes and strides"),
        ({"shape": (True,)}, "sizes and strides"),
        ({"count": 2**62}, "needs 18446744073709551616 bytes of storage '0', which has 16"),
        ({"count": -4}, "without type, key or size"),
        ({"count": 5}, "needs 20 bytes of storage '0', which has 16"),
        ({"key": "1"}, "no 'a/data/1'"),
        ({"key": "../../x"}, "which a tensor needs"),
        ({"key": 0}, "without type, key or size"),
    ],
)
def test_lying_tensors(tmp_path, options, message):
    path = archive(tmp_path / "x", tensor_pickle(**options), {"0": bytes(16)})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.open(path)


def nested(open_, close, depth=100_000):
    return PROTO + open_ * depth + b"N" + close * depth + b"."


BOMBS = {
    "tuples": nested(b"", b"\x85"),
    "lists": PROTO + b"]" * 50_000 + b"a" * 49_999 + b".",
    "doubled": PROTO + b"N" + b"2\x86" * 100_000 + b".",
    "doubled key": PROTO + b"}" + b"N" + b"2\x86" * 60 + b"Ns.",
    "dictionary in itself": PROTO + b"}q\0X\x0a\0\0\0state_dicth\0s.",
    "dictionaries in themselves": PROTO + b"}q\0(X\1\0\0\0ah\0X\1\0\0\0bh\0u.",
    "steps": PROTO + b"N0" * 2_000_000 + b".",
    "long": PROTO + b"\x8b\xff\xff\xff\x7f" + b"1" * 1000 + b".",
    "digits": PROTO + b"L" + b"9" * 4000 + b"L\n.",
    "bytes": PROTO + b"\x8e" + b"\xff" * 8 + b".",
    "text": PROTO + b"X\xff\xff\xff\xff.",
    "no line": PROTO + b"c" + b"a" * 10_000 + b".",
    "mark": PROTO + b"(.",
    "no mark": PROTO + b"t.",
    "nothing": b".",
    "empty": b"",
    "memo": PROTO + b"h\7.",
    "extension": PROTO + b"\x82\1.",
    "surrogate": PROTO + b"X\3\0\0\0\xed\xa0\x80.",
    "calls a number": PROTO + b"K\1)R.",
    "appends to a dictionary": PROTO + b"}K\1a.",
    "odd items": PROTO + b"}(K\1u.",
    "mark as a key": PROTO + b"}((Ns.",
    "copies": PROTO + b"ccollections\nOrderedDict\nq\0(]q\1("
    + b"".join(b"U\x04%04d]\x86" % i for i in range(5000)) + b"e\x85q\2" + b"0h\0h\2R" * 5000
    + b".",
    "long names": PROTO + b"}U\1aNsX\0\0\x10\0" + b"a" * 2**20 + b"}s.",
    "type in a type": PROTO
    + b"ctorch._tensor\n_rebuild_from_type_v2\nq\0(h\0N(h\0N)NtNtR.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, name):
    with pytest.raises((CheckpointError, UnsupportedModelError)) as caught:
        checkpoint.open(archive(tmp_path / "x", BOMBS[name]))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_deflation_bomb(tmp_path):
    data = tensor_pickle(count=2**24, shape=(2**24,))
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/data.pkl", data)
        out.writestr("a/data/0", bytes(2**26))
    whole = (tmp_path / "x").read_bytes()
    assert checkpoint.open(tmp_path / "x").tensors["t"].shape == (2**24,)  # nothing is unpacked
    at = whole.rfind(b"PK\x01\x02")
    for size, message in ((2**31, "cannot hold"), (2**26 - 4, "needs"), (2**26 + 4, "")):
        changed = bytearray(whole)
        changed[at + 24 : at + 28] = struct.pack("<I", size)
        (tmp_path / "y").write_bytes(changed)
        with pytest.raises(CheckpointError, match=message or "does not unpack"):
            checkpoint.open(tmp_path / "y").tensors["t"].to_float()


def test_a_bomb_of_many_entries(tmp_path):
    """Each within what deflation can do; together a thousand times the file."""
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/data.pkl", tensor_pickle())
        for i in range(5):
            out.writestr(f"a/data/{i}", bytes(2**26))
    with pytest.raises(CheckpointError, match=r"would unpack to 3\d{8}"):
        checkpoint.open(tmp_path / "x")


def test_a_bomb_inside_a_bomb(tmp_path):
    """The pickle itself compressed: refused by its size, before it is unpacked."""
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/data.pkl", tensor_pickle()[:-1] + b"N0" * 2**26 + b".")
    with pytest.raises(CheckpointError, match="pickle above the limit of"):
        checkpoint.open(tmp_path / "x")


def test_compressed_files_are_unpacked_one_storage_at_a_time(tmp_path):
    state = {f"w{i}": torch.randn(1024, 512) for i in range(8)}
    rezipped(saved(tmp_path / "x", state), tmp_path / "y")
    whole = sum(value.nbytes for value in state.values())
    tensors = checkpoint.open(tmp_path / "y").tensors
    tracemalloc.start()
    try:
        for name, tensor in tensors.items():
            assert np.array_equal(tensor.to_float(), state[name].numpy())
        assert tracemalloc.get_traced_memory()[1] < whole * 0.6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["../../out", "/etc/sdcore", "..\\out", "a/../../out", "C:/out"])
def test_paths_in_a_zip_lead_nowhere(tmp_path, name):
    """Names are only compared: nothing is written, and what is no storage is not looked at."""
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    path = archive(inside / "x", tensor_pickle(), {"0": bytes(16)})
    with zipfile.ZipFile(path, "a") as out:
        out.writestr(name, b"gone")
    same(path, {"t": torch.zeros(2)})
    path = archive(inside / "x", tensor_pickle(key=f"../{name}"), {f"../{name}": bytes(16)})
    same(path, {"t": torch.zeros(2)})
    assert [entry.name for entry in tmp_path.rglob("*")] == ["deep", "er", "x"]


def test_entries_over_one_another(tmp_path):
    whole = bytearray(saved(tmp_path / "x", STATE).read_bytes())
    first = whole.find(b"PK\x01\x02")
    second = whole.find(b"PK\x01\x02", first + 1)
    whole[second + 42 : second + 46] = whole[first + 42 : first + 46]
    (tmp_path / "y").write_bytes(whole)
    with pytest.raises(CheckpointError, match="lies over the entry before it"):
        checkpoint.open(tmp_path / "y")


# ---- any bytes -----------------------------------------------------------------------------------


def small(tmp_path, form):
    state = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(3).half()}
    value = {"state_dict": state, "epoch": 3, "x": Call(np.dtype, "f4")}
    if form == "deflated":
        return rezipped(saved(tmp_path / "x", value), tmp_path / "y").read_bytes()
    return saved(tmp_path / "x", value, form).read_bytes()


fuzzed = pytest.mark.parametrize("form", ["zip", "deflated", "legacy", "legacy protocol 4"])


def attempt(path, content):
    write_anew(path, content)
    try:
        for tensor in checkpoint.open(path).tensors.values():
            if tensor.nbytes < 1 << 20:
                core_tensor(tensor)
    except (CheckpointError, UnsupportedModelError) as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)
        return False
    return True


@fuzzed
def test_cut_anywhere(tmp_path, form):
    whole = small(tmp_path, form)
    path = tmp_path / "cut"
    assert attempt(path, whole)
    for size in range(0, len(whole), 1 if len(whole) < 1500 else 3):
        assert not attempt(path, whole[:size]), size


@fuzzed
@pytest.mark.parametrize("seed", range(2))
def test_mutations(tmp_path, form, seed):
    whole = small(tmp_path, form)
    rng = np.random.default_rng(seed)
    # Where there is structure: not in the padding, which is most of a small zip.
    places = [i for i, byte in enumerate(whole) if byte not in b"Z\0"]
    odd = [0, 1, 2, 0x28, 0x2E, 0x52, 0x62, 0x75, 0x7F, 0x80, 0xFF]
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.choice(places))
            match rng.integers(4):
                case 0:
                    content[at % len(content)] = rng.choice(odd)
                case 1:
                    content[at % len(content)] ^= 1 << rng.integers(8)
                case 2:
                    del content[at : at + int(rng.integers(1, 9))]
                case 3:
                    content[at:at] = bytes(rng.choice(odd, int(rng.integers(1, 9))).tolist())
        attempt(tmp_path / "mutated", content)


@pytest.mark.parametrize("seed", range(4))
def test_random_opcodes(tmp_path, seed):
    """Pickles of nothing but opcodes of the format, in an archive that is sound."""
    rng = np.random.default_rng(seed)
    codes = [getattr(pickle, name)[:1] for name in pickle.__all__ if name.isupper()
             and isinstance(getattr(pickle, name), bytes)]  # fmt: skip
    codes += [REBUILD, b"(X\1\0\0\0a", b"K\2", b"h\0", b"q\0", tensor_pickle()[2:-1]]
    for _ in range(500):
        picked = b"".join(codes[i] for i in rng.integers(len(codes), size=rng.integers(1, 40)))
        whole = io.BytesIO()
        archive(whole, tensor_pickle()[:-1] + picked + b".", {"0": bytes(16)})
        attempt(tmp_path / "x", whole.getvalue())
