"""One network out of a model: the same tensors, who opens it, and what goes with it."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from test_convert_families import stored

import tiny_families
import tiny_models
import tiny_transformers as tiny
from sdcore import CheckpointError, checkpoint, cli, convert
from sdcore.checkpoint.quantization import quantize_model
from tiny_models import PLAIN


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    tiny.sd3_pipeline(folder)
    return folder


@pytest.fixture(scope="module", params=["folder", "safetensors", "gguf"])
def source(sd3, request, tmp_path_factory):
    if request.param == "folder":
        return sd3
    return convert(sd3, tmp_path_factory.mktemp("whole") / f"a.{request.param}")


@pytest.mark.parametrize("target", ["a.safetensors", "a.gguf", "a.pt", "a"])
@pytest.mark.parametrize(
    "part", ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"]
)
def test_the_same_tensors(source, part, target, tmp_path):
    path = convert(source, tmp_path / target, part=part)
    want = {key: bits for (name, key), bits in stored(source).items() if name == part}
    opened = checkpoint.open(path)
    (found,) = opened.components.values()
    assert {key: bits for (_, key), bits in stored(path).items()} == want
    config = checkpoint.open(source).component(part).config
    assert all(found.config[k] == v for k, v in config.items() if k != "_name_or_path")


def test_a_picture_of_parts_is_the_wholes(sd3, tmp_path):
    """T5's vocabulary lies in its GGUF."""
    flags = {
        "--diffusion-model": ("transformer", "unet.gguf"),
        "--vae": ("vae", "vae.safetensors"),
        "--clip_l": ("text_encoder", "clip_l.safetensors"),
        "--clip_g": ("text_encoder_2", "clip_g.pt"),
        "--t5xxl": ("text_encoder_3", "t5.gguf"),
    }
    words = []
    for flag, (part, name) in flags.items():
        line = ["convert", str(sd3), str(tmp_path / name), "--part", part, "--quiet"]
        assert cli.main(line) == 0
        words += [flag, str(tmp_path / name)]

    def draw(*more):
        out = tmp_path / "x.png"
        size = [
            "-W",
            "16",
            "-H",
            "24",
            "--steps",
            "2",
            "-s",
            "3",
            "--dtype",
            "f32",
            "-f",
            "-o",
            str(out),
        ]
        assert cli.main(["txt2img", "a cat", "--quiet", *size, *more]) == 0
        return np.asarray(Image.open(out))

    assert np.array_equal(draw("-m", str(sd3), *words), draw("-m", str(sd3)))


def test_names_are_those_of_files_of_one_network(tmp_path):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.ckpt.safetensors")
    got = {
        part: load_file(convert(source, tmp_path / f"{part}.safetensors", part=part))
        for part in ("unet", "vae", "text_encoder")
    }
    want = tiny_models.original_vae(tiny_models.vae(PLAIN))
    assert got["vae"].keys() == want.keys()
    assert all(torch.equal(got["vae"][key], value) for key, value in want.items())
    assert all(key.startswith("model.diffusion_model.") for key in got["unet"])
    assert all(key.startswith("text_model.") for key in got["text_encoder"])
    convert(source, tmp_path / "vae", part="vae")
    theirs = AutoencoderKL.from_pretrained(tmp_path / "vae").state_dict()
    assert all(torch.equal(theirs[k], v) for k, v in tiny_models.vae(PLAIN).state_dict().items())


def test_how_a_denoiser_predicts_goes_with_it(tmp_path):
    folder = tiny_families.save_folder(tiny_families.FAMILIES[2], tmp_path / "folder")
    whole = convert(folder, tmp_path / "a.safetensors", prediction_type="v_prediction")
    for name in ("unet.safetensors", "unet.gguf", "unet.ckpt"):
        opened = checkpoint.open(convert(whole, tmp_path / name, part="unet"))
        assert opened.scheduler_config["prediction_type"] == "v_prediction"
        assert "v_pred" in opened.tensors and list(opened.components) == ["unet"]


def test_quantized(sd3, tmp_path):
    path = quantize_model(sd3, tmp_path / "t5.gguf", "q8_0", part="text_encoder_3")
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "t5encoder"
    assert reader.get_field("tokenizer.ggml.model").contents() == "t5"
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["enc.blk.0.ffn_down.weight"] == "Q8_0" and types["token_embd.weight"] == "F16"
    line = ["quantize", str(sd3), str(tmp_path / "unet.gguf"), "--type", "q8_0"]
    assert cli.main([*line, "--part", "transformer", "--quiet"]) == 0
    reader = gguf.GGUFReader(tmp_path / "unet.gguf")
    assert reader.get_field("general.architecture").contents() == "sd3"
    assert reader.get_field("tokenizer.ggml.model") is None


def test_a_part_that_is_not_there(tmp_path):
    source = tiny_models.save_original(PLAIN, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="has no text_encoder_3: it has unet, vae, text_enc"):
        convert(source, tmp_path / "b.gguf", part="text_encoder_3")
    assert not (tmp_path / "b.gguf").exists()
