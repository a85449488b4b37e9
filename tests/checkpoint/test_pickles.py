"""Files of torch.save: the same tensors as torch.load, nothing run, and no harm from any bytes."""

from __future__ import annotations

import argparse
import io
import json
import struct
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_open_checkpoint import F16, check

import sdcore
import tiny_models
from sdcore import CheckpointError, UnsupportedModelError, checkpoint
from sdcore.checkpoint.tensor import core_tensor
from tiny_models import ODD, PLAIN

FORMS = {
    "zip": {},
    "zip protocol 3": {"pickle_protocol": 3},
    "zip protocol 5": {"pickle_protocol": 5},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy protocol 1": {"_use_new_zipfile_serialization": False, "pickle_protocol": 1},
    "legacy protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
every_form = pytest.mark.parametrize("form", FORMS)
both_forms = pytest.mark.parametrize("form", ["zip", "legacy"])


def saved(path, value, form="zip"):
    torch.save(value, path, **FORMS[form])
    return path


def rezipped(source, target, change=lambda name, data: data, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def loaded(path):
    """By torch, whose own safe unpickler knows protocol 2 only."""
    return torch.load(path, weights_only=False)


def values(tensor):
    return tensor.detach().float().numpy()


def same(path, want):
    opened = checkpoint.open(path)
    assert opened.format == "pickle"
    assert opened.tensors.keys() == want.keys()
    for name, tensor in want.items():
        got = opened.tensors[name]
        assert tuple(got.shape) == tuple(tensor.shape), name
        assert np.array_equal(got.to_float(), values(tensor), equal_nan=True), name
        assert core_tensor(got).shape == tuple(tensor.shape)
    return opened


# ---- tensors as torch.load gives them ------------------------------------------------------------

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8]
FLOAT8 = [getattr(torch, f"float8_{name}") for name in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")]
NO_WEIGHTS = [torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.uint16]


def grid(dtype):
    return (torch.arange(24) - 7).reshape(2, 3, 4).to(dtype)


@every_form
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_float_types(tmp_path, dtype, form):
    path = saved(tmp_path / "x", {"a": grid(dtype) / 3, "b": grid(dtype)}, form)
    same(path, loaded(path))


@both_forms
@pytest.mark.parametrize("dtype", INTEGERS + FLOAT8, ids=str)
def test_other_types(tmp_path, dtype, form):
    state = {"a": grid(dtype), "t": grid(dtype).permute(2, 0, 1)}
    opened = checkpoint.open(saved(tmp_path / "x", state, form))
    for name, want in state.items():  # torch itself cannot read legacy float8 back
        got = core_tensor(opened.tensors[name])
        if dtype in FLOAT8:
            assert np.array_equal(got.to_float(), values(want))
        else:
            assert got.data.tobytes() == want.contiguous().numpy().tobytes()
            assert got.shape == want.shape


@both_forms
@pytest.mark.parametrize("dtype", NO_WEIGHTS, ids=str)
def test_types_of_no_weights(tmp_path, dtype, form):
    path = saved(tmp_path / "x", {"a": grid(dtype), "t": grid(dtype).mT}, form)
    for tensor in checkpoint.open(path).tensors.values():
        assert tensor.nbytes == 24 * dtype.itemsize
        with pytest.raises(UnsupportedModelError, match="no type of weights"):
            tensor.to_float()


def views():
    base = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6)
    return {
        "base": base,
        "row": base[2],
        "slice": base[1:3, 2:4, ::2],
        "turned": base.permute(2, 0, 1),
        "last": base.reshape(-1)[119:],
        "scalar": base[3, 4, 5],
        "expanded": base[0, 0, :1].expand(1000),
        "empty": base[:0],
        "empty view": base[1:1, :, 3],
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "odd ones": torch.as_strided(base, (1, 5, 1), (77, 6, 3), 4),
        "nothing": torch.zeros(0),
        "half": torch.randn(7, 9).half().T,
        "brain": torch.randn(7, 9).bfloat16()[1:, ::3],
    }


@every_form
def test_views(tmp_path, form):
    path = saved(tmp_path / "x", views(), form)
    opened = same(path, loaded(path))
    base = opened.tensors["base"].data
    row = opened.tensors["row"].data
    assert row.ctypes.data - base.ctypes.data == 60 * 4  # both are the mapped file


@pytest.mark.parametrize("deflated", [True, False])
def test_zipped_again(tmp_path, deflated):
    path = saved(tmp_path / "x", views())
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    same(rezipped(path, tmp_path / "y", method=method), loaded(path))


def test_big_endian(tmp_path):
    state = {k: v.clone(memory_format=torch.preserve_format) for k, v in views().items()}
    path = saved(tmp_path / "x", state)
    sizes = {str(i): v.element_size() for i, v in enumerate(state.values())}

    def turned(name, data):
        if name.endswith("/byteorder"):
            return b"big"
        if "/data/" not in name:
            return data
        size = sizes[name.rsplit("/", 1)[1]]
        return np.frombuffer(data, f"u{size}").byteswap().tobytes()

    other = rezipped(path, tmp_path / "y", turned, zipfile.ZIP_STORED)
    same(other, {name: value.contiguous() for name, value in state.items()})


def test_zip64(tmp_path):
    """Sizes and offsets in the 64-bit fields, as files above 4 GiB have them."""
    path = saved(tmp_path / "x", {"a": torch.arange(50.0)})
    with zipfile.ZipFile(path) as archive:
        entries = [(i.filename, archive.read(i)) for i in archive.infolist()]
    body, directory = b"", b""
    for name, data in entries:
        header = len(body)
        wide = struct.pack("<2H3Q", 1, 24, len(data), len(data), header)
        none = 0xFFFFFFFF
        local = (b"PK\x03\x04", 45, 0x808, 0, 0, 0, 0, 0, 0, len(name), 7)
        body += struct.pack("<4s5H3I2H", *local) + name.encode() + b"FB\3\0xyz" + data
        central = (b"PK\x01\x02", 45, 45, 0x808, 0, 0, 0, 0, none, none, len(name), 4 + len(wide))
        directory += struct.pack("<4s6H3I5H2I", *central, 0, 0, 0, 0, none)
        directory += name.encode() + b"XX\0\0" + wide
    at, count = len(body), len(entries)
    end64 = (b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), at)
    end = struct.pack("<4sQ2H2I4Q", *end64)
    end += struct.pack("<4sIQI", b"PK\x06\x07", 0, at + len(directory), 1)
    end += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, none, none, 3) + b"bye"
    (tmp_path / "y").write_bytes(body + directory + end)
    # Its extra field of 24 bytes holds size, packed size and offset, in that order.
    same(tmp_path / "y", {"a": torch.arange(50.0)})


class Sub(torch.Tensor):
    pass


@both_forms
def test_parameters_and_subclasses(tmp_path, form):
    linear = torch.nn.Linear(3, 2)
    inside = torch.nn.ParameterDict({"*": torch.randn(2, 4)})
    state = {
        "weight": linear.weight,
        "data": linear.bias.data,
        "buffer": torch.nn.Buffer(torch.randn(3)),
        "sub": torch.randn(4).as_subclass(Sub),
        "string_to_param": inside,
    }
    path = saved(tmp_path / "x", state, form)
    want = {key: value for key, value in state.items() if key != "string_to_param"}
    same(path, want | {"string_to_param.*": inside["*"]})


# ---- what is around the tensors ------------------------------------------------------------------


class ModelCheckpoint:
    """Stands in for pytorch_lightning's."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"
ModelCheckpoint.__qualname__ = "ModelCheckpoint"


@pytest.fixture
def lightning(monkeypatch):
    import sys
    import types

    name = ModelCheckpoint.__module__
    for i in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:i])
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[name].ModelCheckpoint = ModelCheckpoint

    def wrap(state):
        callback = ModelCheckpoint()
        callback.best_model_score = np.float64(0.25)
        moments = {i: {"step": 7, "exp_avg": v, "set": {1, 2}} for i, v in enumerate(views())}
        return {
            "epoch": 3,
            "global_step": 875000,
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {ModelCheckpoint: {"best_model_score": np.float64(0.5), "x": callback}},
            "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [argparse.Namespace(lr=3)],
            "shapes": {(1, (2, 3)): torch.Size([3]), "dtype": torch.float16},
            "device": torch.device("cpu"),
            "state_dict": state,
        }

    return wrap


def half(state):
    return {key: value.half() for key, value in state.items()}


@every_form
def test_whole_model(tmp_path, form):
    path = saved(tmp_path / "x.ckpt", tiny_models.original_state(ODD), form)
    opened = checkpoint.open_model(path)
    check(opened, ODD)
    twin = tiny_models.save_original(ODD, tmp_path / "x.safetensors")
    assert opened.tensors.keys() == load_file(twin).keys()


@every_form
def test_training_file(tmp_path, form, lightning):
    state = half(tiny_models.original_state(PLAIN)) | tiny_models.leftovers(PLAIN)
    path = saved(tmp_path / "x.ckpt", lightning(OrderedDict(state)), form)
    opened = checkpoint.open_model(path)
    check(opened, PLAIN, F16)
    assert opened.tensors.keys() == state.keys()
    assert opened.metadata["global_step"] == 875000
    assert "model_ema.decay" in opened.tensors


STATE = {"a": torch.randn(2, 3), "b": torch.randn(4)}


@pytest.mark.parametrize(
    "value",
    [
        STATE,
        OrderedDict(STATE),
        defaultdict(list, STATE),
        {"state_dict": STATE, "epoch": 1},
        {"state_dict": {"state_dict": STATE}},
        {"anything": STATE},
        {"params_ema": STATE, "params": {"a": torch.zeros(1)}},
        {"params": STATE},
        {"model": STATE, "optimizer": {"c": torch.zeros(3)}},
        {**STATE, 3: torch.zeros(3), "step": 3, "c": "text", "list": [torch.zeros(3)]},
    ],
    ids=range(10),
)
@both_forms
def test_containers(tmp_path, value, form):
    same(saved(tmp_path / "x", value, form), STATE)


def test_dictionaries_inside_one_another(tmp_path):
    path = saved(
        tmp_path / "x", {"image_proj": {"a": STATE["a"]}, "ip_adapter": {"1": {"b": STATE["b"]}}}
    )
    same(path, {"image_proj.a": STATE["a"], "ip_adapter.1.b": STATE["b"]})


@both_forms
def test_attributes_of_a_state_dict(tmp_path, form):
    state = torch.nn.Linear(2, 2).state_dict()
    assert state._metadata
    same(saved(tmp_path / "x", state, form), state)


@pytest.mark.parametrize(
    "value, kind, message",
    [
        (torch.zeros(3), CheckpointError, "one tensor without a name"),
        ([torch.zeros(3)], CheckpointError, "a list, not tensors by name"),
        (3, CheckpointError, "a value of int"),
        (torch.nn.Linear(2, 2), UnsupportedModelError, r"Linear', not its weights.*state_dict\(\)"),
        ({"model": torch.nn.ReLU()}, UnsupportedModelError, "ReLU', not its weights"),
        ({}, CheckpointError, "holds no tensors"),
        ({"a": torch.eye(3).to_sparse()}, UnsupportedModelError, "tensor 'a' is of a kind"),
    ],
)
@both_forms
def test_no_state_dict(tmp_path, value, kind, message, form):
    with pytest.raises(kind, match=message):
        checkpoint.open(saved(tmp_path / "x", value, form))


def test_torchscript(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "x")
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        checkpoint.open(tmp_path / "x")


def test_tar(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(UnsupportedModelError, match="tar archive"):
        checkpoint.open(tmp_path / "x")


# ---- whole pipelines -----------------------------------------------------------------------------


def draw(path, tokenizer):
    pipe = sdcore.DiffusionPipeline.open(path, dtype="f32", tokenizer=tokenizer)
    options = {"num_inference_steps": 2, "height": 16, "width": 16, "seed": 1}
    return np.asarray(pipe("a red circle", output_type="np", **options).images)


def test_pipeline_draws(tmp_path, lightning):
    tokenizer = tiny_models.write_tokenizer(tmp_path / "tokenizer")
    pickled = saved(tmp_path / "x.ckpt", lightning(tiny_models.original_state(PLAIN)))
    plain = tiny_models.save_original(PLAIN, tmp_path / "x.safetensors")
    assert np.array_equal(draw(pickled, tokenizer), draw(plain, tokenizer))


def as_bins(folder):
    """A folder's weights as older diffusers and transformers save them."""
    for path in list(folder.glob("*/*.safetensors")):
        name = path.name.replace("safetensors", "bin")
        if path.parent.name == "text_encoder":
            name = "pytorch_" + name
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    for path in list(folder.glob("*/*.safetensors.index*.json")):
        name = path.name.replace("safetensors", "bin")
        stem = "pytorch_" if path.parent.name == "text_encoder" else ""
        index = json.loads(path.read_text())
        index["weight_map"] = {
            key: stem + file.replace("safetensors", "bin")
            for key, file in index["weight_map"].items()
        }
        path.with_name(stem + name).write_text(json.dumps(index))
        path.unlink()
    return folder


@pytest.mark.parametrize("shard_size", [None, "200KB"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_folders(tmp_path, shard_size, variant):
    dtype = torch.float16 if variant else torch.float32
    path = tmp_path / "model"
    tiny_models.save_folder(PLAIN, path, variant=variant, dtype=dtype, shard_size=shard_size)
    as_bins(path)
    assert not list(path.glob("*/*.safetensors*"))
    check(checkpoint.open_model(path, variant), PLAIN, F16 if variant else 0)
    check(checkpoint.open_model(path), PLAIN, F16 if variant else 0)


def test_safetensors_before_bin(tmp_path):
    path = tiny_models.save_folder(PLAIN, tmp_path / "model")
    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"):
        (path / name).write_bytes(b"damaged")
    check(checkpoint.open_model(path), PLAIN)


def test_info(tmp_path, capsys):
    from sdcore.cli import main

    path = saved(tmp_path / "x.ckpt", tiny_models.original_state(PLAIN))
    assert main(["info", str(path)]) == 0
    assert "pickle" in capsys.readouterr().out
