"""Reading a LoRA file for a model: every key to a change of a tensor of the model, or an error."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdcore import _core, checkpoint
from sdcore.adapters.lora.changes import Change, Parts, bias_change, weight_change
from sdcore.adapters.lora.names import Names, split
from sdcore.arguments import as_floats
from sdcore.checkpoint.files import Contents, read_json
from sdcore.checkpoint.tensor import Tensor
from sdcore.checkpoint.weights import counted
from sdcore.errors import CheckpointError, FileError, UnsupportedModelError

__all__ = ["IN_MEMORY", "LoraFile", "Shapes", "State", "read", "read_from"]

log = logging.getLogger("sdcore")

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # of weights, by component and name
State = Mapping[str, Any]  # arrays or PyTorch's tensors, by the names that a file would have
IN_MEMORY = Path("(a dict of tensors)")  # the path of those

# What a folder's file is called by PEFT and by diffusers.
_IN_FOLDERS = ("adapter_model.safetensors", "adapter_model.bin",
               "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")  # fmt: skip
_METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's configs, as JSON
_NOT_BUILT = re.compile(r"\.(oft_blocks|oft_diag|a1\.weight|b1\.weight|on_input)$")
_BUNDLED = re.compile(
    r"bundle_emb\.(?P<word>.+?)\.(?P<tensor>string_to_param\..+|clip_[lg]|emb_params)$"
)


@dataclass(frozen=True, eq=False)
class LoraFile:
    """`changes` by component and tensor of the model; `bundled` are tensors of textual inversions
    that came along, by word."""

    path: Path
    title: str
    changes: Mapping[str, Mapping[str, Change]] = field(repr=False)
    bundled: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)


def read(path: str | os.PathLike[str] | State, shapes: Shapes, model: str) -> LoraFile:
    """Reads a LoRA for a model whose components have weights of these `shapes`.

    `path` is a file of any kind, a folder of PEFT's or diffusers', or a dict of tensors; `model` is
    what to call the model in errors. Raises FileError and CheckpointError, the latter for a LoRA of
    another family too, and UnsupportedModelError for a kind that is not built. Modules that the
    model does not have are passed over with a warning.
    """
    if isinstance(path, Mapping):
        return read_from(_in_memory(path), shapes, model)
    return replace(read_from(checkpoint.open(_file_of(Path(path))), shapes, model), path=Path(path))


def read_from(source: checkpoint.Checkpoint, shapes: Shapes, model: str) -> LoraFile:
    """The same of what is open already."""
    reader = _Reader(source, _peft_configs(source), Names(shapes), shapes, model)
    return LoraFile(source.path, source.title, reader.changes(), _bundled(source))


def _in_memory(state: State) -> checkpoint.Checkpoint:
    tensors: dict[str, Tensor] = {
        str(name): _core.Tensor.from_array(as_floats(value, f"[lora] '{name}'"))
        for name, value in state.items()
    }
    return checkpoint.Checkpoint(IN_MEMORY, Contents("in memory", tensors))


def _bundled(source: checkpoint.Checkpoint) -> dict[str, dict[str, Any]]:
    words: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, tensor in source.tensors.items():
        if match := _BUNDLED.match(key):
            words[match["word"]][match["tensor"]] = tensor
    return dict(words)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _IN_FOLDERS:
        if (path / name).is_file():
            return path / name
    raise FileError(f"[lora] the folder '{path}' has none of " + ", ".join(_IN_FOLDERS))


def _peft_configs(source: checkpoint.Checkpoint) -> dict[str, dict[str, Any]]:
    """PEFT's configs by component; "" is every component's."""
    beside = source.path.with_name("adapter_config.json")
    if source.path.name.startswith("adapter_model.") and beside.is_file():
        return {"": read_json(beside)}
    if _METADATA not in source.metadata:
        return {}
    try:
        flat = json.loads(source.metadata[_METADATA])
        configs: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, value in flat.items():
            component, _, name = key.partition(".")
            configs[component][name] = value
        return configs
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"[lora] '{source.path}': metadata '{_METADATA}' is not a JSON object: {error}"
        ) from error


class _Reader:
    def __init__(
        self,
        source: checkpoint.Checkpoint,
        configs: Mapping[str, Mapping[str, Any]],
        names: Names,
        shapes: Shapes,
        model: str,
    ) -> None:
        self.source = source
        self.configs = configs
        self.names = names
        self.shapes = shapes
        self.model = model

    def changes(self) -> dict[str, dict[str, Change]]:
        modules, unknown = self._modules()
        changes: dict[str, dict[str, Change]] = defaultdict(dict)
        for (component, path), tensors in modules.items():
            spelled, parts = self._parts(component, path, tensors)
            for leaf, make in (("weight", weight_change), ("bias", bias_change)):
                shape = self.shapes[component].get(f"{path}.{leaf}")
                if shape is None:
                    continue
                try:
                    change = make(parts, shape)
                except (CheckpointError, ValueError) as error:
                    raise self._misfit(spelled, error) from error
                if change is not None:
                    changes[component][f"{path}.{leaf}"] = change
        if not changes:
            raise CheckpointError(f"[lora] '{self.source.path}' changes nothing of {self._about()}")
        if unknown:
            log.warning(
                "[lora] '%s': passed over %s, which the model does not have",
                self.source.path,
                counted(unknown),
            )
        return dict(changes)

    def _modules(self) -> tuple[dict[tuple[str, str], dict[str, tuple[str, Any]]], list[str]]:
        """Tensors by module and role, each with its name in the file; and names of no module."""
        modules: dict[tuple[str, str], dict[str, tuple[str, Any]]] = defaultdict(dict)
        unknown = []
        for key, tensor in self.source.tensors.items():
            if _BUNDLED.match(key):
                continue
            if _NOT_BUILT.search(key):
                raise UnsupportedModelError(
                    f"[lora] '{self.source.path}' holds '{key}', of a kind of adapter that sdcore "
                    "does not run; it runs LoRA, LoCon, LoHa, LoKr, DoRA and whole differences"
                )
            role = split(key)
            place = self.names.find(role.module) if role else None
            if role is None or place is None:
                unknown.append(key)
            else:
                modules[place][role.name] = key, tensor
        return modules, unknown

    def _parts(
        self, component: str, path: str, named: Mapping[str, tuple[str, Any]]
    ) -> tuple[str, Parts]:
        spelled = next(iter(named.values()))[0]
        config = self.configs.get(component, self.configs.get("", {}))
        tensors = {role: tensor for role, (_, tensor) in named.items()}
        return spelled, Parts(f"'{spelled}'", tensors, lambda rank: _peft_scale(config, path, rank))

    def _misfit(self, spelled: str, error: Exception) -> CheckpointError:
        reason = str(error).removeprefix("[lora] ")
        return CheckpointError(
            f"[lora] '{self.source.path}' does not fit {self._about()}: {reason}"
            + ("" if spelled in reason else f" ({spelled})")
        )

    def _about(self) -> str:
        return f"the model, {self.model}: it holds {self.source.title}"


def _peft_scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """lora_alpha / r, or / √r of "rank-stabilized" ones; 1 where nothing is said."""

    def of(pattern: str, default: Any) -> Any:
        for key, value in (config.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", path):
                return value
        return default

    alpha = of("alpha_pattern", config.get("lora_alpha", config.get("alpha")))
    if not isinstance(alpha, int | float) or not rank:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
