"""Families of models and of what goes with them, a file each. A file added to this folder is found
by itself.

It says `FAMILIES`, by name, and `RULES`, by which their files are recognised; of those with a lower
`RANK` (0 unless it says so) first: a file is what it first is found to be.
"""

from __future__ import annotations

import importlib
import pkgutil

from sdcore.checkpoint.family import Family, Rules

__all__ = ["FAMILIES", "RULES"]

_modules = sorted(
    (
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
    ),
    key=lambda module: getattr(module, "RANK", 0),
)
FAMILIES: dict[str, Family] = {
    name: family for module in _modules for name, family in module.FAMILIES.items()
}
RULES: Rules = tuple(rule for module in _modules for rule in module.RULES)
