"""Whole models as quantized GGUF files: what becomes of each tensor, and who opens the result."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import sdcore
import tiny_models
from command_line import REFUSED
from sdcore import CheckpointError, FileError, InvalidArgumentError, checkpoint, cli
from sdcore.checkpoint.imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from sdcore.checkpoint.quantization import quantize_model
from sdcore.quantization import dequantize, quantize
from tiny_models import PLAIN

UNET = "model.diffusion_model."
TO_Q = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"

DIFFUSERS_TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny_models.save_original(PLAIN, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "model"
    tiny_models.save_folder(PLAIN, folder)
    return folder


def ggml_types(path):
    return {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("source", ["model", "folder"])
def test_every_tensor_is_what_it_would_be_alone(source, request, tmp_path):
    source = request.getfixturevalue(source)
    seen = []
    path = quantize_model(
        source,
        tmp_path / "small.gguf",
        "Q8_0",
        tensor_types=[(r"ff\.net", "q4_0"), (r"to_[kv]\.", "f32")],
        progress=lambda done, total: seen.append((done, total)),
    )
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "sd1"
    assert reader.get_field("general.file_type").contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    before, after = checkpoint.open(source), checkpoint.open(path)
    counts = {}
    for name, part in before.components.items():
        for key, tensor in part.tensors.items():
            now = after.component(name).tensors[key]
            stored = now.type
            want = tensor.to_float() if stored != "q8_0" else dequantize(quantize(tensor, stored))
            if stored in ("q4_0", "f16"):
                want = dequantize(quantize(tensor, stored))
            np.testing.assert_array_equal(now.to_float().reshape(want.shape), want)
            counts[stored] = counts.get(stored, 0) + 1
    assert set(counts) == {"q8_0", "q4_0", "f16", "f32"}
    types = ggml_types(path)
    assert types[TO_Q] == "q8_0"
    assert types[TO_Q.replace("to_q", "to_k")] == "f32"
    assert types[f"{UNET}input_blocks.1.1.transformer_blocks.0.ff.net.2.weight"] == "q4_0"
    assert types[f"{UNET}time_embed.0.weight"] == "f16"
    assert types[f"{UNET}out.0.weight"] == "f32"
    total = sum(tensor.n_bytes for tensor in reader.tensors)
    assert seen[-1] == (total, total)
    assert [one for one, _ in seen] == sorted(one for one, _ in seen)


def test_a_quantized_file_draws_what_the_model_draws_when_quantized_on_opening(model, tmp_path):
    path = quantize_model(model, tmp_path / "small.gguf", "q8_0")
    arguments = {"num_inference_steps": 2, "seed": 1, "output_type": "latent"}
    options = {"dtype": "f32", "tokenizer": tiny_models.write_tokenizer(tmp_path / "tokenizer")}
    pictures = [
        sdcore.DiffusionPipeline.from_single_file(file, quantize=type, **options)(
            "a cat", **arguments
        ).images
        for file, type in ((path, None), (model, "q8_0"), (model, None))
    ]
    rounded = np.linalg.norm(pictures[0] - pictures[1]) / np.linalg.norm(pictures[1])
    assert rounded < 2e-3  # of what is f32 in the model and f16 in the file
    difference = np.linalg.norm(pictures[1] - pictures[2]) / np.linalg.norm(pictures[2])
    assert 0 < difference < 0.05


def test_comfyui_gets_folded_convolutions(model, tmp_path):
    path = quantize_model(model, tmp_path / "unet.gguf", "q4_0", for_comfyui=True)
    types = ggml_types(path)
    convolution = "input_blocks.1.0.in_layers.2.weight"
    assert types[convolution] == "q4_0"
    now = checkpoint.open(path).component("unet").tensors
    key = "down_blocks.0.resnets.0.conv1.weight"
    want = checkpoint.open(model).component("unet").tensors[key].to_float()
    folded = dequantize(quantize(want.reshape(-1, 256), "q4_0")).reshape(want.shape)
    np.testing.assert_array_equal(now[key].to_float(), folded)


def test_convolutions_of_a_whole_model(model, tmp_path):
    """Folded where that makes blocks of them, and their file draws what the plain one draws."""
    plain = quantize_model(model, tmp_path / "plain.gguf", "q8_0")
    path = quantize_model(model, tmp_path / "small.gguf", "q8_0", convolutions=True)
    assert path.stat().st_size < 0.85 * plain.stat().st_size
    types = ggml_types(path)
    assert types[f"{UNET}input_blocks.1.0.in_layers.2.weight"] == "q8_0"
    assert types[f"{UNET}input_blocks.0.0.weight"] == "f16"
    assert not [name for name in types if name.startswith("first_stage") and types[name] == "q8_0"]
    tokenizer = tiny_models.write_tokenizer(tmp_path / "tokenizer")
    arguments = {"num_inference_steps": 2, "seed": 1, "output_type": "latent"}
    pipes = [sdcore.DiffusionPipeline.open(file, tokenizer=tokenizer) for file in (plain, path)]
    weight = "down_blocks.0.resnets.0.conv1.weight"
    stored = pipes[1].unet.network.tensors[weight]
    assert stored.type == "q8_0"
    want = checkpoint.open(model).component("unet").tensors[weight].to_float()
    rounded = dequantize(quantize(want.reshape(-1, 256), "q8_0")).reshape(want.shape)
    np.testing.assert_array_equal(stored.to_float().reshape(want.shape), rounded)
    pictures = [pipe("a cat", **arguments).images for pipe in pipes]
    assert np.linalg.norm(pictures[1] - pictures[0]) < 0.05 * np.linalg.norm(pictures[0])

    sdcore.convert(path, tmp_path / "copy.gguf")  # what is folded stays so
    name = f"{UNET}input_blocks.1.0.in_layers.2.weight"
    before, after = (checkpoint.open(file) for file in (path, tmp_path / "copy.gguf"))
    assert ggml_types(after.path)[name] == "q8_0"
    np.testing.assert_array_equal(before.tensors[name].to_float(), after.tensors[name].to_float())
    smaller = quantize_model(path, tmp_path / "smaller.gguf", "q4_0")
    assert ggml_types(smaller)[name] == "q4_0"
    sdcore.convert(path, tmp_path / "floats.safetensors")
    floats = checkpoint.open(tmp_path / "floats.safetensors").tensors[name]
    assert floats.type == "f16" and floats.shape == want.shape

    exported = tmp_path / "exported.gguf"
    pipes[1].export(exported, steps=[2])
    graphs = sdcore._core.load_model(exported)[0]
    again = graphs["unet"][1][weight]
    assert again.type == "q8_0"
    np.testing.assert_array_equal(again.data, stored.data)


def test_refusals(model, tmp_path):
    there = tmp_path / "there.gguf"
    there.write_bytes(b"mine")
    for target, type, rules, error, message in (
        ("a.gguf", "q9_9", [], InvalidArgumentError, "no type 'q9_9'"),
        ("a.gguf", "i32", [], InvalidArgumentError, "no type 'i32'"),
        ("a.gguf", "q8_0", [("(", "q8_0")], InvalidArgumentError, r"'\(' is not a regular"),
        ("a.gguf", "q8_0", [("a", "q7")], InvalidArgumentError, "no type 'q7'"),
        ("a.safetensors", "q8_0", [], InvalidArgumentError, r"\.gguf files, got 'a.safe"),
        ("there.gguf", "q8_0", [], FileError, "exists already"),
        ("nowhere/a.gguf", "q8_0", [], FileError, "no folder"),
    ):
        with pytest.raises(error, match=message):
            quantize_model(model, tmp_path / target, type, tensor_types=rules)
    assert there.read_bytes() == b"mine"

    def interrupted(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(model, there, "q8_0", overwrite=True, progress=interrupted)
    assert there.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.gguf"]


# ---- importance ----------------------------------------------------------------------------------


def test_importance_files_that_are_none(model, tmp_path):
    path = tmp_path / "m.gguf"
    sdcore.gguf.write(path, {"general.type": "model"}, {})
    with pytest.raises(CheckpointError, match="not an importance matrix"):
        read_imatrix(path)
    for sums, counts in (
        ([-1.0], [1.0]),
        ([np.nan], [1.0]),
        ([1.0], [np.inf]),
        ([1.0], [1.0, 2.0]),
    ):
        tensors = {"a.in_sum2": np.float32([sums]), "a.counts": np.float32([counts])}
        sdcore.gguf.write(path, {"general.type": "imatrix"}, tensors)
        with pytest.raises(CheckpointError, match="'a' has"):
            read_imatrix(path)
    other = ImportanceMatrix()
    other.add("another.weight", np.ones(3), 1)
    with pytest.raises(CheckpointError, match="knows no tensor of"):
        quantize_model(
            model, tmp_path / "a.gguf", "q4_K", tensor_types=[("to_q", "iq4_nl")], importance=other
        )


def test_importance_reaches_the_quantizer(model, tmp_path):
    values = checkpoint.open(model).tensors[TO_Q].to_float()
    squares = np.random.default_rng(0).random(values.shape[1]) ** 4
    matrix = ImportanceMatrix()
    matrix.add(TO_Q, squares, 1)
    rules = [("to_q", "iq4_nl")]
    path = quantize_model(model, tmp_path / "a.gguf", "q8_0", tensor_types=rules, importance=matrix)
    weights = matrix.weights(TO_Q, values.shape[1])
    got = checkpoint.open(path).tensors[TO_Q]
    np.testing.assert_array_equal(got.data, quantize(values, "iq4_nl", weights).data)
    assert not np.array_equal(got.data, quantize(values, "iq4_nl").data)


def test_commands(model, tmp_path, capsys):
    small, matrix = tmp_path / "small.gguf", tmp_path / "matrix.gguf"
    known = ImportanceMatrix()
    known.add(TO_Q, np.ones(checkpoint.open(model).tensors[TO_Q].shape[1]), 1)
    write_imatrix(matrix, known)
    line = ["quantize", str(model), str(small), "--type", "q4_K", "--imatrix", str(matrix)]
    assert cli.main([*line, "--tensor-type", "to_q=iq4_nl"]) == 0
    assert ggml_types(small)[TO_Q] == "iq4_nl"
    assert capsys.readouterr().out.splitlines() == [str(small)]
    assert cli.main([*line]) == 1
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*line, "--tensor-type", "to_q"])
    assert "must be PATTERN=TYPE, got 'to_q'" in capsys.readouterr().err
    assert cli.main([*line[:5], "-f", "--convolutions"]) == 0
    assert ggml_types(small)[f"{UNET}input_blocks.1.0.in_layers.2.weight"] == "q4_k"


def test_a_matrix_collected_by_the_command_is_what_quantize_takes(folder, tmp_path, capsys):
    """Under the names of the file to be, each prompt run once, several runs added up."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\n\n")
    one, other, both, small = (tmp_path / f"{name}.gguf" for name in ("a", "b", "c", "small"))
    size = ["-W", "16", "-H", "16", "--steps", "2", "--dtype", "f32"]
    line = ["imatrix", "-m", str(folder), *size, "-o"]
    assert cli.main([*line, str(one), "a cat", "--prompts", str(prompts)]) == 0
    assert cli.main([*line, str(other), "a cat"]) == 0
    assert cli.main([*line, str(both), "a dog", "-s", "1", "--in-file", str(other)]) == 0
    a, b = read_imatrix(one), read_imatrix(both)
    assert a.prompts == ["a cat", "a dog"] and b.prompts == a.prompts
    assert a.counts == b.counts
    for name, sums in a.sums.items():
        np.testing.assert_allclose(sums, b.sums[name], rtol=1e-6)
    written = checkpoint.open(quantize_model(folder, small, "q8_0")).tensors
    assert set(a.sums) <= set(written) and TO_Q in a.sums
    assert any(name.startswith("cond_stage_model.") for name in a.sums)
    quantized = ["quantize", str(folder), str(small), "-f", "--type", "q4_K", "--imatrix"]
    assert cli.main([*quantized, str(both), "--tensor-type", "to_q=iq4_nl"]) == 0
    values = checkpoint.open(folder).component("unet").tensors[DIFFUSERS_TO_Q].to_float()
    weights = b.weights(TO_Q, values.shape[1])
    want = quantize(values, "iq4_nl", weights).data
    np.testing.assert_array_equal(checkpoint.open(small).tensors[TO_Q].data, want)
    assert not np.array_equal(want, quantize(values, "iq4_nl").data)
    capsys.readouterr()
    merge = ["imatrix", "-o", str(tmp_path / "d.gguf"), "--in-file", str(one), "--in-file"]
    assert cli.main([*merge, str(other)]) == 0
    c = read_imatrix(tmp_path / "d.gguf")
    assert c.counts[TO_Q] == a.counts[TO_Q] + a.counts[TO_Q] // 2
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "d.gguf")]


def test_matrices_of_different_models_are_not_added(tmp_path, capsys):
    for name, width in (("a", 3), ("b", 4)):
        matrix = ImportanceMatrix()
        matrix.add("x.weight", np.ones(width), 1)
        write_imatrix(tmp_path / f"{name}.gguf", matrix)
    out = str(tmp_path / "c.gguf")
    files = ["--in-file", str(tmp_path / "a.gguf"), "--in-file", str(tmp_path / "b.gguf")]
    assert cli.main(["imatrix", "-o", out, *files]) in REFUSED
    assert "'x.weight' has 4 inputs in one importance matrix and 3" in capsys.readouterr().err
    for words, message in (
        (["-o", out], "nothing to do"),
        (["-o", out, "a cat"], "no model given"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["imatrix", *words])
        assert message in capsys.readouterr().err
    for words, message in (
        (["-o", files[1], *files], "exists already: -f replaces it"),
        (["-o", out + ".dat", *files], "are .gguf files, got 'c.gguf.dat'"),
        (["-o", str(tmp_path / "no" / "c.gguf"), *files], "there is no folder"),
        (["-o", out, "-m", "x", "--prompts", str(tmp_path / "none")], "No such file"),
    ):
        assert cli.main(["imatrix", *words]) in REFUSED
        assert message in capsys.readouterr().err
    assert not (tmp_path / "c.gguf").exists()
