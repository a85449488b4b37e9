"""The parts of a pipeline from whatever the user has."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdcore import checkpoint
from sdcore.checkpoint import Checkpoint, Component
from sdcore.checkpoint.quantized import quantized
from sdcore.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from sdcore.models.base import Loadable, RunOptions
from sdcore.schedulers import Scheduler
from sdcore.tokenizer import EOS, CLIPTokenizer

__all__ = ["POCKET", "Defaults", "Parts", "PathLike", "find_model", "load_parts"]

log = logging.getLogger("sdcore")

PathLike = str | os.PathLike[str]

POCKET = Path(__file__).parents[1] / "data" / "pocket.gguf"  # made by tools/pocket


def find_model(path: PathLike) -> PathLike:
    """Where a model lies: "pocket" is the one inside the package, if it has one and nothing of the
    user's has that name."""
    shipped = os.fspath(path) == "pocket" and not Path(path).exists() and POCKET.is_file()
    return POCKET if shipped else path


@dataclass(frozen=True)
class Defaults:
    """What a file says that it is best drawn with; None where it says nothing."""

    steps: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class Parts:
    """What a pipeline is put together from; parts are under diffusers' names. `settings` are a
    folder's model_index.json, or a file's metadata."""

    family: str
    networks: Mapping[str, Any]
    tokenizers: Mapping[str, CLIPTokenizer]
    scheduler: Scheduler
    settings: Mapping[str, Any]
    defaults: Defaults = Defaults()


def load_parts(
    source: Checkpoint,
    networks: Mapping[str, Loadable],
    tokenizers: Iterable[str],
    padding: Mapping[str, str],
    options: RunOptions,
    *,
    overrides: Mapping[str, PathLike | None],
    config: PathLike | None = None,
    quantize: str | None = None,
) -> Parts:
    """These networks and tokenizers of a checkpoint, and its scheduler; the paths in `overrides`
    take the place of a part. `padding` are tokens that pad where the checkpoint brings no
    vocabulary and CLIP's end of text does not. `quantize` is the storage type that weights get."""
    kind = source.kind
    assert kind is not None  # open_model saw to it
    component = _component_reader(source, overrides, config)
    return Parts(
        family=kind.family,
        networks={
            name: network.from_component(
                component(name) if quantize is None else quantized(component(name), quantize),
                options,
            )
            for name, network in networks.items()
        },
        tokenizers={
            name: _tokenizer(source, name, overrides.get(name), config, padding.get(name, EOS))
            for name in tokenizers
        },
        scheduler=_scheduler(source, config),
        settings=source.metadata,
        defaults=_defaults(source),
    )


def _component_reader(
    source: Checkpoint, overrides: Mapping[str, PathLike | None], config: PathLike | None
) -> Callable[[str], Component]:
    def read(name: str) -> Component:
        path = overrides.get(name)
        found = (checkpoint.open(path) if path is not None else source).component(name)
        json_file = None if config is None else Path(config) / name / "config.json"
        if json_file is None or not json_file.is_file():
            return found
        return dataclasses.replace(found, config=_read_json(json_file))

    return read


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"[pipeline] cannot read '{path}': {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"[pipeline] '{path}' is not a JSON object")
    return values


def _tokenizer(
    source: Checkpoint, name: str, path: PathLike | None, config: PathLike | None, pad: str
) -> CLIPTokenizer:
    if path is not None:
        return CLIPTokenizer.from_folder(path)
    if config is not None and (Path(config) / name).is_dir():
        return CLIPTokenizer.from_folder(Path(config) / name)
    if name in source.tokenizer_paths:
        return CLIPTokenizer.from_folder(source.tokenizer_paths[name])
    if "tokenizer.ggml.tokens" in source.metadata:
        return CLIPTokenizer.from_gguf_metadata(source.metadata)
    return CLIPTokenizer.default(pad=pad)


def _scheduler(source: Checkpoint, config: PathLike | None) -> Scheduler:
    fields = dict(source.scheduler_config)
    if config is not None:
        json_file = Path(config) / "scheduler" / "scheduler_config.json"
        if json_file.is_file():
            fields = _read_json(json_file)
    name = fields.get("_class_name", "DDIMScheduler")
    if name not in Scheduler.registry:
        if "beta_schedule" not in fields:  # DDIM would draw noise
            raise UnsupportedModelError(
                f"[pipeline] '{source.path}' is drawn with {name}, which is not built; give "
                "config= a folder with a scheduler/scheduler_config.json of another"
            )
        log.info("[pipeline] the model asks for %s, which is not built yet: using DDIM", name)
        name = "DDIMScheduler"
        # What the class in the file does not have is DDIM's to ask for: latents are never clipped.
        fields.setdefault("clip_sample", False)
    return Scheduler.registry[name].from_config(fields)


def _defaults(source: Checkpoint) -> Defaults:
    def get(name: str, kinds: Sequence[type], low: float) -> Any:
        value: Any = source.metadata.get(f"sdcore.default.{name}")
        if value is not None and not (type(value) in kinds and low <= value < math.inf):
            raise CheckpointError(
                f"[pipeline] '{source.path}': metadata sdcore.default.{name} must be a number of "
                f"at least {low}, got {value!r:.80}"
            )
        return value

    return Defaults(get("steps", (int,), 1), get("guidance_scale", (int, float), 0))


def check_device(device: str) -> None:
    """Only the CPU so far."""
    if device != "cpu":
        raise InvalidArgumentError(
            f"[pipeline] device must be 'cpu': this build has no other, got {device!r}"
        )
