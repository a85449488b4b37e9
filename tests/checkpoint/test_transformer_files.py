"""Files of SD 3, PixArt and T5 in each naming: recognised, renamed and run as diffusers does."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

import tiny_transformers as tiny
from sdcore import CheckpointError, checkpoint
from sdcore.models.base import RunOptions
from sdcore.models.mmdit import SD3Transformer2DModel
from sdcore.models.pixart import PixArtTransformer2DModel
from sdcore.models.t5 import T5EncoderModel

F32 = RunOptions("f32")


def error(out: np.ndarray, ref: np.ndarray) -> float:
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


def same(component: checkpoint.Component, state: tiny.State, ignore: tuple[str, ...] = ()) -> None:
    """The component's tensors are the state's, each of them."""
    names = (
        {name for name in component.tensors if not name.startswith(ignore)}
        if ignore
        else set(component.tensors)
    )
    assert names == set(state)
    for name, tensor in state.items():
        found = component.tensors[name].to_float()
        np.testing.assert_array_equal(found.reshape(tensor.shape), tensor.numpy(), name)


def saved(state: tiny.State, path: Path, prefix: str = "") -> Path:
    save_file({prefix + name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def run_sd3(model: SD3Transformer2DModel, module: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 8, 12, generator=generator)
    context = torch.randn(2, 9, 192, generator=generator)
    pooled = torch.randn(2, 192, generator=generator)
    t = torch.tensor([700.0, 20.0])
    with torch.no_grad():
        ref = module(x, context, pooled, t).sample.numpy()
    return model(x.numpy(), t.numpy(), context.numpy(), pooled.numpy()), ref


@pytest.mark.parametrize("kind", ["3-medium", "3.5-large", "3.5-medium"])
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_original_sd3(kind: str, prefix: str, tmp_path: Path) -> None:
    module = tiny.sd3(kind)
    state = module.state_dict()
    original = tiny.original_sd3(state)
    by_diffusers = convert_sd3_transformer_checkpoint_to_diffusers(dict(original))
    assert set(by_diffusers) == set(state)
    assert all(torch.equal(by_diffusers[name], state[name]) for name in state)
    opened = checkpoint.open(saved(original, tmp_path / "m.safetensors", prefix))
    assert opened.kind is not None and opened.kind.family == "sd3"
    component = opened.component("transformer")
    same(component, state)
    assert {component.source_name(name) for name in state} == {prefix + name for name in original}
    model = SD3Transformer2DModel.from_component(component, F32)
    assert error(*run_sd3(model, module)) < 1e-4


def test_sd3_quantized_with_original_names(tmp_path: Path) -> None:
    module = tiny.sd3()
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "sd3")
    for name, tensor in tiny.original_sd3(module.state_dict()).items():
        array = tensor.numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            blocks = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    component = checkpoint.open(path).component("transformer")
    model = SD3Transformer2DModel.from_component(component, F32)
    assert error(*run_sd3(model, module)) < 0.02


def test_a_diffusers_folder_of_sd3s_transformer(tmp_path: Path) -> None:
    module = tiny.sd3()
    module.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    component = checkpoint.open(tmp_path).component("transformer")
    same(component, module.state_dict())
    model = SD3Transformer2DModel.from_component(component, F32)
    assert error(*run_sd3(model, module)) < 1e-4


@pytest.mark.parametrize(("sizes", "captions"), [(False, 300), (True, 120)])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_original_pixart(sizes: bool, captions: int, suffix: str, tmp_path: Path) -> None:
    module = tiny.pixart(sizes, 128 if sizes else 16)
    state = module.state_dict()
    original = tiny.original_pixart(state, captions, module.pos_embed.pos_embed)
    path = tmp_path / f"m{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": original}, path)
    else:
        saved(original, path)
    opened = checkpoint.open(path)
    assert opened.kind is not None and opened.kind.family == (
        "pixart-alpha" if sizes else "pixart-sigma"
    )
    component = opened.component("transformer")
    same(component, state, ("pos_embed.pos_embed", "caption_projection.y_embedding"))
    model = PixArtTransformer2DModel.from_component(component, F32)
    x, context = torch.randn(2, 4, 8, 12), torch.randn(2, 7, 48)
    t, mask = torch.tensor([700.0, 20.0]), torch.ones(2, 7)
    mask[0, 3:] = 0
    added = {"resolution": torch.ones(2, 2) * 512, "aspect_ratio": torch.ones(2, 1)}
    with torch.no_grad():
        ref = module(
            x, context, t, encoder_attention_mask=mask, added_cond_kwargs=added
        ).sample.numpy()
    given = {name: value.numpy() for name, value in added.items()} if sizes else {}
    out = model(x.numpy(), t.numpy(), context.numpy(), mask.numpy(), **given)
    assert error(out, ref) < 1e-4


def test_t5_under_each_name(tmp_path: Path) -> None:
    module = tiny.t5()
    state = {
        name: tensor for name, tensor in module.state_dict().items() if "embed_tokens" not in name
    }
    ids = np.arange(20).reshape(2, 10)
    with torch.no_grad():
        ref = module(torch.from_numpy(ids)).last_hidden_state.numpy()
    tied = {
        ("encoder.embed_tokens.weight" if n == "shared.weight" else n): t for n, t in state.items()
    }
    path = tmp_path / "t5.gguf"
    writer = gguf.GGUFWriter(path, "t5encoder")
    for name, tensor in tiny.llama_cpp_t5(state).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    module.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    files = {
        "plain": saved(state, tmp_path / "a.safetensors"),
        "tied": saved(tied, tmp_path / "b.safetensors"),
        "llama.cpp": path,
        "folder": tmp_path / "sharded",
    }
    for what, file in files.items():
        opened = checkpoint.open(file)
        assert opened.kind is not None and opened.kind.family == "t5", what
        model = T5EncoderModel.from_component(opened.component("text_encoder"), F32)
        assert error(model(ids), ref) < 1e-4, what


def test_a_missing_tensor_is_named_as_in_the_file(tmp_path: Path) -> None:
    original = tiny.original_sd3(tiny.sd3().state_dict())
    del original["joint_blocks.1.x_block.attn2.qkv.weight"]
    component = checkpoint.open(saved(original, tmp_path / "m.safetensors")).component(
        "transformer"
    )
    with pytest.raises(
        CheckpointError, match=r"missing: joint_blocks\.1\.x_block\.attn2\.qkv\.weight"
    ):
        SD3Transformer2DModel.from_component(component)
