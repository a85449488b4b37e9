"""Round trips of the families after SD 1, in their real topology."""

from __future__ import annotations

import json

import diffusers
import gguf
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from safetensors.torch import load_file, save_file

import tiny_families
import tiny_xl
from sdcore import checkpoint, convert
from tiny_families import FAMILIES, Tower, sd2

F16 = torch.float16


def stored(path):
    return {
        (name, key): (tuple(tensor.shape), tensor.type, bytes(np.ascontiguousarray(tensor.data)))
        for name, part in checkpoint.open(path).components.items()
        for key, tensor in part.tensors.items()
    }


@pytest.fixture(params=FAMILIES, ids=lambda spec: spec.family)
def spec(request):
    return request.param


def test_round_trip(tmp_path, spec):
    """Folder, single file, GGUF, PyTorch's, and a folder again, which diffusers opens."""
    folder = tiny_families.save_folder(spec, tmp_path / "folder", F16)
    want = stored(folder)
    path = folder
    for name in ("a.safetensors", "b.gguf", "c.ckpt", "d"):
        path = convert(path, tmp_path / name)
        assert checkpoint.open(path).kind.family == spec.family, name
        assert stored(path) == want, name
    index = json.loads((folder / "model_index.json").read_text())
    again = json.loads((path / "model_index.json").read_text())
    ignored = {"_diffusers_version", "requires_safety_checker"}
    assert {k: v for k, v in index.items() if v != [None, None] and k not in ignored} == {
        k: v for k, v in again.items() if v != [None, None] and k not in ignored
    }
    theirs = getattr(diffusers, spec.pipeline).from_pretrained(folder, torch_dtype=F16)
    ours = getattr(diffusers, spec.pipeline).from_pretrained(path, torch_dtype=F16)
    for name in ("unet", "vae", *(tower[0] for tower in spec.towers)):
        a, b = getattr(theirs, name).state_dict(), getattr(ours, name).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_single_file(tmp_path, spec):
    """Name for name and bit for bit the original layout, which from_single_file opens."""
    folder = tiny_families.save_folder(spec, tmp_path / "folder")
    convert(folder, tmp_path / "a.safetensors")
    want = tiny_families.original_state(spec)
    got = load_file(tmp_path / "a.safetensors")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)
    pipe = getattr(diffusers, spec.pipeline)
    theirs = pipe.from_pretrained(folder)
    ours = pipe.from_single_file(
        str(tmp_path / "a.safetensors"), config=str(folder), local_files_only=True
    )
    for name in ("unet", "vae", *(tower[0] for tower in spec.towers)):
        a, b = getattr(theirs, name).state_dict(), getattr(ours, name).state_dict()
        assert [key for key in a if not torch.equal(a[key], b[key])] == [], name


def test_diffusers_opens_playground(tmp_path):
    """Which it, too, knows by the mean and the deviation of its latents. To ComfyUI-GGUF it is
    SDXL."""
    pipe = tiny_xl.playground(tmp_path / "tokenizers")
    pipe.save_pretrained(tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "a.safetensors")
    assert infer_diffusers_model_type(load_file(path)) == "playground-v2-5"
    alone = convert(tmp_path / "folder", tmp_path / "unet.gguf", for_comfyui=True)
    field = gguf.GGUFReader(alone).get_field("general.architecture")
    assert field.contents() == "sdxl"
    theirs = type(pipe).from_single_file(
        str(path), config=str(tmp_path / "folder"), local_files_only=True
    )
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        a, b = getattr(pipe, name).state_dict(), getattr(theirs, name).state_dict()
        assert [key for key in a if not torch.equal(a[key], b[key])] == [], name


def test_an_original_file_without_configs(tmp_path, spec):
    """Only what shapes say: the tensors come out the same, and the classes are right."""
    state = {key: value.to(F16) for key, value in tiny_families.original_state(spec).items()}
    save_file(state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    folder = tiny_families.save_folder(spec, tmp_path / "folder", F16)
    assert stored(tmp_path / "b") == stored(folder)
    for name, tower, _ in spec.towers:
        config = json.loads((tmp_path / "b" / name / "config.json").read_text())
        want = json.loads((folder / name / "config.json").read_text())
        for key in (
            "architectures",
            "hidden_act",
            "hidden_size",
            "num_hidden_layers",
            "model_type",
        ):
            assert config[key] == want[key], (name, key)
        assert tower.width == config["projection_dim"]


def test_comfyui_ggufs_files(tmp_path, spec):
    """With the architecture by which that program lets a file in: SD 2 is SD 1 to it."""
    folder = tiny_families.save_folder(spec, tmp_path / "folder", F16)
    path = convert(folder, tmp_path / "unet.gguf", for_comfyui=True)
    reader = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture").contents()
    assert architecture == {"sd2": "sd1", "sdxl": "sdxl", "sdxl-refiner": "sdxl"}[spec.family]
    state = tiny_families.original_state(spec)
    prefix = "model.diffusion_model."
    want = {k.removeprefix(prefix): v.to(F16) for k, v in state.items() if k.startswith(prefix)}
    assert {tensor.name for tensor in reader.tensors} == want.keys()
    folded = [key for key in reader.fields if key.startswith("comfy.gguf.orig_shape.")]
    assert len(folded) > 10
    if spec.family != "sdxl":  # whose tiny UNet is not known by its shapes
        assert checkpoint.open(path).kind.family == spec.family
    unet, there = (checkpoint.open(p).component("unet").tensors for p in (path, folder))
    assert unet.keys() == there.keys()
    assert all(np.array_equal(unet[k].to_float(), there[k].to_float()) for k in there)


def test_sd2s_last_layer_is_left_out_of_a_folder(tmp_path):
    """ViT-H has 24 layers, of which SD 2.x runs 23; its projection is never used."""
    state = tiny_families.original_state(sd2(Tower(64, 24, True, True)))
    save_file(state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    names = load_file(tmp_path / "b" / "text_encoder" / "model.safetensors").keys()
    assert [name for name in names if ".layers.22." in name]
    assert not [name for name in names if ".layers.23." in name or "projection" in name]
    encoder = transformers.CLIPTextModel.from_pretrained(tmp_path / "b" / "text_encoder")
    assert encoder.config.num_hidden_layers == 23


@pytest.mark.parametrize("layers", [2, 24])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_sd2_under_transformers_names(tmp_path, prefix, layers):
    """diffusers' script writes them where transformers left out `text_model.`: OpenCLIP's text
    encoder all the same, whose gelu is exact and whose last layer is not run."""
    spec = sd2(Tower(1024, layers, True, False))
    state = tiny_families.original_state(spec)
    state = {k: v for k, v in state.items() if not k.startswith("cond_stage_model.")}
    for key, value in tiny_families.text_encoder(spec.towers[0][1]).state_dict().items():
        plain = key.removeprefix("text_model.")
        state[f"cond_stage_model.transformer.{prefix}{plain}"] = value.clone()
    save_file(state, tmp_path / "a.safetensors")
    config = checkpoint.open(tmp_path / "a.safetensors").component("text_encoder").config
    assert config["hidden_act"] == "gelu" and config["num_hidden_layers"] == min(layers, 23)
    assert config["architectures"] == ["CLIPTextModel"]


@pytest.mark.parametrize("kind", ["playground", "v", "v to no signal"])
def test_what_only_markers_say_to_others(tmp_path, kind):
    """A folder says it in configs; of a single file, other programs ask for tensors."""
    folder = tiny_families.save_folder(FAMILIES[1], tmp_path / "folder", F16)
    if kind == "playground":
        scales = {"latents_mean": [-1.5, 2.0, 0.25, 1.0], "latents_std": [8.5, 6.0, 6.5, 5.0]}
        change(folder / "vae" / "config.json", {"scaling_factor": 0.5} | scales)
        change(folder / "scheduler" / "scheduler_config.json", None)
        want = {"edm_mean": scales["latents_mean"], "edm_std": scales["latents_std"]}
    else:
        fields = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": kind != "v"}
        change(folder / "scheduler" / "scheduler_config.json", fields)
        want = {"v_pred": [1.0]} | ({} if kind == "v" else {"ztsnr": [1.0]})
    for name in ("a.safetensors", "a.gguf", "a.ckpt"):
        path = convert(folder, tmp_path / name)
        opened = checkpoint.open(path)
        marks = {key: opened.tensors[key].to_float().tolist() for key in want}
        assert marks == want
        assert ("v_pred" in opened.tensors) == ("ztsnr" in opened.tensors or kind == "v")
        assert stored(path) == stored(folder)
        again = convert(path, tmp_path / f"folder from {name}", format="diffusers")
        for part in ("vae/config.json", "scheduler/scheduler_config.json"):
            first = json.loads((folder / part).read_text())
            first.pop("_name_or_path", None)
            assert json.loads((again / part).read_text()).items() >= first.items()
        file = load_file(again / "unet" / "diffusion_pytorch_model.safetensors")
        assert not set(want) & set(file)


def change(path, fields):
    """Writes other values into a config; None makes it Playground's scheduler."""
    if fields is None:
        diffusers.EDMDPMSolverMultistepScheduler().save_pretrained(path.parent)
        return
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
