"""A checkpoint: what a file or a folder holds, as a model and its parts."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdcore.arguments import as_path
from sdcore.checkpoint.detect import Kind, recognise
from sdcore.checkpoint.files import Contents, read_file
from sdcore.checkpoint.folder import read_folder
from sdcore.checkpoint.infer import infer_config, infer_scheduler
from sdcore.checkpoint.names.vae import LINEAR
from sdcore.checkpoint.packed import REMEDY, packing
from sdcore.checkpoint.parts import Part, find_parts
from sdcore.checkpoint.place import located
from sdcore.checkpoint.scaled import unscaled
from sdcore.checkpoint.shards import read_shards, shards_of
from sdcore.checkpoint.summary import Summary, summarise
from sdcore.checkpoint.tensor import Tensor
from sdcore.checkpoint.unwrapped import unwrapped
from sdcore.checkpoint.weights import check_names, check_weights, counted
from sdcore.errors import CheckpointError, FileError, SDCoreError, UnsupportedModelError

log = logging.getLogger("sdcore")


@dataclass(frozen=True)
class Component:
    """One network of a checkpoint: its config in the JSON form of diffusers or transformers (values
    that it leaves out are the class's defaults), and its tensors under diffusers' names."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    where: str
    part: Part

    def check(self, expected: Mapping[str, Sequence[int]]) -> None:
        """Raises what `weights` does, and makes nothing."""
        check_names(expected, self.tensors, self.where, self.source_name)

    def weights(self, expected: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """The tensors that a network needs; see `check_weights`."""
        return check_weights(expected, self.tensors, self.where, self.source_name)

    def source_name(self, name: str) -> str:
        """What the file calls a tensor."""
        return self.part.prefix + (self.part.table.to_original(name) or name)


class Checkpoint:
    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self._contents = contents
        self.format = contents.format  # "safetensors", "gguf", "pickle" or "diffusers"
        self.metadata = contents.metadata  # of a folder: its model_index.json
        # As named in the file; in a folder, after their part.
        self.tensors = unscaled(contents.tensors)
        self.tokenizer_paths = contents.tokenizers
        self.configs = contents.configs  # those that it comes with
        self._made: dict[str, Component] = {}

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path} ({self.format}): {self.title}>"

    @cached_property
    def kind(self) -> Kind | None:
        """Which model it is and why; None when nothing is known about it."""
        kind = recognise(self._contents.tensors, self.metadata)
        packed = packing(self.tensors) if kind and kind.about.components else None
        if kind is None or packed is None:
            return kind
        # Scales are beside other packings too, and names do not show which it is.
        details = [words for words in kind.details if "scaled float8" not in words]
        return dataclasses.replace(kind, details=(*details, f"in {packed[0]}"))

    @property
    def title(self) -> str:
        return self.kind.title if self.kind else "nothing that sdcore knows"

    @cached_property
    def _found(self) -> tuple[dict[str, Part], list[str]]:
        parts, left = find_parts(self.tensors, self.kind.about.components if self.kind else ())
        if parts and left:
            log.info("[checkpoint] '%s': passed over %s", self.path, counted(left))
        return parts, left

    @property
    def parts(self) -> dict[str, Part]:
        """The parts as they lie in the file; nothing is said about what they mean."""
        return self._found[0]

    @cached_property
    def components(self) -> dict[str, Component]:
        return {name: self._own(name) for name in self.parts}

    def component(self, name: str, family: str | None = None) -> Component:
        """`family` is that of the model which the part is for, where it lies in a file of its own:
        from it follows what shapes do not show, such as a VAE's scaling factor."""
        if name not in self.parts:
            has = ", ".join(self.parts) or "no part of a model"
            raise CheckpointError(f"[checkpoint] '{self.path}' has no {name}: it has {has}")
        if family is None or (self.kind and family == self.kind.family):
            return self._own(name)
        return self._component(self.parts[name], family)

    def _own(self, name: str) -> Component:
        """Each is made when it is asked for: what is wrong with one part is not with another."""
        if name not in self._made:
            self._made[name] = self._component(self.parts[name])
        return self._made[name]

    @cached_property
    def scheduler_config(self) -> dict[str, Any]:
        """The one it comes with, or the one that every file of its kind implies."""
        if own := self.configs.get("scheduler"):
            return own
        family = self.kind.family if self.kind else ""
        unet = self._found[0].get("unet")
        return infer_scheduler(family, self.tensors, self.metadata, unet.tensors if unet else {})

    def replaced(self, **changes: Any) -> Checkpoint:
        """The same with other `tensors`, `metadata` or `configs`."""
        return Checkpoint(self.path, dataclasses.replace(self._contents, **changes))

    def summary(self) -> Summary:
        parts, left = self._found
        stored = self._contents.tensors
        return summarise(self.path, self.format, self.kind, stored, parts, len(left))

    def _component(self, part: Part, family: str | None = None) -> Component:
        tensors = part.tensors
        if packed := packing(tensors):
            raise UnsupportedModelError(
                f"[checkpoint] '{self.path}' ({part.component}) holds weights in {packed[0]}, "
                f"which sdcore does not read: {REMEDY} ({counted(packed[1])})"
            )
        if part.component == "vae":
            tensors = {name: _linear(name, tensor) for name, tensor in tensors.items()}
        config = self.configs.get(part.component)
        if config is None:
            assert self.kind is not None
            config = infer_config(part.component, tensors, family or self.kind.family, part.naming)
            if part.component == "controlnet" and _POOLS.search(self.path.stem):
                config["global_pool_conditions"] = True
        where = f"'{self.path}' ({part.component})"
        return Component(part.component, config, tensors, where, part)


# The one thing that only a file's name says (comfy/controlnet.py).
_POOLS = re.compile(r"_shuffle(_fp16)?$")


def open(path: str | os.PathLike[str], variant: str | None = None) -> Checkpoint:
    """Opens anything that holds tensors: a .safetensors, .gguf or torch.save file, a diffusers
    folder, a folder with one such file or one model in several, or a model's in the cache that
    Hugging Face's programs keep.

    Files are told apart by their bytes, and nothing is read but headers. `variant` picks files such
    as "fp16" in a folder; parts that lack it give their plain files. Raises FileError where there
    is no such path.
    """
    path = Path(as_path(path, "[checkpoint] what to open"))
    try:
        path = located(path)
        contents = _read(path, variant)
    except SDCoreError:
        raise
    except OSError as error:
        raise FileError(f"[checkpoint] cannot open '{path}': {error.strerror}") from error
    if not contents.tensors:
        raise CheckpointError(f"[checkpoint] '{path}' holds no tensors")
    if contents.format != "diffusers":
        contents.tensors = unwrapped(contents.tensors, contents.metadata, str(path))
    return Checkpoint(path, contents)


def _read(path: Path, variant: str | None) -> Contents:
    if path.is_dir():
        return read_folder(path, variant)
    shards = shards_of(path)
    return read_shards(shards) if shards else read_file(path)


def open_model(path: str | os.PathLike[str], variant: str | None = None) -> Checkpoint:
    """Opens a model that sdcore runs; an error says what else it is."""
    checkpoint = open(path, variant)
    kind = checkpoint.kind
    if kind is None:
        raise UnsupportedModelError(
            f"[checkpoint] '{path}' holds no model that sdcore knows: "
            f"{counted(list(checkpoint.tensors))}"
        )
    if not kind.about.runs:
        raise UnsupportedModelError(
            f"[checkpoint] '{path}' holds {kind.title}, {kind.about.hint} ({kind.why})"
        )
    return checkpoint


def _linear(name: str, tensor: Tensor) -> Tensor:
    shape = tensor.shape
    is_conv = LINEAR.search(name) and len(shape) == 4 and tuple(shape[2:]) == (1, 1)
    return tensor.reshape(shape[:2]) if is_conv else tensor
