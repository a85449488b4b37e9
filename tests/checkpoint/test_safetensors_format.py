"""The safetensors reader and writer against the safetensors package, on sound and spoilt files."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdcore import CheckpointError, SDCoreError, UnsupportedModelError, _core, checkpoint, convert
from sdcore.checkpoint import safetensors as ours
from sdcore.checkpoint.tensor import ForeignTensor, core_tensor
from writing import write_anew


def write(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def read(path):
    return ours.read(_core.MappedFile(path))


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_floats_match_the_package(tmp_path, dtype):
    torch.manual_seed(1)
    want = {
        "a.weight": torch.randn(5, 3, 2),
        "scalar": torch.randn(()),
        "none": torch.zeros(0, 7),
        'ünïcode "quoted"\n': torch.randn(3),
    }
    want = {name: value.to(dtype) for name, value in want.items()}
    safetensors.torch.save_file(want, tmp_path / "x", {"format": "pt", "note": "é"})
    got, metadata = read(tmp_path / "x")
    assert metadata == {"format": "pt", "note": "é"}
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].shape == tuple(value.shape)
        assert got[name].nbytes == value.nbytes
        assert np.array_equal(got[name].to_float(), value.float().numpy())


def test_nothing_is_copied(tmp_path):
    safetensors.torch.save_file({"a": torch.arange(64.0)}, tmp_path / "x")
    file = _core.MappedFile(tmp_path / "x")
    tensor = ours.read(file)[0]["a"]
    start = np.frombuffer(file, np.uint8).ctypes.data
    assert start <= tensor.data.ctypes.data < start + len(file)


def test_odd_addresses(tmp_path):
    """The format asks for no alignment: a byte tensor pushes a float one off its grid."""
    values = np.arange(5, dtype=np.float32)
    header = {"pad": entry("I8", [3], 0, 3), "x": entry("F32", [5], 3, 23)}
    for spaces in range(4):
        text = json.dumps(header).encode() + b" " * spaces
        got, _ = read(write(tmp_path / "x", text, b"abc" + values.tobytes()))
        assert np.array_equal(got["x"].to_float(), values)


FLOAT8 = ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")


@pytest.mark.parametrize("dtype", [getattr(torch, f"float8_{name}") for name in FLOAT8], ids=str)
def test_float8_widens_exactly(tmp_path, dtype):
    values = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(16, 16)
    safetensors.torch.save_file({"x": values}, tmp_path / "x")
    got = read(tmp_path / "x")[0]["x"]
    assert isinstance(got, ForeignTensor) and got.shape == (16, 16)
    core = core_tensor(got.reshape((4, 64)))
    assert core.type == "bf16" and core.shape == (4, 64)
    want = values.float().numpy().reshape(4, 64)
    assert np.array_equal(core.to_float(), want, equal_nan=True)


def test_float4(tmp_path):
    """Two in a byte, the first in the lower half; of rows of an odd length too."""
    codes = np.arange(256, dtype=np.uint8)
    values = torch.from_numpy(codes.reshape(16, 16)).view(torch.float4_e2m1fn_x2)
    safetensors.torch.save_file({"x": values}, tmp_path / "x")
    got = read(tmp_path / "x")[0]["x"]
    assert (got.type, got.shape, got.nbytes) == ("f4", (16, 32), 256)
    sizes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    table = np.float32([*sizes, *(-size for size in sizes)])
    want = table[np.stack([codes % 16, codes // 16], 1).reshape(-1)]
    assert np.array_equal(got.to_float(), want.reshape(16, 32))
    assert np.array_equal(core_tensor(got.reshape((4, 128))).to_float(), want.reshape(4, 128))
    odd = read(write(tmp_path / "odd", {"x": entry("F4", [2, 3], 0, 3)}, b"\x21\x43\x65"))[0]["x"]
    assert odd.to_float().tolist() == [[0.5, 1, 1.5], [2, 3, 4]]
    assert odd.rows(1, 2).to_float().tolist() == [[2, 3, 4]]
    for target in ("b.gguf", "b.safetensors", "b.pt"):
        opened = checkpoint.open(convert(tmp_path / "x", tmp_path / target))
        assert opened.tensors["x"].type == "f16"
        assert np.array_equal(opened.tensors["x"].to_float(), want.reshape(16, 32))


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_float6_is_told_and_not_read(tmp_path, dtype):
    path = write(tmp_path / "x", {"odd": entry(dtype, [2, 4], 0, 6)}, bytes(6))
    opened = checkpoint.open(path)
    assert opened.summary().types == {dtype.lower(): 1} and opened.summary().bytes == 6
    with pytest.raises(UnsupportedModelError, match=f"'odd' is stored as {dtype.lower()}"):
        core_tensor(opened.tensors["odd"])
    with pytest.raises(UnsupportedModelError, match=f"'odd' is stored as {dtype.lower()}"):
        convert(path, tmp_path / "b.gguf")
    assert not (tmp_path / "b.gguf").exists()


@pytest.mark.parametrize("dtype", ["U8", "BOOL", "U16", "U32", "U64", "C64"])
def test_other_types_fail_only_when_wanted(tmp_path, dtype):
    size = ours.DTYPES[dtype][0]
    header = {"odd": entry(dtype, [4], 0, 4 * size)}
    got, _ = read(write(tmp_path / "x", header, b"\1" * 4 * size))
    assert got["odd"].shape == (4,) and got["odd"].nbytes == 4 * size
    with pytest.raises(UnsupportedModelError, match=f"'odd' is stored as {dtype.lower()}"):
        core_tensor(got["odd"])


GOOD = {"a": entry("F32", [2, 3], 0, 24), "b": entry("F16", [4], 24, 32)}
BODY = bytes(32)
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
SPOILT = {
    "hole": ({"a": entry("F32", [6], 0, 24), "b": entry("F16", [3], 26, 32)}, "at offset 26"),
    "overlap": ({"a": entry("F32", [6], 0, 24), "b": entry("F16", [6], 20, 32)}, "begins at"),
    "late start": ({"a": entry("F32", [7], 4, 32)}, "begins at offset 4, expected 0"),
    "trailing bytes": ({"a": entry("F32", [6], 0, 24)}, "end at offset 24"),
    "past the end": ({"a": entry("F32", [100], 0, 400)}, "cut short"),
    "twice, at two places": (
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}', "'a' is in the header twice"),
    "a field twice": (
        b'{"a":{"dtype":"F32","shape":[9],"shape":[8],"data_offsets":[0,32]}}', "'shape' is in"),
    "reversed": ({"a": entry("F32", [0], 8, 0)}, "no range"),
    "negative": ({"a": entry("F32", [-2], 0, 32)}, "no list of sizes"),
    "negative offset": ({"a": entry("F32", [8], -32, 0)}, "no range"),
    "size and shape": ({"a": entry("F32", [7], 0, 32)}, "takes 28 bytes, its offsets span 32"),
    "overflow": ({"a": entry("F32", [2**40, 2**40], 0, 32)}, "takes"),
    "wraps to zero": ({"a": entry("F32", [2**62, 4], 0, 0)}, "takes"),
    "huge size": ({"a": entry("F32", [2**63, 0], 0, 0)}, "no list of sizes"),
    "true as size": ({"a": entry("F32", [True, 8], 0, 32)}, "no list of sizes"),
    "float size": ({"a": entry("F32", [8.0], 0, 32)}, "no list of sizes"),
    "text size": ({"a": entry("F32", "8", 0, 32)}, "no list of sizes"),
    "three offsets": ({"a": entry("F32", [8], 0, 32) | {"data_offsets": [0, 1, 32]}}, "no range"),
    "half a byte": ({"a": entry("F4", [3, 3], 0, 5)}, "does not fill its last byte"),
    "too few of a packed type": ({"a": entry("F6_E2M3", [8], 0, 32)}, "takes 6 bytes"),
    "unknown dtype": ({"a": entry("F33", [8], 0, 32)}, "unknown dtype 'F33'"),
    "list as dtype": ({"a": entry(["F32"], [8], 0, 32)}, "unknown dtype"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 32]}}, "needs dtype, shape"),
    "not an entry": ({"a": 3}, "needs dtype, shape"),
    "metadata of numbers": (GOOD | {"__metadata__": {"a": 1}}, "strings to strings"),
    "metadata list": (GOOD | {"__metadata__": []}, "strings to strings"),
    "list": (b"[]", "not a JSON object"),
    "not JSON": (b'{"a": ', "not JSON"),
    "two objects": (b"{}{}", "not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "not JSON"),
    "NUL padded": (b"{}\0\0", "not JSON"),
    "deep": (DEEP, "not JSON"),
    "digits": (b'{"a": ' + b"1" * 10_000 + b"}", "not JSON|needs dtype"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_headers(tmp_path, name):
    header, message = SPOILT[name]
    path = write(tmp_path / "x.safetensors", header, BODY)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(path, "np")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, 150])
def test_cut_short(tmp_path, size):
    whole = write(tmp_path / "x", GOOD, BODY).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:size])
    with pytest.raises(CheckpointError):
        read(tmp_path / "cut")


@pytest.mark.parametrize("item", [b"[],", b"{},", b'"a",', b"1.5,"])
def test_a_header_that_would_fill_the_memory(tmp_path, item):
    """Refused before any of it is parsed."""
    text = b'{"__metadata__":{"a":[' + item * 4_000_001 + b"0]}}"
    path = write(tmp_path / "x", text)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="items is above the limit"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [100_000_001, 2**40, 2**63, 2**64 - 1])
def test_header_lengths_that_cannot_be(tmp_path, length):
    (tmp_path / "x").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    with pytest.raises(CheckpointError, match="header of"):
        read(tmp_path / "x")


SOUND = {
    "no metadata": GOOD,
    "null metadata": GOOD | {"__metadata__": None},
    "unknown fields": {"a": GOOD["a"] | {"note": [1, {}]}, "b": GOOD["b"]},
    "any order": {"b": GOOD["b"], "a": GOOD["a"]},
    "spaces": b"  " + json.dumps(GOOD).encode() + b"   ",
    "the same twice": f'{{"b": {json.dumps(GOOD["b"])}, {json.dumps(GOOD)[1:]}'.encode(),
    "empty tensor inside": GOOD | {"c": entry("F64", [0, 3], 24, 24)},
    "empty tensor at the end": GOOD | {"c": entry("F64", [3, 0], 32, 32)},
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_sound_headers(tmp_path, name):
    path = write(tmp_path / "x", SOUND[name], BODY)
    with safetensors.safe_open(path, "np") as file:
        keys = set(file.keys())
    tensors, metadata = read(path)
    assert tensors.keys() == keys and metadata == {}


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_accepts_what_the_package_accepts(tmp_path, data):
    """Sound files with bytes changed: the two readers agree; ours fails only with its errors."""
    whole = bytearray(write(tmp_path / "x", GOOD | {"__metadata__": {"k": "v"}}, BODY).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.sampled_from([0, 32, 255, *b'0123456789[]{},:"-FBIa.']))
    path = tmp_path / "changed"
    write_anew(path, whole)
    try:
        with safetensors.safe_open(path, "np") as file:
            keys, theirs = set(file.keys()), True
    except safetensors.SafetensorError:
        theirs = False
    try:
        tensors, _ = read(path)
    except SDCoreError:
        assert not theirs
    else:
        assert theirs and tensors.keys() == keys


def test_writes_what_the_package_reads(tmp_path):
    rng = np.random.default_rng(0)
    want = {
        "f16": rng.standard_normal((3, 5)).astype(np.float16),
        "turned": rng.standard_normal((4, 6)).astype(np.float32).T,
        "scalar": np.float64(3.5),
        "none": np.zeros((2, 0), np.float32),
        "i64": np.arange(7),
        "flags": np.array([True, False]),
    }
    bits = rng.integers(0, 2**15, (2, 2)).astype(np.uint16)
    path = tmp_path / "x.safetensors"
    ours.save(path, want | {"bf16": bits}, {"k": "v"}, types={"bf16": "BF16"})
    got = safetensors.torch.load_file(path)
    for name, values in want.items():
        assert np.array_equal(got[name].numpy(), values)
    assert got["bf16"].dtype == torch.bfloat16
    assert np.array_equal(got["bf16"].view(torch.uint16).numpy(), bits)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"k": "v"}
    back, metadata = read(path)
    assert metadata == {"k": "v"} and math.prod(back["turned"].shape) == 24
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.safetensors"]


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    ours.save(path, {"a": np.zeros(3)})
    before = path.read_bytes()
    with pytest.raises(SDCoreError, match="complex"):
        ours.save(path, {"a": np.zeros(3), "b": np.zeros(2, np.complex256)})
    with pytest.raises(SDCoreError, match="cannot be BF16"):
        ours.save(path, {"a": np.zeros(3)}, types={"a": "BF16"})
    with pytest.raises(SDCoreError, match="cannot write"):
        ours.save(tmp_path / "no" / "x", {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
