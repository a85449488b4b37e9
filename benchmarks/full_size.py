"""A full-size Stable Diffusion 1.5 checkpoint of random weights, made on the spot.

860 M parameters of UNet, 84 M of VAE and 123 M of text encoder in float16, in the original
single-file layout, which diffusers' `from_single_file` opens too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import sdcore
from sdcore.checkpoint import safetensors
from sdcore.checkpoint.names import unet, vae
from sdcore.models.clip import CLIPTextConfig, build_clip
from sdcore.models.unet_graph import UNetConfig, build_unet
from sdcore.models.vae import VAEConfig, build_decoder, build_encoder

UNET = UNetConfig(cross_attention_dim=768, sample_size=64)
VAE = VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
CLIP = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)

# These are 1x1 convolutions in SD 1.x files and linear layers here.
_CONVOLUTIONS = re.compile(
    r"\.(proj_in|proj_out)\.weight$|first_stage_model\..*\.attn_1\.(q|k|v|proj_out)\.weight$"
)


def diffusers_weights() -> dict[str, dict[str, NDArray[np.float16]]]:
    """Random weights by part and diffusers' name."""
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(1 << 22, dtype=np.float32)
    decoder, encoder = build_decoder(VAE).weights, build_encoder(VAE).weights
    shapes = {
        "unet": build_unet(UNET).weights,
        "vae": {**encoder, **decoder},
        "text_encoder": build_clip(CLIP).weights,
    }
    return {
        part: {name: _random(pool, rng, name, shape) for name, shape in weights.items()}
        for part, weights in shapes.items()
    }


def _random(
    pool: NDArray[np.float32], rng: np.random.Generator, name: str, shape: Sequence[int]
) -> NDArray[np.float16]:
    """Normal numbers that keep the size of activations, cut out of a pool at a random place."""
    size = int(np.prod(shape))
    offset = int(rng.integers(len(pool)))
    values = np.resize(np.roll(pool, -offset) if size < len(pool) else pool, size)
    if name.endswith("bias"):
        values = values * 0.01
    elif len(shape) == 1:  # the scale of a norm
        values = 1 + values * 0.05
    else:
        values = values / np.sqrt(np.prod(shape[1:]))
    if "position_embedding" in name:
        shape = shape[1:]
    return values.astype(np.float16).reshape(shape)


def original_names(
    weights: Mapping[str, Mapping[str, NDArray[np.float16]]],
) -> dict[str, NDArray[np.float16]]:
    """The same tensors as an original single file has them."""
    places = {
        "unet": ("model.diffusion_model.", unet.to_original(weights["unet"]).to_original),
        "vae": ("first_stage_model.", vae.to_original(weights["vae"]).to_original),
        "text_encoder": ("cond_stage_model.transformer.", lambda name: name),
    }
    tensors = {}
    for part, (prefix, rename) in places.items():
        for name, array in weights[part].items():
            original = prefix + (rename(name) or name)
            conv = _CONVOLUTIONS.search(original) and array.ndim == 2
            tensors[original] = array[:, :, None, None] if conv else array
    return tensors


def make_checkpoint(path: Path) -> Path:
    """Writes the file unless it is there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.save(path, original_names(diffusers_weights()))
    return path


def quantized(source: Path, type: str) -> Path:
    """The same checkpoint as a GGUF whose linear layers are of this type, and with "+conv" after it
    convolutions too, written beside it."""
    path = source.with_name(f"{source.stem}-{type}.gguf")
    if not path.is_file():
        plain = type.removesuffix("+conv")
        sdcore.quantize_model(source, path, plain, convolutions=plain != type)
    return path
