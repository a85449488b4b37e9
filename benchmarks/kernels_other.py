"""Kernels other than matrix products beside PyTorch, at the shapes of SD 1.5 and its VAE.

Usage: python benchmarks/kernels_other.py [--threads N] [--isa avx2] [--processor] [name ...]

Each line is measured in turn with its PyTorch counterpart. --processor counts processor time on one
thread, which stays meaningful while other programs run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from sdcore import _core

K = _core.kernels
TORCH_TYPE = {"f32": torch.float32, "bf16": torch.bfloat16}
Case = tuple[str, Callable[..., tuple[float, float]], tuple[object, ...], Callable[[], object]]

ATTENTION = [  # n, tq, tk, heads, d
    (1, 4096, 4096, 8, 40),
    (1, 4096, 77, 8, 40),
    (1, 1024, 1024, 8, 80),
    (1, 256, 256, 8, 160),
    (1, 4096, 4096, 1, 512),
    (1, 77, 77, 12, 64),
]
GROUP_NORM = [(64, 64, 320), (64, 64, 960), (512, 512, 128), (256, 256, 256)]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def cases(dtype: str) -> Iterator[Case]:
    kind = TORCH_TYPE[dtype]
    for n, tq, tk, heads, d in ATTENTION:
        q, k, v = (normal(n, t, heads * d) for t in (tq, tk, tk))
        tensors = (torch.from_numpy(x).to(kind) for x in (q, k, v))
        split = [x.unflatten(2, (heads, d)).transpose(1, 2) for x in tensors]
        yield (
            f"attention {tq}x{tk}, {heads} heads of {d}",
            K.bench_attention,
            (q, k, v, heads),
            lambda s=split: F.scaled_dot_product_attention(*s),
        )
    for h, w, c in GROUP_NORM:
        x, weight, bias = normal(1, h, w, c), normal(c), normal(c)
        nchw = torch.from_numpy(x).to(kind).permute(0, 3, 1, 2)
        wt, bt = (torch.from_numpy(p).to(kind) for p in (weight, bias))
        yield (
            f"group_norm + silu {h}x{w}x{c}",
            lambda *a, **o: K.bench_group_norm(*a, activation="silu", **o),
            (x, weight, bias, 32),
            lambda x=nchw, w=wt, b=bt: F.silu(F.group_norm(x, 32, w, b)),
        )
    x, weight, bias = normal(1, 4096, 320), normal(320), normal(320)
    t, wt, bt = (torch.from_numpy(p).to(kind) for p in (x, weight, bias))
    yield (
        "layer_norm 4096x320",
        K.bench_layer_norm,
        (x, weight, bias),
        lambda: F.layer_norm(t, (320,), wt, bt),
    )
    wide = normal(1, 4096, 2560)
    tw = torch.from_numpy(wide).to(kind)
    yield (
        "geglu 4096x1280",
        K.bench_geglu,
        (wide,),
        lambda: tw[..., :1280] * F.gelu(tw[..., 1280:]),
    )
    yield "silu 4096x1280", K.bench_unary, (wide, "silu"), lambda: F.silu(tw)
    other = normal(1, 4096, 2560)
    to = torch.from_numpy(other).to(kind)
    yield "add 4096x2560", K.bench_binary, (wide, other, "add"), lambda: tw + to
    image = normal(1, 32, 32, 640)
    ti = torch.from_numpy(image).to(kind).permute(0, 3, 1, 2)
    yield (
        "upsample 32x32x640",
        K.bench_upsample_nearest,
        (image, (64, 64)),
        lambda: F.interpolate(ti, scale_factor=2, mode="nearest"),
    )


def torch_seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    run()
    best = float("inf")
    for _ in range(5):
        start, calls = clock(), 0
        while clock() - start < 0.05:
            run()
            calls += 1
        best = min(best, (clock() - start) / calls)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only lines that contain one of these")
    parser.add_argument("--threads", type=int, default=_core.available_cpus())
    parser.add_argument("--isa", default=_core.default_isa())
    parser.add_argument("--dtype", choices=TORCH_TYPE, action="append")
    parser.add_argument("--processor", action="store_true")
    args = parser.parse_args()
    threads = 1 if args.processor else args.threads
    clock = time.process_time if args.processor else time.perf_counter
    torch.set_num_threads(threads)
    print(f"{'':40} {'type':>5} {'torch ms':>10} {'sdcore ms':>10} {'ratio':>6}")
    for dtype in args.dtype or TORCH_TYPE:
        for name, bench, inputs, run in cases(dtype):
            if args.names and not any(part in name for part in args.names):
                continue
            with torch.no_grad():
                reference = torch_seconds(run, clock)
            own = bench(*inputs, dtype=dtype, isa=args.isa, threads=threads)[args.processor]
            ratio = reference / own
            print(f"{name:40} {dtype:>5} {reference * 1e3:10.3f} {own * 1e3:10.3f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
