"""Whether all parts of a model fit into memory at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sdcore.errors import UnsupportedModelError
from sdcore.pipelines.plan import planned_graphs, weight_bytes

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["available", "is_tight"]

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
# Below this share of what is there, weights leave room enough for any picture.
_PLENTY = 0.5


def is_tight(pipe: DiffusionPipeline) -> bool:
    """Whether a picture of the model's size needs more memory than there is, all parts at once."""
    room = available()
    if room is None:
        return False
    parts = {name: part for name in pipe.networks if (part := getattr(pipe, name)) is not None}
    networks = [network for part in parts.values() for network in part.networks]
    dtype = networks[-1].dtype
    weights = sum(weight_bytes(network.graph, network.tensors, dtype) for network in networks)
    if weights < _PLENTY * room:
        return False
    configs = {name: part.config for name, part in parts.items()}
    try:
        graphs = planned_graphs(type(pipe), configs, *pipe.default_size)
    except UnsupportedModelError:  # it has no plan
        return True
    arenas = (graph.plan(shapes, dtype)["arena_bytes"] for graph, shapes in graphs.values())
    return weights + int(max(arenas)) > room


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
