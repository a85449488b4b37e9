"""CLIP's image encoder against transformers, from the picture on, and in every form of file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection as TorchVision

import tiny_ip_adapter
from reference.common import (
    BF16_FACTOR,
    ISAS,
    NETWORK_F32,
    TorchComponent,
    error,
    in_bf16,
    randomized,
)
from sdcore import checkpoint, convert
from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.models.base import RunOptions
from sdcore.models.clip_vision import CLIPVisionModelWithProjection
from sdcore.pipelines.clip_image import clip_pixels

# As ViT-H and ViT-L are, with few channels: patches of 14, 16 heads or heads of 64.
SIZES = {
    "gelu": {"hidden_size": 80, "num_attention_heads": 16, "hidden_act": "gelu", "patch_size": 14},
    "quick_gelu": {"hidden_size": 64, "num_attention_heads": 1, "patch_size": 16},
}


@lru_cache
def reference(name: str) -> tuple[TorchVision, np.ndarray]:
    config = CLIPVisionConfig(
        **{"hidden_act": "quick_gelu", **SIZES[name]},
        intermediate_size=100,
        num_hidden_layers=3,
        projection_dim=24,
        image_size=3 * SIZES[name]["patch_size"],
    )
    torch.manual_seed(0)
    module = randomized(TorchVision(config), 1)
    return module, torch.randn(2, 3, config.image_size, config.image_size).numpy()


def expected(module: torch.nn.Module, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kind = next(module.parameters()).dtype
    with torch.no_grad():
        out = module(torch.from_numpy(pixels).to(kind), output_hidden_states=True)
    return out.image_embeds.float().numpy(), out.hidden_states[-2].float().numpy()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SIZES)
def test_the_encoder_is_transformers(name: str, isa: str) -> None:
    module, pixels = reference(name)
    refs, rounded = expected(module, pixels), expected(in_bf16(module), pixels)
    for dtype in ("f32", "bf16"):
        ours = CLIPVisionModelWithProjection.from_component(
            TorchComponent(module.config.to_dict(), module),
            RunOptions(dtype=dtype, isa=isa, threads=1),
        )
        outs = ours(pixels), ours.hidden_states(pixels)
        for out, ref, half in zip(outs, refs, rounded, strict=True):
            allowed = NETWORK_F32 if dtype == "f32" else BF16_FACTOR * error(half, ref)
            assert out.shape == ref.shape and error(out, ref) <= allowed
        assert np.array_equal(ours(pixels[1:]), outs[0][1:])  # alone as in a batch


def test_what_the_encoder_refuses() -> None:
    module, pixels = reference("gelu")
    config = module.config.to_dict()
    ours = CLIPVisionModelWithProjection.from_component(TorchComponent(config, module))
    with pytest.raises(InvalidArgumentError, match="pixel_values must be 42 x 42, got 41 x 42"):
        ours(pixels[:, :, 1:])
    with pytest.raises(UnsupportedModelError, match="hidden_act is 'relu'"):
        CLIPVisionModelWithProjection.read_config({**config, "hidden_act": "relu"})


@pytest.mark.parametrize("size", [(224, 224), (300, 200), (113, 501), (225, 227), (31, 40)])
def test_pixels_are_those_of_transformers(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(values)
    for side in (224, 42):
        processor = CLIPImageProcessor(size=side, crop_size=side)
        ref = processor(picture, return_tensors="np").pixel_values[0]
        out = clip_pixels(picture, side)
        assert out.shape == ref.shape and out.dtype == np.float32
        assert np.abs(out - ref).max() <= 1e-6


def test_pictures_that_are_not_rgb() -> None:
    processor = CLIPImageProcessor()
    values = np.random.default_rng(1).integers(0, 256, (230, 240, 4), np.uint8)
    transparent = Image.fromarray(values)
    solid = transparent.convert("RGB")
    for picture in (transparent, solid.convert("L"), solid.convert("P")):
        ref = processor(picture, return_tensors="np").pixel_values[0]
        assert np.abs(clip_pixels(picture, 224) - ref).max() <= 1e-6


@pytest.mark.parametrize("form", ["folder", "file", "open_clip"])
def test_files_of_the_encoder(form: str, tmp_path: Path) -> None:
    """Shapes say all that a config would, of encoders as large as the published ones."""
    module = tiny_ip_adapter.image_encoder(1280 if form == "open_clip" else 64, layers=1)
    if form == "folder":
        module.save_pretrained(tmp_path)
    else:
        state = module.state_dict()
        if form == "open_clip":
            state = tiny_ip_adapter.open_clip_vision(module)
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "vision.safetensors")
    opened = checkpoint.open(tmp_path if form == "folder" else tmp_path / "vision.safetensors")
    assert opened.title == "a CLIP image encoder"
    ours = CLIPVisionModelWithProjection.from_component(
        opened.component("image_encoder"), RunOptions(dtype="f32", threads=1)
    )
    side = module.config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(2)).numpy()
    assert error(ours(pixels), expected(module, pixels)[0]) <= NETWORK_F32


def test_a_file_becomes_a_folder_of_transformers(tmp_path: Path) -> None:
    module = tiny_ip_adapter.image_encoder()
    state = tiny_ip_adapter.open_clip_vision(module)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "vision.safetensors")
    convert(tmp_path / "vision.safetensors", tmp_path / "folder")
    theirs = TorchVision.from_pretrained(tmp_path / "folder")
    assert theirs.config.hidden_act == "gelu"  # OpenCLIP's
    assert theirs.config.image_size == module.config.image_size
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, module.state_dict()[name])
