"""ControlNets in every form in which they are found: the same residuals, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

import sdcore
import tiny_models
import tiny_xl
from sdcore import CheckpointError, UnsupportedModelError, checkpoint, cli, convert
from tiny_control import controlnet, original_state, picture, union
from tiny_models import PLAIN


@pytest.fixture(scope="module")
def net() -> ControlNetModel:
    return controlnet(tiny_models.unet(PLAIN))


@pytest.fixture(scope="module")
def folder(net: ControlNetModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("control") / "folder"
    net.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> sdcore.DiffusionPipeline:
    model = tiny_models.save_folder(PLAIN, tmp_path_factory.mktemp("model") / "plain")
    return sdcore.DiffusionPipeline.open(model, dtype="f32")


def residuals(pipe: Any, path: Path) -> list[np.ndarray]:
    pipe.load_controlnet(path)
    (found,) = pipe.controlnet
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 4, 8, 6), np.float32)
    context = rng.standard_normal((1, 7, PLAIN.context), np.float32)
    down, mid = found(x, 500, context, rng.random((1, 3, 16, 12), np.float32))
    return [*down, mid]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value.detach().contiguous() for name, value in state.items()}


def _bare(net: ControlNetModel, path: Path) -> Path:
    save_file(_under("", original_state(net)), path / "bare.safetensors")
    return path / "bare.safetensors"


def _whole(net: ControlNetModel, path: Path) -> Path:
    """With Stable Diffusion beside it, whose blocks have the same names."""
    state = tiny_models.original_state(PLAIN) | tiny_models.leftovers(PLAIN)
    torch.save(
        {"state_dict": state | _under("control_model.", original_state(net))}, path / "x.pth"
    )
    return path / "x.pth"


def _diffusers_file(net: ControlNetModel, path: Path) -> Path:
    """Without its config, which follows from shapes and the model."""
    save_file(_under("", net.state_dict()), path / "x.safetensors")
    return path / "x.safetensors"


def _gguf(net: ControlNetModel, path: Path) -> Path:
    return convert(_bare(net, path), path / "x.gguf")


FORMS = {
    "lllyasviel's names": _bare,
    "a whole model with it": _whole,
    "diffusers' names in a file": _diffusers_file,
    "gguf": _gguf,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same(
    pipe: Any, net: ControlNetModel, folder: Path, tmp_path: Path, form: str
) -> None:
    path = FORMS[form](net, tmp_path)
    opened = checkpoint.open(path)
    assert opened.kind is not None and opened.kind.family == "controlnet"
    assert list(opened.components) == ["controlnet"]
    assert not opened.parts["controlnet"].unknown
    assert same(residuals(pipe, path), residuals(pipe, folder))


def test_differences_are_added_to_the_model(
    pipe: Any, net: ControlNetModel, folder: Path, tmp_path: Path
) -> None:
    """And what the model has nothing of is as it stands."""
    base = tiny_models.original_unet(tiny_models.unet(PLAIN))
    state = {
        name: value - base[name] if name in base else value
        for name, value in original_state(net).items()
    }
    assert sum(name in base for name in state) > 50
    state = _under("control_model.", state) | {"difference": torch.zeros(())}
    save_file(state, tmp_path / "x.safetensors")
    ours, want = residuals(pipe, tmp_path / "x.safetensors"), residuals(pipe, folder)
    assert all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(ours, want, strict=True))
    del state["difference"]
    save_file(state, tmp_path / "x.safetensors")
    ours = residuals(pipe, tmp_path / "x.safetensors")
    assert not any(np.allclose(a, b, atol=0.1) for a, b in zip(ours, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_control_lora_is_whole_with_the_model(
    pipe: Any, net: ControlNetModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Low ranks of matrices and convolutions; vectors as they are, but for one that is the
    model's."""
    base, own = tiny_models.original_unet(tiny_models.unet(PLAIN)), original_state(net)
    generator = torch.Generator().manual_seed(4)
    whole, file = dict(own), {"lora_controlnet": torch.zeros(())}
    for name, value in own.items():
        if name not in base or value.ndim == 1:
            file[name] = value.to(dtype)
            continue
        up = 0.05 * torch.randn(len(value), 4, *[1] * (value.ndim - 2), generator=generator)
        down = torch.randn(4, *value.shape[1:], generator=generator)
        module = name.removesuffix(".weight")
        file |= {f"{module}.up": up.to(dtype), f"{module}.down": down.to(dtype)}
        whole[name] = base[name] + (up.flatten(1) @ down.flatten(1)).reshape(value.shape)
    bias = "input_blocks.1.0.in_layers.0.bias"
    del file[bias]
    whole[bias] = base[bias]
    save_file(_under("", file), tmp_path / "lora.safetensors")
    save_file(_under("", whole), tmp_path / "whole.safetensors")
    ours = residuals(pipe, tmp_path / "lora.safetensors")
    want = residuals(pipe, tmp_path / "whole.safetensors")
    allowed = 1e-5 if dtype == torch.float32 else 5e-3
    for a, b in zip(ours, want, strict=True):
        assert np.linalg.norm(a - b) <= allowed * np.linalg.norm(b)
    with pytest.raises(UnsupportedModelError, match="cannot write as a diffusers folder"):
        convert(tmp_path / "lora.safetensors", tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "pools"), [("x_shuffle", True), ("x_shuffle_fp16", True), ("shuffled_x", False)]
)
def test_means_are_in_a_file_s_name_alone(
    pipe: Any, net: ControlNetModel, tmp_path: Path, name: str, pools: bool
) -> None:
    path = _bare(net, tmp_path).rename(tmp_path / f"{name}.safetensors")
    assert (residuals(pipe, path)[0].shape[2:] == (1, 1)) == pools
    config = json.loads((convert(path, tmp_path / "folder") / "config.json").read_text())
    assert config["global_pool_conditions"] == pools


@pytest.mark.parametrize("target", ["a.safetensors", "a.gguf", "a.pth"])
def test_there_and_back(net: ControlNetModel, folder: Path, tmp_path: Path, target: str) -> None:
    file = convert(folder, tmp_path / target)
    names = {f"control_model.{name}" for name in original_state(net)}
    assert checkpoint.open(file).tensors.keys() == names
    back = convert(file, tmp_path / "back")
    state = ControlNetModel.from_pretrained(back).state_dict()
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, back)]
    assert configs[0] == configs[1]


def test_out_of_a_file_with_a_model(net: ControlNetModel, tmp_path: Path) -> None:
    path = tmp_path / "alone.safetensors"
    whole = str(_whole(net, tmp_path))
    assert cli.main(["convert", whole, str(path), "--part", "controlnet", "--quiet"]) == 0
    state = load_file(path)
    want = _under("control_model.", original_state(net))
    assert state.keys() == want.keys()
    assert all(torch.equal(state[name], value) for name, value in want.items())


def test_quantized(pipe: Any, folder: Path, tmp_path: Path) -> None:
    """As a file, and while it is opened: linear layers, and nothing of what it adds."""
    from sdcore.checkpoint.quantization import quantize_model

    want = residuals(pipe, folder)
    quantize_model(folder, tmp_path / "q8.gguf", "q8_0")
    model = tiny_models.save_folder(PLAIN, tmp_path / "plain")
    small = sdcore.DiffusionPipeline.open(model, dtype="f32", controlnet=folder, quantize="q8_0")
    for found, path in ((pipe, tmp_path / "q8.gguf"), (small, folder)):
        out = residuals(found, path)
        types = {name: t.type for name, t in found.controlnet[0].network.tensors.items()}
        blocks = "down_blocks.0.attentions.0.transformer_blocks.0"
        assert types[f"{blocks}.ff.net.2.weight"] == "q8_0"
        assert types["controlnet_down_blocks.0.weight"] in ("f32", "f16")
        errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(out, want, strict=True)]
        assert 0 < max(errors) < 0.02


OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "FLUX": (
        {"controlnet_blocks.0.weight": (8, 8), "controlnet_x_embedder.weight": (8, 8)},
        r"a ControlNet for FLUX, .* a kind that sdcore does not run",
    ),
    "SD 3": (
        {"controlnet_blocks.0.weight": (8, 8), "pos_embed_input.proj.weight": (8, 16, 2, 2)},
        r"a ControlNet for Stable Diffusion 3, which does not go with Stable Diffusion 1",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_refused_by_name(pipe: Any, tmp_path: Path, name: str) -> None:
    sizes, message = OTHERS[name]
    save_file({k: torch.zeros(size) for k, size in sizes.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedModelError, match=message):
        pipe.load_controlnet(tmp_path / "x.safetensors")


def test_a_union_in_every_form(tmp_path: Path) -> None:
    """Which has diffusers' names alone, and in a file no prefix."""
    module = union(tiny_xl.base_unet())
    module.save_pretrained(tmp_path / "folder")
    tiny_xl.xl(tmp_path / "tokenizers").save_pretrained(tmp_path / "model")
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    paths = [
        tmp_path / "folder",
        _diffusers_file(module, tmp_path),
        convert(tmp_path / "folder", tmp_path / "y.safetensors"),
        convert(tmp_path / "x.safetensors", tmp_path / "z.gguf"),
    ]
    features = []
    for path in paths:
        opened = checkpoint.open(path)
        assert opened.kind is not None and "(union)" in opened.title
        pipe.load_controlnet(path)
        assert pipe.controlnet[0].config.num_control_type == 6
        features.append(pipe.controlnet[0].embed(np.ones((1, 3, 16, 8), np.float32), 2))
    assert all(np.array_equal(found, features[0]) for found in features[1:])
    assert not np.array_equal(pipe.controlnet[0].embed(np.ones((1, 3, 16, 8)), 3), features[0])
    assert checkpoint.open(paths[2]).tensors.keys() == module.state_dict().keys()
    back = type(module).from_pretrained(convert(paths[2], tmp_path / "back")).state_dict()
    assert all(torch.equal(back[name], value) for name, value in module.state_dict().items())


def test_what_is_no_controlnet_or_a_damaged_one(
    pipe: Any, net: ControlNetModel, tmp_path: Path
) -> None:
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(4, 4)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a LoRA, .*and no ControlNet"):
        pipe.load_controlnet(tmp_path / "lora.safetensors")
    state = _under("control_model.", original_state(net))
    del state["control_model.zero_convs.1.0.bias"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensor missing: control_model.zero_convs.1.0.b"):
        pipe.load_controlnet(tmp_path / "x.safetensors")
    with pytest.raises(sdcore.FileError, match="no such file or folder"):
        pipe.load_controlnet(tmp_path / "nowhere")


def test_models_that_have_none(tmp_path: Path, folder: Path) -> None:
    import tiny_transformers

    tiny_transformers.pixart_pipeline(tmp_path, False)
    message = r"ControlNets are for .*, and this is PixArt"
    with pytest.raises(UnsupportedModelError, match=message):
        sdcore.DiffusionPipeline.open(tmp_path, controlnet=folder)
    pipe = sdcore.DiffusionPipeline.open(tmp_path)
    for load in (pipe.load_controlnet, pipe.load_ip_adapter, pipe.load_photomaker_adapter):
        with pytest.raises(UnsupportedModelError, match=r"(is|are) for .*, and this is PixArt"):
            load(folder)


def test_a_file_in_half_precision_draws(pipe: Any, net: ControlNetModel, tmp_path: Path) -> None:
    state = {k: v.half() for k, v in _under("control_model.", original_state(net)).items()}
    save_file(state, tmp_path / "x.safetensors")
    pipe.load_controlnet(tmp_path / "x.safetensors")
    out = pipe("a cat", control_image=picture(), num_inference_steps=2, seed=1)
    assert out.images[0].size == (30, 40)
