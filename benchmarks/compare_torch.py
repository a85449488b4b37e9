"""One UNet step and one VAE decode of Stable Diffusion 1.5 at 512x512, beside PyTorch, in one run.

    python benchmarks/compare_torch.py [--isa avx512] [--threads 2] [--rounds 5] [--memory]

Sides alternate, so that both see the same machine; medians and their ratio are printed, and how far
the results are apart. `--isa` holds both sides to an instruction set.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# What holds oneDNN, ATen and MKL, which do PyTorch's work, to a level.
_TORCH_LIMITS = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}

Side = Callable[[], np.ndarray]


def torch_sides(part: str, path: Path, threads: int, dtypes: list[str]) -> dict[str, Side]:
    """The same file in diffusers, set up as PyTorch's documentation says is fastest."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.set_num_threads(threads)
    with torch.device("meta"):
        if part == "unet":
            network = UNet2DConditionModel(cross_attention_dim=768)
        else:
            network = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
    configs = path.parent / "configs"  # from_single_file would fetch them from a hub
    network.save_config(configs / part)
    sides: dict[str, Side] = {}
    for dtype in dtypes:
        kind = torch.bfloat16 if dtype == "bf16" else torch.float32
        model = type(network).from_single_file(
            str(path), config=str(configs), subfolder=part, torch_dtype=kind, local_files_only=True
        )
        model.eval().to(memory_format=torch.channels_last)

        @torch.no_grad()
        def run(model: Any = model, kind: Any = kind) -> np.ndarray:
            inputs = {k: torch.from_numpy(v).to(kind) for k, v in INPUTS[part].items()}
            if part == "unet":
                x = inputs["sample"].to(memory_format=torch.channels_last)
                out = model(x, 500, inputs["context"]).sample
            else:
                out = model.decode(inputs["latents"].to(memory_format=torch.channels_last)).sample
            return out.float().numpy()

        sides[f"PyTorch {torch.__version__} {dtype}"] = run
    return sides


def sdcore_sides(part: str, pipe_of: Callable[[str], Any], dtypes: list[str]) -> dict[str, Side]:
    sides: dict[str, Side] = {}
    for dtype in dtypes:
        pipe = pipe_of(dtype)
        if part == "unet":
            given = INPUTS["unet"]
            sides[f"sdcore {dtype}"] = lambda p=pipe, g=given: p.unet(
                g["sample"], 500, g["context"]
            )
        else:
            sides[f"sdcore {dtype}"] = lambda p=pipe: p.vae.decode(INPUTS["vae"]["latents"])
    return sides


_RNG = np.random.default_rng(1)
INPUTS = {
    "unet": {
        "sample": _RNG.standard_normal((1, 4, 64, 64), dtype=np.float32),
        "context": _RNG.standard_normal((1, 77, 768), dtype=np.float32),
    },
    "vae": {"latents": _RNG.standard_normal((1, 4, 64, 64), dtype=np.float32)},
}


def compare(title: str, sides: dict[str, Side], rounds: int) -> None:
    """Times the sides in turn and prints a table; the last PyTorch side is the reference."""
    results = {name: side() for name, side in sides.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    peers = [name for name in sides if name.startswith("PyTorch")]
    reference = results[peers[-1]]
    print(f"\n| {title} | seconds | " + " | ".join(f"vs {name}" for name in peers) + " | error |")
    print("| --- " * (3 + len(peers)) + "|")
    for name, median in medians.items():
        ratios = " | ".join(f"{medians[peer] / median:.2f}×" for peer in peers)
        error = np.linalg.norm(results[name] - reference) / np.linalg.norm(reference)
        print(f"| {name} | {median:.3f} | {ratios} | {error:.1e} |")


def peak_memory(path: Path, threads: int) -> None:
    """Draws a 512x512 picture in a process of its own and prints the most memory that it held."""
    code = (
        "import sdcore, sys, time; t = time.perf_counter();"
        f"pipe = sdcore.DiffusionPipeline.open({str(path)!r}, threads={threads});"
        "print(f'model open after {time.perf_counter() - t:.2f} s');"
        "pipe('a lighthouse at dusk', num_inference_steps=4, seed=0);"
        "print(f'picture in 4 guided steps after {time.perf_counter() - t:.2f} s')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak memory of a 512x512 picture from F16 weights: {peak / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--isa", choices=sorted(_TORCH_LIMITS), help="hold both sides to this level"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="where the random checkpoint is, or is put")
    parser.add_argument("--parts", default="unet,vae", help="of unet and vae")
    parser.add_argument("--dtypes", help="of f32 and bf16; default: what the level is good at")
    parser.add_argument("--memory", action="store_true", help="only measure peak memory")
    args = parser.parse_args()
    if args.isa:
        os.environ["SDCORE_ISA"] = args.isa
        os.environ.update(_TORCH_LIMITS[args.isa])

    import sdcore
    from full_size import make_checkpoint

    folder = Path(tempfile.gettempdir()) / "sdcore-benchmark"
    path = make_checkpoint(args.model or folder / "sd15-random-f16.safetensors")
    if args.memory:
        peak_memory(path, args.threads)
        return
    dtypes = (args.dtypes or ("f32" if args.isa else "bf16,f32")).split(",")

    def pipe_of(dtype: str) -> Any:
        return sdcore.DiffusionPipeline.open(path, dtype=dtype, threads=args.threads)

    for part, title in (("unet", "UNet step"), ("vae", "VAE decode")):
        if part in args.parts:
            sides = sdcore_sides(part, pipe_of, dtypes)
            sides |= torch_sides(part, path, args.threads, dtypes)
            compare(f"{title}, 512x512, {args.threads} threads", sides, args.rounds)


if __name__ == "__main__":
    main()
