"""What drawing a picture takes in memory and work, from the graphs alone: nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError
from sdcore.models.autoencoders import decoder_graph
from sdcore.models.base import RunOptions, types_of

if TYPE_CHECKING:
    from sdcore import _core
    from sdcore.checkpoint import Checkpoint
    from sdcore.checkpoint.tensor import Tensor
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["plan", "planned_graphs", "steady_inputs"]

Shapes = Mapping[str, Sequence[int]]


def plan(opened: Checkpoint, width: int, height: int, dtype: str) -> dict[str, Any]:
    """A guided picture: the arena, the multiply-adds (as two operations each), the ops and the
    bytes of weights of every network."""
    from sdcore.pipelines.pipeline import DiffusionPipeline

    assert opened.kind is not None  # open_model saw to it
    family = DiffusionPipeline.registry[opened.kind.family]
    components = {
        name: opened.component(name)
        for name in family.networks
        if name in opened.components or name not in family.optional
    }
    configs = {
        name: family.networks[name].read_config(component.config)
        for name, component in components.items()
    }
    options = RunOptions(dtype=dtype)
    planned = {}
    for name, (graph, shapes) in planned_graphs(family, configs, width, height).items():
        tensors = components[name].tensors
        steady = steady_inputs(family.networks[name], shapes)
        resolved = options.resolved_dtype(graph, tensors)
        planned[name] = {"dtype": resolved, **_planned(graph, shapes, resolved, steady, tensors)}
    return {
        "width": width,
        "height": height,
        "dtype": " and ".join(sorted({part["dtype"] for part in planned.values()})),
        "networks": planned,
        # The pipeline runs one network after the other, in the same memory.
        "arena_bytes": max(part["arena_bytes"] for part in planned.values()),
        "weight_bytes": sum(part["weight_bytes"] for part in planned.values()),
    }


def planned_graphs(
    family: type[DiffusionPipeline], configs: Mapping[str, Any], width: int, height: int
) -> dict[str, tuple[_core.Graph, Shapes]]:
    """By component, in the order they run in, with the sizes of their inputs."""
    vae = configs["vae"]
    factor = vae.scale_factor
    multiple = factor * getattr(configs.get("transformer"), "patch_size", 1)
    if width % multiple or height % multiple or min(width, height) < multiple:
        raise InvalidArgumentError(
            f"[plan] width and height must be multiples of {multiple}, got {width}x{height}"
        )
    w, h = width // factor, height // factor
    latents = {"latents": [1, h, w, vae.latent_channels]}
    return {**family.graphs(configs, w, h), "vae": (decoder_graph(vae), latents)}


def _planned(
    graph: _core.Graph,
    shapes: Shapes,
    dtype: str,
    steady: frozenset[str],
    tensors: Mapping[str, Tensor],
) -> dict[str, Any]:
    made = graph.plan(shapes, dtype, steady=steady, types=types_of(tensors))
    return {
        "batch": next(iter(shapes.values()))[0],
        "arena_bytes": made["arena_bytes"] + made["kept_bytes"],
        "flops": made["flops"],
        "ops": made["steps"],
        "weight_bytes": made["weight_bytes"],
    }


def steady_inputs(network: Any, shapes: Shapes) -> frozenset[str]:
    """Those of its inputs that all steps of a run have in common, of a network or its class."""
    return frozenset(getattr(network, "steady", ())).intersection(shapes)
