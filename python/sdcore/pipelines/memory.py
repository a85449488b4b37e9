"""What a run holds in memory, and whether all parts of a model fit into it at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcore import _core
from sdcore.errors import UnsupportedModelError
from sdcore.models.base import types_of
from sdcore.pipelines.plan import planned_graphs, steady_inputs

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = [
    "MemoryPlan",
    "are_tight",
    "available",
    "fits",
    "is_tight",
    "is_too_large",
    "plan_memory",
    "tell_memory",
]

log = logging.getLogger("sdcore")

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
# Below this share of what is there, weights leave room enough for pictures of the model's size.
_PLENTY = 0.5


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each part's weights, and of the arena that it runs in, in the order they run in."""

    weights: Mapping[str, int]
    arenas: Mapping[str, int]
    unload: bool  # whether parts are given back before the next one runs
    available: int | None  # bytes, where anything says
    in_steps: frozenset[str] = frozenset()  # the denoiser and what runs beside it: held together

    @property
    def together(self) -> int:
        return sum(self.weights.values()) + max(self.arenas.values())

    @property
    def peak(self) -> int:
        """What weights and arenas take at most."""
        if not self.unload:
            return self.together
        rest = self.weights.keys() - self.in_steps
        return max(self.step, *(self.weights[name] + self.arenas.get(name, 0) for name in rest))

    @property
    def step(self) -> int:
        """What a step takes."""
        arenas = (self.arenas.get(name, 0) for name in self.in_steps)
        return sum(self.weights[name] for name in self.in_steps) + max(arenas)

    @property
    def fits(self) -> bool:
        return self.available is None or self.peak <= self.available

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.weights.items())
        running = max(self.arenas, key=lambda name: self.arenas[name])
        text = f"{parts}, and {_size(self.arenas[running])} while {running} runs: "
        text += f"{_size(self.peak)} at most"
        text += f" one part at a time, {_size(self.together)} together" if self.unload else ""
        free = "" if self.available is None else f", of {_size(self.available)} free"
        return text + free


def plan_memory(pipe: DiffusionPipeline, width: int, height: int, images: int = 1) -> MemoryPlan:
    """Of the parts that run where the denoiser does, for so many images at once. Raises
    UnsupportedModelError where the family has no plan."""
    parts = _parts(pipe)
    configs = {
        name: part.config for name in pipe.networks if (part := getattr(pipe, name)) is not None
    }
    graphs = planned_graphs(type(pipe), configs, width, height)
    denoiser = next(name for name, part in parts.items() if part is pipe.denoiser)
    for name, beside in pipe.companions.items():
        graphs[name] = beside.network.graph, beside.plan_shapes(graphs[denoiser][1])
    in_steps = frozenset([denoiser, *(name for name in pipe.companions if name in parts)])
    return MemoryPlan(
        weights={name: _weights(part) for name, part in parts.items()},
        arenas={
            # What runs in steps has all images in one batch, the VAE one after the other.
            name: _arena(graph, shapes, parts[name].networks[0], steady_inputs(parts[name], shapes))
            * (images if name in in_steps else 1)
            for name, (graph, shapes) in graphs.items()
            if name in parts
        },
        unload=pipe.unload,
        available=_room(_device(pipe)),
        in_steps=in_steps,
    )


def tell_memory(pipe: DiffusionPipeline, width: int, height: int, images: int = 1) -> None:
    """Logs what a run will hold, where somebody listens; more than there is, as a warning."""
    if not (pipe.unload or log.isEnabledFor(logging.INFO)):
        return
    try:
        plan = plan_memory(pipe, width, height, images)
    except UnsupportedModelError:  # it has no plan
        return
    if plan.fits:
        log.info("[memory] %s", plan)
    elif _device(pipe) != "cpu":
        log.info("[memory] %s; weights that find no room go there layer by layer", plan)
    else:
        log.warning("[memory] this picture may not fit: %s", plan)


def is_tight(pipe: DiffusionPipeline) -> bool:
    """Whether a picture of the model's size needs more memory than there is, all parts at once."""
    room = _room(_device(pipe))
    if room is None or sum(map(_weights, _parts(pipe).values())) < _PLENTY * room:
        return False
    try:
        return plan_memory(pipe, *pipe.default_size).together > room
    except UnsupportedModelError:  # it has no plan
        return True


def are_tight(first: DiffusionPipeline, second: DiffusionPipeline) -> bool:
    """Whether a picture of one model needs more memory than there is, with the other's weights
    beside it."""
    room = _room(_device(first))
    if room is None or _device(first) != _device(second):
        return False
    weights = [sum(map(_weights, _parts(pipe).values())) for pipe in (first, second)]
    if sum(weights) < _PLENTY * room:
        return False
    try:
        needed = [plan_memory(pipe, *pipe.default_size).together for pipe in (first, second)]
    except UnsupportedModelError:  # it has no plan
        return True
    return max(needed[0] + weights[1], needed[1] + weights[0]) > room


def is_too_large(pipe: DiffusionPipeline, width: int, height: int, images: int = 1) -> bool:
    """Whether the denoiser, both prompts of so many images in one batch, needs more memory than
    there is."""
    room = _room(_device(pipe))
    if room is None:
        return False
    usual_width, usual_height = pipe.default_size
    is_usual = width * height * images <= usual_width * usual_height
    if is_usual and _weights(pipe.denoiser) < _PLENTY * room:
        return False
    try:
        plan = plan_memory(pipe, width, height, images)
    except UnsupportedModelError:  # it has no plan
        return False
    return plan.step > room


def _parts(pipe: DiffusionPipeline) -> dict[str, Any]:
    device = _device(pipe)
    parts = {name: getattr(pipe, name) for name in pipe.networks} | dict(pipe.companions)
    return {
        name: part
        for name, part in parts.items()
        if part is not None and part.networks[0].device == device
    }


def _device(pipe: DiffusionPipeline) -> str:
    return str(pipe.denoiser.networks[0].device)


def _weights(part: Any) -> int:
    """Also those that adapters brought, which the part's own graphs do not name."""
    own = {name for network in part.networks for name in network.graph.weights}
    others: dict[str, int] = {
        name: tensor.nbytes
        for network in part.networks
        for name, tensor in network.tensors.items()
        if name not in own
    }
    return sum(others.values()) + sum(_prepared(network) for network in part.networks)


def _prepared(network: _core.Network) -> int:
    types = types_of(network.tensors)
    return network.graph.weight_bytes(types, network.dtype, network.isa, network.device)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def fits(network: _core.Network, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether there is memory enough for one run, at these sizes of its inputs."""
    room = _room(network.device)
    if room is None:
        return True
    return _prepared(network) + _arena(network.graph, shapes, network) < room


def _arena(
    graph: _core.Graph,
    shapes: Mapping[str, Sequence[int]],
    network: _core.Network,
    steady: frozenset[str] = frozenset(),
) -> int:
    """Bytes that a graph runs in where and as the network does, with what it keeps between runs,
    which on a GPU is brought into the arena."""
    made = graph.plan(shapes, network.dtype, device=network.device, steady=steady)
    return int(made["arena_bytes"] + made["kept_bytes"] * (1 if network.device == "cpu" else 2))


def _room(device: str) -> int | None:
    return available() if device == "cpu" else _core.device_memory(device)[0]


def available() -> int | None:
    """Bytes that this process can still take: the system's, or fewer where its control group says
    so. None where nothing says."""
    left = [found for found in (_in_system(), _in_group()) if found is not None]
    return min(left, default=None)


def _in_system() -> int | None:
    match = re.search(r"MemAvailable:\s+(\d+) kB", _text(_MEMINFO))
    return int(match[1]) * 1024 if match else None


def _in_group() -> int | None:
    most, used = _text(_GROUP / "memory.max").strip(), _text(_GROUP / "memory.current").strip()
    if not (most.isdigit() and used.isdigit()):  # "max", or no such file
        return None
    cached = re.search(r"^inactive_file (\d+)", _text(_GROUP / "memory.stat"), re.M)
    return max(0, int(most) - int(used) + int(cached[1] if cached else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
