"""The parts of a pipeline from whatever the user has."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcore import checkpoint
from sdcore.arguments import as_path, own_dtype
from sdcore.checkpoint import Checkpoint, Component
from sdcore.checkpoint.files import DEFAULT_KEY, read_json
from sdcore.checkpoint.folder import DENOISERS
from sdcore.checkpoint.place import no_such, snapshot
from sdcore.checkpoint.quantized import quantized
from sdcore.errors import (
    CheckpointError,
    FileError,
    InvalidArgumentError,
    SDCoreError,
    UnsupportedModelError,
)
from sdcore.models.base import Loadable, RunOptions
from sdcore.schedulers import Scheduler
from sdcore.tokenizer import EOS, CLIPTokenizer, T5Tokenizer
from sdcore.tokenizer.clip import metadata_for

__all__ = [
    "POCKET",
    "Defaults",
    "ForParts",
    "LoadPart",
    "Override",
    "Parts",
    "PathLike",
    "Wanted",
    "faults",
    "find_model",
    "for_dtypes",
    "for_parts",
    "load_parts",
    "part_fault",
    "run_options",
    "shipped_loras",
    "within",
]

log = logging.getLogger("sdcore")

PathLike = str | os.PathLike[str]
Override = PathLike | bool | None  # a part's path; False to go without it, None for the model's own
ForParts = str | Mapping[str, str]  # one for all parts, or by their names
Tokenizer = CLIPTokenizer | T5Tokenizer
LoadPart = Callable[[str, Loadable, Component], Any]

# Parts that may come from elsewhere, each an argument of DiffusionPipeline.open.
REPLACEABLE = (
    "vae", "text_encoder", "text_encoder_2", "text_encoder_3",
    "tokenizer", "tokenizer_2", "tokenizer_3",
)  # fmt: skip

POCKET = Path(__file__).parents[1] / "data" / "pocket.gguf"  # made by tools/pocket


def find_model(path: PathLike) -> PathLike:
    """Where a model lies: "pocket" is the one inside the package, if it has one and nothing of the
    user's has that name."""
    shipped = (
        os.fspath(as_path(path, "[pipeline] a model")) == "pocket"
        and not Path(path).exists()
        and POCKET.is_file()
    )
    return POCKET if shipped else path


def within(path: Any, subfolder: str | None, weight_name: str | None, what: str) -> PathLike:
    """A file that diffusers names by its folder, one within that, and itself; raises
    InvalidArgumentError for what is no path, and FileError where it is not there."""
    found = as_path(path, what)
    if subfolder is None and weight_name is None:
        return found
    found = Path(found, subfolder or "", weight_name or "")
    if not found.exists():
        raise no_such(found if Path(path).exists() else Path(path))
    return found


def shipped_loras(model: PathLike) -> Path | None:
    """The folder of LoRAs beside the model inside the package; None for any other model."""
    folder = POCKET.with_name("loras")
    return folder if Path(model) == POCKET and folder.is_dir() else None


@dataclass(frozen=True)
class Defaults:
    """What a file says that it is best drawn with; None where it says nothing."""

    steps: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class Parts:
    """What a pipeline is put together from; parts are under diffusers' names. `settings` are a
    folder's model_index.json, or a file's metadata. `load` makes a network of a component, to run
    as the part of that name does; `path` is where the model lies."""

    family: str
    networks: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    scheduler: Scheduler
    settings: Mapping[str, Any]
    load: LoadPart
    path: Path
    defaults: Defaults = Defaults()


@dataclass(frozen=True)
class Wanted:
    """What a family is put together from: classes of networks by component, those that it can do
    without, and its tokenizers, each of which goes with the text encoder of the same number."""

    networks: Mapping[str, Loadable]
    optional: Collection[str]
    tokenizers: Iterable[str]
    padding: Mapping[str, str]  # of tokenizers without a vocabulary, where not the end of text
    tokenizer_classes: Mapping[str, type[Tokenizer]]  # that are not CLIP's


def for_parts(what: str, given: Any) -> ForParts:
    """What is given for all parts or for each; raises InvalidArgumentError."""
    each = given.items() if isinstance(given, Mapping) else [("", given)]
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in each):
        raise InvalidArgumentError(
            f"[pipeline] {what} must be a name, or a name for each part, got {given!r:.80}"
        )
    found: ForParts = given
    return found


def for_dtypes(given: Any) -> ForParts:
    """Likewise, of dtypes in our names or PyTorch's."""
    named = (
        {part: own_dtype(dtype) for part, dtype in given.items()}
        if isinstance(given, Mapping)
        else own_dtype(given)
    )
    return for_parts("dtype", named)


def run_options(
    parts: Iterable[str],
    device: ForParts,
    dtype: ForParts,
    beside: Mapping[str, str] | None = None,
    **others: Any,
) -> dict[str, RunOptions]:
    """How each of these parts runs: those that `device` does not name on the CPU, those that
    `dtype` does not as is best there; `others` are for all. What is `beside` them runs as the part
    that it is mapped to, unless it is named."""
    beside = beside or {}
    parts = (*parts, *beside)

    def each(what: str, given: ForParts, default: str) -> dict[str, str]:
        if isinstance(given, str):
            return dict.fromkeys(parts, given)
        if unknown := sorted(given.keys() - parts):
            raise InvalidArgumentError(
                f"[pipeline] {what}: there is no part {unknown[0]!r}, only " + ", ".join(parts)
            )
        return {name: given.get(name, given.get(beside.get(name, ""), default)) for name in parts}

    devices, dtypes = each("device", device, "cpu"), each("dtype", dtype, "auto")
    if dtype == "f16" and {"cpu"} < {*devices.values()}:
        # The CPU has no kernels for it: it is meant for those on a GPU.
        dtypes |= {name: "auto" for name in parts if devices[name] == "cpu"}
    return {name: RunOptions(dtype=dtypes[name], device=devices[name], **others) for name in parts}


def load_parts(
    source: Checkpoint,
    wanted: Wanted,
    options: Mapping[str, RunOptions],
    overrides: Mapping[str, Override],
    config: PathLike | None = None,
    quantize: str | None = None,
) -> Parts:
    """The networks and tokenizers of a checkpoint that a family wants, which run by their
    `options`, and its scheduler; the paths in `overrides` take the place of a part. `quantize` is
    the storage type that weights get."""
    kind = source.kind
    assert kind is not None  # open_model saw to it
    for argument, value in {**overrides, "config": config}.items():
        if not isinstance(value, bool | None):
            as_path(value, f"[pipeline] {argument}=")
    if config is not None and not Path(config).is_dir():
        raise FileError(f"[pipeline] no such folder: '{config}', which config= names")
    config = None if config is None else snapshot(Path(config))
    reader = _Reader(source, kind.family, wanted, overrides, config)
    for name, path in overrides.items():
        if not isinstance(path, bool | None) and name not in (*wanted.networks, *wanted.tokenizers):
            raise InvalidArgumentError(
                f"[pipeline] '{source.path}' holds {kind.title}, which takes no {name}="
            )

    def load(name: str, network: Loadable, part: Component) -> Any:
        return network.from_component(
            part if quantize is None else quantized(part, quantize), options[name]
        )

    for name in DENOISERS:  # the others are those of no model without it
        if name in wanted.networks:
            _require_denoiser(source, name)
    networks = {
        name: reader.load(name, network, load) if reader.has(name) else None
        for name, network in wanted.networks.items()
    }
    return Parts(
        family=kind.family,
        networks=networks,
        tokenizers={
            name: reader.tokenizer(name, wanted.tokenizer_classes.get(name, CLIPTokenizer))
            if networks.get(_encoder_of(name)) is not None
            else None
            for name in wanted.tokenizers
        },
        scheduler=_scheduler(source, config),
        settings=source.metadata,
        load=load,
        path=source.path,
        defaults=_defaults(source),
    )


class _CheckedError(Exception):
    """All is well so far."""


@dataclass(frozen=True)
class _LookedAt:
    """A part of which no network is made: its tensors are only checked."""

    component: Component

    @property
    def config(self) -> Mapping[str, Any]:
        return self.component.config

    def weights(self, expected: Mapping[str, Sequence[int]]) -> Mapping[str, Any]:
        self.component.check(expected)
        raise _CheckedError


def faults(source: Checkpoint, wanted: Wanted) -> dict[str, str]:
    """By part, what opening the model as it is would say is wrong with it; no weights are read."""
    assert source.kind is not None  # it was found to be a model
    reader = _Reader(source, source.kind.family, wanted, dict.fromkeys(REPLACEABLE), None)
    found: dict[str, str] = {}

    def look(name: str, network: Loadable, part: Component) -> Any:
        network.from_component(_LookedAt(part))

    for name, network in wanted.networks.items():
        try:
            if reader.has(name):
                reader.load(name, network, look)
        except _CheckedError:
            continue
        except SDCoreError as error:
            found[name] = str(error)
    for name in wanted.tokenizers:
        try:
            if reader.has(encoder := _encoder_of(name)) and encoder not in found:
                reader.tokenizer(name, wanted.tokenizer_classes.get(name, CLIPTokenizer))
        except SDCoreError as error:
            found[name] = str(error)
    return found


def part_fault(source: Checkpoint) -> str | None:
    """Why what holds no model, but a part of one, cannot be that part of any."""
    try:
        for name in source.parts:
            part = source.component(name)
            if name == "vae":
                _require_decoder(part)
    except SDCoreError as error:
        return str(error)
    return None


def _encoder_of(tokenizer: str) -> str:
    return tokenizer.replace("tokenizer", "text_encoder")


@dataclass(frozen=True)
class _Reader:
    source: Checkpoint
    family: str
    wanted: Wanted
    overrides: Mapping[str, Override]
    config: PathLike | None

    def has(self, name: str) -> bool:
        """False for a part that is left out: asked for, or not there and not needed."""
        given = self.overrides.get(name)
        if name not in self.wanted.optional:
            return True
        return bool(given) or (given is None and name in self.source.parts)

    def holder(self, name: str) -> Checkpoint:
        """The checkpoint that has a part."""
        path = self.overrides.get(name)
        if isinstance(path, bool):
            raise InvalidArgumentError(
                f"[pipeline] '{self.source.path}' cannot do without its {name}"
            )
        return self.source if path is None else checkpoint.open(path)

    def component(self, name: str, network: Loadable) -> Component:
        holder = self.holder(name)
        if name in DENOISERS:
            _require_denoiser(holder, name)
        found = holder.component(_name_in(holder, name, self.source), self.family)
        json_file = None if self.config is None else Path(self.config) / name / "config.json"
        if json_file is not None and json_file.is_file():
            found = dataclasses.replace(found, config=read_json(json_file))
        _require_class(found, name, network)
        if name == "vae":
            _require_decoder(found)
        return found

    def load(self, name: str, network: Loadable, make: LoadPart) -> Any:
        """What `make` makes of a part; of one that is the model's own and faulty, the error says
        that another may take its place."""
        try:
            return make(name, network, self.component(name, network))
        except (CheckpointError, UnsupportedModelError) as error:
            own = name in self.overrides and self.overrides[name] is None
            if not own or f"{name}=" in str(error):
                raise
            raise type(error)(f"{error}; give another as {name}=") from error

    def tokenizer(self, name: str, kind: type[Tokenizer]) -> Tokenizer:
        path = self.overrides.get(name)
        if path is not None and not isinstance(path, bool):
            return kind.from_folder(path)
        if self.config is not None and (Path(self.config) / name).is_dir():
            return kind.from_folder(Path(self.config) / name)
        encoder = _encoder_of(name)
        for holder in (self.holder(encoder), self.source):
            if name in holder.tokenizer_paths:
                return kind.from_folder(holder.tokenizer_paths[name])
            metadata = metadata_for(holder.metadata, encoder)
            is_t5 = metadata.get("tokenizer.ggml.model") == "t5"
            if "tokenizer.ggml.tokens" in metadata and is_t5 == (kind is T5Tokenizer):
                return kind.from_gguf_metadata(metadata)
        if kind is CLIPTokenizer:
            return CLIPTokenizer.default(pad=self.wanted.padding.get(name, EOS))
        raise UnsupportedModelError(
            f"[pipeline] '{self.source.path}' brings no vocabulary for its {encoder}: "
            f"give {name}=, a folder with tokenizer.json or spiece.model, or such a file"
        )


def _name_in(holder: Checkpoint, name: str, source: Checkpoint) -> str:
    """What the holder of a part calls it: a text encoder alone knows nothing of others."""
    if name in holder.parts:
        return name
    alike = [
        other
        for other in holder.parts
        if name.startswith("text_encoder") and other.startswith("text_encoder")
    ]
    if holder is not source and len(alike) == 1:
        return alike[0]
    has = ", ".join(holder.parts) or holder.title
    give = f"give one as {name}=" if holder is source else f"it is no {name}"
    raise CheckpointError(f"[pipeline] '{holder.path}' has no {name}, only {has}: {give}")


def _require_denoiser(source: Checkpoint, name: str) -> None:
    """What is known by some of its tensors may have others that are nowhere to be found."""
    if name in source.parts:
        return
    firsts = dict.fromkeys(tensor.partition(".")[0] for tensor in source.tensors)
    shown = ", ".join(f"'{first}'" for first in list(firsts)[:4])
    raise CheckpointError(
        f"[pipeline] '{source.path}' holds {source.title}, but its {name} is not behind one prefix "
        f"in names that sdcore knows (they begin with {shown}): save that network alone"
    )


def _require_decoder(component: Component) -> None:
    if not any(name.startswith("decoder.") for name in component.tensors):
        raise CheckpointError(
            f"[pipeline] {component.where} has no decoder, which makes the picture of its latents"
        )


def _require_class(component: Component, name: str, network: Loadable) -> None:
    """A text encoder of another kind has other names, so that everything would be missing."""
    wanted = getattr(network, "__name__", "")
    classes = component.config.get("architectures") or ()
    if name.startswith("text_encoder") and classes and not classes[0].startswith(wanted):
        raise CheckpointError(
            f"[pipeline] {component.where}: {name} must be a {wanted}, and this is a {classes[0]}"
        )


def _scheduler(source: Checkpoint, config: PathLike | None) -> Scheduler:
    fields = dict(source.scheduler_config)
    if config is not None:
        json_file = Path(config) / "scheduler" / "scheduler_config.json"
        if json_file.is_file():
            fields = read_json(json_file)
    name = fields.get("_class_name", "DDIMScheduler")
    if name not in Scheduler.registry:
        if "beta_schedule" not in fields:  # DDIM would draw noise
            raise UnsupportedModelError(
                f"[pipeline] '{source.path}' is drawn with {name}, which is not built; give "
                "config= a folder with a scheduler/scheduler_config.json of another"
            )
        log.warning("[pipeline] the model asks for %s, which is not built: using DDIM", name)
        name = "DDIMScheduler"
        # What the class in the file does not have is DDIM's to ask for: latents are never clipped.
        fields.setdefault("clip_sample", False)
    return Scheduler.registry[name].from_config(fields)


def _defaults(source: Checkpoint) -> Defaults:
    def get(name: str, kinds: Sequence[type], low: float) -> Any:
        value: Any = source.metadata.get(DEFAULT_KEY + name)
        if isinstance(value, str):  # safetensors' metadata is text
            with contextlib.suppress(ValueError):
                value = kinds[-1](value)
        if value is not None and not (type(value) in kinds and low <= value < math.inf):
            raise CheckpointError(
                f"[pipeline] '{source.path}': metadata {DEFAULT_KEY}{name} must be a number of "
                f"at least {low}, got {value!r:.80}"
            )
        return value

    return Defaults(get("steps", (int,), 1), get("guidance_scale", (int, float), 0))
