"""ComfyUI-GGUF, each weight of its files, by what its loader.py asks for: a known architecture,
the denoiser under original names without a prefix, and true shapes as lists of i32."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

import tiny_families
import tiny_models
import tiny_transformers as tiny
import tiny_xl
from sdcore import checkpoint, convert
from sdcore.checkpoint.quantization import quantize_model

ROW = 256
UNETS = {
    "sd1": ("sd1", lambda: tiny_models.unet(tiny_models.PLAIN)),
    "sd2": ("sd1", lambda: tiny_families.unet(tiny_families.FAMILIES[0])),
    "sdxl": ("sdxl", lambda: tiny_families.unet(tiny_families.FAMILIES[1])),
    "sdxl-refiner": ("sdxl", lambda: tiny_families.unet(tiny_families.FAMILIES[2])),
    "playground": ("sdxl", lambda: tiny_xl.base_unet()),
}


def model(name, folder):
    if name == "sd1":
        return tiny_models.save_folder(tiny_models.PLAIN, folder)
    if name == "playground":
        tiny_xl.playground(folder / "tokenizers").save_pretrained(folder / "model")
        return folder / "model"
    spec = next(spec for spec in tiny_families.FAMILIES if spec.family == name)
    return tiny_families.save_folder(spec, folder)


def loaded(path):
    """The architecture, and each tensor in its true shape."""
    reader = gguf.GGUFReader(path)
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if field := reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}"):
            assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]
            assert shape[1:] == (ROW,)
            shape = tuple(field.contents())
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        tensors[tensor.name] = values.reshape(shape)
    return reader.get_field("general.architecture").contents(), tensors


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("how", ["convert", "quantize"])
def test_unets(tmp_path, name, how):
    source = model(name, tmp_path / "folder")
    if how == "convert":
        path = convert(source, tmp_path / "unet.gguf", for_comfyui=True)
    else:
        path = quantize_model(source, tmp_path / "unet.gguf", "q8_0", for_comfyui=True)
    known_as, unet = UNETS[name]
    got_as, got = loaded(path)
    want = tiny_models.original_unet(unet())
    assert got_as == known_as and got.keys() == want.keys()
    for key, value in want.items():
        values = value.detach().numpy()
        assert got[key].shape == values.shape, key
        error = np.linalg.norm(got[key] - values) / np.linalg.norm(values)
        assert error == 0 if how == "convert" else error < 0.01, key
    again = checkpoint.open(path).component("unet")
    assert all(again.tensors[k].shape == tuple(v.shape) for k, v in unet().state_dict().items())


def test_sd3_is_not_folded(tmp_path):
    pipe = tiny.sd3_pipeline(tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "a.gguf", for_comfyui=True)
    known_as, got = loaded(path)
    want = tiny.original_sd3(pipe.transformer.state_dict())
    assert known_as == "sd3" and got.keys() == want.keys()
    assert all(torch.equal(torch.from_numpy(got[key].copy()), want[key]) for key in want)
    assert not [key for key in checkpoint.open(path).metadata if "orig_shape" in key]
