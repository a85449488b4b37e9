"""Ways of drawing with the pocket model that are compared, and what is measured of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import evaluator
import score
import sdcore
import world
from sdcore import quantization

DDIM = {"num_inference_steps": 20, "guidance_scale": 5.0}
LCM = {"num_inference_steps": 4, "guidance_scale": 1.0}


def psnr(pipe: sdcore.DiffusionPipeline, count: int) -> float:
    """Mean PSNR in dB of held-out pictures after the VAE's encoder and decoder."""
    values = []
    for scene, _ in score.held_out(count):
        picture = world.render(scene).astype(np.float32) / 255
        x = 2 * picture.transpose(2, 0, 1)[None] - 1
        out = pipe.vae.decode(pipe.vae.encode(x)).clip(-1, 1) / 2 + 0.5
        values.append(-10 * np.log10(np.mean((out[0].transpose(1, 2, 0) - picture) ** 2)))
    return float(np.mean(values))


def red(pipe: sdcore.DiffusionPipeline, count: int, negative: str = "") -> float:
    """The share of pictures with a red object, when the prompt is a shape of no said colour."""
    random = np.random.default_rng(1)
    prompts = [f"a {random.choice(world.SHAPES)}" for _ in range(count)]
    pictures = score.draw(pipe, prompts, negative_prompt=negative, **DDIM)
    return float(np.mean([any(f.color == "red" for f in evaluator.find(p)) for p in pictures]))


def quantized(path: Path, to: Path, type: str) -> Path:
    """The same file with its matrices in another type; q4_0 where a row does not divide into the
    blocks of 256 of a k-quant."""
    opened = sdcore.gguf.open(path)
    sizes = {row["name"]: row["block_size"] for row in quantization.types()}

    def stored(name: str, tensor: sdcore.Tensor) -> sdcore.Tensor:
        row = tensor.shape[-1]
        if len(tensor.shape) != 2 or "embedding" in name:
            return tensor
        for choice in (type, "q4_0"):
            if row % sizes[choice] == 0:
                return sdcore.quantize(tensor, choice)
        return tensor

    tensors = {name: stored(name, tensor) for name, tensor in opened.tensors.items()}
    sdcore.gguf.write(to, opened.metadata, tensors)
    return to


def with_lcm(path: Path, lora: Path, dtype: str = "auto") -> sdcore.DiffusionPipeline:
    """The model with an LCM-LoRA and LCM's scheduler."""
    pipe = sdcore.DiffusionPipeline.open(path, dtype=dtype)
    pipe.load_lora_weights(lora)
    pipe.scheduler = sdcore.LCMScheduler.from_config(pipe.scheduler.config)
    return pipe
