"""The models that clients may name, and which of them is open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sdcore.checkpoint.place import SHARD
from sdcore.errors import (
    CheckpointError,
    FileError,
    InvalidArgumentError,
    UnsupportedModelError,
)
from sdcore.pipelines.refined import require_pair
from sdcore.server.beside import Beside
from sdcore.server.fields import FieldError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = ["Model", "Models", "UnknownModelError", "looked_up", "models_in"]

T = TypeVar("T")

# Of a model, with its own VAE or with the one that lies at a path.
Open = Callable[..., "DiffusionPipeline"]

_SUFFIXES = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


class UnknownModelError(InvalidArgumentError):
    """A client named a model that is not on the list."""


@dataclass(frozen=True)
class Model:
    """`title` is what lists show, a path within the folder of models or a file's name."""

    title: str
    path: Path
    open: Open = field(repr=False, compare=False)
    vae: Path | None = None  # in place of its own

    @property
    def name(self) -> str:
        """Without folders and ending, as a picture's settings say it."""
        return Path(self.title).name if self.path.is_dir() else Path(self.title).stem

    def with_vae(self, vae: Path | None) -> Model:
        """The same to be opened with another VAE; None: as it is. Opening it raises FieldError
        where the VAE is not for it."""
        if vae is None or vae == self.vae:
            return self

        def opened() -> DiffusionPipeline:
            try:
                return self.open(vae)
            except (CheckpointError, UnsupportedModelError) as error:
                raise FieldError("sd_vae", f"cannot be '{vae.name}' here: {error}") from error

        return replace(self, open=opened, vae=vae)

    @property
    def modified(self) -> int:
        """Seconds of Unix time."""
        return int(self.path.stat().st_mtime)


class Models:
    """`first` is open to begin with, None for the first of the folder; the others are what lies in
    `folder`, which `opener` opens by their paths, with a VAE's or without. Clients' names are
    looked up in this list, and never made a path."""

    def __init__(
        self, first: Model | None, folder: Path | None, opener: Callable[..., DiffusionPipeline]
    ) -> None:
        self._first, self._folder, self._opener = first, folder, opener
        if folder is not None and not folder.is_dir():
            raise FileError(f"[server] no such folder of models: '{folder}'")
        self.refresh()
        if not self.all:
            raise FileError(f"[server] there is no model in '{folder}': put one there, or give -m")
        self._open: tuple[Model, DiffusionPipeline, Beside] | None = None
        self._refiner: tuple[Model, DiffusionPipeline] | None = None

    def refresh(self) -> None:
        """Looks into the folder again."""
        first = [] if self._first is None else [self._first]
        taken = {model.path.resolve() for model in first}
        folder = self._folder
        found = [] if folder is None else sorted(models_in(folder, "model_index.json"))
        self.all = first + [
            Model(path.relative_to(folder).as_posix(), path, partial(self._opener, path))
            for path in found
            if folder is not None and path.resolve() not in taken
        ]

    def find(self, name: str) -> Model:
        """By title or name, with or without the hash that web UIs write after it."""
        plain = name.rpartition(" [")[0] if name.endswith("]") else name

        def look() -> Model | None:
            both = ((wanted, model) for wanted in (name, plain) for model in self.all)
            return next((one for wanted, one in both if wanted in (one.title, one.name)), None)

        if model := looked_up(look, self.refresh):
            return model
        has = ", ".join(model.title for model in self.all)
        raise UnknownModelError(f"[server] there is no model '{name:.200}'; there are: {has}")

    @property
    def open_pipeline(self) -> DiffusionPipeline | None:
        """The pipeline that is open, if one is."""
        return None if self._open is None else self._open[1]

    @property
    def open_model(self) -> Model | None:
        return None if self._open is None else self._open[0]

    def pipeline(self, model: Model) -> DiffusionPipeline:
        """The model's, opened if another one is; the drawing thread alone calls this. Where it
        cannot be opened, the other one stays."""
        if self._open is None or self._open[0] != model:
            pipe = model.open()
            self._open = model, pipe, Beside(pipe)
        return self._open[1]

    def refiner(self, model: Model) -> DiffusionPipeline:
        """One for the model that `pipeline` opened, kept until another one is asked for. Raises
        FieldError where it is none."""
        assert self._open is not None
        base = self._open[1]
        with _for_a_refiner(model):
            if self._refiner is None or self._refiner[0] != model:
                self._refiner = None
                base.release()  # what is prepared already would count where memory is tight
                self._refiner = model, model.open()
            require_pair(base, self._refiner[1])
        return self._refiner[1]

    @property
    def beside(self) -> Beside:
        """What is open beside the model that `pipeline` opened."""
        assert self._open is not None
        return self._open[2]

    def close(self) -> None:
        """Gives back the memory of the open ones."""
        self._open = self._refiner = None


@contextlib.contextmanager
def _for_a_refiner(model: Model) -> Iterator[None]:
    """What a client chose wrongly is an error of his."""
    try:
        yield
    except (CheckpointError, UnsupportedModelError) as error:
        why = f"cannot be '{model.title}' here: {error}"
        raise FieldError("refiner_checkpoint", why) from error


def looked_up(look: Callable[[], T | None], refresh: Callable[[], None]) -> T | None:
    """What is found in a list of files, or once it is made anew, as it may have come since."""
    found = look()
    if found is None:
        refresh()
        found = look()
    return found


def models_in(folder: Path, mark: str) -> Iterator[Path]:
    """Files by their endings, and folders with the file `mark`; what lies in those is theirs."""
    for here, folders, files in os.walk(folder):
        if mark in files:
            yield Path(here)
            folders.clear()
            continue
        models = (name for name in files if name.lower().endswith(_SUFFIXES))
        yield from (Path(here, name) for name in models if not _is_later_shard(name))


def _is_later_shard(name: str) -> bool:
    """Of several files that are one model, any of which opens it, the first stands for it."""
    match = SHARD.fullmatch(name)
    return match is not None and int(match["number"]) > 1
