"""A ControlNet and an IP-Adapter in one picture, against diffusers: each UNet attention sees the
image's tokens, and the ControlNet does not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor

import sdcore
import tiny_ip_adapter
import tiny_models
import tiny_xl
from reference.common import SAMPLED_F32, error
from tiny_control import controlnet, picture

ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "width": 24,
    "height": 32,
    "controlnet_conditioning_scale": 0.7,
}
CONTROL, STYLE = picture(3), picture(4)


def _theirs(pipe: Any, control: Any, state: Any) -> np.ndarray:
    xl = "XL" in type(pipe).__name__
    parts = {k: v for k, v in pipe.components.items() if v is not None}
    parts |= {
        "unet": copy.deepcopy(pipe.unet),  # which the adapter is put into
        "controlnet": control,
        "image_encoder": tiny_ip_adapter.image_encoder(),
        "feature_extractor": CLIPImageProcessor(
            size=tiny_ip_adapter.SIDE, crop_size=tiny_ip_adapter.SIDE
        ),
    }
    if not xl:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    made = getattr(diffusers, f"StableDiffusion{'XL' * xl}ControlNetPipeline")(**parts)
    made.set_progress_bar_config(disable=True)
    made.load_ip_adapter([state], subfolder=[""], weight_name=[""], image_encoder_folder=None)
    made.set_ip_adapter_scale(0.6)
    generator = [torch.Generator("cpu").manual_seed(5)]
    out = made(
        **ARGS, image=CONTROL, ip_adapter_image=STYLE, generator=generator, output_type="latent"
    )
    latents: np.ndarray = out.images.numpy()
    return latents


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_both_at_once_are_diffusers(tmp_path: Path, family: str) -> None:
    tokenizers = tmp_path / "tokenizers"
    if family == "sd1":
        theirs = tiny_models.pipeline(tiny_models.PLAIN, tokenizers)
        theirs.scheduler = diffusers.DDIMScheduler.from_config(
            theirs.scheduler.config, clip_sample=False
        )
    else:
        theirs = tiny_xl.xl(tokenizers)
    theirs.save_pretrained(tmp_path / "model")
    control = controlnet(theirs.unet)
    control.save_pretrained(tmp_path / "control")
    state = tiny_ip_adapter.adapter(theirs.unet, "classic", 0, tiny_ip_adapter.PROJECTION)
    tiny_ip_adapter.save(state, tmp_path / "ip.bin")
    tiny_ip_adapter.image_encoder().save_pretrained(tmp_path / "image_encoder")
    ref = _theirs(theirs, control, torch.load(tmp_path / "ip.bin"))

    pipe = sdcore.DiffusionPipeline.open(
        tmp_path / "model", dtype="f32", controlnet=tmp_path / "control"
    )
    pipe.load_ip_adapter(tmp_path / "ip.bin")
    pipe.set_ip_adapter_scale(0.6)
    run = {**ARGS, "control_image": CONTROL, "seed": 5, "output_type": "latent"}
    out = pipe(**run, ip_adapter_image=STYLE).images
    assert error(out, ref) <= SAMPLED_F32
    in_turns = copy.copy(pipe)
    in_turns.guidance_in_turns = True
    assert np.array_equal(in_turns(**run, ip_adapter_image=STYLE).images, out)
    deep = pipe(**run, ip_adapter_image=STYLE, cache_interval=2).images
    assert 1e-4 < error(deep, out) < 0.5
    assert error(pipe(**run, ip_adapter_image=CONTROL).images, ref) > 5 * SAMPLED_F32
    pipe.unload_ip_adapter()
    assert error(pipe(**run).images, ref) > 5 * SAMPLED_F32
    with pytest.raises(sdcore.UnsupportedModelError, match="unload_controlnet first"):
        pipe.export(tmp_path / "model.gguf")
