"""Single kernels on a GPU, timed by PyTorch's profiler, which sees every program's."""

from __future__ import annotations

import collections
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import sdcore
from sdcore import _core
from sdcore.graph import Builder, nn

# Images, heads, queries, keys and numbers of a head: of SD 1.5's UNet and VAE, SDXL, PixArt, SD 3
# and Flux.
ATTENTION = [
    (2, 8, 4096, 4096, 40),
    (2, 8, 1024, 1024, 80),
    (2, 8, 256, 256, 160),
    (2, 8, 64, 64, 160),
    (2, 8, 4096, 77, 40),
    (2, 8, 1024, 77, 80),
    (1, 1, 4096, 4096, 512),
    (2, 10, 4096, 4096, 64),
    (2, 20, 1024, 1024, 64),
    (2, 24, 4250, 4250, 64),
    (2, 16, 4096, 4096, 72),
    (1, 24, 4608, 4608, 128),
]


def events(run: Callable[[], Any], rounds: int) -> list[dict[str, Any]]:
    """What the GPU did in so many runs, after some that are not counted."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text("utf-8"))["traceEvents"]
    return [event for event in trace if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]


def show_kernels(title: str, run: Callable[[], Any], rounds: int = 5) -> None:
    """Prints a table of the kernels of a run: microseconds together, how often, each."""
    found = events(run, rounds)
    times: dict[str, list[float]] = collections.defaultdict(list)
    for event in found:
        name = event["name"].replace("sdcore::", "").replace("(anonymous namespace)::", "")
        sizes = event["args"].get("grid", ""), event["args"].get("block", "")
        times[f"{name.split('(')[0][:90]} {sizes[0]} {sizes[1]}"].append(event["dur"])
    busy = sum(event["dur"] for event in found) / rounds
    print(f"\nkernels of {title}: {len(found) / rounds:.0f}, {busy:.0f} us")
    for name, all_times in sorted(times.items(), key=lambda item: -sum(item[1]))[:60]:
        count = len(all_times) / rounds
        print(f"{sum(all_times) / rounds:9.1f} {count:6.0f} {np.median(all_times):9.2f}  {name}")


def measure_attention(device: str, dtype: str) -> Iterator[dict[str, Any]]:
    """Kernel times beside those of PyTorch's backends that do this size."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    print(f"\nattention in {dtype}: microseconds of sdcore, PyTorch flash, PyTorch cuDNN; TFLOP/s")
    g = np.random.default_rng(2)
    half = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for n, heads, queries, keys, size in ATTENTION:
        b = Builder()
        b.output("out", nn.concat(nn.attention(*(b.input(x) for x in "qkv"), heads=heads)))
        network = _core.Network(b.graph, {}, device=device, dtype=dtype)
        given = {
            name: sdcore.DeviceArray.from_numpy(
                g.standard_normal((n, rows, heads * size), dtype=np.float32), network.device
            )
            for name, rows in zip("qkv", (queries, keys, keys), strict=True)
        }
        own = _time(lambda net=network, x=given: net.run(x, stay=["out"]), "attention_kernels")
        there = [
            torch.randn(n, rows, heads, size, device=device, dtype=half).transpose(1, 2)
            for rows in (queries, keys, keys)
        ]
        others = {}
        for name, backend in (
            ("flash", SDPBackend.FLASH_ATTENTION),
            ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ):
            with sdpa_kernel(backend):
                try:
                    others[name] = _time(lambda x=there: F.scaled_dot_product_attention(*x), "")
                except RuntimeError:  # it does not do this size
                    others[name] = math.nan
        rate = 4 * n * heads * queries * keys * size / own / 1e6
        what = f"{n} x {heads} x {queries} x {keys} x {size}"
        print(f"{what:<30} {own:9.1f} {others['flash']:9.1f} {others['cudnn']:9.1f} {rate:7.0f}")
        yield {"what": what, "seconds": own / 1e6, "rate": rate * 1e12} | {
            f"PyTorch {name}": time / 1e6 for name, time in others.items()
        }


def _time(run: Callable[[], Any], part_of_name: str, rounds: int = 10) -> float:
    found = [event["dur"] for event in events(run, rounds) if part_of_name in event["name"]]
    return sum(found) / rounds
