"""GGUF against the `gguf` package in both directions and byte orders, and against hostile files."""

import errno
import os
import struct

import gguf
import numpy as np
import pytest

import sdcore
from number_formats import FIELDS
from sdcore import _core
from sdcore.gguf import Typed
from sdcore.quantization import Tensor, dequantize, types
from writing import write_anew

# Those that the package knows: q2_0 is newer.
TYPES = {row["name"]: row for row in types() if row["name"] != "q2_0"}
ORDERS = ["little", "big"]
NUMPY = {"f32": "f4", "f16": "f2", "f64": "f8", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8"}


def ggml(name):
    return gguf.GGMLQuantizationType[name.upper()]


def swapped(name, data):
    """The bytes of blocks in the other byte order."""
    widths = FIELDS[name]
    ends = np.cumsum(widths)
    order = np.concatenate(
        [np.arange(end - width, end)[::-1] for end, width in zip(ends, widths, strict=True)]
    )
    return data.reshape(-1, ends[-1])[:, order].reshape(data.shape)


def random_tensors(seed=0):
    """One tensor of every type, as the bytes of its rows."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, row in TYPES.items():
        row_bytes = 2 * row["block_bytes"]
        found[f"{name}.weight"] = name, rng.integers(0, 256, (3, row_bytes), dtype=np.uint8)
    return found


METADATA = {
    "general.architecture": "sd1",
    "test.u8": Typed(200, "u8"),
    "test.i8": Typed(-100, "i8"),
    "test.u16": Typed(60000, "u16"),
    "test.i16": Typed(-30000, "i16"),
    "test.u32": 4000000000,
    "test.i32": -2000000000,
    "test.u64": 2**63 + 5,
    "test.i64": -(2**63),
    "test.f32": 0.5,
    "test.f64": Typed(0.1, "f64"),
    "test.bool": True,
    "test.text": "naïve – 絵",
    "test.empty": "",
    "test.strings": ["a", "", "ß"],
    "test.floats": [0.25, -1.5],
    "test.integers": [1, 2, -3],
    "test.bools": [True, False],
}


def plain(value):
    return value.value if isinstance(value, Typed) else value


def write_random(path, order="little", metadata=METADATA):
    tensors = {}
    for name, (type, data) in random_tensors().items():
        tensors[name] = Tensor.from_bytes(data, type, [3, 2 * TYPES[type]["block_size"]])
    sdcore.gguf.write(path, metadata, tensors, order)


# --- against the gguf package ---------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_package_reads_what_we_write(tmp_path, order):
    write_random(tmp_path / "a.gguf", order)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.endianess == gguf.GGUFEndian[order.upper()]
    for key, value in METADATA.items():
        assert reader.get_field(key).contents() == plain(value), key
    expected = random_tensors()
    assert [tensor.name for tensor in reader.tensors] == list(expected)
    for tensor in reader.tensors:
        type, data = expected[tensor.name]
        assert tensor.tensor_type == ggml(type)
        assert list(tensor.shape) == [2 * TYPES[type]["block_size"], 3]
        found = tensor.data
        if type in NUMPY:
            found = found.astype(found.dtype.newbyteorder("=")).view(np.uint8)
        elif order == "big":
            found = swapped(type, np.array(found))
        np.testing.assert_array_equal(np.array(found).reshape(-1), data.reshape(-1))


@pytest.mark.parametrize("order", ORDERS)
def test_we_read_what_the_package_writes(tmp_path, order):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "sd1", endianess=gguf.GGUFEndian[order.upper()])
    add = {
        "u8": writer.add_uint8, "i8": writer.add_int8, "u16": writer.add_uint16,
        "i16": writer.add_int16, "u32": writer.add_uint32, "i32": writer.add_int32,
        "u64": writer.add_uint64, "i64": writer.add_int64, "f32": writer.add_float32,
        "f64": writer.add_float64, "bool": writer.add_bool,
    }  # fmt: skip
    for kind, method in add.items():
        method(f"test.{kind}", plain(METADATA[f"test.{kind}"]))
    writer.add_string("test.text", METADATA["test.text"])
    for key in ("strings", "floats", "integers", "bools"):
        writer.add_array(f"test.{key}", METADATA[f"test.{key}"])
    expected = random_tensors()
    for name, (type, data) in expected.items():
        if type in NUMPY:
            writer.add_tensor(name, data.view(NUMPY[type]))
        else:
            data = swapped(type, data) if order == "big" else data
            target = gguf.GGUFEndian[order.upper()]
            writer.add_tensor(name, data, raw_dtype=ggml(type), tensor_endianess=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = sdcore.gguf.open(tmp_path / "a.gguf")
    assert (file.version, file.byte_order) == (3, order)
    for key, value in file.metadata.items():
        assert value == plain(METADATA[key]), key
    assert len(file.metadata) == len(add) + 6
    for key in add:
        assert file.typed_metadata[f"test.{key}"].type == key
    assert list(file.tensors) == list(expected)
    for name, (type, data) in expected.items():
        tensor = file.tensors[name]
        assert (tensor.type, tensor.shape) == (type, (3, 2 * TYPES[type]["block_size"]))
        np.testing.assert_array_equal(tensor.data, data.reshape(-1))
        if TYPES[type]["block_size"] > 1 and type != "q1_0":  # which the package cannot unpack
            with np.errstate(all="ignore"):
                floats = gguf.dequantize(data, ggml(type))
            np.testing.assert_array_equal(dequantize(tensor), floats)


# --- our own files --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_copy_is_identical(tmp_path, order):
    nested = Typed([Typed([1, 2], "u8"), Typed(["x"], "string"), Typed([], "array")], "array")
    write_random(tmp_path / "a.gguf", order, {**METADATA, "n": nested, "none": Typed([], "f64")})
    file = sdcore.gguf.open(tmp_path / "a.gguf")
    assert file.metadata["n"] == [[1, 2], ["x"], []]
    assert file.metadata["none"] == []
    sdcore.gguf.write(tmp_path / "b.gguf", file.typed_metadata, file.tensors, order)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    # And over itself, while it is still mapped.
    sdcore.gguf.write(tmp_path / "a.gguf", file.typed_metadata, file.tensors, order)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("alignment", [1, 2, 32, 64, 4096])
@pytest.mark.parametrize("order", ORDERS)
def test_alignment(tmp_path, alignment, order):
    write_random(tmp_path / "a.gguf", order, {"general.alignment": alignment})
    file = sdcore.gguf.open(tmp_path / "a.gguf")
    for name, (_, data) in random_tensors().items():
        np.testing.assert_array_equal(file.tensors[name].data, data.reshape(-1))
        if order == "little":
            mapped = file.tensors[name].data.ctypes.data
            assert mapped % alignment == 0


def test_shapes_and_names(tmp_path):
    tensors = {
        "scalar": np.float32(3),
        "empty": np.zeros((3, 0, 2), np.float16),
        "conv": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "x" * 500: np.ones(1, np.int8),
        "ünïcode": np.ones((1, 1), np.int8),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }
    sdcore.gguf.write(tmp_path / "a.gguf", {}, tensors)
    file = sdcore.gguf.open(tmp_path / "a.gguf")
    assert {n: t.shape for n, t in file.tensors.items()} == {n: t.shape for n, t in tensors.items()}
    np.testing.assert_array_equal(dequantize(file.tensors["conv"]), tensors["conv"])
    np.testing.assert_array_equal(dequantize(file.tensors["transposed"]), tensors["transposed"])


def test_no_tensors_no_metadata(tmp_path):
    sdcore.gguf.write(tmp_path / "a.gguf", {}, {})
    file = sdcore.gguf.open(tmp_path / "a.gguf")
    assert (file.metadata, file.tensors) == ({}, {})


def test_tensors_outlive_the_file(tmp_path):
    write_random(tmp_path / "a.gguf")
    tensor = sdcore.gguf.open(tmp_path / "a.gguf").tensors["q4_K.weight"]
    (tmp_path / "a.gguf").unlink()
    np.testing.assert_array_equal(tensor.data, random_tensors()["q4_K.weight"][1].reshape(-1))


def test_inferred_types(tmp_path):
    values = {
        "u32": 5, "i32": -5, "u64": 2**32, "i64": -(2**31) - 1, "f32": 1.0, "bool": False,
        "string": "s",
    }  # fmt: skip
    sdcore.gguf.write(tmp_path / "a.gguf", values | {"a": np.arange(3, dtype=np.uint16)}, {})
    typed = sdcore.gguf.open(tmp_path / "a.gguf").typed_metadata
    assert typed.pop("a") == Typed([0, 1, 2], "u16")
    assert typed == {type: Typed(value, type) for type, value in values.items()}


def test_text_that_is_not_utf8_survives(tmp_path):
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    sdcore.gguf.write(tmp_path / "a.gguf", {name: name}, {name: np.zeros(1, np.int8)})
    assert b"\xff\xfe" in (tmp_path / "a.gguf").read_bytes()
    file = sdcore.gguf.open(tmp_path / "a.gguf")
    assert file.metadata == {name: name}
    assert list(file.tensors) == [name]


# --- refusals of the writer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"k": []}, "'k' has no GGUF type"),
        ({"k": None}, "'k' has no GGUF type"),
        ({"k": [1, "a"]}, "'k' has no GGUF type"),
        ({"k": Typed(256, "u8")}, "256 is not a u8"),
        ({"k": Typed(-1, "u32")}, "-1 is not a u32"),
        ({"k": Typed("a", "u32")}, "'a' is not a u32"),
        ({"k": Typed([1, "a"], "f32")}, "'a' is not a f32"),
        ({"k": Typed(1, "string")}, "1 is not a string"),
        ({"k": Typed(1, "u7")}, "no type 'u7'"),
        ({"k": 2**64}, "is not a u64"),
        ({"": 1}, "no name"),
        ({"general.alignment": 24}, "power of two"),
        ({"general.alignment": Typed(32, "u64")}, "power of two"),
    ],
)
def test_write_refuses_metadata(tmp_path, metadata, message):
    with pytest.raises(sdcore.InvalidArgumentError, match=message):
        sdcore.gguf.write(tmp_path / "a.gguf", metadata, {})
    assert not list(tmp_path.iterdir())


def test_write_refuses_tensors(tmp_path):
    with pytest.raises(sdcore.InvalidArgumentError, match="'t' has 5 axes"):
        sdcore.gguf.write(tmp_path / "a.gguf", {}, {"t": np.zeros((1,) * 5)})
    with pytest.raises(sdcore.InvalidArgumentError, match="complex"):
        sdcore.gguf.write(tmp_path / "a.gguf", {}, {"t": np.zeros(1, complex)})
    with pytest.raises(sdcore.InvalidArgumentError, match="middle"):
        sdcore.gguf.write(tmp_path / "a.gguf", {}, {}, "middle")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path):
    missing = tmp_path / "no such folder" / "a.gguf"
    with pytest.raises(
        sdcore.FileError, match=f"no such folder/a.gguf': {os.strerror(errno.ENOENT)}"
    ):
        sdcore.gguf.write(missing, {}, {})
    for special in (tmp_path, "/dev/null"):
        with pytest.raises(sdcore.FileError, match="it is not a file"):
            sdcore.gguf.write(special, {}, {})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(sdcore.FileError, match=r"a.gguf': File too large"):
            sdcore.gguf.write(path, {}, {"t": np.zeros(100_000, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.gguf").write_bytes(b"old")
    (tmp_path / "link.gguf").symlink_to("real.gguf")
    sdcore.gguf.write(tmp_path / "link.gguf", {"k": 1}, {})
    assert (tmp_path / "link.gguf").is_symlink()
    assert sdcore.gguf.open(tmp_path / "real.gguf").metadata == {"k": 1}


# --- hostile and damaged files --------------------------------------------------------------------


class Raw:
    """Puts a file together by hand, wrong where the test wants it."""

    def __init__(self, version=3, order="<"):
        self.version, self.order = version, order
        self.wide = "Q" if version > 1 else "I"

    def pack(self, format, *values):
        return struct.pack(self.order + format, *values)

    def text(self, text):
        return self.pack(self.wide, len(text)) + text.encode()

    def key(self, name, type, payload):
        return self.text(name) + self.pack("I", type) + payload

    def entry(self, name="t", sizes=(4,), type=0, offset=0):
        sizes = b"".join(self.pack(self.wide, size) for size in sizes)
        axes = len(sizes) // struct.calcsize(self.order + self.wide)
        return self.text(name) + self.pack("I", axes) + sizes + self.pack("IQ", type, offset)

    def file(self, keys=(), entries=(), data=b"", tensors=None, metadata=None):
        head = b"GGUF" + self.pack("I", self.version)
        head += self.pack(self.wide, len(entries) if tensors is None else tensors)
        head += self.pack(self.wide, len(keys) if metadata is None else metadata)
        head += b"".join(keys) + b"".join(entries)
        return head + bytes(-len(head) % 32) + data


RAW = Raw()
FOUR = np.arange(4, dtype=np.float32).tobytes()


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_versions(tmp_path, version, order):
    raw = Raw(version, order)
    keys = [
        raw.key("k", 9, raw.pack("I", 8) + raw.pack(raw.wide, 2) + raw.text("a") + raw.text("bc")),
        raw.key("n", 9, raw.pack("I" + raw.wide + "hh", 3, 2, -2, 300)),
    ]
    data = np.arange(4, dtype=order + "f4").tobytes()
    path = tmp_path / "a.gguf"
    path.write_bytes(raw.file(keys, [raw.entry(sizes=(2, 1, 2))], data))
    file = sdcore.gguf.open(path)
    assert (file.version, file.byte_order) == (version, "little" if order == "<" else "big")
    assert file.metadata == {"k": ["a", "bc"], "n": [-2, 300]}
    np.testing.assert_array_equal(dequantize(file.tensors["t"]), [[[0, 1]], [[2, 3]]])


def array(type, count, payload=b""):
    return RAW.pack("IQ", type, count) + payload


def nested(depth):
    return RAW.pack("IQ", 9, 1) * (depth - 1) + RAW.pack("IQB", 0, 1, 7)


SOUND = {
    "nested 8 deep": RAW.file([RAW.key("k", 9, nested(8))]),
    "a gap": RAW.file([], [RAW.entry(offset=64)], bytes(64) + FOUR),
    "any order": RAW.file([], [RAW.entry("a", offset=32), RAW.entry("b")], FOUR + bytes(16) + FOUR),
    "no padding at the end": RAW.file([], [RAW.entry()], FOUR),
    "five axes": RAW.file([], [RAW.entry(sizes=(1, 1, 4, 1, 1))], FOUR),
    "no elements": RAW.file([], [RAW.entry(sizes=(0, 2**40), offset=2**40)]),
    "nothing": RAW.file(),
}
HOSTILE = {
    "empty": (b"", "begins with ''.*empty"),
    "short": (b"GGU", "begins with 'GGU'"),
    "text": (b"hello, world\n" * 9, "begins with 'hello, world"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git-lfs pointer"),
    "html": (b"<!DOCTYPE html><title>404</title>", "web page"),
    "not utf-8": (b"\xff\xfe\x00", r"begins with '\\xff\\xfe\\x00'"),
    "magic only": (b"GGUF", "at byte 4: 4 bytes should follow, but 0 are left"),
    "version 0": (Raw(0).file(), "version 0 is not known"),
    "version 4": (Raw(4).file(), "version 4 is not known"),
    "version 65536": (Raw(1 << 16).file(), "version 256 is not known"),
    "tensors 2^63": (RAW.file(tensors=2**63), "9223372036854775808 tensors cannot fit"),
    "tensors 2^64-1": (RAW.file(tensors=2**64 - 1), "tensors cannot fit"),
    "keys 2^63": (RAW.file(metadata=2**63), "keys cannot fit"),
    "one tensor too many": (RAW.file(tensors=1), "1 tensors cannot fit"),
    "key of 2^63 bytes": (RAW.file([RAW.pack("Q", 2**63) + b"k"]), "bytes should follow"),
    "key without name": (RAW.file([RAW.key("", 0, b"\0")]), "no name"),
    "key twice": (RAW.file([RAW.key("k", 0, b"\0")] * 2), "key 'k' occurs twice"),
    "value of type 13": (RAW.file([RAW.key("k", 13, bytes(8))]), "no type 13"),
    "array of type 77": (RAW.file([RAW.key("k", 9, array(77, 1, b"\0"))]), "no element type 77"),
    "array of 2^63": (RAW.file([RAW.key("k", 9, array(10, 2**63))]), "array elements cannot fit"),
    "array of 2^61 u64": (RAW.file([RAW.key("k", 9, array(10, 2**61))]), "elements cannot fit"),
    "strings 2^60": (RAW.file([RAW.key("k", 9, array(8, 2**60))]), "array elements cannot fit"),
    "arrays 2^60": (RAW.file([RAW.key("k", 9, array(9, 2**60))]), "array elements cannot fit"),
    "nested 9 deep": (RAW.file([RAW.key("k", 9, nested(9))]), "nested more than 8 deep"),
    "nested 10^5": (RAW.file([RAW.key("k", 9, nested(10**5))]), "nested more than 8 deep"),
    "alignment 0": (RAW.file([RAW.key("general.alignment", 4, RAW.pack("I", 0))]), "power of two"),
    "alignment 48": (
        RAW.file([RAW.key("general.alignment", 4, RAW.pack("I", 48))]),
        "power of two",
    ),
    "alignment i32": (
        RAW.file([RAW.key("general.alignment", 5, RAW.pack("i", 32))]),
        "power of two",
    ),
    "alignment text": (RAW.file([RAW.key("general.alignment", 8, RAW.text("32"))]), "power of two"),
    "tensor twice": (RAW.file([], [RAW.entry()] * 2, FOUR), "tensor 't' occurs twice"),
    "nine axes": (RAW.file([], [RAW.entry(sizes=(1,) * 9)], FOUR), "'t' has 9 axes"),
    "2^32-1 axes": (RAW.file([], [RAW.text("t") + RAW.pack("I", 2**32 - 1)]), "4294967295 axes"),
    "size 2^63": (RAW.file([], [RAW.entry(sizes=(2**63,))], FOUR), r"sizes \[-9223372036854775808"),
    "product 2^64": (RAW.file([], [RAW.entry(sizes=(2**32, 2**32))], FOUR), "cannot have"),
    "bytes 2^64": (RAW.file([], [RAW.entry(sizes=(2**62,))], FOUR), "f32 cannot have"),
    "cut block": (RAW.file([], [RAW.entry(sizes=(31,), type=8)], bytes(64)), "q8_0 cannot have"),
    "offset past the end": (
        RAW.file([], [RAW.entry(offset=32)], FOUR),
        "takes 16 bytes from 32 of",
    ),
    "offset 2^63": (RAW.file([], [RAW.entry(offset=2**63)], FOUR), "from 9223372036854775808 of"),
    "offset 2^64-32": (RAW.file([], [RAW.entry(offset=2**64 - 32)], FOUR), "takes 16 bytes"),
    "offset not aligned": (RAW.file([], [RAW.entry(offset=4)], FOUR * 2), "not a multiple of 32"),
    "one byte short": (RAW.file([], [RAW.entry()], FOUR[:-1]), "takes 16 bytes from 0 .* has 15"),
    "overlap": (
        RAW.file([], [RAW.entry("a", (16,)), RAW.entry("b", offset=32)], FOUR * 9),
        "tensor 'b' begins at 32, inside tensor 'a'",
    ),
    "same place": (RAW.file([], [RAW.entry("a"), RAW.entry("b")], FOUR), "inside tensor"),
    "type 4": (RAW.file([], [RAW.entry(type=4)], FOUR), "has type 4, which does not exist"),
    "type 2^31": (RAW.file([], [RAW.entry(type=2**31)], FOUR), "which does not exist"),
}


@pytest.mark.parametrize("case", SOUND)
def test_sound(tmp_path, case):
    (tmp_path / "a.gguf").write_bytes(SOUND[case])
    for tensor in sdcore.gguf.open(tmp_path / "a.gguf").tensors.values():
        dequantize(tensor)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(tmp_path, case):
    content, message = HOSTILE[case]
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(sdcore.CheckpointError, match=message) as raised:
        sdcore.gguf.open(tmp_path / "a.gguf")
    assert str(tmp_path / "a.gguf") in str(raised.value)


def test_a_type_of_ggml_that_we_lack(tmp_path):
    (tmp_path / "a.gguf").write_bytes(RAW.file([], [RAW.entry(type=15)], FOUR))
    with pytest.raises(sdcore.UnsupportedModelError, match="'t' is stored as q8_K"):
        sdcore.gguf.open(tmp_path / "a.gguf")
    lacking = {t.value for t in gguf.GGMLQuantizationType} - {row["id"] for row in TYPES.values()}
    for type in lacking:
        (tmp_path / "a.gguf").write_bytes(RAW.file([], [RAW.entry(type=type)], FOUR))
        with pytest.raises(sdcore.UnsupportedModelError):
            sdcore.gguf.open(tmp_path / "a.gguf")


def test_no_such_file(tmp_path):
    with pytest.raises(sdcore.FileError, match="cannot open"):
        sdcore.gguf.open(tmp_path / "a.gguf")
    with pytest.raises(sdcore.FileError, match="is not a file"):
        sdcore.gguf.open(tmp_path)


def rich_file(path, order):
    rows = {row["name"]: row for row in _core.types()}
    tensors = {
        name: Tensor.from_bytes(np.zeros(row["block_bytes"], np.uint8), name, [row["block_size"]])
        for name, row in rows.items()
    }
    sdcore.gguf.write(path, METADATA | {"nested": [[1], [2, 3]]}, tensors, order)
    return path.read_bytes()


def outcome(path):
    """Opens and touches everything; only an SDCoreError may come out."""
    try:
        file = sdcore.gguf.open(path)
    except sdcore.SDCoreError as error:
        assert str(path) in str(error)
        return False
    repr(file.metadata)
    for tensor in file.tensors.values():
        tensor.data.sum()
    return True


@pytest.mark.parametrize("order", ORDERS)
def test_truncated_anywhere(tmp_path, order):
    path = tmp_path / "a.gguf"
    content = rich_file(path, order)
    padding = -TYPES[list(TYPES)[-1]]["block_bytes"] % 32  # after the last tensor: not needed
    header = content.index(b"bf16") + 40
    for size in [*range(header), *range(header, len(content), 29)]:
        write_anew(path, content[:size])
        assert outcome(path) == (size >= len(content) - padding), size


@pytest.mark.parametrize("seed", range(8))
def test_mutated(tmp_path, seed):
    """A few thousand files with bytes changed, cut out, repeated or made huge."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "a.gguf"
    content = rich_file(path, ORDERS[seed % 2])
    header = content.index(b"bf16") + 40
    huge = [0xFF, 0x80, 0x7F, 0x01, 0x00]
    survivors = 0
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(4, header))
            kind = rng.integers(4)
            if kind == 0:
                changed[at] = rng.integers(256)
            elif kind == 1:
                del changed[at : at + int(rng.integers(1, 9))]
            elif kind == 2:
                changed[at:at] = changed[at : at + int(rng.integers(1, 65))]
            else:
                changed[at : at + 8] = bytes([huge[rng.integers(5)]]) * 8
        write_anew(path, changed)
        survivors += outcome(path)
    assert survivors < 500
