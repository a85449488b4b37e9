"""A whole picture of Stable Diffusion 1.5, from the start of a process to a PNG, and its memory.

    python benchmarks/picture.py                            25 guided steps at 512x512, Q8_0
    python benchmarks/picture.py --weights f16,q8_0,q4_K --steps 4 --rounds 1
    python benchmarks/picture.py --sd-cpp ~/sd.cpp/bin/sd   stable-diffusion.cpp, on the same file

sdcore and stable-diffusion.cpp are their own commands. OpenVINO is given its start for nothing: its
networks are compiled before the clock runs, and the steps between them are bare NumPy. The model
is of random weights (`full_size.py`), so the picture shows noise, and takes as long as any other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

PROMPT = "a lighthouse at dusk"
GUIDANCE = 7.5


@dataclass
class Figures:
    """Seconds of each round, and the peak memory in bytes where the side is a process."""

    seconds: list[float] = field(default_factory=list)
    peak: int = 0


Side = Callable[[], tuple[float, int]]  # draws a picture: seconds, bytes


# A process counts the memory of the one that it was forked from, which may hold compiled networks:
# so a small one starts it.
LAUNCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
seconds = time.perf_counter() - start
if done.returncode:
    sys.exit(done.stderr.decode(errors="replace"))
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


def process(*command: str) -> tuple[float, int]:
    """Runs a command and gives its time and the most memory that it held."""
    launcher = [sys.executable, "-c", LAUNCH, *command]
    done = subprocess.run(launcher, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def own(path: Path, folder: Path, args: argparse.Namespace, *more: str) -> Side:
    command = [sys.executable, "-m", "sdcore", "txt2img", "-m", str(path), PROMPT, *more]
    command += ["--steps", str(args.steps), "--cfg-scale", str(GUIDANCE), "--sampler", "ddim"]
    command += ["-s", "1", "-t", str(args.threads), "-f", "-o", str(folder / "own.png")]
    return lambda: process(*command)


def sd_cpp(program: Path, path: Path, folder: Path, args: argparse.Namespace) -> Side:
    """stable-diffusion.cpp's command, as its README calls it."""
    command = [str(program), "-m", str(path), "-p", PROMPT, "--steps", str(args.steps)]
    command += ["--cfg-scale", str(GUIDANCE), "--sampling-method", "euler", "-W", "512"]
    command += ["-H", "512", "-s", "1", "-t", str(args.threads), "-o", str(folder / "sd.png")]
    return lambda: process(*command)


def openvino(source: Path, dtype: str, folder: Path, args: argparse.Namespace) -> Side:
    """DDIM with networks that are compiled already."""
    from PIL import Image

    import peers

    maker = peers.OpenVINO(source, args.threads)
    ids = np.full((2, 77), 49407, np.int64)
    latents, context = np.zeros((2, 4, 64, 64), np.float32), np.zeros((2, 77, 768), np.float32)
    clip = maker.call("clip", dtype, (ids,))
    unet = maker.call("unet", dtype, (latents, context))
    decode = maker.call("decode", dtype, (latents[:1],))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.append(np.cumprod(1 - betas), 1.0)

    def draw() -> tuple[float, int]:
        start = time.perf_counter()
        hidden = clip(ids)
        x = np.random.default_rng(1).standard_normal((1, 4, 64, 64), dtype=np.float32)
        step = 1000 // args.steps
        # The converted network has its timestep inside: every step takes as long as any other.
        for t in range(step * (args.steps - 1) + 1, 0, -step):
            without, guided = np.split(unet(np.concatenate([x, x]), hidden), 2)
            noise = without + GUIDANCE * (guided - without)
            now, then = alphas[t], alphas[t - step if t >= step else -1]
            clean = (x - (1 - now) ** 0.5 * noise) / now**0.5
            x = (then**0.5 * clean + (1 - then) ** 0.5 * noise).astype(np.float32)
        pixels = decode(x / np.float32(0.18215))[0].transpose(1, 2, 0)
        picture = ((pixels.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
        Image.fromarray(picture).save(folder / "openvino.png")
        return time.perf_counter() - start, 0

    return draw


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=25)
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=os.cpu_count())
    add("--model", type=Path, help="where the random checkpoint is, or is put")
    add("--weights", default="q8_0", help="of sdcore: f16, and q8_0, q4_K …, q8_0+conv …")
    add("--isa", choices=("avx2", "avx512"), help="hold every side to this level")
    add("--option", action="append", default=[], help="one more for sdcore's command; repeat")
    add("--no-openvino", action="store_true", help="leave OpenVINO out")
    add("--sd-cpp", type=Path, metavar="PROGRAM", help="stable-diffusion.cpp's command")
    add("--json", type=Path, metavar="FILE", help="write every figure here too")
    return parser.parse_args()


def _sides(args: argparse.Namespace, folder: Path) -> dict[str, Side]:
    import peers

    if args.isa:
        os.environ["SDCORE_ISA"] = args.isa
        os.environ.update(peers.LIMITS[args.isa])

    from full_size import make_checkpoint, quantized
    from sdcore import _core

    kept = Path(tempfile.gettempdir()) / "sdcore-benchmark"
    source = make_checkpoint(args.model or kept / "sd15-random-f16.safetensors")
    paths = {w: source if w == "f16" else quantized(source, w) for w in args.weights.split(",")}
    sides = {f"sdcore, {w}": own(path, folder, args, *args.option) for w, path in paths.items()}
    if not args.no_openvino:
        dtype = "bf16" if _core.default_isa() == "amx" else "f32"
        sides[f"OpenVINO {dtype}, compiled before"] = openvino(source, dtype, folder, args)
    if args.sd_cpp:
        for w, path in paths.items():
            sides[f"stable-diffusion.cpp, {w}"] = sd_cpp(args.sd_cpp, path, folder, args)
    return sides


def table(figures: dict[str, Figures]) -> str:
    """Medians, beside the first side's."""
    lines = ["| side | seconds | of the first's | peak memory |", "| --- | --- | --- | --- |"]
    medians = {name: float(np.median(f.seconds)) for name, f in figures.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        peak = figures[name].peak
        memory = f"{peak / 1e9:.2f} GB" if peak else "–"
        lines.append(f"| {name} | {median:.1f} | {median / first:.2f}× | {memory} |")
    return "\n".join(lines)


def main() -> None:
    args = _arguments()
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = _sides(args, Path(folder))
        for _ in range(args.rounds):
            for name, side in sides.items():
                seconds, peak = side()
                row = figures.setdefault(name, Figures())
                row.seconds.append(seconds)
                row.peak = max(row.peak, peak)
                print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    print(f"A 512x512 picture in {args.steps} guided steps, {args.threads} threads\n")
    print(table(figures))
    if args.json:
        facts: dict[str, Any] = {name: vars(f) for name, f in figures.items()}
        args.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
