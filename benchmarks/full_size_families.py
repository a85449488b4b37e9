"""Full-size networks of the later families: a step beside PyTorch, and what each side holds.

    python benchmarks/full_size_families.py step                     # a row each, at 1024x1024
    python benchmarks/full_size_families.py step sdxl --dtype bf16 --rounds 5
    python benchmarks/full_size_families.py step t5-xxl --type q8_0 --no-peer
    python benchmarks/full_size_families.py picture                  # SDXL, prompt to picture

Weights are random (random_weights.py) and kept in a temporary folder; sdcore opens them as it opens
any file. PyTorch has the modules of diffusers and transformers, channels last, in `--peer-dtype`.
Each side is a process of its own, they run in turns, and what each held at most (VmHWM) is its own.
With `--share`, PyTorch's weights of one shape share their memory, for machines on which they do not
fit otherwise; that helps its caches, if anything, and what it held is not told then. A side that
ends before its time has no figures.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import random_weights
from sdcore import _core, checkpoint
from sdcore.models.base import Model, RunOptions
from sdcore.models.clip import CLIPTextConfig, build_clip
from sdcore.models.mmdit import SD3Config, SD3Transformer2DModel
from sdcore.models.pixart import PixArtConfig, PixArtTransformer2DModel
from sdcore.models.t5 import T5Config, T5EncoderModel
from sdcore.models.unet import UNet2DConditionModel
from sdcore.models.unet_graph import UNetConfig
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
MMDIT = SD3Config(
    num_layers=24,
    num_attention_heads=24,
    caption_projection_dim=1536,
    pos_embed_max_size=384,
    qk_norm="rms_norm",
    dual_attention_layers=tuple(range(13)),
)
PIXART = PixArtConfig(caption_channels=4096, use_additional_conditions=False, interpolation_scale=2)
T5 = T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
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
_T5_TOKENS = {"sd3.5-medium": 256, "pixart-sigma": 300, "t5-xxl": 256}

Inputs = Mapping[str, Any]
Sizes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Subject:
    """`inputs` are the sizes of what the network takes besides a time step, under diffusers' names;
    `peer` makes PyTorch's module of it."""

    part: str
    model: type[Model]
    config: Any
    inputs: Callable[[int], Sizes]
    peer: Callable[[Mapping[str, Any]], Any]


def _unet_peer(fields: Mapping[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**fields)


def _mmdit_peer(fields: Mapping[str, Any]) -> Any:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(**fields)


def _pixart_peer(fields: Mapping[str, Any]) -> Any:
    from diffusers import PixArtTransformer2DModel

    # Compression is not diffusers', and these have none.
    return PixArtTransformer2DModel(**{k: v for k, v in fields.items() if not k.startswith("kv_")})


def _t5_peer(fields: Mapping[str, Any]) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**fields, dropout_rate=0.0))


def _latents(channels: int, side: int) -> Sequence[int]:
    return 1, channels, side // 8, side // 8


SUBJECTS = {
    "sdxl": Subject(
        "unet",
        UNet2DConditionModel,
        UNET,
        lambda side: {
            "sample": _latents(4, side),
            "encoder_hidden_states": (1, 77, 2048),
            "text_embeds": (1, 1280),
            "time_ids": (1, 6),
        },
        _unet_peer,
    ),
    "sd3.5-medium": Subject(
        "transformer",
        SD3Transformer2DModel,
        MMDIT,
        lambda side: {
            "sample": _latents(16, side),
            "encoder_hidden_states": (1, 77 + _T5_TOKENS["sd3.5-medium"], 4096),
            "pooled_projections": (1, 2048),
        },
        _mmdit_peer,
    ),
    "pixart-sigma": Subject(
        "transformer",
        PixArtTransformer2DModel,
        PIXART,
        lambda side: {
            "sample": _latents(4, side),
            "encoder_hidden_states": (1, _T5_TOKENS["pixart-sigma"], 4096),
        },
        _pixart_peer,
    ),
    "t5-xxl": Subject(
        "text_encoder",
        T5EncoderModel,
        T5,
        lambda side: {"input_ids": (1, min(side, _T5_TOKENS["t5-xxl"]))},
        _t5_peer,
    ),
}


def _given(subject: Subject, side: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        name: rng.integers(0, 30000, size)
        if name == "input_ids"
        else rng.standard_normal(size, dtype=np.float32)
        for name, size in subject.inputs(side).items()
    }


# ---- the sides, each a process -------------------------------------------------------------------


def sdcore_side(
    title: str, type: str, dtype: str, threads: int
) -> Callable[[Mapping[str, Any]], Any]:
    subject = SUBJECTS[title]
    component = checkpoint.open(make(title, type)).component(subject.part)
    model: Any = subject.model.from_component(component, RunOptions(dtype, threads=threads))
    return lambda given: model(**_timed(given))


def _timed(given: Mapping[str, Any]) -> dict[str, Any]:
    """With a time step, where there is a sample."""
    return {**given, "timestep": 500} if "sample" in given else dict(given)


def torch_side(
    title: str, dtype: str, threads: int, share: bool
) -> Callable[[Mapping[str, Any]], Any]:
    import torch

    torch.set_num_threads(threads)
    kind = {"bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    subject = SUBJECTS[title]
    with torch.device("meta"):
        module = subject.peer({k: v for k, v in vars(subject.config).items() if v is not None})
    module = module.eval()
    shared: dict[Any, Any] = {}

    def weight(shape: Any) -> Any:
        if shape not in shared:
            made = (torch.randn(shape) / max(1, shape[1:].numel()) ** 0.5).to(kind)
            shared[shape] = made.to(memory_format=torch.channels_last) if made.ndim == 4 else made
        return shared[shape] if share else shared[shape].clone()

    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                inner._parameters[name] = torch.nn.Parameter(weight(parameter.shape), False)
        for name, buffer in inner._buffers.items():
            if buffer is not None:
                inner._buffers[name] = weight(buffer.shape)

    def run(given: Mapping[str, Any]) -> Any:
        told = {name: torch.from_numpy(value) for name, value in given.items()}
        told = {k: v.to(kind) if v.is_floating_point() else v for k, v in told.items()}
        sample = told.pop("sample", None)
        if title == "sdxl":
            added = {name: told.pop(name) for name in ("text_embeds", "time_ids")}
            told["added_cond_kwargs"] = added
        if title == "pixart-sigma":
            told["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
        if sample is not None:
            told |= {
                "timestep": torch.tensor([500]),
                ("sample" if title == "sdxl" else "hidden_states"): sample,
            }
        with torch.no_grad():
            return module(**told)

    return run


def work(args: argparse.Namespace) -> None:
    """A side: reads a size, runs at it, answers with the seconds and what it has held."""
    title = args.titles[0]
    if args.side == "sdcore":
        run = sdcore_side(title, args.type, args.dtype, args.threads)
    else:
        run = torch_side(title, args.peer_dtype, args.threads, args.share)
    for line in sys.stdin:
        given = _given(SUBJECTS[title], int(line))
        start = time.perf_counter()
        run(given)
        print(time.perf_counter() - start, peak(), flush=True)


def peak() -> int:
    """Bytes that this process has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Side:
    """One of them, as the main process sees it."""

    def __init__(self, side: str, title: str, args: argparse.Namespace) -> None:
        named = ("type", "dtype", "peer_dtype", "threads")
        options = [f"--{name.replace('_', '-')}={vars(args)[name]}" for name in named]
        if args.share:
            options.append("--share")
        command = [sys.executable, __file__, "work", title, f"--side={side}", *options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.times: list[float] = []
        self.held = 0

    def run(self, size: int, counts: bool = True) -> None:
        assert self.process.stdin and self.process.stdout
        try:
            print(size, file=self.process.stdin, flush=True)
            seconds, held = self.process.stdout.readline().split()
        except (BrokenPipeError, ValueError):  # it has ended: too little memory, likeliest
            return
        self.held = int(held)
        if counts:
            self.times.append(float(seconds))

    @property
    def median(self) -> float:
        return float(np.median(self.times)) if self.times else float("nan")

    def end(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it may have ended
            self.process.stdin.close()
        self.process.wait()


# ---- what is asked -------------------------------------------------------------------------------


def make(title: str, type: str) -> Path:
    subject = SUBJECTS[title]
    graph = subject.model.build(subject.config)
    return random_weights.make(title, {subject.part: graph.weights}, type)


def step(title: str, args: argparse.Namespace) -> None:
    make(title, args.type)
    names = ["sdcore", "PyTorch"] if args.peer else ["sdcore"]
    sides = {name: Side(name, title, args) for name in names}
    for side in sides.values():
        side.run(args.warm_up, counts=False)
    for _ in range(args.rounds):
        for side in sides.values():
            side.run(args.size)
    for side in sides.values():
        side.end()
    ours, theirs = sides["sdcore"], sides.get("PyTorch")
    peer = theirs.median if theirs else float("nan")
    known = theirs is not None and theirs.times and not args.share
    at = f"{_T5_TOKENS[title]} tokens" if title == "t5-xxl" else f"{args.size}x{args.size}"
    print(
        f"| {title}, {at} | {args.type} | {ours.median:.2f} | {peer:.2f} "
        f"| {peer / ours.median:.2f}× | {ours.held / 1e9:.2f} GB "
        f"| {f'{theirs.held / 1e9:.2f} GB' if theirs and known else ''} |",
        flush=True,
    )


def picture(args: argparse.Namespace) -> None:
    """SDXL from a prompt to a picture, in a process of its own."""
    parts = {
        "unet": UNet2DConditionModel.build(UNET).weights,
        "vae": {**build_encoder(VAE).weights, **build_decoder(VAE).weights},
        "text_encoder": build_clip(CLIP_L).weights,
        "text_encoder_2": build_clip(BIG_G).weights,
    }
    path = random_weights.make("sdxl-whole", parts, args.type)
    code = (
        "import sdcore, time; t = time.perf_counter();"
        f"pipe = sdcore.DiffusionPipeline.open({str(path)!r}, dtype={args.dtype!r},"
        f" threads={args.threads}); pipe.unload = {args.unload or 'pipe.unload'};"
        f"pipe('a lighthouse at dusk', width={args.size}, height={args.size},"
        f" num_inference_steps={args.steps}, seed=0);"
        "held = [l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0];"
        f"print(f'{args.size}x{args.size}, {args.type}, {args.dtype}, {args.steps} guided steps:'"
        " f' {time.perf_counter() - t:.1f} s, peak {int(held) * 1024 / 1e9:.2f} GB,'"
        " f' parts given back: {pipe.unload}')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "step", "picture", "work"))
    parser.add_argument("titles", nargs="*", help=f"{' '.join(SUBJECTS)} (all)")
    parser.add_argument("--type", default="q4_K", help="of linear layers: q8_0, q4_K, f16 …")
    parser.add_argument("--dtype", choices=("auto", "f32", "bf16"), default="auto")
    parser.add_argument("--peer-dtype", choices=("f32", "bf16"), default="bf16", help="PyTorch's")
    parser.add_argument("--share", action="store_true", help="PyTorch's weights of one shape")
    parser.add_argument("--size", type=int, default=1024, help="pixels a side")
    parser.add_argument("--warm-up", type=int, default=256, help="pixels of the first run")
    parser.add_argument("--threads", type=int, default=_core.available_cpus())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="sdcore alone")
    parser.add_argument("--steps", type=int, default=2, help="of a picture")
    parser.add_argument("--unload", choices=("True", "False"), help="what a picture's parts do")
    parser.add_argument("--side", choices=("sdcore", "PyTorch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.titles) - set(SUBJECTS):
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    if args.what == "work":
        work(args)
        return
    machine = f"{os.uname().machine}, {_core.default_isa()}, {args.threads} threads"
    print(f"{machine}, sdcore {args.dtype}, PyTorch {args.peer_dtype}", flush=True)
    if args.what == "picture":
        picture(args)
        return
    if args.what == "step":
        print(
            "| network | weights | sdcore, s | PyTorch, s | ratio | sdcore holds | PyTorch holds |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for title in args.titles or SUBJECTS:
        if args.what == "make":
            print(make(title, args.type))
        else:
            step(title, args)


if __name__ == "__main__":
    main()
