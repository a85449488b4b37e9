"""`sdcore bench`: how long the parts of a picture take here, and where in them the time goes."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdcore import _core
from sdcore.cli import model, txt2img

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

NAME = "bench"
HELP = "measure how fast a model draws on this machine"
EXAMPLES = """\
examples:
  sdcore bench
  sdcore bench -m model.safetensors
  sdcore bench -m model.gguf --profile -t 2
  sdcore bench -m model.gguf -W 768 -H 512 --steps 5 --json

A picture is drawn without its files. Every network's first call also prepares its weights, so it is
told apart. Shares of the peak are of what the processor multiplies from registers alone, measured
on the spot; Winograd's convolutions pass 100 % because they multiply less often than is counted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-W", "--width", type=int, metavar="PIXELS", help="default: the model's own")
    add("-H", "--height", type=int, metavar="PIXELS", help="default: the model's own")
    add("--steps", type=int, default=3, metavar="N", help="steps to measure (default: 3)")
    add("--cfg-scale", "--guidance-scale", type=float, metavar="SCALE", help="1: without guidance")
    add(
        "--dtype",
        choices=model.DTYPES,
        default="auto",
        help="default: the fastest; f16 on GPUs only",
    )
    add("-t", "--threads", type=int, metavar="N", help="default: one a core")
    add("--profile", action="store_true", help="also the time of every kind of op")
    add("--json", action="store_true", help="for programs")
    add("-v", "--verbose", action="store_true", help="say more, with tracebacks of faults")
    model.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if not model.is_given(args):
        txt2img.take_pocket(args)
    if args.steps < 1:
        args.parser.error(f"--steps must be at least 1, got {args.steps}")
    start = time.perf_counter()
    pipe = model.open_pipeline(args)
    opened = time.perf_counter() - start
    meters = _put_meters(pipe)
    # One step more than is asked for: the first prepares weights.
    size = {"width": args.width, "height": args.height}
    scale = args.cfg_scale
    pipe("", num_inference_steps=args.steps + 1, guidance_scale=scale, seed=0, **size)
    roofline = _core.kernels.roofline(args.threads) if args.profile else {}
    facts = {
        "model": str(model.path(args)),
        "open_seconds": opened,
        "peak_memory_bytes": _peak_memory(),
        "networks": [meter.facts(roofline) for meter in meters if meter.calls],
        "roofline": roofline,
    }
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_text(facts)))


@dataclass
class _Call:
    seconds: float
    batch: int
    ops: list[tuple[str, str, float, float]]  # label, kind, seconds, multiply-adds times two


class _Meter:
    """Stands in for a network and writes down its calls, and those of networks made of it."""

    def __init__(self, name: str, network: _core.Network, calls: list[_Call] | None = None) -> None:
        self.name = name
        self.network = network
        self.calls: list[_Call] = [] if calls is None else calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def with_graph(self, *arguments: Any) -> _Meter:
        return _Meter(self.name, self.network.with_graph(*arguments), self.calls)

    def with_weights(self, *arguments: Any) -> _Meter:
        return _Meter(self.name, self.network.with_weights(*arguments), self.calls)

    def run(
        self,
        inputs: Mapping[str, Any],
        stay: Sequence[str] = (),
        steady: _core.Steady | None = None,
    ) -> Any:
        start = time.perf_counter()
        results, ops = self.network.profile(inputs, steady)
        seconds = time.perf_counter() - start
        self.calls.append(_Call(seconds, len(next(iter(inputs.values()))), ops))
        return results

    def facts(self, roofline: Mapping[str, float]) -> dict[str, Any]:
        first, later = self.calls[0], self.calls[1:] or self.calls
        facts: dict[str, Any] = {
            "name": self.name,
            "batch": first.batch,
            "dtype": self.network.dtype,
            "isa": self.network.isa,
            "threads": self.network.threads,
            "first_seconds": first.seconds,
            "seconds": statistics.median(call.seconds for call in later),
            "calls": len(self.calls),
        }
        if roofline:
            facts["peak"] = _peak(roofline, self.network.dtype)
            facts["ops"] = list(_by_kind(later, roofline, self.network.dtype))
        return facts


def _put_meters(pipe: DiffusionPipeline) -> list[_Meter]:
    """Puts a meter in the place of every network of the pipeline's parts."""
    meters = []
    parts = {name: getattr(pipe, name) for name in pipe.networks}
    for name, part in parts.items():
        for attribute, value in list(vars(part).items()) if part is not None else ():
            if isinstance(value, _core.Network):
                label = name if attribute == "network" else f"{name} {attribute}"
                meters.append(_Meter(label, value))
                setattr(part, attribute, meters[-1])
    return meters


def _by_kind(
    calls: Sequence[_Call], roofline: Mapping[str, float], dtype: str
) -> Iterator[dict[str, Any]]:
    """The ops of a call by kind, the slowest first; times are means over the calls."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for call in calls:
        for _, kind, seconds, operations in call.ops:
            kinds.setdefault(kind, []).append((seconds, operations))
    total = sum(call.seconds for call in calls)
    sums = {kind: (sum(s for s, _ in ops), sum(f for _, f in ops)) for kind, ops in kinds.items()}
    for kind, (seconds, operations) in sorted(sums.items(), key=lambda item: -item[1][0]):
        rate = operations / seconds if seconds else 0.0
        yield {
            "op": kind,
            "count": len(kinds[kind]) // len(calls),
            "seconds": seconds / len(calls),
            "share": seconds / total,
            "per_second": rate,
            # "linear int8" says of what type its activations are.
            "share_of_peak": rate / _peak(roofline, kind.partition(" ")[2] or dtype),
        }


def _peak(roofline: Mapping[str, float], dtype: str) -> float:
    """The most multiplications a second that the processor has for this type."""
    fitting = [rate for name, rate in roofline.items() if name.endswith((f" {dtype}", " f32"))]
    return max(fitting)


def _peak_memory() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _text(facts: Mapping[str, Any]) -> Iterator[str]:
    networks = facts["networks"]
    about = networks[-1]
    yield f"{facts['model']}: {about['dtype']}, {about['isa']}, {about['threads']} threads"
    yield f"{'open':<24} {facts['open_seconds']:8.3f} s"
    for network in networks:
        yield (
            f"{network['name']:<24} {network['seconds']:8.3f} s  batch {network['batch']}, "
            f"first {network['first_seconds']:.3f} s, {network['calls']} calls"
        )
    yield f"{'peak memory':<24} {facts['peak_memory_bytes'] / 1e9:8.2f} GB"
    for name, rate in facts["roofline"].items():
        unit = "GB/s" if name == "memory read" else "GFLOP/s"
        yield f"{'measured ' + name:<24} {rate / 1e9:8.1f} {unit}"
    for network in networks if facts["roofline"] else ():
        yield ""
        yield f"{network['name']:<24} count       ms  share  GFLOP/s  of peak"
        for op in network["ops"]:
            row = f"{op['op']:<24} {op['count']:5} {op['seconds'] * 1e3:8.1f} {op['share']:6.1%}"
            if op["per_second"]:
                row += f" {op['per_second'] / 1e9:8.1f} {op['share_of_peak']:8.0%}"
            yield row
