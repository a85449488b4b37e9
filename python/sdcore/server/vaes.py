"""The VAEs that clients may name in place of a model's own."""

from __future__ import annotations

from pathlib import Path

from sdcore.errors import FileError
from sdcore.server.fields import FieldError
from sdcore.server.models import looked_up, models_in

__all__ = ["AUTOMATIC", "Vaes"]

AUTOMATIC = "Automatic"  # the one that a model was opened with
_OWN = ("", "automatic", "none")


class Vaes:
    """What lies in `folder`, and `first`, which was given for the first model; with neither there
    are none. Clients' names are looked up in this list, and never made a path."""

    def __init__(self, folder: Path | None = None, first: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise FileError(f"[server] no such folder of VAEs: '{folder}'")
        self._folder, self._first = folder, first
        self.refresh()

    def refresh(self) -> None:
        """Looks into the folder again."""
        found = {} if self._first is None else {self._first.name: self._first}
        if self._folder is not None:
            for path in sorted(models_in(self._folder, "config.json")):
                found.setdefault(path.relative_to(self._folder).as_posix(), path)
        self.all = found

    def find(self, name: str) -> tuple[str, Path | None]:
        """As lists show it, with or without its ending, and where it lies; None for a model's own.
        Raises FieldError."""
        if name.lower() in _OWN:
            return AUTOMATIC, None

        def look() -> str | None:
            titles = {title.lower(): title for title in self.all}
            stems = {path.stem.lower(): title for title, path in self.all.items()}
            return titles.get(name.lower()) or stems.get(name.lower())

        if title := looked_up(look, self.refresh):
            return title, self.all[title]
        if not self.all:
            raise FieldError("sd_vae", "must be Automatic: start sdcore serve with --vae-dir")
        has = ", ".join((AUTOMATIC, *self.all))
        raise FieldError("sd_vae", f"must be one of {has}, got '{name:.200}'")
