"""What the streaming writers make is what the formats' own readers read, bit for bit, and a failure
leaves nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch

from sdcore import CheckpointError, FileError, InvalidArgumentError, SDCoreError, _core, checkpoint
from sdcore.checkpoint import gguf_output, output, torch_output
from sdcore.checkpoint import safetensors as st
from sdcore.checkpoint.folder_output import whole_folder
from sdcore.checkpoint.output import Outgoing, outgoing, whole_file

DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8,
    "u8": torch.uint8, "bool": torch.bool, "u16": torch.uint16, "c64": torch.complex64,
    "f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2,
    "f8_e4m3fnuz": torch.float8_e4m3fnuz, "f8_e5m2fnuz": torch.float8_e5m2fnuz,
}  # fmt: skip
WRITERS = {"st": st.write, "pt": torch_output.write, "gguf": gguf_output.write}


def state():
    """Every dtype, sizes of none and one and many, names that need care."""
    generator = torch.Generator().manual_seed(7)
    made = {"a.b é": torch.zeros(()), "none": torch.zeros(3, 0), "one": torch.ones(1, 1, 1)}
    for name, dtype in DTYPES.items():
        bits = torch.randint(0, 256, (5, 3, dtype.itemsize), generator=generator, dtype=torch.uint8)
        made[name] = (bits & 1 if name == "bool" else bits).view(dtype)[..., 0]
    return {name: tensor.contiguous() for name, tensor in made.items()}


def bits(tensor):
    """Content as it is stored, so that NaNs and negative zeros count too."""
    plain = tensor.contiguous()
    return plain.reshape(-1).view(torch.uint8).tolist() if plain.numel() else []


def opened(tmp_path, tensors=None):
    """The tensors as sdcore reads them, from a file that the safetensors package wrote."""
    safetensors.torch.save_file(tensors or state(), tmp_path / "in.safetensors")
    return checkpoint.open(tmp_path / "in.safetensors").tensors


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def check(got, want):
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert bits(got[name]) == bits(tensor), name


def test_safetensors(tmp_path):
    tensors = [outgoing(name, tensor) for name, tensor in opened(tmp_path).items()]
    st.write(tmp_path / "out", tensors, {"k": "vé"})
    check(safetensors.torch.load_file(tmp_path / "out"), state())
    with safetensors.safe_open(tmp_path / "out", "pt") as file:
        assert file.metadata() == {"k": "vé"}
    assert int.from_bytes((tmp_path / "out").read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize("mmap", [False, True])
def test_torch(tmp_path, mmap):
    tensors = [outgoing(name, tensor) for name, tensor in opened(tmp_path).items()]
    torch_output.write(tmp_path / "out", tensors)
    check(torch.load(tmp_path / "out", weights_only=True, mmap=mmap), state())
    back = checkpoint.open(tmp_path / "out")
    assert {name: bytes(tensor.data) for name, tensor in back.tensors.items()} == {
        name: bytes(bits(tensor)) for name, tensor in state().items()
    }


def test_torch_with_values_beside(tmp_path):
    values = {"epoch": 3, "global_step": 2**40, "lr": -0.5, "title": "a é\n", "ema": True}
    tensors = [outgoing(name, tensor) for name, tensor in opened(tmp_path).items()]
    torch_output.write(tmp_path / "out", tensors, values)
    got = torch.load(tmp_path / "out", weights_only=True)
    check(got.pop("state_dict"), state())
    assert got == values and type(got["ema"]) is bool
    assert checkpoint.open(tmp_path / "out").metadata == values


def test_torch_archive(tmp_path):
    """Storages begin at 64 bytes, so that torch can map them, and sums are right."""
    tensors = [outgoing(name, tensor) for name, tensor in opened(tmp_path).items()]
    torch_output.write(tmp_path / "out", tensors)
    with zipfile.ZipFile(tmp_path / "out") as archive:
        assert archive.testzip() is None
        data = (tmp_path / "out").read_bytes()
        for entry in archive.infolist():
            at = entry.header_offset
            begin = (
                at + 30 + sum(int.from_bytes(data[at + i : at + i + 2], "little") for i in (26, 28))
            )
            assert begin % 64 == 0 and entry.compress_type == zipfile.ZIP_STORED


def test_gguf(tmp_path):
    want = {k: v for k, v in state().items() if k not in ("u8", "u16", "bool", "c64", "none")}
    tensors = [
        outgoing(name, tensor, gguf_output.HELD_AS.get(tensor.type))
        for name, tensor in opened(tmp_path, want).items()
    ]
    gguf_output.write(tmp_path / "out", tensors, {"general.architecture": "sd1", "n": 3})
    reader = gguf.GGUFReader(tmp_path / "out")
    assert reader.fields["n"].contents() == 3
    assert {tensor.name for tensor in reader.tensors} == set(want)
    for tensor in reader.tensors:
        value = want[tensor.name]
        if tensor.name.startswith("f8"):
            value = value.to(torch.float16)
            kept = ~value.isnan()
            got = torch.from_numpy(tensor.data.copy())[kept]
            assert torch.equal(got, value[kept]) and kept.sum() > 5
        else:
            assert tensor.data.tobytes() == bytes(bits(value)), tensor.name


def test_gguf_holds_integers_in_wider_ones(tmp_path):
    want = {k: v for k, v in state().items() if k in ("u8", "u16", "bool")}
    tensors = [
        outgoing(name, tensor, gguf_output.HELD_AS[tensor.type])
        for name, tensor in opened(tmp_path, want).items()
    ]
    gguf_output.write(tmp_path / "out", tensors, {"general.alignment": 128})
    reader = gguf.GGUFReader(tmp_path / "out")
    assert reader.alignment == 128
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, want[tensor.name].numpy().astype(tensor.data.dtype))


@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "q8_0", "q4_K"])
@pytest.mark.parametrize("source", ["f64", "f32", "f16", "bf16", "f8_e4m3"])
def test_conversion_in_pieces(tmp_path, monkeypatch, source, type):
    """A tensor that is converted a few rows at a time is the tensor converted whole."""
    values = torch.randn(37, 256, generator=torch.Generator().manual_seed(1)).to(DTYPES[source])
    tensor = opened(tmp_path, {"x": values})["x"]
    monkeypatch.setattr(output, "_PIECE", 4000)
    sent = outgoing("x", tensor, type)
    pieces = [bytes(memoryview(piece)) for piece in sent.pieces()]
    assert len(pieces) > 1
    whole = _core.quantize(values.to(torch.float64).float().numpy(), type)
    assert b"".join(pieces) == bytes(whole.data) and sent.nbytes == whole.nbytes


def test_progress_counts_every_byte(tmp_path):
    tensors = [outgoing(name, tensor) for name, tensor in opened(tmp_path).items()]
    for write in (st.write, torch_output.write):
        counts: list[int] = []
        write(tmp_path / "out", tensors, None, counts.append)
        assert sum(counts) == sum(tensor.nbytes for tensor in tensors)


# ---- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", WRITERS)
def test_a_failure_keeps_the_old_file(tmp_path, format):
    def broken():
        yield b"1234"
        raise ValueError("no more")

    (tmp_path / "out").write_bytes(b"old")
    for pieces, error in ((broken, ValueError), (lambda: [b"12"], SDCoreError)):
        with pytest.raises(error):
            WRITERS[format](tmp_path / "out", [Outgoing("x", "f32", (2,), pieces)])
        assert (tmp_path / "out").read_bytes() == b"old" and listing(tmp_path) == ["out"]


@pytest.mark.parametrize("format", WRITERS)
def test_where_nothing_can_be_written(tmp_path, format):
    write = WRITERS[format]
    with pytest.raises(FileError, match=f"'.*no/x': {os.strerror(errno.ENOENT)}"):
        write(tmp_path / "no" / "x", [])
    for special in (tmp_path, Path("/dev/null")):
        with pytest.raises(FileError, match="it is not a file"):
            write(special, [])
    twice = [Outgoing("x", "i8", (1,), lambda: [b"1"])] * 2
    with pytest.raises(InvalidArgumentError, match="'x' occurs twice"):
        write(tmp_path / "x", twice)
    assert listing(tmp_path) == []


def test_types_that_a_format_lacks(tmp_path):
    cases = {"st": ("c128", "q8_0"), "pt": ("q8_0",), "gguf": ("u8", "u64", "c64")}
    for format, types in cases.items():
        for type in types:
            with pytest.raises(InvalidArgumentError, match=f"{type} of '?x|'x' of type {type}"):
                WRITERS[format](tmp_path / "x", [Outgoing("x", type, (32,), list)])
    with pytest.raises(InvalidArgumentError, match=r"'x' of type q8_0 cannot have sizes \[3, 33\]"):
        gguf_output.write(tmp_path / "x", [Outgoing("x", "q8_0", (3, 33), list)])
    assert listing(tmp_path) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with whole_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_file_may_replace_what_it_is_made_of(tmp_path):
    want = state()
    tensors = opened(tmp_path)
    st.write(tmp_path / "in.safetensors", [outgoing(n, tensors[n]) for n in sorted(tensors)])
    check(safetensors.torch.load_file(tmp_path / "in.safetensors"), want)


def test_folders(tmp_path):
    path = tmp_path / "out"
    for text in ("one", "two"):
        with whole_folder(path) as folder:
            (folder / text).write_text(text)
        assert listing(path) == [text] and listing(tmp_path) == ["out"]
    with pytest.raises(CheckpointError), whole_folder(path) as folder:
        (folder / "three").write_text("x")
        raise CheckpointError("stop")
    assert listing(path) == ["two"] and listing(tmp_path) == ["out"]
    with pytest.raises(FileError, match="it is a file"), whole_folder(path / "two"):
        pass
    with pytest.raises(FileError, match=os.strerror(errno.ENOENT)), whole_folder(path / "a" / "b"):
        pass


INTERRUPTED = """
import sys, time
from sdcore.checkpoint import safetensors as st
from sdcore.checkpoint.output import Outgoing

def pieces():
    yield b"1234"
    print("writing", flush=True)
    time.sleep(60)

def write(path):
    st.write(path, [Outgoing("x", "f32", (2,), pieces)])

"""


COMMAND = """
from sdcore import cli
cli.convert.run = lambda args: write(args.target)
sys.exit(cli.main(["convert", "in", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    "how, by",
    [("function", signal.SIGINT), ("command", signal.SIGINT), ("command", signal.SIGTERM)],
)
def test_an_end_from_outside_leaves_nothing(tmp_path, how, by):
    """Ctrl-C; and of a command what `kill` and a machine that is shut down send."""
    program = INTERRUPTED + (COMMAND if how == "command" else "write(sys.argv[1])")
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # A test that runs in the background has it ignored, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout.readline() == "writing\n"
    assert len(listing(tmp_path)) == 1
    child.send_signal(by)
    said = child.communicate(timeout=30)[1]
    assert listing(tmp_path) == []
    if how == "command":
        word = "interrupted" if by == signal.SIGINT else "terminated"
        assert said == f"error: {word}\n" and child.returncode == 128 + by
    else:
        assert child.returncode != 0
