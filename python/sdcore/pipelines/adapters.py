"""LoRA on a pipeline: `load_lora_weights` and its kin under diffusers' names, and A1111's tags."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sdcore.adapters import lora
from sdcore.arguments import as_path
from sdcore.errors import FileError, InvalidArgumentError
from sdcore.pipelines.loading import PathLike
from sdcore.prompts.lora_tags import LoraTag

__all__ = ["Adapters", "LoraMixin", "loras_in"]

log = logging.getLogger("sdcore")

Strength = float | Mapping[str, float]  # of all components, or by component
P = TypeVar("P", bound="LoraMixin")

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".gguf")


@dataclass(frozen=True)
class Adapters:
    """Which LoRAs a pipeline has and how strong each is: a value, and networks follow from it."""

    title: str
    base: Mapping[str, Any]  # models by component, unchanged
    loaded: Mapping[str, lora.LoraFile] = field(default_factory=dict)
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    mode: str = "auto"

    def load(self, path: PathLike, name: str) -> Adapters:
        """With the file as an adapter of that name, not yet at work."""
        shapes = {component: model.network.graph.weights for component, model in self.base.items()}
        return replace(self, loaded={**self.loaded, name: lora.read(path, shapes, self.title)})

    def models(self) -> dict[str, Any]:
        """The models with the adapters at work in them; those that none changes are the base's."""
        return {name: self._model(name, model) for name, model in self.base.items()}

    def _model(self, component: str, model: Any) -> Any:
        weighted = [
            (self.loaded[name].changes.get(component, {}), _strength(strength, component))
            for name, strength in self.strengths.items()
        ]
        network = lora.adapted(model.network, weighted, self.mode)
        return model if network is model.network else model.with_network(network)


class LoraMixin:
    """What DiffusionPipeline can do with LoRA files.

    `lora_dir` is the folder in which `<lora:name:0.8>` of a prompt looks for files, besides the
    adapters that are loaded.
    """

    lora_dir: PathLike | None = None

    def _begin_adapters(self, title: str, networks: Mapping[str, Any]) -> None:
        base = {
            name: model
            for name, model in networks.items()
            if name in lora.COMPONENTS and model is not None
        }
        self._adapters = Adapters(title, base)
        self._adapters_lock = threading.Lock()
        self._last_tagged: tuple[Adapters, dict[str, Any]] | None = None

    def load_lora_weights(
        self, path: PathLike, adapter_name: str | None = None, mode: str = "auto"
    ) -> None:
        """Loads a LoRA and puts it to work alone at strength 1; `set_adapters` says otherwise.

        `path` is a file of any kind or a folder of PEFT's or diffusers'; the name is the file's if
        none is given. Kohya's, PEFT's and diffusers' names are read, of LoRA, LoCon, LoHa, LoKr,
        DoRA and whole differences. `mode` "merge" changes weights, "side" runs low ranks beside
        them, "auto" does so beside quantized weights only.
        Raises FileError, CheckpointError (also for another family's LoRA), UnsupportedModelError.
        """
        path = as_path(path, "[lora] a LoRA")
        name = Path(path).stem if adapter_name is None else adapter_name
        if name in self._adapters.loaded:
            raise InvalidArgumentError(
                f"[lora] there is an adapter '{name}' already: give another adapter_name, or "
                "delete_adapters first"
            )
        loaded = self._adapters.load(path, name)
        self._adopt(replace(loaded, strengths={name: 1.0}, mode=mode))

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: Strength | Sequence[Strength] | None = None,
        mode: str | None = None,
    ) -> None:
        """Puts these loaded adapters to work and no others.

        A weight is a number, or numbers by component ("unet", "text_encoder", …; what is not named
        has 1); None is 1. `mode` None keeps the one in use.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if adapter_weights is None or isinstance(adapter_weights, int | float | Mapping):
            weights = [1.0 if adapter_weights is None else adapter_weights] * len(names)
        else:
            weights = list(adapter_weights)
        if len(weights) != len(names):
            raise InvalidArgumentError(
                f"[lora] there are {len(names)} adapters and {len(weights)} weights"
            )
        self._require(names)
        strengths = {n: self._checked(w) for n, w in zip(names, weights, strict=True)}
        self._adopt(replace(self._adapters, strengths=strengths, mode=mode or self._adapters.mode))

    def unload_lora_weights(self) -> None:
        """Forgets all adapters: the networks are as they were opened."""
        self._adopt(replace(self._adapters, loaded={}, strengths={}))

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forgets these adapters."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._require(names)

        def others(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name not in names}

        now = self._adapters
        self._adopt(replace(now, loaded=others(now.loaded), strengths=others(now.strengths)))

    def get_active_adapters(self) -> list[str]:
        """The names of the adapters at work."""
        return list(self._adapters.strengths)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """The names of the loaded adapters by component."""
        return {
            component: names
            for component in self._adapters.base
            if (names := [n for n, f in self._adapters.loaded.items() if component in f.changes])
        }

    @property
    def lora_files(self) -> dict[str, Path]:
        """Those of the LoRAs at work, by name."""
        return {name: self._adapters.loaded[name].path for name in self._adapters.strengths}

    # -- inside ----------------------------------------

    def _adopt(self, adapters: Adapters) -> None:
        models = adapters.models()
        with self._adapters_lock:
            self._set(adapters, models)

    def _set(self, adapters: Adapters, models: Mapping[str, Any]) -> None:
        self._adapters = adapters
        for name, model in models.items():
            setattr(self, name, model)

    def _for_call(self: P, tags: Sequence[LoraTag]) -> P:
        """This pipeline as one call sees it, whatever is set meanwhile: with the adapters of the
        call's tags at work too. A tag whose LoRA is nowhere is left out with a warning."""
        with self._adapters_lock:
            call = copy.copy(self)
        strengths = {**call._adapters.strengths, **self._found(tags)}
        if strengths == call._adapters.strengths:
            return call
        adapters = replace(self._adapters, strengths=strengths)
        last = self._last_tagged
        if last is None or last[0] != adapters:
            last = self._last_tagged = adapters, adapters.models()
        call._set(*last)
        return call

    def _merged(self: P) -> P:
        """This pipeline with the adapters in its weights, and in no path beside them."""
        call = self._for_call(())
        adapters = replace(call._adapters, mode="merge")
        call._set(adapters, adapters.models())
        return call

    def _found(self, tags: Sequence[LoraTag]) -> dict[str, Strength]:
        strengths: dict[str, Strength] = {}
        for tag in tags:
            if tag.name not in self._adapters.loaded and not self._load_tagged(tag.name):
                continue
            strengths[tag.name] = {
                component: tag.text if component.startswith("text") else tag.denoiser
                for component in self._adapters.base
            }
        return strengths

    def _load_tagged(self, name: str) -> bool:
        path = (
            None
            if self.lora_dir is None
            else find_lora(as_path(self.lora_dir, "[lora] lora_dir"), name)
        )
        if path is None:
            where = "lora_dir is not set" if self.lora_dir is None else f"not in '{self.lora_dir}'"
            log.warning("[lora] no LoRA '%s' (%s): going on without it", name, where)
            return False
        loaded = self._adapters.load(path, name)
        with self._adapters_lock:
            self._adapters = replace(self._adapters, loaded=loaded.loaded)
        return True

    def _require(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._adapters.loaded:
                has = ", ".join(self._adapters.loaded) or "none"
                raise InvalidArgumentError(
                    f"[lora] there is no adapter '{name}'; loaded are: {has}"
                )

    def _checked(self, strength: Strength) -> Strength:
        parts = strength if isinstance(strength, Mapping) else {"": strength}
        for component, value in parts.items():
            if component and component not in self._adapters.base:
                raise InvalidArgumentError(
                    f"[lora] there is no component '{component}' to weight; there are: "
                    + ", ".join(self._adapters.base)
                )
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise InvalidArgumentError(f"[lora] a weight must be a number, got {value!r}")
        return strength


def find_lora(folder: PathLike, name: str) -> Path | None:
    """The file of this name, with or without its ending, in the folder or a folder within it."""
    # The folder is searched, and the name never made a path, so a prompt cannot point elsewhere.
    for path in loras_in(folder):
        inside = path.relative_to(folder)
        if name in (path.stem, path.name, inside.as_posix(), inside.with_suffix("").as_posix()):
            return path
    return None


def loras_in(folder: PathLike) -> list[Path]:
    """The files of the folder and those within it that may be LoRAs."""
    if not Path(folder).is_dir():
        raise FileError(f"[lora] no such folder: '{folder}'")
    found = sorted(Path(folder).rglob("*"))
    return [path for path in found if path.suffix.lower() in _SUFFIXES and path.is_file()]


def _strength(strength: Strength, component: str) -> float:
    if isinstance(strength, Mapping):
        return float(strength.get(component, 1.0))
    return float(strength)
