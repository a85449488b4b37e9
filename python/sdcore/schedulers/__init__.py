"""Schedulers, one file each. A file added to this folder is found by itself: `get` knows its class
by the name that diffusers gives it."""

import importlib
import pkgutil

from sdcore.errors import InvalidArgumentError
from sdcore.schedulers.base import Config, Row, Scheduler, Table, Term

__all__ = ["Config", "Row", "Scheduler", "Table", "Term", "get", "names"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def names() -> list[str]:
    """The class names of all schedulers, as diffusers spells them."""
    return sorted(Scheduler.registry)


def get(name: str) -> type[Scheduler]:
    """The scheduler class of this name."""
    if name not in Scheduler.registry:
        raise InvalidArgumentError(
            f"[schedulers] there is no scheduler {name!r}; use one of {', '.join(names())}"
        )
    return Scheduler.registry[name]
