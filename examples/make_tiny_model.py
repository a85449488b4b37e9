"""Writes a tiny Stable Diffusion 1.x model with random weights.

    python examples/make_tiny_model.py tiny.safetensors
    sdcore txt2img -m tiny.safetensors "a red circle"

It has the networks of SD 1.x under the names of the original files, with few channels. What it
draws means nothing, and is always the same for a seed: good for trying things out, and for tests.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from sdcore.checkpoint import safetensors
from sdcore.checkpoint.names import clip, unet, vae
from sdcore.checkpoint.names.table import NameTable
from sdcore.models.clip import CLIPTextConfig, build_clip
from sdcore.models.unet_graph import UNetConfig, build_unet
from sdcore.models.vae import VAEConfig, build_decoder, build_encoder

Shapes = dict[str, tuple[int, ...]]

CHANNELS = (32, 64, 64, 64)  # SD 1.x: 320, 640, 1280, 1280
VAE_CHANNELS = (32, 32, 32, 32)  # 128, 256, 512, 512
TEXT_WIDTH = 64  # 768
TEXT_LAYERS = 2  # 12


def parts() -> Iterator[tuple[str, Shapes, Callable[[Iterable[str]], NameTable]]]:
    """Each network: its prefix in the file, its weights by diffusers' names, the file's names."""
    text_config = CLIPTextConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_WIDTH // 64,
    )
    unet_config = UNetConfig(block_out_channels=CHANNELS, cross_attention_dim=TEXT_WIDTH)
    vae_config = VAEConfig(block_out_channels=VAE_CHANNELS, layers_per_block=2)
    vae_shapes = build_encoder(vae_config).weights | build_decoder(vae_config).weights

    yield "model.diffusion_model.", build_unet(unet_config).weights, unet.to_original
    yield "first_stage_model.", vae_shapes, vae.to_original
    yield "cond_stage_model.transformer.", build_clip(text_config).weights, clip.hugging_face


def random_weight(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Such that signals neither fade nor grow: norms begin as the identity, biases at zero."""
    if len(shape) == 1:
        return np.full(shape, float(name.endswith("weight")), np.float16)
    scale = 1.0 if "embedding" in name else 1.0 / math.sqrt(math.prod(shape[1:]))
    return (random.standard_normal(shape) * scale).astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny SD 1.x model with random weights.")
    parser.add_argument("path", help="the .safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    random = np.random.default_rng(args.seed)
    tensors = {}
    for prefix, shapes, naming in parts():
        table = naming(shapes)
        for name, shape in shapes.items():
            if "position_embedding" in name:
                shape = shape[1:]  # the graph has it ready to add to a batch
            tensors[f"{prefix}{table.to_original(name)}"] = random_weight(random, name, shape)
    safetensors.save(args.path, tensors)
    print(f"{args.path}: {sum(t.size for t in tensors.values()) / 1e6:.1f} M random weights")


if __name__ == "__main__":
    main()
