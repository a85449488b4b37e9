"""What every network is: a config, a graph built from it, and weights checked against the graph."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.arguments import own_dtype
from sdcore.errors import InvalidArgumentError

__all__ = [
    "Component",
    "Conditions",
    "Loadable",
    "Model",
    "Placed",
    "RunOptions",
    "Tiled",
    "as_conditions",
    "key_mask",
    "make_network",
    "make_networks",
    "require_place",
    "run_with",
    "text_shape",
    "to_nchw",
    "to_nhwc",
    "tokens_of",
    "types_of",
]

A = TypeVar("A", bound="Placed")
M = TypeVar("M", bound="Model")


@dataclass(frozen=True)
class RunOptions:
    """How networks run: `dtype` "auto", "f32", "bf16" or, on GPUs, "f16"; `isa` and `threads` None
    for the best; `device` "cpu", "cuda" or "cuda:1"; `stream_weights` whether weights go through a
    GPU layer by layer, None: where they do not fit."""

    dtype: str = "auto"
    isa: str | None = None
    threads: int | None = None
    device: str = "cpu"
    stream_weights: bool | None = None

    def resolved_dtype(
        self, graph: _core.Graph | None = None, weights: Mapping[str, Any] | None = None
    ) -> str:
        """ "auto" is bf16 on GPUs, where the processor multiplies bf16 in tiles, and where it
        multiplies these weights or convolutions as integers in place of bf16; else f32."""
        if self.dtype != "auto":
            return self.dtype
        graph, types = graph or _core.Graph(), types_of(weights or {})
        return _core.auto_dtype(graph, types, isa=self.isa, on_device=self.device != "cpu")


def types_of(weights: Mapping[str, Any]) -> dict[str, str]:
    """The storage types of tensors."""
    return {name: tensor.type for name, tensor in weights.items()}


class Component(Protocol):
    """What a network is made of: a part of a checkpoint, or anything that looks like one."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The JSON of diffusers or transformers."""

    def weights(self, expected: Mapping[str, Sequence[int]]) -> Mapping[str, Any]:
        """The tensors of these names, in these shapes."""


class Loadable(Protocol):
    """The class of a part, made of one network or of several."""

    def read_config(self, config: Mapping[str, Any]) -> Any:
        """The typed config from the JSON of diffusers or transformers."""

    def from_component(self, component: Component, options: RunOptions | None = None) -> Any:
        """Raises CheckpointError naming every tensor that is missing or has another shape."""


def make_network(
    graph: _core.Graph, weights: Mapping[str, Any], options: RunOptions
) -> _core.Network:
    """A graph and its weights, ready to run."""
    return _core.Network(
        graph,
        dict(weights),
        dtype=options.resolved_dtype(graph, weights),
        isa=options.isa,
        threads=options.threads,
        device=options.device,
        stream_weights=options.stream_weights,
    )


def make_networks(
    component: Component, graphs: Sequence[_core.Graph], options: RunOptions | None
) -> list[_core.Network]:
    """Likewise of several graphs, each with those of the component's weights that it names."""
    weights = component.weights({k: v for graph in graphs for k, v in graph.weights.items()})
    return [
        make_network(
            graph, {name: weights[name] for name in graph.weights}, options or RunOptions()
        )
        for graph in graphs
    ]


# What `to` of diffusers and PyTorch takes besides; none of it changes a result.
_NOT_NEEDED = {"memory_format", "non_blocking", "silence_dtype_warnings", "copy"}


def require_place(
    what: str,
    networks: Iterable[_core.Network],
    *where: Any,
    device: Any = None,
    dtype: Any = None,
    **others: Any,
) -> None:
    """Raises InvalidArgumentError unless these run on this device and in this dtype: `where`
    is either, or both."""
    wanted = [str(own_dtype(one)) for one in (*where, device, dtype) if one is not None]
    if unknown := sorted(others.keys() - _NOT_NEEDED):
        raise InvalidArgumentError(f"[{what}] to takes a device and a dtype, and no {unknown[0]}")
    for one in wanted:
        of = "dtype" if one in ("f32", "bf16", "f16") else "device"
        here = {str(getattr(network, of)) for network in networks}
        if {name.removesuffix(":0") for name in here} != {one.removesuffix(":0")}:
            raise InvalidArgumentError(
                f"[{what}] a model stays as it is opened, and the {of} of this is "
                f"{', '.join(sorted(here))}: open it with {of}='{one}'"
            )


class Placed(ABC):
    """What runs where it was opened."""

    @property
    @abstractmethod
    def networks(self) -> Sequence[_core.Network]: ...

    def to(self: A, *where: Any, **options: Any) -> A:
        """Itself, if it runs there and so: see `require_place`."""
        require_place("model", self.networks, *where, **options)
        return self

    def release(self) -> None:
        """Gives back the memory of prepared weights until the next run."""
        for network in self.networks:
            network.release()


class Tiled(Placed):
    """An autoencoder, whose `tiling` diffusers switches by methods."""

    tiling: bool | None = None

    def enable_tiling(self, *_: Any, **__: Any) -> None:
        """Has pictures done a strip at a time; how large one is follows from the picture."""
        self.tiling = True

    def disable_tiling(self) -> None:
        """Has them done so where a whole one does not fit into memory alone."""
        self.tiling = None

    def enable_slicing(self) -> None:
        """Nothing: a pipeline's pictures go through one at a time."""

    disable_slicing = enable_slicing


class Model(Placed):
    """A network with its weights. Immutable and safe to call from many threads."""

    steady: ClassVar[Collection[str]] = ()  # the inputs of its graph that `tell` may be given

    def __init__(self, config: Any, network: _core.Network) -> None:
        self.config = config
        self.network = network

    @classmethod
    @abstractmethod
    def read_config(cls, config: Mapping[str, Any]) -> Any:
        """The typed config from the JSON of diffusers or transformers."""

    @classmethod
    @abstractmethod
    def build(cls, config: Any) -> _core.Graph:
        """The graph of such a config."""

    @classmethod
    def from_component(cls: type[M], component: Component, options: RunOptions | None = None) -> M:
        """Builds the network of the component's config and gives it the component's weights.

        Raises CheckpointError naming every tensor that is missing or has another shape.
        """
        config = cls.read_config(component.config)
        graph = cls.build(config)
        weights = component.weights(graph.weights)
        return cls(config, make_network(graph, weights, options or RunOptions()))

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.network,)

    def with_network(self: M, network: _core.Network) -> M:
        """The same model with other weights."""
        other = copy.copy(self)
        other.network = network
        return other

    def in_graph(self, graph: _core.Graph) -> _core.Network:
        """The weights in another graph of this model, with the low-rank paths that they have."""
        up = ".lora_up"
        ranks = {
            f"{name.removesuffix(up)}.weight": tensor.shape[1]
            for name, tensor in self.network.tensors.items()
            if name.endswith(up)
        }
        ranks = {name: rank for name, rank in ranks.items() if name in graph.weights}
        return self.network.with_graph(graph.with_side_paths(ranks) if ranks else graph)

    def config_json(self) -> dict[str, Any]:
        """The config as it would stand in a config.json."""
        return asdict(self.config)


# Far below any score, and still a number in every type: a row of hidden keys alone stays finite.
_HIDDEN = -10000.0


def key_mask(
    mask: ArrayLike | None, shape: tuple[int, int], what: str = "attention_mask"
) -> NDArray[np.float32]:
    """What attention adds to scores `[n, keys]` for a mask of ones (seen; None: all) and zeros."""
    if mask is None:
        return np.zeros(shape, np.float32)
    seen = np.asarray(mask, np.float32)
    if seen.shape != shape:
        raise InvalidArgumentError(f"{what} must be {list(shape)}, got {list(seen.shape)}")
    hidden: NDArray[np.float32] = (1 - seen) * np.float32(_HIDDEN)
    return hidden


_TEXT = "encoder_hidden_states"


def tokens_of(array: ArrayLike, model: str, n: int | None = None) -> NDArray[np.float32]:
    """Hidden states `[n, t, d]` of a text."""
    tokens = np.asarray(array, dtype=np.float32)
    _check_tokens(tokens.shape, model, n)
    return tokens


def _check_tokens(shape: Sequence[int], model: str, n: int | None) -> None:
    if len(shape) != 3 or n not in (None, shape[0]):
        raise InvalidArgumentError(
            f"[{model}] {_TEXT} must be [{n or 'n'}, tokens, channels], got {list(shape)}"
        )


# What a denoiser is told beside sample and timestep: arrays, by the names of its graph's inputs; or
# what its `tell` made of them for several calls, so that what depends on them alone is computed in
# the first of these and not again.
Conditions = Mapping[str, NDArray[Any]] | _core.Steady


def text_shape(told: Conditions, model: str, n: int) -> tuple[int, ...]:
    """`[n, t, d]` of the hidden states in it, if they are of n images."""
    shape = told.shapes[_TEXT] if isinstance(told, _core.Steady) else told[_TEXT].shape
    _check_tokens(shape, model, n)
    return tuple(shape)


def as_conditions(
    given: ArrayLike | _core.Steady, make: Callable[[ArrayLike], Conditions]
) -> Conditions:
    """What `tell` made, as it is; or what `make` makes of hidden states."""
    return given if isinstance(given, _core.Steady) else make(given)


def run_with(
    network: _core.Network, inputs: Mapping[str, Any], told: Conditions, stay: Sequence[str] = ()
) -> dict[str, Any]:
    """The outputs, of which those in `stay` stay on a GPU."""
    if isinstance(told, _core.Steady):
        return network.run(inputs, stay, told)
    return network.run({**inputs, **told}, stay)


def to_nhwc(array: ArrayLike, what: str, channels: int) -> NDArray[np.float32]:
    """An image `[n, channels, h, w]` as the graph wants it."""
    image = np.asarray(array, dtype=np.float32)
    if image.ndim != 4 or image.shape[1] != channels:
        raise InvalidArgumentError(
            f"{what} must be [n, {channels}, height, width], got {list(image.shape)}"
        )
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def to_nchw(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image `[n, h, w, c]` as diffusers' users expect it."""
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))
