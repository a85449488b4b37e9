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

import sdcore
from sdcore.pipelines import POCKET

sys.path.append(str(Path(__file__).parents[1] / "tools" / "pocket"))

import measures
import score
import world
from measures import DDIM, LCM


def evaluate(path: Path, count: int, lora: Path | None) -> Iterator[tuple[str, str]]:
    """Name and result of each measurement."""
    scenes, prompts = zip(*score.held_out(count), strict=True)

    def shares(pipe: sdcore.DiffusionPipeline, few: int = count, **options: object) -> str:
        pictures = score.draw(pipe, prompts[:few], **options)
        return str(score.score(pictures, scenes[:few]))

    rendered = [world.render(scene) for scene in scenes]
    yield "the evaluator on rendered pictures", str(score.score(rendered, scenes))
    pipe = sdcore.DiffusionPipeline.open(path)
    yield "VAE, PSNR in dB", f"{measures.psnr(pipe, min(count, 100)):.2f}"
    yield "DDIM 20, guidance 5", shares(pipe, **DDIM)
    yield "DDIM 20, guidance 1", shares(pipe, **{**DDIM, "guidance_scale": 1.0})
    for type in ("q8_0", "q4_K"):
        with tempfile.TemporaryDirectory() as folder:
            file = measures.quantized(path, Path(folder) / "q.gguf", type)
            yield type, shares(sdcore.DiffusionPipeline.open(file), **DDIM)
    if lora is not None:
        yield "LCM-LoRA, 4 steps", shares(measures.with_lcm(path, lora), **LCM)
    free, kept_out = (measures.red(pipe, count, negative) for negative in ("", "red"))
    yield "red where no colour is said", f"{free:.1%}, and {kept_out:.1%} with negative 'red'"
    few = min(count, 40)  # a thousand steps each
    yield f"DDIM 20, the first {few}", shares(pipe, few, **DDIM)
    pipe.scheduler = sdcore.DDPMScheduler.from_config(pipe.scheduler.config)
    yield f"DDPM 1000, the first {few}", shares(pipe, few, **{**DDIM, "num_inference_steps": 1000})


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the pocket model.")
    parser.add_argument("--model", type=Path, default=POCKET, help="a GGUF file of tools/pocket")
    parser.add_argument("--count", type=int, default=200, help="captions")
    parser.add_argument(
        "--lora",
        type=Path,
        default=POCKET.with_name("loras") / "lcm.safetensors",
        help="an LCM-LoRA (default: the one in the package)",
    )
    args = parser.parse_args()
    if not args.model.is_file():
        raise SystemExit(f"no such file: {args.model}; tools/pocket/README.md says how to make it")
    lora = args.lora if args.lora.is_file() else None
    began = time.perf_counter()
    for name, result in evaluate(args.model, args.count, lora):
        print(f"{name}: {result} ({time.perf_counter() - began:.0f} s)", flush=True)
        began = time.perf_counter()


if __name__ == "__main__":
    main()
