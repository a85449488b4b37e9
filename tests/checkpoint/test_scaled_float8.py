"""Float8 with scales beside it, as ComfyUI writes it: looks like plain float8, and is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny_models
import tiny_transformers
from sdcore import UnsupportedModelError, checkpoint, convert
from tiny_models import PLAIN

F8 = torch.float8_e4m3fn
BF16_ROUNDING = 2.0**-8  # half of its last of eight bits


def scaled(state, style):
    """Linear weights of the denoiser divided so that the largest is float8's largest; with the
    numbers that they should give."""
    out, want = {"scaled_fp8": torch.zeros(2, dtype=F8)} if style == "old" else {}, {}
    for name, value in state.items():
        is_linear = value.ndim == 2 and name.endswith("weight") and "model.diffusion" in name
        out[name] = want[name] = value
        if not is_linear:
            continue
        module = name.removesuffix("weight")
        scale = (value.abs().max() / 448).float()
        out[name] = (value / scale).to(F8)
        want[name] = out[name].double() * scale.double()
        if style == "old":
            out[f"{module}scale_weight"] = scale
            out[f"{module}scale_input"] = torch.tensor(1.0)
        else:
            quant = json.dumps({"format": "float8_e4m3fn"}).encode()
            out[f"{module}weight_scale"] = scale[None]
            out[f"{module}comfy_quant"] = torch.frombuffer(bytearray(quant), dtype=torch.uint8)
    return {name: value.contiguous() for name, value in out.items()}, want


def sd3_state():
    state = tiny_transformers.original_sd3(tiny_transformers.sd3().state_dict())
    return {f"model.diffusion_model.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_weights_are_multiplied(tmp_path, family, style):
    """Fused ones too, before they are taken apart; and in whatever they are converted to."""
    state = tiny_models.original_state(PLAIN) if family == "sd1" else sd3_state()
    stored, want = scaled(state, style)
    path = tmp_path / "a.safetensors"
    save_file(stored, path)
    opened = checkpoint.open(path)
    assert opened.kind.family == family and opened.title.endswith("in scaled float8")
    assert opened.summary().types["f8_e4m3"] > 5
    for name in ("a.safetensors", "b.gguf", "c.ckpt"):
        if name != "a.safetensors":
            convert(path, tmp_path / name)
        tensors = checkpoint.open(tmp_path / name).tensors
        assert tensors.keys() == want.keys()
        for key, value in want.items():
            got, ref = tensors[key].to_float().astype(np.float64), value.double().numpy()
            bound = BF16_ROUNDING * np.linalg.norm(ref)
            assert np.linalg.norm(got.reshape(ref.shape) - ref) <= bound, key
    part = opened.component("unet" if family == "sd1" else "transformer")
    name = next(name for name in part.tensors if name.endswith("attn1.to_q.weight")) if (
        family == "sd1") else "transformer_blocks.0.attn.to_k.weight"  # fmt: skip
    source = part.source_name(name)
    ref = want[source].double().numpy()
    if family == "sd3":
        ref = ref[len(ref) // 3 : 2 * len(ref) // 3]
    got = part.tensors[name].to_float()
    assert np.linalg.norm(got - ref) <= BF16_ROUNDING * np.linalg.norm(ref)


def test_other_packings_are_refused(tmp_path):
    """Those whose numbers are not a product with one scale."""
    stored, _ = scaled(tiny_models.original_state(PLAIN), "new")
    key = next(name for name in stored if name.endswith("comfy_quant"))
    quant = json.dumps({"format": "nvfp4"}).encode()
    for change in (torch.frombuffer(bytearray(quant), dtype=torch.uint8), torch.zeros(3)):
        save_file(stored | {key: change}, tmp_path / "a.safetensors")
        opened = checkpoint.open(tmp_path / "a.safetensors")
        with pytest.raises(
            UnsupportedModelError, match=r"weights in ComfyUI's (nvfp4|quantization), which"
        ):
            opened.component("unet")
