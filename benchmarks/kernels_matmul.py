"""GFLOP/s of `conv2d` and `linear` on the shapes of Stable Diffusion, beside PyTorch's.

    python benchmarks/kernels_matmul.py --dtype bf16 --threads 2
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python … --dtype f32 --isa avx2

Each shape is timed in turn on both, so that a busy machine slows both. Two weights take turns, as a
network never uses one twice in a row. With one thread, its processor time counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from sdcore import _core

try:
    import torch
except ImportError:
    torch = None

kernels = _core.kernels

# height = width, in, out, kernel, stride
CONVS = [
    (64, 320, 320, 3, 1),
    (64, 960, 320, 3, 1),
    (32, 640, 640, 3, 1),
    (32, 1920, 640, 3, 1),
    (16, 1280, 1280, 3, 1),
    (16, 2560, 1280, 3, 1),
    (8, 1280, 1280, 3, 1),
    (64, 320, 320, 3, 2),
    (64, 4, 320, 3, 1),
    (64, 320, 4, 3, 1),
    (64, 640, 320, 1, 1),
    (128, 512, 512, 3, 1),
    (256, 128, 128, 3, 1),
]
# rows, in, out
LINEARS = [
    (4096, 320, 320),
    (4096, 320, 2560),
    (4096, 1280, 320),
    (1024, 640, 640),
    (1024, 640, 5120),
    (256, 1280, 1280),
    (256, 1280, 10240),
    (256, 5120, 1280),
    (77, 768, 640),
    (2, 1280, 1280),
]


def fastest(repeats: int, threads: int, body: Callable[[int], Any]) -> float:
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = float("inf")
    for i in range(repeats):
        begin = clock()
        body(i)
        best = min(best, clock() - begin)
    return best


def torch_dtype(name: str) -> Any:
    return torch.bfloat16 if name == "bf16" else torch.float32


def torch_conv(shape: tuple[int, int, int, int, int], args: argparse.Namespace) -> float:
    size, channels, outputs, kernel, stride = shape
    options = {"dtype": torch_dtype(args.dtype)}
    layers = [
        torch.nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, **options).to(
            memory_format=torch.channels_last
        )
        for _ in range(2)
    ]
    x = torch.randn(1, channels, size, size, **options).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return fastest(args.repeats, args.threads, lambda i: layers[i % 2](x))


def torch_linear(shape: tuple[int, int, int], args: argparse.Namespace) -> float:
    rows, inputs, outputs = shape
    options = {"dtype": torch_dtype(args.dtype)}
    layers = [torch.nn.Linear(inputs, outputs, **options) for _ in range(2)]
    x = torch.randn(rows, inputs, **options)
    with torch.inference_mode():
        return fastest(args.repeats, args.threads, lambda i: layers[i % 2](x))


def report(name: str, flops: int, own: float, other: float | None) -> None:
    line = f"{name:28} {own * 1e3:9.3f} ms {flops / own * 1e-9:7.0f} GFLOP/s"
    if other is not None:
        line += f"   torch {flops / other * 1e-9:7.0f}   x {other / own:.2f}"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bf16", choices=["f32", "bf16"])
    parser.add_argument("--weights", default="f16", help="type of the weights before packing")
    parser.add_argument("--int8-activations", action="store_true", help="of linear layers")
    parser.add_argument("--isa", default=None)
    parser.add_argument("--threads", type=int, default=_core.available_cpus())
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    if torch is not None:
        torch.set_num_threads(args.threads)
    common = {
        "dtype": args.dtype,
        "weight_type": args.weights,
        "isa": args.isa,
        "threads": args.threads,
        "copies": 2,
        "repeats": args.repeats,
    }
    for conv in CONVS:
        size, channels, outputs, kernel, stride = conv
        own = kernels.bench_conv2d((1, size, size, channels), outputs, kernel, stride, **common)
        flops = 2 * (size // stride) ** 2 * channels * outputs * kernel**2
        name = f"conv {kernel}x{kernel}/{stride} {channels}->{outputs} @{size}"
        report(name, flops, own, torch_conv(conv, args) if torch else None)
    for linear in LINEARS:
        rows, inputs, outputs = linear
        own = kernels.bench_linear(
            rows, inputs, outputs, int8_activations=args.int8_activations, **common
        )
        name = f"linear {rows} x {inputs}->{outputs}"
        report(
            name, 2 * rows * inputs * outputs, own, torch_linear(linear, args) if torch else None
        )


if __name__ == "__main__":
    main()
