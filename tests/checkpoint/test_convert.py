"""Any kind of file into any other: the same tensors, bit for bit, and others open the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import gguf
import numpy as np
import pytest
import safetensors
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer as TheirTokenizer

import sdcore
import tiny_models
from sdcore import (
    CheckpointError,
    FileError,
    InvalidArgumentError,
    UnsupportedModelError,
    checkpoint,
    cli,
    convert,
)
from sdcore.tokenizer import CLIPTokenizer
from tiny_models import ODD, PLAIN

F16 = torch.float16


def bits(tensor):
    return tuple(tensor.shape), tensor.type, bytes(np.ascontiguousarray(tensor.data))


def stored(path):
    """Every tensor of every part, as it is stored."""
    return {
        (name, key): bits(tensor)
        for name, part in checkpoint.open(path).components.items()
        for key, tensor in part.tensors.items()
    }


def raw(path):
    return {name: bits(tensor) for name, tensor in checkpoint.open(path).tensors.items()}


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def same_networks(one, other):
    for name in ("unet", "vae", "text_encoder"):
        theirs, ours = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs), name


# ---- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [PLAIN, ODD], ids=lambda spec: spec.name)
@pytest.mark.parametrize("dtype", [F16, torch.bfloat16, torch.float32], ids=str)
def test_round_trip(tmp_path, spec, dtype):
    """Folder, single file, GGUF, PyTorch's, and a folder again."""
    folder = tiny_models.save_folder(spec, tmp_path / "folder", dtype=dtype)
    want = stored(folder)
    path = folder
    for name in ("a.safetensors", "b.gguf", "c.ckpt", "d"):
        path = convert(path, tmp_path / name)
        opened = checkpoint.open_model(path)
        assert opened.kind.family == "sd1" and stored(path) == want, name
        assert opened.component("unet").config["norm_num_groups"] == spec.groups
        assert opened.scheduler_config["_class_name"] == "PNDMScheduler"
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        config = json.loads((folder / name / file).read_text())
        config.pop("_name_or_path", None)
        assert json.loads((path / name / file).read_text()).items() >= config.items()
    assert set(listing(path)) == set(listing(folder))
    assert [n for n in listing(tmp_path) if n.startswith(".")] == []


def test_others_open_what_comes_out(tmp_path):
    """diffusers and transformers read the folder and the single file, and draw the same."""
    folder = tiny_models.save_folder(PLAIN, tmp_path / "folder")
    single = convert(folder, tmp_path / "a.safetensors")
    back = convert(convert(single, tmp_path / "b.ckpt"), tmp_path / "back")
    theirs = StableDiffusionPipeline.from_pretrained(folder)
    ours = StableDiffusionPipeline.from_pretrained(back)
    same_networks(theirs, ours)
    for name in ("a.safetensors", "b.ckpt"):
        opened = StableDiffusionPipeline.from_single_file(
            str(tmp_path / name), config=str(folder), local_files_only=True
        )
        same_networks(theirs, opened)

    def draw(pipe):
        pipe.set_progress_bar_config(disable=True)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return pipe("a cat", latents=noise, num_inference_steps=2, output_type="latent").images

    assert torch.equal(draw(theirs), draw(ours))


def test_what_is_written_is_what_their_converter_would_write(tmp_path):
    """The original layout, made by walking diffusers' modules, name for name and bit for bit."""
    folder = tiny_models.save_folder(ODD, tmp_path / "folder")
    convert(folder, tmp_path / "a.safetensors")
    want = tiny_models.original_state(ODD)
    got = load_file(tmp_path / "a.safetensors")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize("options", [{"shard_size": "200KB"}, {"variant": "fp16"}], ids=str)
def test_shards_and_variants(tmp_path, options):
    folder = tiny_models.save_folder(PLAIN, tmp_path / "folder", **options)
    convert(folder, tmp_path / "a.safetensors", variant=options.get("variant"))
    assert stored(tmp_path / "a.safetensors") == stored(folder)


def test_a_vocabulary_of_its_own_travels(tmp_path):
    folder = tiny_models.save_folder(PLAIN, tmp_path / "folder")
    path = folder
    for name in ("a.safetensors", "b.gguf", "c.pt", "d"):
        path = convert(path, tmp_path / name)
        if path.is_file():
            metadata = checkpoint.open(path).metadata
            tokenizer = CLIPTokenizer.from_gguf_metadata(metadata)
            assert tokenizer.tokens == list(tiny_models.vocabulary())
    prompt = "the cat, a dog of circles"
    want = TheirTokenizer.from_pretrained(folder / "tokenizer")(prompt).input_ids
    assert TheirTokenizer.from_pretrained(path / "tokenizer")(prompt).input_ids == want


def test_clips_vocabulary_is_written_into_folders_alone(tmp_path):
    tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    assert not [k for k in checkpoint.open(tmp_path / "b.gguf").metadata if "tokenizer" in k]
    convert(tmp_path / "b.gguf", tmp_path / "c")
    theirs = TheirTokenizer.from_pretrained(tmp_path / "c" / "tokenizer")
    prompt = "A photo of an astronaut's horse; 12 émigrés"
    assert theirs(prompt).input_ids == [49406, *CLIPTokenizer.default().encode(prompt), 49407]
    assert theirs.pad_token_id == 49407 and theirs.model_max_length == 77


# ---- between files -------------------------------------------------------------------------------


def test_files_keep_their_names_and_leftovers(tmp_path):
    extras = tiny_models.leftovers(PLAIN)
    tiny_models.save_original(PLAIN, tmp_path / "a.safetensors", extras=extras)
    want = raw(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt")
    convert(tmp_path / "b.ckpt", tmp_path / "c.gguf")
    convert(tmp_path / "c.gguf", tmp_path / "d.safetensors")
    for name in ("b.ckpt", "c.gguf", "d.safetensors"):
        assert raw(tmp_path / name) == want


def test_what_is_no_model_is_converted_too(tmp_path):
    lora = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {
        f"{lora}.lora_down.weight": torch.randn(4, 768, dtype=torch.bfloat16),
        f"{lora}.alpha": torch.tensor(4.0),
        "flag": torch.tensor([True, False]),
    }
    metadata = {"ss_network_dim": "4", "modelspec.title": "é, a title"}
    save_file(state, tmp_path / "a.safetensors", metadata)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    got = torch.load(tmp_path / "b.pt", weights_only=True)
    assert got.items() >= metadata.items()
    assert all(torch.equal(got["state_dict"][key], state[key]) for key in state)
    convert(tmp_path / "b.pt", tmp_path / "c.gguf")
    assert checkpoint.open(tmp_path / "c.gguf").metadata.items() >= metadata.items()
    convert(tmp_path / "c.gguf", tmp_path / "d.safetensors")
    with safetensors.safe_open(tmp_path / "d.safetensors", "pt") as file:
        assert file.metadata().items() >= (metadata | {"format": "pt"}).items()
    back = load_file(tmp_path / "d.safetensors")
    assert all(torch.equal(back[key].to(state[key].dtype), state[key]) for key in state)
    assert back["flag"].dtype == torch.int8  # the nearest that GGUF has
    with pytest.raises(
        UnsupportedModelError, match=r"a LoRA .* cannot write as a diffusers folder"
    ):
        convert(tmp_path / "a.safetensors", tmp_path / "folder")


def test_metadata_of_gguf_keeps_its_types(tmp_path):
    typed = sdcore.gguf.Typed
    metadata = {"a": typed(3, "u8"), "b": typed([1, 2], "i64"), "general.alignment": 64, "c": 0.5}
    sdcore.gguf.write(tmp_path / "a.gguf", metadata, {"x": np.zeros((2, 2), np.float32)})
    convert(tmp_path / "a.gguf", tmp_path / "b.gguf")
    got = sdcore.gguf.open(tmp_path / "b.gguf").typed_metadata
    assert got["a"] == metadata["a"] and got["b"] == metadata["b"] and got["c"] == typed(0.5, "f32")
    assert "general.alignment" not in got


def test_a_model_of_torch(tmp_path):
    """Nested as Lightning nests, tied, transposed and half of it in another type."""
    state = tiny_models.original_state(PLAIN)
    key = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    state[key] = state[key].to(torch.bfloat16).T.contiguous().T
    torch.save({"state_dict": state, "epoch": 3, "global_step": 470000}, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors")
    got = load_file(tmp_path / "b.safetensors")
    assert got.keys() == state.keys() and all(torch.equal(got[k], state[k]) for k in state)
    with safetensors.safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "epoch": "3", "global_step": "470000"}


# ---- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["b.safetensors", "b.gguf", "b.ckpt", "b"])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_dtype(tmp_path, dtype, target):
    extras = {
        "alphas_cumprod": torch.linspace(1, 0, 1000, dtype=torch.float64),
        "model_ema.num_updates": torch.tensor(3, dtype=torch.int32),
    }
    tiny_models.save_original(PLAIN, tmp_path / "a.safetensors", extras=extras)
    convert(tmp_path / "a.safetensors", tmp_path / target, dtype=dtype)
    want = {
        key: value.to(getattr(torch, {"f16": "float16", "bf16": "bfloat16"}.get(dtype, "float32")))
        for key, value in tiny_models.original_state(PLAIN).items()
    }
    opened = checkpoint.open_model(tmp_path / target)
    assert {row for part in opened.summary().parts for row in part.types} == {dtype}
    unet = opened.component("unet").tensors["conv_in.weight"].to_float()
    original = want["model.diffusion_model.input_blocks.0.0.weight"]
    assert np.array_equal(unet, original.float().numpy())
    if target == "b.safetensors":  # a schedule and counters are no weights
        assert raw(tmp_path / target)["alphas_cumprod"][1] == "f64"
        assert raw(tmp_path / target)["model_ema.num_updates"][1] == "i32"


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0"])
def test_quantized_weights_become_half(tmp_path, type):
    kind = tiny_models.QuantType[type]
    path = tiny_models.save_gguf(ODD, tmp_path / "a.gguf", kind)
    want = {k: t.to_float() for k, t in checkpoint.open(path).component("unet").tensors.items()}
    for target in ("b.safetensors", "c.ckpt", "d"):
        convert(path, tmp_path / target)
        got = checkpoint.open(tmp_path / target).component("unet").tensors
        for key, values in want.items():
            assert got[key].type == "f16"
            assert np.array_equal(got[key].to_float(), values.astype(np.float16))
    convert(path, tmp_path / "e.gguf")
    assert raw(tmp_path / "e.gguf") == raw(path)


def test_float8(tmp_path):
    path = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors", torch.float8_e4m3fn)
    convert(path, tmp_path / "b.pt")
    assert raw(tmp_path / "b.pt") == raw(path)
    convert(path, tmp_path / "c.gguf")  # which has no such type; f16 holds every value
    opened = checkpoint.open(tmp_path / "c.gguf")
    for key, tensor in checkpoint.open(path).tensors.items():
        assert opened.tensors[key].type == "f16"
        assert np.array_equal(opened.tensors[key].to_float(), tensor.to_float())


# ---- what the model says of itself ---------------------------------------------------------------


@pytest.mark.parametrize("target", ["b.safetensors", "b.gguf", "b.ckpt", "b"])
def test_facts(tmp_path, target):
    tiny_models.save_original(PLAIN, tmp_path / "a.safetensors", extras={"v_pred": torch.zeros(0)})
    source = tmp_path / "a.safetensors"
    assert checkpoint.open(source).scheduler_config["prediction_type"] == "v_prediction"
    convert(source, tmp_path / target, prediction_type="epsilon", image_size=128)
    opened = checkpoint.open_model(tmp_path / target)
    assert opened.scheduler_config["prediction_type"] == "epsilon"
    assert opened.component("unet").config["sample_size"] == 64  # the VAE halves once
    assert "v_pred" not in opened.tensors
    convert(tmp_path / target, tmp_path / "c", prediction_type="v_prediction")
    config = json.loads((tmp_path / "c" / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction"


def test_averaged_weights(tmp_path):
    extras = tiny_models.leftovers(PLAIN)
    for key, value in extras.items():
        if key.startswith("model_ema.diffusion"):
            extras[key] = value + 1
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors", extras=extras)
    convert(source, tmp_path / "b.safetensors", ema=True)
    got = load_file(tmp_path / "b.safetensors")
    for key, value in tiny_models.original_state(PLAIN).items():
        is_unet = key.startswith("model.diffusion_model.")
        assert torch.equal(got[key], value + 1 if is_unet else value), key
    assert not [key for key in got if key.startswith("model_ema")]
    convert(source, tmp_path / "c", ema=True)
    assert stored(tmp_path / "c") == stored(tmp_path / "b.safetensors")
    convert(source, tmp_path / "d")
    assert stored(tmp_path / "d") == stored(source)
    with pytest.raises(CheckpointError, match=r"no averaged weights \(named model_ema"):
        convert(tmp_path / "b.safetensors", tmp_path / "e.gguf", ema=True)
    del extras["model_ema.diffusion_modelout2bias"]
    tiny_models.save_original(PLAIN, source, extras=extras)
    with pytest.raises(CheckpointError, match=r"no averages of 1 tensors.*out\.2\.bias"):
        convert(source, tmp_path / "e.gguf", ema=True)
    assert not (tmp_path / "e.gguf").exists()


# ---- GGUF of others ------------------------------------------------------------------------------


def test_gguf_for_comfyui(tmp_path):
    folder = tiny_models.save_folder(ODD, tmp_path / "folder", dtype=F16)
    convert(folder, tmp_path / "b.gguf", for_comfyui=True)
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "sd1" and fields["general.file_type"] == 1
    assert fields["general.quantization_version"] == 2
    want = tiny_models.original_unet(tiny_models.unet(ODD))
    assert {tensor.name for tensor in reader.tensors} == want.keys()
    folded = 0
    for tensor in reader.tensors:
        values = want[tensor.name].to(F16).numpy()
        shape = tuple(int(n) for n in reversed(tensor.shape))
        key = f"comfy.gguf.orig_shape.{tensor.name}"
        eligible = values.ndim > 1 and values.size >= 512 and values.size % 256 == 0
        if eligible and values.shape[-1] % 256:
            assert tuple(fields[key]) == values.shape and shape == (values.size // 256, 256)
            folded += 1
        else:
            assert key not in fields and shape == values.shape
        assert np.array_equal(tensor.data.reshape(values.shape), values)
    assert folded > 20
    convert(tmp_path / "b.gguf", tmp_path / "c.safetensors")
    got = load_file(tmp_path / "c.safetensors")
    assert all(torch.equal(got[key], value.to(F16)) for key, value in want.items())
    with pytest.raises(InvalidArgumentError, match=r"reads \.gguf, not pickle"):
        convert(folder, tmp_path / "b.pt", for_comfyui=True)
    with pytest.raises(UnsupportedModelError, match=r"a VAE alone, .*which has no denoiser"):
        convert(folder / "vae", tmp_path / "v.gguf", for_comfyui=True)


def test_gguf_of_a_whole_model(tmp_path):
    """Original names, as stable-diffusion.cpp reads them, and the keys that all readers ask for."""
    folder = tiny_models.save_folder(PLAIN, tmp_path / "folder", dtype=F16)
    convert(folder, tmp_path / "b.gguf")
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    want = tiny_models.original_state(PLAIN)
    assert {tensor.name for tensor in reader.tensors} == want.keys()
    for tensor in reader.tensors:
        values = want[tensor.name].to(F16).numpy()
        assert np.array_equal(tensor.data, values)
    assert reader.fields["general.architecture"].contents() == "sd1"
    assert reader.fields["general.file_type"].contents() == 1


# ---- parts ---------------------------------------------------------------------------------------


def test_a_vae_alone(tmp_path):
    folder = tiny_models.save_folder(PLAIN, tmp_path / "folder")
    convert(folder / "vae", tmp_path / "a.vae.pt")
    got = torch.load(tmp_path / "a.vae.pt", weights_only=True)
    want = tiny_models.original_vae(tiny_models.vae(PLAIN))
    got = got.get("state_dict", got)
    assert got.keys() == want.keys() and all(torch.equal(got[key], want[key]) for key in want)
    convert(tmp_path / "a.vae.pt", tmp_path / "back")
    theirs = AutoencoderKL.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(theirs[k], v) for k, v in tiny_models.vae(PLAIN).state_dict().items())


def test_other_components_of_a_folder_are_kept(tmp_path):
    folder = tiny_models.save_folder(PLAIN, tmp_path / "folder")
    index = json.loads((folder / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    convert(folder, tmp_path / "half", dtype="f16")
    assert (
        tmp_path / "half" / "feature_extractor" / "preprocessor_config.json"
    ).read_text() == "{}"
    assert json.loads((tmp_path / "half" / "model_index.json").read_text()) == index


# ---- refusals ------------------------------------------------------------------------------------


def test_what_is_refused(tmp_path):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    before = listing(tmp_path)
    (tmp_path / "there.gguf").write_bytes(b"old")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("dear")
    cases = [
        (FileError, r"there\.gguf' exists already: -f", {"target": "there.gguf"}),
        (FileError, "there is no folder '.*no'", {"target": "no/x.gguf"}),
        (FileError, r"other things than a model", {"target": "full", "overwrite": True}),
        (InvalidArgumentError, r"unknown ending '\.zip'", {"target": "x.zip"}),
        (InvalidArgumentError, "format must be one of", {"target": "x", "format": "onnx"}),
        (
            InvalidArgumentError,
            "dtype must be one of f32, f16, bf16, got 'q4_0'",
            {"dtype": "q4_0"},
        ),
        (InvalidArgumentError, "prediction_type must be", {"prediction_type": "noise"}),
        (InvalidArgumentError, "image_size must be a multiple of 2, got 7", {"image_size": 7}),
    ]
    for error, message, options in cases:
        options = {"target": "x.gguf"} | options
        with pytest.raises(error, match=message):
            convert(source, tmp_path / options.pop("target"), **options)
    assert (tmp_path / "there.gguf").read_bytes() == b"old"
    assert (full / "thesis.tex").read_text() == "dear"
    assert listing(tmp_path) == sorted([*before, "there.gguf", "full"])
    with pytest.raises(FileError, match="no such file"):
        convert(tmp_path / "nothing", tmp_path / "x.gguf")
    folder = convert(source, tmp_path / "folder")
    with pytest.raises(FileError, match="holds what is to be converted"):
        convert(folder / "unet", folder, overwrite=True)
    with pytest.raises(FileError, match="exists already"):
        convert(source, folder)


def test_what_a_model_is_best_drawn_with_goes_through_a_folder(tmp_path):
    own = {"sdcore.default.steps": "4", "sdcore.default.guidance_scale": "1.5"}
    source = tmp_path / "model.safetensors"
    tiny_models.save_original(PLAIN, source, metadata=own)
    folder = convert(source, tmp_path / "folder")
    tiny_models.write_tokenizer(folder / "tokenizer")
    for path in (folder, convert(folder, tmp_path / "again.gguf")):
        assert own.items() <= checkpoint.open(path).metadata.items()
        pipe = sdcore.DiffusionPipeline.open(path, tokenizer=folder / "tokenizer")
        assert (pipe.default_steps, pipe.default_guidance) == (4, 1.5)
    StableDiffusionPipeline.from_pretrained(folder)  # which passes them over


@pytest.mark.parametrize("name", ["sd-v1.5", "sd-v1.5-pruned", "sd.fp16/", "sd.safetensors/"])
def test_folders_with_dots_in_their_names(tmp_path, name):
    source = tiny_models.save_original(PLAIN, tmp_path / "model.safetensors")
    path = convert(source, f"{tmp_path}/{name}")
    assert path == tmp_path / name and checkpoint.open(path).format == "diffusers"
    with pytest.raises(InvalidArgumentError, match=r"unknown ending '\.fp16'.* as '.*x\.fp16/'"):
        convert(source, tmp_path / "x.fp16")


def test_overwriting(tmp_path):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    want = stored(source)
    folder = convert(source, tmp_path / "folder")
    (folder / "old").write_text("x")
    convert(source, folder, overwrite=True)
    assert stored(folder) == want and "old" not in listing(folder)
    convert(source, source, overwrite=True, dtype="f16")
    assert checkpoint.open(source).component("unet").tensors["conv_in.weight"].type == "f16"


@pytest.mark.parametrize("target", ["b.safetensors", "b.gguf", "b.pt", "b"])
def test_a_damaged_source_leaves_nothing(tmp_path, target):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    data = source.read_bytes()
    source.write_bytes(data[:-100])
    with pytest.raises(CheckpointError):
        convert(source, tmp_path / target)
    assert listing(tmp_path) == ["a.safetensors"]


def test_a_full_disk(tmp_path, monkeypatch):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(FileError, match=r"is full: 0\.0 MB are free, .* are needed"):
        convert(source, tmp_path / "b.gguf")


def test_progress(tmp_path):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    for target in ("b.gguf", "b"):
        done, totals = [], []

        def note(count, total, done=done, totals=totals):
            done.append(count)
            totals.append(total)

        convert(source, tmp_path / target, progress=note)
        assert list(done) == sorted(done) and set(totals) == {done[-1]}


# ---- the command ---------------------------------------------------------------------------------


def test_command(tmp_path, capsys):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    target = str(tmp_path / "b.gguf")
    assert cli.main(["convert", str(source), target, "--half"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert {row for part in checkpoint.open(target).summary().parts for row in part.types} == {
        "f16"
    }
    assert cli.main(["convert", str(source), target]) == 1
    assert (
        capsys.readouterr().err == f"error: [convert] '{target}' exists already: -f "
        "(overwrite=True) replaces it\n"
    )
    assert cli.main(["convert", str(source), target, "-f", "--dtype", "bf16"]) == 0
    assert cli.main(["convert", str(source), target, "-f", "--comfyui"]) == 0
    assert checkpoint.open(target).metadata["general.architecture"] == "sd1"


MEMORY = """
import resource, sys
import sdcore

def limit():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = limit()
sdcore.convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None)
print(limit() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of half a gigabyte."""
    at = "model.diffusion_model.input_blocks.1.1.transformer_blocks"
    state = {k: v.to(F16).contiguous() for k, v in tiny_models.original_state(PLAIN).items()}
    weights = {
        f"{at}.{i}.attn1.to_k.weight": torch.zeros(4096, 4096, dtype=F16) for i in range(1, 17)
    }
    path = tmp_path_factory.mktemp("large") / "a.safetensors"
    save_file(state | weights, path)
    yield path
    path.unlink()


@pytest.mark.parametrize(
    "target, dtype", [("b.safetensors", ""), ("b.gguf", "f32"), ("b.ckpt", "bf16"), ("b", "")]
)
def test_memory_is_bounded(large, tmp_path, target, dtype):
    """In a fourth of the file; mapped pages count too."""
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(large), str(tmp_path / target), dtype],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    assert int(out.stdout) < large.stat().st_size / 4
