"""A short run of the fuzzer on every reader, with a corpus made here. Longer ones: CONTRIBUTING."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file

import sdcore

SECONDS, BY_COVERAGE = 1, 2  # for each reader
READERS = ("gguf", "safetensors", "torch-zip", "torch-legacy", "onnx", "folder")


def make_corpus(root: Path) -> None:
    """A folder for each reader, with small sound files of what it can meet."""
    for name in READERS:
        (root / name).mkdir(parents=True)
    whole = torch.arange(12.0).reshape(3, 4)
    state = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3).half(),
        "view": whole.T,
        "row": whole[1],
        "b": torch.ones(5, dtype=torch.bfloat16),
        "n": torch.tensor(7),
    }
    nested = {"state_dict": state, "epoch": 3, "lr": np.float64(0.5), "d": torch.device("cpu")}
    for protocol in (2, 4):
        torch.save(nested, root / "torch-zip" / f"{protocol}.pt", pickle_protocol=protocol)
        torch.save(nested, root / "torch-legacy" / f"{protocol}.pt", pickle_protocol=protocol,
                   _use_new_zipfile_serialization=False)  # fmt: skip
    zips = root / "torch-zip"
    with (
        zipfile.ZipFile(zips / "2.pt") as stored,
        zipfile.ZipFile(zips / "d.pt", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for entry in stored.namelist():
            deflated.writestr(entry, stored.read(entry))
    plain = {name: value.contiguous() for name, value in state.items() if name != "row"}
    save_file(plain, root / "safetensors" / "a", {"format": "pt", "note": "é"})
    save_file({"x": torch.zeros(0, 3), "f8": torch.ones(4).to(torch.float8_e4m3fn)},
              root / "safetensors" / "b")  # fmt: skip
    for order in ("little", "big"):
        metadata = {"general.architecture": "sd1", "list": [1, 2, 3], "words": ["a", "b"], "x": 0.5}
        values = np.arange(64, dtype=np.float32).reshape(2, 32)
        tensors = {"a.weight": values, "q": sdcore.quantize(values, "q4_0")}
        sdcore.gguf.write(root / "gguf" / order, metadata, tensors, byte_order=order)
    writer = gguf.GGUFWriter(root / "gguf" / "theirs", "t5")
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "</s>"])
    writer.add_tensor("enc.blk.0.attn_q.weight", np.ones((4, 4), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    onnx.save(network(), root / "onnx" / "a")
    folder = root / "folder"
    (folder / "unet").mkdir()
    (folder / "scheduler").mkdir()
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    (folder / "unet" / "config.json").write_text('{"block_out_channels": [4, 8]}')
    stem, shard = "diffusion_pytorch_model", "diffusion_pytorch_model-00001-of-00001.safetensors"
    save_file({"conv_in.weight": torch.ones(4, 4, 3, 3)}, folder / "unet" / shard)
    weights = {"metadata": {"total_size": 576}, "weight_map": {"conv_in.weight": shard}}
    (folder / "unet" / f"{stem}.safetensors.index.json").write_text(json.dumps(weights))


def network() -> onnx.ModelProto:
    """One of each kind of op that has sizes to get wrong."""
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.random(shape, np.float32), name)

    tensors = [tensor("w", 4, 2, 3, 3), tensor("b", 4), tensor("s", 4, 1, 1), tensor("m", 3, 32)]
    tensors += [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "times")]
    tensors += [numpy_helper.from_array(np.array([i]), n) for n, i in
                (("zero", 0), ("one", 1), ("rest", -1))]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["1"], pads=[1] * 4, strides=[2, 2], group=2),
        helper.make_node("BatchNormalization", ["1", *"bbbb"], ["2"], epsilon=1e-5),
        helper.make_node("PRelu", ["2", "s"], ["3"]),
        helper.make_node("MaxPool", ["3"], ["4"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["4", "", "times"], ["5"], mode="nearest"),
        helper.make_node("Add", ["5", "3"], ["6"]),
        helper.make_node("Concat", ["6", "3"], ["7"], axis=1),
        helper.make_node("AveragePool", ["7"], ["8"], kernel_shape=[4, 4], strides=[3, 3]),
        helper.make_node("Transpose", ["8"], ["9"], perm=[0, 2, 3, 1]),
        helper.make_node("Shape", ["9"], ["10"]),
        helper.make_node("Cast", ["10"], ["11"], to=7),
        helper.make_node("Slice", ["11", "zero", "one"], ["12"]),
        helper.make_node("Concat", ["12", "rest"], ["13"], axis=0),
        helper.make_node("Reshape", ["9", "13"], ["14"]),
        helper.make_node("Flatten", ["14"], ["15"]),
        helper.make_node("Gemm", ["15", "m"], ["16"], transB=1),
        helper.make_node("Sigmoid", ["16"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 4, 16, 16]), ("y", [1, 3]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def run(script: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(sdcore.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


def test_every_reader(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus")
    options = ("--seconds", SECONDS, "--keep", tmp_path / "kept")
    done = run("fuzz.py", tmp_path / "corpus", *options, folder=tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nkept in {tmp_path / 'kept'}"
    lines = dict(line.split(": ") for line in done.stdout.splitlines())
    assert lines.keys() == set(READERS)
    for line in lines.values():
        assert int(line.split()[0]) >= 10


@pytest.mark.parametrize("reader", READERS)
def test_by_coverage(tmp_path: Path, reader: str) -> None:
    pytest.importorskip("atheris")
    make_corpus(tmp_path / "corpus")
    options = (f"-max_total_time={BY_COVERAGE}", "-seed=1")
    done = run("guided.py", reader, tmp_path / "corpus", *options, folder=tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (runs,) = re.findall(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    assert int(runs) >= 10 and int(covered[-1]) > 50  # sdcore's lines are looked at
