"""What is known of a family of models: how its files are recognised, where in them its parts lie
and what they are called, and what no file says. Each tells it in a file of `checkpoint/families`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.names.table import NameTable
from sdcore.checkpoint.tensor import Tensor

__all__ = [
    "DENOISER",
    "Config",
    "Family",
    "Folder",
    "Layout",
    "Naming",
    "Original",
    "Place",
    "Rules",
    "Tensors",
]

Config = dict[str, Any]
Tensors = Mapping[str, Tensor]
# A family and tensors that must all be there, in the order in which they are asked for.
Rules = tuple[tuple[str, tuple[Clue, ...]], ...]

# Before the names of a denoiser in files of all kinds.
DENOISER = ("model.diffusion_model.", "model.model.", "net.")


@dataclass(frozen=True)
class Naming:
    """`roots` are beginnings of names that no other naming has."""

    name: str
    roots: tuple[str, ...]
    table: Callable[[Iterable[str]], NameTable]


@dataclass(frozen=True)
class Place:
    """`alone`: only in models that have no part of this name."""

    component: str
    prefixes: tuple[str, ...]
    namings: tuple[Naming, ...]
    alone: str | None = None


@dataclass(frozen=True)
class Original:
    """Where a part lies in an original file, and the table of its names, found from diffusers'.
    `alone` is its prefix in a file of nothing else, where that is another."""

    prefix: str
    table: Callable[[Iterable[str]], NameTable]
    alone: str | None = None


@dataclass(frozen=True)
class Folder:
    """What model_index.json says: the parts and their classes, and the pipeline's own values."""

    pipeline: str
    components: dict[str, str]
    tokenizers: dict[str, str | None]  # and the token that fills up a prompt; None: T5's
    options: dict[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Layout:
    """How a whole model is written."""

    original: dict[str, Original]
    folder: Folder


@dataclass(frozen=True)
class Family:
    """`components` are the parts that sdcore can take out of such a file. `pipeline` draws with it:
    the module in pipelines/families and the class, by name, so that no other has to be imported; of
    what no pipeline draws with, `hint` is what to say to somebody who gave it as a model.

    `scheduler` is what a single file means without saying it. `configs` are, by component, values
    that no shape shows; `infer` reads configs of networks that other families do not have off their
    tensors, and `places` tells where those lie. Families without `layout` are not written.
    """

    title: str
    components: tuple[str, ...] = ()
    pipeline: str | None = None
    hint: str = "which sdcore does not run"
    scheduler: Config | None = None
    configs: Mapping[str, Config] = field(default_factory=dict)
    infer: Mapping[str, Callable[[Tensors], Config]] = field(default_factory=dict)
    places: tuple[Place, ...] = ()
    layout: Layout | None = None

    @property
    def runs(self) -> bool:
        return self.pipeline is not None
