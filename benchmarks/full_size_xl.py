"""Full-size SDXL: a step of its UNet beside PyTorch, and the memory of a whole picture.

    python benchmarks/full_size_xl.py step q8_0 q4_K     # sdcore's weights; PyTorch has floats
    python benchmarks/full_size_xl.py memory q4_K

Weights are random numbers of the size that keeps activations, made once and kept in a temporary
folder: 2567 M parameters of UNet, 818 M of text encoders and 84 M of VAE. Quantized are linear
layers, in the type that is asked for, or in q5_0 where rows do not divide into its blocks;
convolutions and embeddings are float16.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdcore import _core, checkpoint, quantization
from sdcore.checkpoint import gguf_output
from sdcore.checkpoint.output import Outgoing, stored_size
from sdcore.models.base import RunOptions
from sdcore.models.clip import CLIPTextConfig, build_clip
from sdcore.models.unet import UNet2DConditionModel, UNetConfig, build_unet
from sdcore.models.vae import VAEConfig, build_decoder, build_encoder

UNET = UNetConfig(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
VAE = VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
BIG_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
    architectures=("CLIPTextModelWithProjection",),
)
_POOL = 1 << 22


def weights() -> Iterator[tuple[str, Sequence[int]]]:
    """Names and shapes of all tensors, after their part."""
    parts: dict[str, dict[str, Any]] = {
        "unet": build_unet(UNET).weights,
        "vae": {**build_encoder(VAE).weights, **build_decoder(VAE).weights},
        "text_encoder": build_clip(CLIP_L).weights,
        "text_encoder_2": build_clip(BIG_G).weights,
    }
    for part, shapes in parts.items():
        for name, shape in shapes.items():
            yield f"{part}.{name}", shape[1:] if "position_embedding" in name else shape


@functools.cache
def _pool(type: str, scale: float, offset: float) -> bytes:
    """Some millions of numbers as they are stored."""
    values = np.random.default_rng(0).standard_normal((_POOL // 256, 256), dtype=np.float32)
    values = values * np.float32(scale) + np.float32(offset)
    if type in ("f32", "f16"):
        return values.astype({"f32": np.float32, "f16": np.float16}[type]).tobytes()
    return bytes(_core.quantize(values, type).data)


def _outgoing(name: str, shape: Sequence[int], type: str) -> Outgoing:
    scale, offset = 1 / math.sqrt(math.prod(shape[1:])), 0.0
    if len(shape) == 1:
        scale, offset = (0.01, 0.0) if name.endswith("bias") else (0.05, 1.0)
    stored = _stored(name, shape, type)

    def pieces() -> Iterator[bytes]:
        pool = _pool(stored, scale, offset)
        left = stored_size(stored, tuple(shape))
        while left:
            yield pool[: min(left, len(pool))]
            left -= min(left, len(pool))

    return Outgoing(name, stored, tuple(shape), pieces)


def _stored(name: str, shape: Sequence[int], type: str) -> str:
    if len(shape) == 1:
        return "f32"
    if len(shape) != 2 or "embedding" in name or type == "f16":
        return "f16"
    blocks = {str(row["name"]): row["block_size"] for row in quantization.types()}
    return next((kind for kind in (type, "q5_0") if shape[-1] % blocks[kind] == 0), "f16")


def make(type: str) -> Path:
    """The model with linear layers in `type`; written unless it is there."""
    path = Path(tempfile.gettempdir()) / "sdcore-benchmark" / f"sdxl-random-{type}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        gguf_output.write(path, [_outgoing(name, shape, type) for name, shape in weights()])
    return path


def _inputs(side: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "sample": rng.standard_normal((1, 4, side // 8, side // 8), dtype=np.float32),
        "encoder_hidden_states": rng.standard_normal((1, 77, 2048), dtype=np.float32),
        "text_embeds": rng.standard_normal((1, 1280), dtype=np.float32),
        "time_ids": np.array([[side, side, 0, 0, side, side]], np.float32),
    }


def sdcore_side(type: str, dtype: str, side: int, threads: int) -> Callable[[], Any]:
    component = checkpoint.open(make(type)).component("unet")
    unet = UNet2DConditionModel.from_component(component, RunOptions(dtype, threads=threads))
    given = _inputs(side)
    conditions = {key: given[key] for key in ("text_embeds", "time_ids")}
    return lambda: unet(given["sample"], 500, given["encoder_hidden_states"], **conditions)


def torch_side(dtype: str, side: int, threads: int) -> Callable[[], Any]:
    """diffusers' UNet, channels last, as PyTorch is fastest."""
    import torch
    from diffusers import UNet2DConditionModel as TorchUNet

    torch.set_num_threads(threads)
    kind = {"bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    fields = {key: value for key, value in vars(UNET).items() if value is not None}
    with torch.device("meta"):
        unet = TorchUNet(**fields)
    unet = unet.to(kind).to_empty(device="cpu").eval()
    pool = torch.randn(_POOL).to(kind)
    with torch.no_grad():
        for parameter in unet.parameters():
            values = pool.repeat(-(-parameter.numel() // _POOL))[: parameter.numel()]
            scale = 1 / math.sqrt(max(1, parameter[0].numel()))
            parameter.copy_(values.view_as(parameter) * scale)
    unet = unet.to(memory_format=torch.channels_last)
    given = {key: torch.from_numpy(value).to(kind) for key, value in _inputs(side).items()}
    added = {key: given[key] for key in ("text_embeds", "time_ids")}

    def run() -> Any:
        with torch.no_grad():
            return unet(
                given["sample"], 500, given["encoder_hidden_states"], added_cond_kwargs=added
            ).sample

    return run


def step(types: Sequence[str], dtype: str, side: int, threads: int, rounds: int) -> None:
    peer = f"PyTorch {dtype}"
    sides = {f"sdcore {dtype}, {t} weights": sdcore_side(t, dtype, side, threads) for t in types}
    sides[peer] = torch_side(dtype, side, threads)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):  # the first warms up
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    print(f"| SDXL UNet step, {side}x{side}, {threads} threads | seconds | vs PyTorch |")
    print("| --- | --- | --- |")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {medians[peer] / median:.2f}× |")


def memory(type: str, dtype: str, side: int, threads: int, steps: int) -> None:
    """Draws a picture in a process of its own and prints the most that it held."""
    code = (
        "import sdcore, time; t = time.perf_counter();"
        f"pipe = sdcore.DiffusionPipeline.open({str(make(type))!r}, dtype={dtype!r},"
        f" threads={threads});"
        "print(f'model open after {time.perf_counter() - t:.2f} s');"
        f"pipe('a lighthouse at dusk', width={side}, height={side},"
        f" num_inference_steps={steps}, seed=0);"
        f"print(f'picture in {steps} guided steps after {{time.perf_counter() - t:.1f}} s')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak memory of a {side}x{side} picture, {type} and {dtype}: {peak / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "step", "memory"))
    parser.add_argument("types", nargs="+", help="of the weights: q8_0, q4_K, f16 …")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=1024, help="pixels a side")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    args = parser.parse_args()
    if args.what == "step":
        step(args.types, args.dtype, args.size, args.threads, args.rounds)
    for type in args.types if args.what != "step" else ():
        if args.what == "make":
            print(make(type))
        else:
            memory(type, args.dtype, args.size, args.threads, args.steps)


if __name__ == "__main__":
    main()
