"""What a GPU does with Stable Diffusion 1.5 at full size: right, and how fast, beside PyTorch.

    python benchmarks/cuda.py --json cuda.json     # all of it; needs nothing but NumPy
    python benchmarks/cuda.py --kernels            # only whether kernels of real sizes are right

Weights are random, of the real configuration. Kernels and networks are held against the same on
the CPU in float32. Times are medians of runs from NumPy arrays to NumPy arrays, so with all copies,
on both sides, which take turns; and of the UNet from arrays on the GPU to arrays that stay there.
PyTorch runs where it has CUDA: channels-last in the same dtype, eager, eager as one CUDA graph, and
by torch.compile in the mode max-autotune, which makes CUDA graphs too. Its profiler times the
attention of both sides alone, and with --profile all kernels of a step.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import cuda_kernels
import full_size
import sdcore
from sdcore import _core, ops
from sdcore.models.base import to_nchw, to_nhwc

# The error of one op against the same in f32: operands, weights of keys and the result are rounded.
# PyTorch's is the same within a few percent.
OP_LIMIT = {"bf16": 6e-3, "f16": 7.5e-4}
NETWORK_LIMIT = {"bf16": 5e-2, "f16": 6e-3}  # of random weights; trained ones err less
STEP = 500


def main() -> None:
    args = _arguments()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    report: dict[str, Any] = {"device": args.device, "memory": _core.device_memory(args.device)}
    report["kernels"] = [
        row for dtype in OP_LIMIT for row in check_kernels(args.device, dtype, args.tiny)
    ]
    if not args.kernels:
        with tempfile.TemporaryDirectory() as folder:
            path = args.model or Path(folder) / "sd15.safetensors"
            full_size.make_checkpoint(path)
            report["pictures"] = list(measure_pictures(args, path))
            if _torch_has(args.device):
                report["attention"] = list(cuda_kernels.measure_attention(args.device, args.dtype))
            report["networks"] = list(measure_networks(args, path))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    wrong = [
        row["what"]
        for part in report.values()
        if isinstance(part, list)
        for row in part
        if not row.get("right", True)
    ]
    if wrong:
        raise SystemExit(f"error: wrong results: {', '.join(wrong)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--device", default="cuda", help="default: cuda")
    add(
        "--model",
        type=Path,
        help="a checkpoint of SD 1.x, made where there is none (default: one that goes away)",
    )
    add("--dtype", choices=list(OP_LIMIT), default="f16", help="of networks (default: f16)")
    add("--size", type=int, default=512, metavar="PIXELS", help="of pictures (default: 512)")
    add("--rounds", type=int, default=20, help="runs of each side (default: 20)")
    add("--types", nargs="*", default=["q8_0", "q4_K"], help="quantized ones to measure as well")
    add("--kernels", action="store_true", help="only check kernels")
    add("--tiny", action="store_true", help="kernels of small sizes, for slow devices")
    add("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    add("--profile", action="store_true", help="show all kernels, where there is PyTorch")
    add("--json", type=Path, help="where to write what is printed")
    return parser.parse_args()


def _row(columns: dict[str, Any]) -> dict[str, Any]:
    """Prints a row of a table and gives it back for the report."""
    shown = [
        f"{value:.4g}" if isinstance(value, float) else str(value) for value in columns.values()
    ]
    print(
        "  ".join(f"{text:<{width}}" for text, width in zip(shown, (52, 12, 12, 12), strict=False))
    )
    return columns


def _error(out: np.ndarray, ref: np.ndarray) -> float:
    return float(np.linalg.norm(out.astype(np.float64) - ref) / np.linalg.norm(ref))


# ---- kernels -------------------------------------------------------------------------------------


def check_kernels(device: str, dtype: str, tiny: bool) -> Iterator[dict[str, Any]]:
    print(f"\nkernels of SD 1.5 on {device} in {dtype}: relative error against the CPU in f32")
    g = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return g.standard_normal(shape, dtype=np.float32)

    side, width = (8, 48) if tiny else (64, 320)
    image, tokens = normal(2, side, side, width), normal(2, side * side, width)
    context = normal(2, 77, width)
    scale = np.float32(1 / np.sqrt(9 * width))
    weight, bias = normal(width, width, 3, 3) * scale, normal(width)
    square = normal(width, 256) / np.float32(16)
    cases: dict[str, Callable[..., np.ndarray]] = {
        "conv2d 3x3": lambda **o: ops.conv2d(image, weight, bias, padding=1, **o),
        "conv2d 3x3, stride 2": lambda **o: ops.conv2d(image, weight, bias, 2, 1, **o),
        "conv2d 3x3 of 4 channels": lambda **o: ops.conv2d(
            image[..., :4], weight[:, :4] * 9, bias, padding=1, **o
        ),
        "linear": lambda **o: ops.matmul(tokens, weight[..., 0, 0] * 3, bias, **o),
        "group_norm": lambda **o: ops.group_norm(image, bias, bias, 8, **o),
        "layer_norm": lambda **o: ops.layer_norm(tokens, bias, bias, **o),
        "conv2d of a small image": lambda **o: ops.conv2d(
            image[:, :8, :8], weight, bias, padding=1, **o
        ),
        "linear with geglu": lambda **o: _gated(tokens, weight[..., 0, 0] * 3, **o),
        "geglu": lambda **o: ops.geglu(tokens, **o),
    }
    for kind in ("q8_0", "q4_0", "q4_K", "q5_K", "q6_K"):
        stored = sdcore.quantize(square, kind)
        wide = normal(2, side * side, 256)
        cases[f"linear, {kind}"] = lambda w=stored, x=wide, **o: ops.matmul(x, w, **o)
    for size in (40, 64, 80, 128, 160, 512):
        q, k = normal(1, side * side, size), normal(1, side * side, size)
        cases[f"attention of heads of {size}"] = lambda q=q, k=k, **o: _attention(q, k, k, **o)
    cases["attention over 77 keys"] = lambda **o: _attention(tokens, context, context, **o)
    for what, call in cases.items():
        found = _error(call(device=device, dtype=dtype), call(dtype="f32"))
        yield _row({"what": f"{what}, {dtype}", "error": found, "right": found < OP_LIMIT[dtype]})


def _attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, **options: Any) -> np.ndarray:
    """With something after it, because what a graph gives out is float32."""
    from sdcore.graph import Builder, nn

    b = Builder()
    values = [b.input(name) for name in "qkv"]
    b.output("out", nn.concat(nn.attention(*values, heads=1)))
    out: np.ndarray = _core.Network(b.graph, {}, **options).run({"q": q, "k": k, "v": v})["out"]
    return out


def _gated(x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    from sdcore.graph import Builder, nn

    b = Builder()
    n, k = weight.shape
    b.output("out", nn.geglu(nn.linear(b.weights.w, b.input("x"), k, n, bias=False)))
    tensors = {"w.weight": _core.Tensor.from_array(weight)}
    out: np.ndarray = _core.Network(b.graph, tensors, **options).run({"x": x})["out"]
    return out


# ---- networks ------------------------------------------------------------------------------------


def measure_networks(args: argparse.Namespace, path: Path) -> Iterator[dict[str, Any]]:
    g = np.random.default_rng(1)
    open_it = functools.partial(sdcore.DiffusionPipeline.open, path, device=args.device)
    pipe = open_it(dtype=args.dtype)
    h = args.size // pipe.vae.scale_factor
    channels = pipe.unet.config.cross_attention_dim
    latents = g.standard_normal((2, 4, h, h), dtype=np.float32)
    context = g.standard_normal((2, 77, channels), dtype=np.float32)
    given = {"unet": (latents, np.float32(STEP), context), "decode": (latents[:1],)}
    cpu = sdcore.DiffusionPipeline.open(path, dtype="f32")
    for part, inputs in given.items():
        sides = {f"sdcore {args.dtype}": _own(pipe, part, inputs)}
        for dtype in OP_LIMIT.keys() - {args.dtype}:
            sides[f"sdcore {dtype}"] = _own(open_it(dtype=dtype), part, inputs)
        for kind in args.types if part == "unet" else ():
            small = open_it(dtype=args.dtype, quantize=kind)
            sides[f"sdcore {kind}"] = _own(small, part, inputs)
        if part == "unet":
            sides[f"sdcore {args.dtype}, arrays stay"] = _own_staying(pipe, inputs)
            streaming = open_it(dtype=args.dtype, stream_weights=True)
            sides[f"sdcore {args.dtype}, weights streamed"] = _own(streaming, part, inputs)
        if args.profile and _torch_has(args.device):
            cuda_kernels.show_kernels(part, next(iter(sides.values())))
        sides |= dict(_torch_sides(args, path, part, inputs))
        print(
            f"\n{part} at {args.size} x {args.size}, batch {len(inputs[0])}: seconds, error, ratio"
        )
        yield from _compare(part, sides, _own(cpu, part, inputs)(), args.rounds)


def _own(pipe: Any, part: str, inputs: tuple[Any, ...]) -> Callable[[], np.ndarray]:
    call = pipe.unet if part == "unet" else pipe.vae.decode
    return lambda: call(*inputs)


def _own_staying(pipe: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    latents, t, context = inputs
    network = pipe.unet.network
    given = {
        "sample": to_nhwc(latents, "latents", latents.shape[1]),
        "timestep": np.full(len(latents), t),
        "encoder_hidden_states": context,
    }
    arrays = {k: sdcore.DeviceArray.from_numpy(v, network.device) for k, v in given.items()}
    return lambda: network.run(arrays, stay=["sample"])["sample"]


def _numpy(out: Any) -> np.ndarray:
    """What a side gave, as diffusers lays it out."""
    if isinstance(out, sdcore.DeviceArray):
        return to_nchw(out.numpy())
    return out if isinstance(out, np.ndarray) else np.asarray(out.float().cpu())


def _compare(
    part: str, sides: dict[str, Callable[[], Any]], ref: np.ndarray, rounds: int
) -> Iterator[dict[str, Any]]:
    errors = {name: _error(_numpy(run()), ref) for name, run in sides.items()}
    for run in sides.values():  # the second run records, the third replays
        run(), run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    first = statistics.median(next(iter(times.values())))
    for name, seconds in times.items():
        median = statistics.median(seconds)
        words = name.replace(",", "").split()
        # Quantized ones have none: they are held against weights that are not.
        limit = min(
            (NETWORK_LIMIT[dtype] for dtype in NETWORK_LIMIT if dtype in words), default=math.inf
        )
        yield _row(
            {
                "what": f"{part}: {name}",
                "seconds": median,
                "error": errors[name],
                "ratio": median / first,
                "right": errors[name] < limit,
            }
        )


def _torch_sides(
    args: argparse.Namespace, path: Path, part: str, inputs: tuple[Any, ...]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    if not _torch_has(args.device):
        return
    import torch

    from peers import TORCH_TYPES, PyTorch

    module = PyTorch(path, 1).modules(part, args.dtype).to(args.device)
    kind = getattr(torch, TORCH_TYPES[args.dtype])
    call = module if part == "unet" else module.decode

    def tensors() -> list[Any]:
        there = [torch.from_numpy(np.asarray(a)).to(args.device) for a in inputs]
        there = [t.to(kind) if t.ndim else t for t in there]
        return [there[0].to(memory_format=torch.channels_last), *there[1:]]

    torch.backends.cudnn.benchmark = True
    yield (
        f"PyTorch {torch.__version__} {args.dtype} one graph, arrays stay",
        _graph(call, tensors()),
    )
    for title in ("eager",) if args.no_compile else ("eager", "max-autotune"):
        run = call if title == "eager" else torch.compile(call, mode=title)

        def side(run: Any = run) -> np.ndarray:
            with torch.inference_mode():
                out: np.ndarray = run(*tensors()).sample.float().cpu().numpy()
            return out

        def staying(given: Any, run: Any = run) -> Any:
            with torch.inference_mode():
                out = run(*given).sample
            torch.cuda.synchronize()
            return out

        name = f"PyTorch {torch.__version__} {args.dtype} {title}"
        yield name, side
        yield f"{name}, arrays stay", functools.partial(staying, tensors())


def _torch_has(device: str) -> bool:
    try:
        import torch
    except ImportError:
        return False
    return device.startswith("cuda") and torch.cuda.is_available()


def _graph(call: Any, given: list[Any]) -> Callable[[], Any]:
    """What eager code launches, recorded once and sent to the GPU as one."""
    import torch

    stream = torch.cuda.Stream()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(3):
                call(*given)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = call(*given).sample

    def replay() -> Any:
        graph.replay()
        torch.cuda.synchronize()
        return out

    return replay


# ---- pictures ------------------------------------------------------------------------------------


def measure_pictures(args: argparse.Namespace, path: Path) -> Iterator[dict[str, Any]]:
    print(f"\npictures of {args.size} x {args.size} in {args.dtype}: seconds, the first, steps/s")
    pipe = sdcore.DiffusionPipeline.open(path, device=args.device, dtype=args.dtype)
    lcm = sdcore.LCMScheduler.from_config(pipe.scheduler.config)
    for title, scheduler, steps, guidance in (
        ("20 guided steps", pipe.scheduler, 20, 7.5),
        ("LCM, 4 steps", lcm, 4, 1.0),
    ):
        pipe.scheduler = scheduler
        options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "np"}
        times = []
        for _ in range(4):
            start = time.perf_counter()
            pipe("a lighthouse at dusk", width=args.size, height=args.size, seed=1, **options)
            times.append(time.perf_counter() - start)
        median = statistics.median(times[1:])
        yield _row({"what": title, "seconds": median, "first": times[0], "steps": steps / median})


if __name__ == "__main__":
    main()
