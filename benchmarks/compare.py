"""The networks of Stable Diffusion 1.5 at 512x512, beside other runtimes, in one run.

    python benchmarks/compare.py                     what this processor is best at
    python benchmarks/compare.py --isa avx2          every side held to AVX2
    python benchmarks/compare.py --rows unet --peers openvino --rounds 9 --json figures.json
    python benchmarks/compare.py --weights f16,q8_0  also with quantized linear layers in sdcore
    python benchmarks/compare.py --json f.json && python benchmarks/plot.py f.json f.svg

Every side takes its turn in every round, so that a busy machine slows all of them; figures are
medians, and ratios count for more than seconds. Peers are set up as their own documentation says is
fastest (`peers.py`). All open one checkpoint of random weights, made when it is not there
(`full_size.py`); OpenVINO's conversion of it is kept beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import peers  # which imports no library before its limits are in the environment

Side = Callable[[], np.ndarray]

_RNG = np.random.default_rng(1)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape, dtype=np.float32)


# Row: title, part of the model, inputs in diffusers' order and layout.
ROWS: dict[str, tuple[str, str, tuple[np.ndarray, ...]]] = {
    "unet": ("UNet step", "unet", (_normal(1, 4, 64, 64), _normal(1, 77, 768))),
    "unet2": ("UNet step with guidance", "unet", (_normal(2, 4, 64, 64), _normal(2, 77, 768))),
    "decode": ("VAE decode", "decode", (_normal(1, 4, 64, 64),)),
    "encode": ("VAE encode", "encode", (_normal(1, 3, 512, 512),)),
    "clip": ("CLIP encode", "clip", (_RNG.integers(0, 49408, (2, 77), dtype=np.int64),)),
}
STEP = 500


def own_side(pipe: Any, part: str, inputs: tuple[np.ndarray, ...]) -> Side:
    if part == "unet":
        return lambda: pipe.unet(inputs[0], STEP, inputs[1])
    if part == "clip":
        return lambda: pipe.text_encoder(inputs[0])
    return lambda: getattr(pipe.vae, part)(inputs[0])


def compare(title: str, sides: dict[str, Side], rounds: int) -> dict[str, Any]:
    """Times the sides in turn and prints a table; the last side is the reference of the errors."""
    results = {name: side() for name, side in sides.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    own = next(iter(sides))
    reference = results[list(sides)[-1]]
    print(f"\n| {title} | seconds | of sdcore's time | error |\n| --- | --- | --- | --- |")
    rows = []
    for name, median in medians.items():
        error = float(np.linalg.norm(results[name] - reference) / np.linalg.norm(reference))
        ratio = median / medians[own]
        print(f"| {name} | {median:.3f} | {ratio:.2f}× | {error:.1e} |", flush=True)
        rows.append({"side": name, "seconds": times[name], "median": median, "error": error})
    return {"title": title, "sides": rows}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--isa", choices=("avx2", "avx512"), help="hold every side to this level")
    add("--threads", type=int, default=os.cpu_count())
    add("--rounds", type=int, default=5)
    add("--model", type=Path, help="where the random checkpoint is, or is put")
    add("--weights", default="f16", help="of sdcore: f16, and q8_0, q4_K …, q8_0+conv …")
    add("--rows", default=",".join(ROWS), help="of " + ", ".join(ROWS))
    add("--peers", default="torch,openvino", help="of " + ", ".join(peers.PEERS) + "; may be none")
    add("--dtypes", help="of f32 and bf16; default: what the level is good at")
    add("--json", type=Path, metavar="FILE", help="write every figure here too")
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    if args.isa:
        os.environ["SDCORE_ISA"] = args.isa
        os.environ.update(peers.LIMITS[args.isa])

    import sdcore
    from full_size import make_checkpoint, quantized
    from sdcore import _core

    folder = Path(tempfile.gettempdir()) / "sdcore-benchmark"
    source = make_checkpoint(args.model or folder / "sd15-random-f16.safetensors")
    paths = {w: source if w == "f16" else quantized(source, w) for w in args.weights.split(",")}
    level = _core.default_isa()
    best = "bf16" if level == "amx" else "f32"
    dtypes = (args.dtypes or best).split(",")
    makers = {
        name: peers.PEERS[name](source, args.threads) for name in args.peers.split(",") if name
    }
    facts: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "isa": level,
        "threads": args.threads,
        "versions": {"sdcore": sdcore.__version__, **{m.name: m.version for m in makers.values()}},
        "rows": [],
    }
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    pipes = {
        f"sdcore {dtype}" if weights == "f16" else f"sdcore {dtype}, {weights}": (
            sdcore.DiffusionPipeline.open(path, dtype=dtype, threads=args.threads)
        )
        for weights, path in paths.items()
        for dtype in dtypes
    }
    for row in args.rows.split(","):
        title, part, inputs = ROWS[row]
        sides = {name: own_side(pipe, part, inputs) for name, pipe in pipes.items()}
        for maker in makers.values():
            for dtype in (d for d in dtypes if d in maker.dtypes):
                sides[f"{maker.name} {dtype}"] = maker.side(part, dtype, inputs)
        facts["rows"].append(compare(f"{title}, {args.threads} threads", sides, args.rounds))
    if args.json:
        args.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
