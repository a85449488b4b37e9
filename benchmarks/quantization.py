"""What each storage type costs a full-size Stable Diffusion 1.5 UNet, against f16.

    python benchmarks/quantization.py [TYPE...] [--side 64] [--threads 2]

In Markdown, for each type: bits a number; the error that it leaves of normal numbers; megabytes of
the UNet, whose weights are random; the error of one step of it, of latents of this side, in
float32; and how long quantizing took. Errors are the norm of the difference by the norm of the
numbers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import sdcore
from full_size import make_checkpoint
from sdcore import checkpoint
from sdcore.checkpoint.quantized import quantized
from sdcore.models.base import RunOptions
from sdcore.models.unet import UNet2DConditionModel

Array = NDArray[np.float32]


def block_types() -> list[str]:
    rows = [row for row in sdcore.quantization.types() if int(str(row["block_size"])) > 1]
    return [str(row["name"]) for row in sorted(rows, key=bits, reverse=True)]


def bits(row: dict[str, object]) -> float:
    return 8 * int(str(row["block_bytes"])) / int(str(row["block_size"]))


def error(got: Array, want: Array) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def weight_error(type: str) -> float:
    values = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    return error(sdcore.dequantize(sdcore.quantize(values, type)), values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="default: all, the widest first")
    parser.add_argument("--side", type=int, default=64, help="of the latents (default: 64)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--file", type=Path, help="where the f16 model is, or is to be kept")
    args = parser.parse_args()
    path = args.file or Path(tempfile.gettempdir()) / "sdcore-benchmark" / "sd15-f16.safetensors"
    source = checkpoint.open(make_checkpoint(path)).component("unet")
    options = RunOptions(dtype="f32", threads=args.threads)
    rng = np.random.default_rng(1)
    sample = rng.standard_normal((1, 4, args.side, args.side)).astype(np.float32)
    states = rng.standard_normal((1, 77, 768)).astype(np.float32)

    def step(unet: UNet2DConditionModel) -> Array:
        return unet(sample, 500.0, encoder_hidden_states=states)

    want = step(UNet2DConditionModel.from_component(source, options))
    rows = {str(row["name"]): row for row in sdcore.quantization.types()}
    print("| type | bits | weights | UNet, MB | UNet step | made in |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for type in args.types or block_types():
        start = time.perf_counter()
        unet = UNet2DConditionModel.from_component(quantized(source, type), options)
        seconds = time.perf_counter() - start
        size = sum(tensor.nbytes for tensor in unet.network.tensors.values()) / 1e6
        print(
            f"| `{type}` | {bits(rows[type]):.4g} | {weight_error(type):.2%} | {size:.0f} | "
            f"{error(step(unet), want):.2%} | {seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
