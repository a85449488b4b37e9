"""LoRA on a pipeline: `load_lora_weights` and its kin under diffusers' names, and A1111's tags."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sdcore.adapters import lora
from sdcore.arguments import as_path
from sdcore.errors import FileError, InvalidArgumentError
from sdcore.locks import ForkableLock
from sdcore.pipelines.loading import PathLike, within
from sdcore.prompts.lora_tags import LoraTag

__all__ = ["Adapters", "LoraMixin", "loras_in"]

log = logging.getLogger("sdcore")

Strength = float | Mapping[str, float]  # of all components, or by component
P = TypeVar("P", bound="LoraMixin")

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".gguf")


@dataclass(frozen=True)
class Fused:
    """A LoRA that is merged into the weights at `strength`, and how strong it was at work before
    that; None: it was not."""

    name: str
    file: lora.LoraFile
    strength: Strength
    before: Strength | None


@dataclass(frozen=True)
class Adapters:
    """Which LoRAs a pipeline has and how strong each is: a value, and networks follow from it."""

    title: str
    base: Mapping[str, Any]  # models by component, unchanged
    loaded: Mapping[str, lora.LoraFile] = field(default_factory=dict)
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    mode: str = "auto"
    fused: tuple[Fused, ...] = ()
    paused: Mapping[str, Strength] = field(default_factory=dict)  # of those that rest

    def load(self, path: PathLike | lora.State, name: str) -> Adapters:
        """With the file as an adapter of that name, not yet at work."""
        shapes = {component: model.network.graph.weights for component, model in self.base.items()}
        return replace(self, loaded={**self.loaded, name: lora.read(path, shapes, self.title)})

    def models(self) -> dict[str, Any]:
        """The models with the adapters at work in them; those that none changes are the base's."""
        return {name: self._model(name, model) for name, model in self.base.items()}

    def files(self) -> dict[str, lora.LoraFile]:
        """Those at work, by name."""
        fused = {one.name: one.file for one in self.fused}
        return fused | {name: self.loaded[name] for name in self.strengths}

    def scaled(self, strengths: Mapping[str, Strength], scale: float) -> dict[str, Strength]:
        """So many times as strong."""
        if scale == 1:
            return dict(strengths)
        return {
            name: {component: scale * _strength(strength, component) for component in self.base}
            for name, strength in strengths.items()
        }

    def _model(self, component: str, model: Any) -> Any:
        weighted = [
            (self.loaded[name].changes.get(component, {}), _strength(strength, component))
            for name, strength in self.strengths.items()
        ]
        merged = [
            (one.file.changes.get(component, {}), _strength(one.strength, component))
            for one in self.fused
        ]
        network = lora.adapted(model.network, merged, "merge")
        network = lora.adapted(network, weighted, self.mode)
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
        self._adapters_lock = ForkableLock()
        self._last_tagged: tuple[Adapters, dict[str, Any]] | None = None

    def load_lora_weights(
        self,
        path: PathLike | lora.State,
        adapter_name: str | None = None,
        mode: str = "auto",
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
    ) -> None:
        """Loads a LoRA and puts it to work alone at strength 1; `set_adapters` says otherwise.

        `path` is a file of any kind, a folder of PEFT's or diffusers', a folder that the file
        `weight_name` is in, in `subfolder` of it, or a dict of its tensors; the name is the file's
        if none is given, and a dict's default_0 and so on. Kohya's, PEFT's and diffusers' names are
        read, of LoRA, LoCon, LoHa, LoKr, DoRA and whole differences. `mode` "merge" changes
        weights, "side" runs low ranks beside them, "auto" does so beside quantized weights only.
        Raises FileError, CheckpointError (also for another family's LoRA), UnsupportedModelError.
        """
        name = adapter_name
        if isinstance(path, Mapping):
            name = name or f"default_{len(self._adapters.loaded)}"
        else:
            path = within(path, subfolder, weight_name, "[lora] a LoRA")
            name = Path(path).stem if name is None else name
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
        now = self._adapters
        if merged := sorted({one.name for one in now.fused} & set(names)):
            raise InvalidArgumentError(
                f"[lora] the adapter '{merged[0]}' is fused: unfuse_lora first"
            )
        strengths = {n: self._checked(w) for n, w in zip(names, weights, strict=True)}
        self._adopt(replace(now, strengths=strengths, paused={}, mode=mode or now.mode))

    def unload_lora_weights(self) -> None:
        """Forgets all adapters: the networks are as they were opened, but for those that are
        fused, which stay in the weights."""
        self._adopt(replace(self._adapters, loaded={}, strengths={}, paused={}))

    def disable_lora(self) -> None:
        """Draws without the adapters at work, until enable_lora."""
        now = self._adapters
        self._adopt(replace(now, strengths={}, paused={**now.paused, **now.strengths}))

    def enable_lora(self) -> None:
        """Puts those to work again that disable_lora lets rest."""
        now = self._adapters
        self._adopt(replace(now, strengths={**now.paused, **now.strengths}, paused={}))

    def fuse_lora(
        self,
        components: Sequence[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
    ) -> None:
        """Merges the adapters at work, or those of these names, into the weights of all components
        or of these, at their strengths times `lora_scale`.

        They stay there, also through unload_lora_weights, until unfuse_lora. That results are
        numbers, as `safe_fusing` asks, is checked whenever a picture is drawn.
        """
        now = self._adapters
        names = list(now.strengths) if adapter_names is None else list(adapter_names)
        self._require(names)
        if not names:
            raise InvalidArgumentError("[lora] there is no adapter at work to be fused")
        parts = set(now.base if components is None else components)
        self._checked(dict.fromkeys(parts, lora_scale))
        fused, left = [], {n: s for n, s in now.strengths.items() if n not in names}
        for name in names:
            own = {c: _strength(now.strengths.get(name, 1.0), c) for c in now.base}
            merged = {c: lora_scale * s if c in parts else 0.0 for c, s in own.items()}
            fused.append(Fused(name, now.loaded[name], merged, now.strengths.get(name)))
            if name in now.strengths and not parts.issuperset(now.base):
                left[name] = {c: 0.0 if c in parts else s for c, s in own.items()}
        self._adopt(replace(now, strengths=left, fused=(*now.fused, *fused)))

    def unfuse_lora(self, components: Sequence[str] | None = None) -> None:
        """Takes the fused adapters out of the weights again; those that are loaded still are at
        work as before. They leave all components together."""
        now = self._adapters
        if components is not None and not set(components).issuperset(now.base):
            raise InvalidArgumentError(
                f"[lora] unfuse_lora takes adapters out of all components: {', '.join(now.base)}"
            )
        before: dict[str, Strength] = {}
        for one in now.fused:
            if one.before is not None and now.loaded.get(one.name) is one.file:
                before.setdefault(one.name, one.before)
        self._adopt(replace(now, strengths={**now.strengths, **before}, fused=()))

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forgets these adapters."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._require(names)

        def others(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name not in names}

        now = self._adapters
        self._adopt(replace(now, loaded=others(now.loaded), strengths=others(now.strengths)))

    def get_active_adapters(self) -> list[str]:
        """The names of the adapters at work, with those of the loaded ones that are fused."""
        now = self._adapters
        return [name for name, file in now.files().items() if now.loaded.get(name) is file]

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
        files = self._adapters.files().items()
        return {name: file.path for name, file in files if file.path != lora.IN_MEMORY}

    def is_adapted(self, component: str) -> bool:
        """Whether adapters of that part are known to the pipeline."""
        return component in self._adapters.base

    # -- inside ----------------------------------------

    def _adopt(self, adapters: Adapters) -> None:
        models = adapters.models()
        with self._adapters_lock:
            self._set(adapters, models)

    def _set(self, adapters: Adapters, models: Mapping[str, Any]) -> None:
        self._adapters = adapters
        self.__dict__.update(models)

    def _for_call(self: P, tags: Sequence[LoraTag], scale: float = 1.0) -> P:
        """This pipeline as one call sees it, whatever is set meanwhile: with the adapters of the
        call's tags at work too, and the others `scale` times as strong. A tag whose LoRA is nowhere
        is left out with a warning."""
        with self._adapters_lock:
            call = copy.copy(self)
        own = call._adapters.strengths
        strengths = {**call._adapters.scaled(own, scale), **self._found(tags)}
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
