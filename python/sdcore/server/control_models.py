"""The ControlNets, T2I-Adapters and IP-Adapters that clients may name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from sdcore import checkpoint
from sdcore.errors import FileError, SDCoreError
from sdcore.server.fields import FieldError
from sdcore.server.models import looked_up, models_in

__all__ = ["ControlModel", "ControlModels"]

log = logging.getLogger("sdcore.server")

_IP_ADAPTERS = ("ip-adapter", "instantid")
_CONTROLNETS = ("control", "t2i-adapter")  # how families of those begin that steer as they do


@dataclass(frozen=True)
class ControlModel:
    """`name` is what lists show; a file that has changed is another one."""

    name: str
    path: Path
    modified: float
    is_ip_adapter: bool


class ControlModels:
    """What lies in `folder` and in those within it; with None there are none. Clients' names are
    looked up in this list, and never made a path."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise FileError(f"[server] no such folder of ControlNets: '{folder}'")
        self.folder = folder
        self._kinds: dict[tuple[Path, float], str | None] = {}
        self.refresh()

    def refresh(self) -> None:
        """Looks into the folder again."""
        found: dict[str, ControlModel] = {}
        for path in [] if self.folder is None else sorted(models_in(self.folder, "config.json")):
            if not path.exists():  # a link to nowhere
                continue
            modified = path.stat().st_mtime
            family = self._family(path, modified)
            if family is not None:
                name = path.name if path.is_dir() else path.stem
                if name in found:
                    name = path.relative_to(self.folder or path).as_posix()
                found[name] = ControlModel(name, path, modified, family in _IP_ADAPTERS)
        self.all = [found[name] for name in sorted(found)]

    def _family(self, path: Path, modified: float) -> str | None:
        """What a file holds, if that is something for this list; each is opened once."""
        key = path, modified
        if key not in self._kinds:
            try:
                kind = checkpoint.open(path).kind
            except SDCoreError as error:
                log.warning("[server] left out of the ControlNets: %s", error)
                kind = None
            family = "" if kind is None else kind.family
            fits = family.startswith(_CONTROLNETS) or family in _IP_ADAPTERS
            self._kinds[key] = family if fits else None
        return self._kinds[key]

    def find(self, name: str) -> ControlModel:
        """By name, with or without the hash that web UIs write after it. Raises FieldError."""
        plain = name.rpartition(" [")[0] if name.endswith("]") else name
        names = (name.lower(), plain.lower())

        def look() -> ControlModel | None:
            return next((model for model in self.all if model.name.lower() in names), None)

        if model := looked_up(look, self.refresh):
            return model
        if self.folder is None:
            raise FieldError("model", "cannot be chosen: start sdcore serve with --controlnet-dir")
        has = ", ".join(model.name for model in self.all) or "none, for there are none"
        raise FieldError("model", f"must be one of {has}, got '{name:.200}'")
