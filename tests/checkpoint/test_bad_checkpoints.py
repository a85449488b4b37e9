"""What is no model, or not one to run: one clear line each, of the right kind."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny_models
from sdcore import (
    CheckpointError,
    FileError,
    SDCoreError,
    UnsupportedModelError,
    _core,
    checkpoint,
    convert,
)
from sdcore.checkpoint.files import Contents
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.weights import check_weights
from tiny_models import PLAIN

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265146304\n"


def png():
    return b"\x89PNG\r\n\x1a\n" + bytes(100)


FILES = {
    "empty": (b"", CheckpointError, "is empty"),
    "page": (b"\n <!DOCTYPE html><html>", CheckpointError, "is a web page"),
    "page without a type": (b"<html><head>", CheckpointError, "is a web page"),
    "lfs pointer": (POINTER, CheckpointError, "git-lfs pointer.*git lfs pull"),
    "not found": (b"Entry not found", CheckpointError, "text file.*'Entry not found'"),
    "json error": (b'{"error":"gated"}', CheckpointError, "text file"),
    "text": ("ein schöner Text\nüber nichts".encode(), CheckpointError, "text file"),
    "text with a brace": (b"12345678{not json at all", CheckpointError, "text file"),
    "picture": (png(), CheckpointError, "is a picture"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(50), CheckpointError, "unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), UnsupportedModelError, "HDF5"),
    "bare pickle": (b"\x80\x04\x95" + bytes(50), UnsupportedModelError, "pickle.*\\.safetensors"),
    "noise": (bytes(range(128, 228)), CheckpointError, "first bytes are 80 81|first bytes"),
    "zeros": (bytes(100), CheckpointError, "first bytes are 00 00"),
    "short": (b"\x10\0\0", CheckpointError, "first bytes are 10 00 00"),
    "wrong magic": (b"GGML" + bytes([3, 0, 0, 0]) + bytes(60), CheckpointError, "first bytes"),
    "no tensors": (struct.pack("<Q", 2) + b"{}", CheckpointError, "no tensors"),
}


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


@pytest.mark.parametrize("extension", ["safetensors", "gguf", "ckpt"])
@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name, extension):
    content, kind, message = FILES[name]
    path = tmp_path / f"x.{extension}"
    path.write_bytes(content)
    with pytest.raises(kind, match=message) as caught:
        checkpoint.open(path)
    assert str(path) in one_line(caught)
    assert type(caught.value) is kind


def test_zip_that_is_no_pickle(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UnsupportedModelError):
        checkpoint.open(tmp_path / "x")


def test_header_that_looks_like_a_pickle(tmp_path):
    """Its length of 0x280 is how a pickle of protocol 2 begins."""
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(0x280)
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    assert checkpoint.open(tmp_path / "x").format == "safetensors"


@pytest.mark.parametrize("name", ["nothing", "owner/model"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(FileError, match="no such file or folder"):
        checkpoint.open(tmp_path / name)


def test_cut_in_the_middle(tmp_path):
    whole = tiny_models.save_original(PLAIN, tmp_path / "whole").read_bytes()
    path = tmp_path / "x"
    (length,) = struct.unpack("<Q", whole[:8])
    for size in (9, 8 + length // 2, 8 + length, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut short|does not fit") as caught:
            checkpoint.open(path)
        one_line(caught)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="end at offset"):
        checkpoint.open(path)


def test_gguf_cut_in_the_middle(tmp_path):
    whole = tiny_models.save_gguf(PLAIN, tmp_path / "whole").read_bytes()
    path = tmp_path / "x"
    for size in (4, 10, 24, 1000, len(whole) // 2, len(whole) - 33):
        path.write_bytes(whole[:size])
        with pytest.raises(SDCoreError) as caught:
            checkpoint.open(path)
        one_line(caught)


# ---- folders -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return tiny_models.save_folder(PLAIN, tmp_path / "model")


def refused(path, kind, message, **options):
    with pytest.raises(kind, match=message) as caught:
        checkpoint.open_model(path, **options)
    assert type(caught.value) is kind
    one_line(caught)


def test_folder_without_unet(folder):
    (folder / "unet").rename(folder / "net")
    refused(folder, CheckpointError, r"no unet/, and holds .*vae/")


def test_empty_folder(tmp_path):
    refused(tmp_path, CheckpointError, "no unet/, and holds nothing")


def test_folder_without_weights(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refused(folder, CheckpointError, r"unet' has no weights: it has config\.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_spoilt_json(folder, text):
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        path = folder / name
        before = path.read_bytes()
        path.write_text(text, "latin-1")
        refused(folder, CheckpointError, f"{path.name}' is not (a )?JSON")
        path.write_bytes(before)


def shards(tmp_path):
    path = tiny_models.save_folder(PLAIN, tmp_path / "sharded", shard_size="200KB")
    return path, path / "unet" / "diffusion_pytorch_model.safetensors.index.json"


def test_missing_shard(tmp_path):
    path, index = shards(tmp_path)
    name = sorted(index.parent.glob("*00002-of*"))[0]
    name.unlink()
    refused(path, CheckpointError, f"names '{name.name}', which is not there")


def test_cut_shard(tmp_path):
    path, index = shards(tmp_path)
    name = sorted(index.parent.glob("*00002-of*"))[0]
    name.write_bytes(name.read_bytes()[:-5])
    refused(path, CheckpointError, f"{name.name}.*cut short")


@pytest.mark.parametrize(
    "weight_map, message",
    [
        (None, "no weight_map"),
        ({}, "no weight_map"),
        ({"a": 3}, "names no file for 'a': 3"),
        ({"a": "../../vae/diffusion_pytorch_model.safetensors"}, "names no file for 'a'"),
        ({"a": "/etc/passwd"}, "names no file for 'a'"),
        ({"a": ".."}, "names '..', which is not there"),
        ({"a": ""}, "names '', which is not there"),
        ({"a": "x\0y"}, "which is not there"),
        ({"a": "shards/../../../vae/x.safetensors"}, "names no file for 'a'"),
        ({"a": ["x.safetensors"]}, "names no file for 'a'"),
        (["a"], "no weight_map"),
        ({"a": "diffusion_pytorch_model-00001-of-00099.safetensors"}, "is not there"),
    ],
)
def test_spoilt_index(tmp_path, weight_map, message):
    path, index = shards(tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map}))
    refused(path, CheckpointError, message)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"weight_map":' * 50_000, "\0" * ((1 << 26) + 1)], ids=len
)
def test_indexes_that_would_fill_the_memory(tmp_path, text):
    path, index = shards(tmp_path)
    index.write_text(text)
    refused(path, CheckpointError, r"is not JSON|has 67108865 bytes, more than 67108864")


def test_an_index_that_leads_out_of_its_folder(tmp_path):
    """What a pipeline has beside the networks is copied by the names in model_index.json."""
    folder = tiny_models.save_folder(PLAIN, tmp_path / "in" / "model")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("mine")
    (folder / "safety_checker").mkdir()
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("../../secret", str(tmp_path / "secret"), "../out", "safety_checker"):
        index[name] = ["diffusers", "X"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "in" / "out").mkdir()
    (tmp_path / "to" / "there").mkdir(parents=True)
    convert(folder, tmp_path / "to" / "there" / "model")
    assert (tmp_path / "to" / "there" / "model" / "safety_checker").is_dir()
    names = sorted(path.name for path in (tmp_path / "to").rglob("*") if path.is_dir())
    assert "secret" not in names and "out" not in names
    assert not list((tmp_path / "to").rglob("key"))


def test_tensor_that_its_shard_lacks(tmp_path):
    path, index = shards(tmp_path)
    values = json.loads(index.read_text())
    file = next(iter(values["weight_map"].values()))
    index.write_text(json.dumps({"weight_map": {"no.such": file}}))
    refused(path, CheckpointError, f"puts 'no.such' into '{file}'")


def test_folder_of_an_unknown_class(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "MotionAdapter"}')
    refused(tmp_path, UnsupportedModelError, "holds a MotionAdapter")


def test_part_that_the_index_promises(folder):
    for file in (folder / "vae").iterdir():
        file.unlink()
    (folder / "vae").rmdir()
    opened = checkpoint.open_model(folder)
    with pytest.raises(CheckpointError, match="has no vae: it has unet, text_encoder"):
        opened.component("vae")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    with pytest.raises(FileError):
        checkpoint.open(path)


def test_pipes_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError):
        checkpoint.open(tmp_path / "pipe")


def test_vae_given_as_a_model(tmp_path):
    state = tiny_models.original_vae(tiny_models.vae(PLAIN))
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "x")
    refused(
        tmp_path / "x",
        UnsupportedModelError,
        "a VAE alone, of 4 latent channels, not a whole model.*vae=",
    )
    assert checkpoint.open(tmp_path / "x").component("vae").config["latent_channels"] == 4


def test_something_else_entirely(tmp_path):
    save_file({"layer1.weight": torch.zeros(3)}, tmp_path / "x")
    refused(tmp_path / "x", UnsupportedModelError, r"no model that sdcore knows: 1 tensor \(layer1")
    opened = checkpoint.open(tmp_path / "x")
    assert opened.kind is None and opened.components == {}
    assert opened.summary().title == "unknown"
    assert np.array_equal(opened.tensors["layer1.weight"].to_float(), np.zeros(3))


@pytest.mark.parametrize("seed", range(12))
def test_spoilt_tensor_sets(seed):
    """Tensors dropped, renamed and of any shape: an SDCoreError or a model, never another error."""
    rng = np.random.default_rng(seed)
    state = tiny_models.original_state(PLAIN)
    if seed % 2:
        names = {"unet": tiny_models.unet, "vae": tiny_models.vae}
        state = {
            f"{p}.{k}": v for p, net in names.items() for k, v in net(PLAIN).state_dict().items()
        }
    tensors = {}
    keep, odd = rng.choice([0.02, 0.3, 0.9, 1.0]), rng.choice([0.0, 0.05, 1.0])
    for name, value in state.items():
        if rng.random() > keep:
            continue
        shape = value.shape if rng.random() > odd else rng.integers(0, 4, rng.integers(0, 5))
        if rng.random() < odd / 4:
            words = name.split(".")
            words[rng.integers(len(words))] = rng.choice(["0", "7", "op", "attn_1", ""])
            name = ".".join(words)
        tensors[name] = _core.Tensor.from_array(np.zeros(tuple(shape), np.float32))
    opened = Checkpoint(Path("spoilt"), Contents("safetensors", tensors))
    opened.summary()
    with contextlib.suppress(SDCoreError):
        for part in opened.components.values():
            part.weights(dict.fromkeys(list(part.tensors)[:5], (3, 3)))


def test_an_error_is_one_line_whatever_a_tensor_is_called():
    name = "attn\n\t\u202eé\udcff"
    with pytest.raises(CheckpointError) as caught:
        check_weights({name: [3, 3]}, {}, "here")
    assert "attn\\n\\t\\u202eé\\udcff" in str(caught.value)
    assert str(caught.value).isprintable()


def test_unet_without_its_first_half():
    names = ["output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight", "input_blocks.0.0.weight"]
    zeros = _core.Tensor.from_array(np.zeros((), np.float32))
    opened = Checkpoint(Path("spoilt"), Contents("safetensors", dict.fromkeys(names, zeros)))
    assert opened.kind.family == "sd1-small"
    names = [name for name in tiny_models.unet(PLAIN).state_dict() if "down_blocks" not in name]
    opened = Checkpoint(Path("spoilt"), Contents("safetensors", dict.fromkeys(names, zeros)))
    assert opened.kind.family == "sd1"
    with pytest.raises(CheckpointError, match="no tensor under down_blocks"):
        opened.component("unet")
