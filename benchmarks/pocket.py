"""What the pocket model draws, judged by what is in the pictures: the whole evaluation.

    python benchmarks/pocket.py                      # the model in the package
    python benchmarks/pocket.py --model pocket.gguf --count 40

Captions are of held-out scenes; noise is the same for all ways of drawing. Each line says how many
objects have the right colour and the right shape, how many pairs stand in the right relation, and
how many pictures have all their objects where they belong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import sdcore
from sdcore import quantization
from sdcore.pipelines import POCKET

sys.path.append(str(Path(__file__).parents[1] / "tools" / "pocket"))

import evaluator
import score
import world

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


def with_color(pictures: list[np.ndarray], color: str) -> float:
    """The share of pictures with an object of that colour."""
    return float(np.mean([any(f.color == color for f in evaluator.find(p)) for p in pictures]))


def negative_prompt(pipe: sdcore.DiffusionPipeline, count: int) -> str:
    """How often an object is red when its colour is not said, and when red is the negative."""
    random = np.random.default_rng(1)
    prompts = [f"a {random.choice(world.SHAPES)}" for _ in range(count)]
    free, kept_out = (
        with_color(score.draw(pipe, prompts, negative_prompt=negative, **DDIM), "red")
        for negative in ("", "red")
    )
    return f"red in {free:.1%} of pictures of no said colour, {kept_out:.1%} with negative 'red'"


def quantized(path: Path, to: Path, type: str) -> None:
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


def evaluate(path: Path, count: int, lora: Path | None) -> Iterator[tuple[str, str]]:
    """Name and result of each measurement."""
    scenes, prompts = zip(*score.held_out(count), strict=True)

    def shares(pipe: sdcore.DiffusionPipeline, few: int = count, **options: object) -> str:
        pictures = score.draw(pipe, prompts[:few], **options)
        return str(score.score(pictures, scenes[:few]))

    rendered = [world.render(scene) for scene in scenes]
    yield "the evaluator on rendered pictures", str(score.score(rendered, scenes))
    pipe = sdcore.DiffusionPipeline.open(path)
    yield "VAE, PSNR in dB", f"{psnr(pipe, min(count, 100)):.2f}"
    yield "DDIM 20, guidance 5", shares(pipe, **DDIM)
    yield "DDIM 20, guidance 1", shares(pipe, **{**DDIM, "guidance_scale": 1.0})
    yield "a negative colour", negative_prompt(pipe, count)
    few = min(count, 40)  # a thousand steps each
    yield f"DDIM 20, the first {few}", shares(pipe, few, **DDIM)
    pipe.scheduler = sdcore.DDPMScheduler.from_config(pipe.scheduler.config)
    yield f"DDPM 1000, the first {few}", shares(pipe, few, **{**DDIM, "num_inference_steps": 1000})
    for type in ("q8_0", "q4_K"):
        with tempfile.TemporaryDirectory() as folder:
            quantized(path, Path(folder) / "q.gguf", type)
            yield type, shares(sdcore.DiffusionPipeline.open(Path(folder) / "q.gguf"), **DDIM)
    if lora is not None:
        pipe = sdcore.DiffusionPipeline.open(path)
        pipe.load_lora_weights(lora)
        pipe.scheduler = sdcore.LCMScheduler.from_config(pipe.scheduler.config)
        yield "LCM-LoRA, 4 steps", shares(pipe, **LCM)


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the pocket model.")
    parser.add_argument("--model", type=Path, default=POCKET, help="a GGUF file of tools/pocket")
    parser.add_argument("--count", type=int, default=200, help="captions")
    parser.add_argument("--lora", type=Path, help="an LCM-LoRA")
    args = parser.parse_args()
    if not args.model.is_file():
        raise SystemExit(f"no such file: {args.model}; tools/pocket/README.md says how to make it")
    began = time.perf_counter()
    for name, result in evaluate(args.model, args.count, args.lora):
        print(f"{name}: {result} ({time.perf_counter() - began:.0f} s)", flush=True)
        began = time.perf_counter()


if __name__ == "__main__":
    main()
