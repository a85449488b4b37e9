"""SD 3 and PixArt from quantized files of other programs, whole and in parts: they draw what the
weights draw that their blocks hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sdcore
import tiny_models
import tiny_transformers as tiny
from reference.common import SAMPLED_F32, error
from reference.test_transformer_pipelines import SD3, single_file
from sdcore import checkpoint
from sdcore.models.mmdit import SD3Transformer2DModel
from sdcore.models.pixart import PixArtTransformer2DModel
from sdcore.tokenizer import T5Tokenizer
from tiny_models import QuantType

State = dict[str, torch.Tensor]


def quantized(state: State, path: Path, metadata: dict[str, Any] | None = None) -> State:
    """Writes Q8_0 where rows divide into blocks, F16 elsewhere; returns what the file holds."""
    stored = {
        name: tiny_models._stored(name, value.numpy(), QuantType.Q8_0)
        for name, value in state.items()
    }
    if metadata is None:
        tiny_models.write_gguf(path, stored)
    else:
        writer = gguf.GGUFWriter(path, metadata["general.architecture"])
        writer.add_tokenizer_model("t5")
        writer.add_token_list(metadata["tokenizer.ggml.tokens"])
        writer.add_token_scores(metadata["tokenizer.ggml.scores"])
        writer.add_token_types(metadata["tokenizer.ggml.token_type"])
        writer.add_precompiled_charsmap(bytes(metadata["tokenizer.ggml.precompiled_charsmap"]))
        writer.add_add_space_prefix(True)
        writer.add_remove_extra_whitespaces(True)
        for name, (data, kind) in stored.items():
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return {
        name: torch.from_numpy(gguf.quants.dequantize(*data).reshape(state[name].shape).copy())
        for name, data in stored.items()
    }


def latents(path: Path, **options: Any) -> np.ndarray:
    pipe = sdcore.DiffusionPipeline.open(path, dtype="f32", **options)
    return pipe(**SD3, seed=5, output_type="latent").images


@pytest.mark.parametrize("kind", ["3-medium", "3.5-large", "3.5-medium"])
def test_sd3_as_stable_diffusion_cpp_writes_it(tmp_path: Path, kind: str) -> None:
    """All parts in one file under original names, without metadata."""
    folder = tmp_path / "folder"
    pipe = tiny.sd3_pipeline(folder, kind)
    whole = load_file(single_file(pipe, tmp_path / "whole.safetensors"))
    held = quantized(whole, tmp_path / "model.gguf")
    save_file(held, tmp_path / "held.safetensors")
    tokenizers = {name: folder / name for name in ("tokenizer", "tokenizer_2", "tokenizer_3")}
    opened = sdcore.DiffusionPipeline.open(tmp_path / "model.gguf", **tokenizers)
    for part in (opened.transformer, opened.text_encoder_3, opened.text_encoder_2):
        assert "q8_0" in {tensor.type for tensor in part.network.tensors.values()}
    drawn = latents(tmp_path / "model.gguf", **tokenizers)
    assert error(drawn, latents(tmp_path / "held.safetensors", **tokenizers)) <= SAMPLED_F32
    plain = latents(folder)
    assert SAMPLED_F32 < error(drawn, plain) < 0.1


@pytest.mark.parametrize("family", ["sd3", "pixart-sigma"])
def test_folded_tensors_of_a_transformer(tmp_path: Path, family: str) -> None:
    """Convolutions and positions in rows of another length, as comfy.gguf.orig_shape says."""
    if family == "sd3":
        module = tiny.sd3()
        state = tiny.original_sd3(module.state_dict())
    else:
        module = tiny.pixart()
        positions = module.pos_embed.pos_embed
        state = tiny.original_pixart(module.state_dict(), 300, positions)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", family)
    folded = set()
    for name, value in state.items():
        array = value.detach().numpy()
        kind = QuantType.F32
        if array.ndim > 2 and array.size % 32 == 0:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array, kind = array.reshape(-1, 32), QuantType.Q8_0
            folded.add(name)
        data = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert {"pos_embed", "x_embedder.proj.weight"} <= folded
    opened = checkpoint.open(tmp_path / "m.gguf")
    assert opened.kind is not None and opened.kind.family == family
    component = opened.component("transformer")
    wanted = module.state_dict()
    for name in ("pos_embed.pos_embed", "pos_embed.proj.weight"):
        if name not in wanted:
            continue
        found, want = component.tensors[name], wanted[name]
        assert tuple(found.shape) == tuple(want.shape)
        assert 1e-5 < error(found.to_float(), want.numpy()) < 0.01
    networks = {"sd3": SD3Transformer2DModel, "pixart-sigma": PixArtTransformer2DModel}
    networks[family].from_component(component)  # which would name a tensor of another shape


def test_pixart_in_parts_as_others_write_them(tmp_path: Path) -> None:
    """A transformer with its makers' names, and T5 with llama.cpp's and with its vocabulary."""
    folder = tmp_path / "folder"
    pipe = tiny.pixart_pipeline(folder, False)
    positions = pipe.transformer.pos_embed.pos_embed
    transformer = tiny.original_pixart(pipe.transformer.state_dict(), 300, positions)
    t5 = {k: v for k, v in pipe.text_encoder.state_dict().items() if "embed_tokens" not in k}
    vocabulary = T5Tokenizer.from_folder(folder / "tokenizer").to_gguf_metadata()
    metadata = {"general.architecture": "t5encoder", **vocabulary}
    held = quantized(transformer, tmp_path / "pixart.gguf")
    words = quantized(tiny.llama_cpp_t5(t5), tmp_path / "t5.gguf", metadata)
    save_file(held, tmp_path / "pixart.safetensors")
    save_file(words, tmp_path / "t5.safetensors")
    vae = {"vae": folder / "vae"}
    drawn = latents(tmp_path / "pixart.gguf", text_encoder=tmp_path / "t5.gguf", **vae)
    parts = {"text_encoder": tmp_path / "t5.safetensors", "tokenizer": folder / "tokenizer"}
    assert error(drawn, latents(tmp_path / "pixart.safetensors", **parts, **vae)) <= SAMPLED_F32
    assert SAMPLED_F32 < error(drawn, latents(folder)) < 0.1
