"""Conversions of Stable Diffusion 3, PixArt and T5: round trips, and who opens what comes out."""

from __future__ import annotations

import json

import diffusers
import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert_families import stored
from transformers import AutoTokenizer, T5EncoderModel

import tiny_transformers as tiny
from sdcore import UnsupportedModelError, checkpoint, convert
from sdcore.checkpoint.quantization import quantize_model, written_name
from sdcore.tokenizer import T5Tokenizer

PROMPT = "the red circle, of a  lighthouse"


@pytest.fixture(scope="module", params=["sd3", "sigma", "alpha"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sd3":
        pipe = tiny.sd3_pipeline(folder)
    else:
        pipe = tiny.pixart_pipeline(folder, request.param == "alpha")
    return pipe, folder


def same_networks(one, other):
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        module = getattr(one, name, None)
        if module is None:
            continue
        theirs, ours = module.state_dict(), getattr(other, name).state_dict()
        assert theirs.keys() == ours.keys(), name
        assert [key for key in theirs if not torch.equal(theirs[key], ours[key])] == [], name


def test_round_trip(model, tmp_path):
    """Folder, single file, GGUF, PyTorch's, and a folder again, which diffusers opens."""
    pipe, folder = model
    want = stored(folder)
    path = folder
    for name in ("a.safetensors", "b.gguf", "c.pth", "d"):
        path = convert(path, tmp_path / name)
        opened = checkpoint.open_model(path)
        assert opened.kind.family.startswith("sd3" if hasattr(pipe, "text_encoder_3") else "pixart")
        assert stored(path) == want, name
    again = type(pipe).from_pretrained(path)
    same_networks(pipe, again)
    assert type(again.scheduler) is type(pipe.scheduler)
    name = "tokenizer_3" if hasattr(pipe, "tokenizer_3") else "tokenizer"
    assert getattr(again, name)(PROMPT).input_ids == getattr(pipe, name)(PROMPT).input_ids
    ids, _ = T5Tokenizer.from_folder(path / name)(PROMPT, 20)
    assert (
        list(ids[0]) == getattr(pipe, name)(PROMPT, padding="max_length", max_length=20).input_ids
    )


def test_bfloat16_stays_as_it_is(tmp_path):
    """Where halves change places and three tensors become one, too."""
    module = tiny.sd3()
    state = {
        f"model.diffusion_model.{name}": value.to(torch.bfloat16)
        for name, value in tiny.original_sd3(module.state_dict()).items()
    }
    save_file(state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c.safetensors")
    back = load_file(tmp_path / "c.safetensors")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert all(value.dtype == torch.bfloat16 for value in back.values())


def test_original_names(model, tmp_path):
    """Name for name what the models' makers have, bit for bit."""
    pipe, folder = model
    convert(folder, tmp_path / "a.safetensors")
    got = load_file(tmp_path / "a.safetensors")
    state = pipe.transformer.state_dict()
    if hasattr(pipe, "text_encoder_3"):
        want = tiny.original_sd3(state)
        assert {name.split(".")[1] for name in got if name.startswith("text_encoders.")} == {
            "clip_l",
            "clip_g",
            "t5xxl",
        }
        theirs = diffusers.SD3Transformer2DModel.from_single_file(
            str(tmp_path / "a.safetensors"), config=str(folder), subfolder="transformer",
            local_files_only=True,
        )  # fmt: skip
        assert all(torch.equal(state[k], v) for k, v in theirs.state_dict().items())
    else:
        want = tiny.original_pixart(state, 120, None)
        del want["y_embedder.y_embedding"]  # which is not in diffusers' network
    prefix = "model.diffusion_model."
    ours = {name.removeprefix(prefix): v for name, v in got.items() if name.startswith(prefix)}
    assert ours.keys() == want.keys()
    assert all(torch.equal(ours[name], want[name]) for name in want)


@pytest.mark.parametrize("target", ["a.pth", "a.safetensors", "a.gguf"])
def test_pixarts_transformer_alone(tmp_path, target):
    """As its makers have it, and diffusers' scripts ask for it: names without a prefix."""
    pipe = tiny.pixart_pipeline(tmp_path / "folder", False)
    path = convert(tmp_path / "folder" / "transformer", tmp_path / target)
    want = tiny.original_pixart(pipe.transformer.state_dict(), 300, None)
    del want["y_embedder.y_embedding"]
    opened = checkpoint.open(path)
    assert opened.tensors.keys() == want.keys()
    if target == "a.pth":
        got = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.equal(got[key], value) for key, value in want.items())
    name = "transformer_blocks.0.attn1.to_out.0.weight"
    folder = checkpoint.open(tmp_path / "folder" / "transformer")
    assert written_name(folder, "transformer", name) in want
    back = convert(path, tmp_path / "back")
    assert stored(back) == stored(tmp_path / "folder" / "transformer")


def test_diffusers_opens_a_single_file(tmp_path):
    """SD 3's; of PixArt it opens folders alone."""
    pipe = tiny.sd3_pipeline(tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "a.safetensors")
    theirs = diffusers.StableDiffusion3Pipeline.from_single_file(
        str(tmp_path / "a.safetensors"), config=str(tmp_path / "folder"), local_files_only=True
    )
    # It takes CLIP-L's projection for one, as published, and its T5 has the words under one name.
    known = {"text_encoder": ["text_projection.weight"]}
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        want, got = getattr(pipe, name).state_dict(), getattr(theirs, name).state_dict()
        assert want.keys() == got.keys(), name
        names = [key for key in want if "embed_tokens" not in key]
        assert [k for k in names if not torch.equal(want[k], got[k])] == known.get(name, []), name


def test_comfyui_ggufs_files(model, tmp_path):
    """SD 3's, whose names its loader takes; PixArt it does not read."""
    pipe, folder = model
    if not hasattr(pipe, "text_encoder_3"):
        with pytest.raises(UnsupportedModelError, match=r"PixArt.*, which ComfyUI-GGUF does not"):
            convert(folder, tmp_path / "a.gguf", for_comfyui=True)
        return
    for path in (
        convert(folder, tmp_path / "a.gguf", for_comfyui=True),
        quantize_model(checkpoint.open(folder), tmp_path / "q.gguf", "q8_0", for_comfyui=True),
    ):
        reader = gguf.GGUFReader(path)
        assert reader.get_field("general.architecture").contents() == "sd3"
        want = tiny.original_sd3(pipe.transformer.state_dict())
        assert {tensor.name for tensor in reader.tensors} == want.keys()
        assert checkpoint.open(path).kind.family == "sd3"


def test_pixart_of_its_makers_becomes_a_folder(tmp_path):
    module = tiny.pixart(True, 128)
    original = tiny.original_pixart(module.state_dict(), 120, module.pos_embed.pos_embed)
    torch.save({"state_dict": original}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b")
    theirs = diffusers.PixArtTransformer2DModel.from_pretrained(tmp_path / "b")
    want, got = module.state_dict(), theirs.state_dict()
    assert want.keys() == got.keys() and all(torch.equal(want[k], got[k]) for k in want)
    assert theirs.config.use_additional_conditions


def test_sd3_without_t5(tmp_path):
    """As most files of it are: the folder says that there is none."""
    pipe = tiny.sd3_pipeline(tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "a.safetensors")
    state = load_file(tmp_path / "a.safetensors")
    save_file({k: v for k, v in state.items() if ".t5xxl." not in k}, tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c")
    index = json.loads((tmp_path / "c" / "model_index.json").read_text())
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    assert index["text_encoder"] == ["transformers", "CLIPTextModelWithProjection"]
    without = {"text_encoder_3": None, "tokenizer_3": None}  # which diffusers asks for by name
    again = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "c", **without)
    want, got = pipe.transformer.state_dict(), again.transformer.state_dict()
    assert all(torch.equal(want[key], got[key]) for key in want)


def test_t5_alone(tmp_path):
    """transformers' names to llama.cpp's, and back to what transformers opens."""
    module = tiny.t5()
    state = {k: v for k, v in module.state_dict().items() if "embed_tokens" not in k}
    module.save_pretrained(tmp_path / "folder")
    for source in (tmp_path / "folder", save_plain(state, tmp_path / "t5.safetensors")):
        target = convert(source, tmp_path / f"{source.stem}.gguf", overwrite=True)
        reader = gguf.GGUFReader(target)
        assert reader.get_field("general.architecture").contents() == "t5encoder"
        want = tiny.llama_cpp_t5(state)
        assert {tensor.name for tensor in reader.tensors} == want.keys()
        for tensor in reader.tensors:
            assert np.array_equal(tensor.data.reshape(want[tensor.name].shape), want[tensor.name])
        convert(target, tmp_path / "back", overwrite=True)
        theirs = T5EncoderModel.from_pretrained(tmp_path / "back").state_dict()
        assert all(torch.equal(theirs[name], state[name]) for name in state)
        plain = load_file(convert(target, tmp_path / "back.safetensors", overwrite=True))
        assert plain.keys() == state.keys()
    opened = checkpoint.open(tmp_path / "t5.safetensors")
    path = quantize_model(opened, tmp_path / "q.gguf", "q8_0", tensor_types=[("attn_q", "f32")])
    name = written_name(opened, "text_encoder", "encoder.block.0.layer.0.SelfAttention.q.weight")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert name == "enc.blk.0.attn_q.weight" and types[name] == "F32"
    assert types["enc.blk.0.ffn_down.weight"] == "Q8_0"


def save_plain(state, path):
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def test_t5s_vocabulary_as_a_folder(tmp_path):
    theirs = tiny.t5_tokenizer(tmp_path / "theirs")
    ours = T5Tokenizer.from_folder(tmp_path / "theirs")
    ours.save_folder(tmp_path / "ours")
    again = AutoTokenizer.from_pretrained(tmp_path / "ours")
    read = T5Tokenizer.from_folder(tmp_path / "ours")
    metadata = T5Tokenizer.from_gguf_metadata(ours.to_gguf_metadata())
    for prompt in (PROMPT, "", " a ", "ﬁne Ⅳ é", "<pad> blue</s> dog", "x" * 50):
        want = theirs(prompt).input_ids
        assert again(prompt).input_ids == want, prompt
        for tokenizer in (read, metadata):
            assert [*tokenizer.encode(prompt), 1] == want, prompt
