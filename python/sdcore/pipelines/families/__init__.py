"""Families of models, one file each: which parts a pipeline has, what prompts become and how the
denoiser is asked. `checkpoint/families` names the class of each."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from sdcore.checkpoint import FAMILIES

__all__ = ["PIPELINES"]


class _Pipelines(Mapping[str, Any]):
    """Subclasses of DiffusionPipeline by family. Each is imported when it is first asked for, so
    that a program waits for its own alone."""

    def __getitem__(self, family: str) -> Any:
        where = FAMILIES[family].pipeline
        if where is None:
            raise KeyError(family)
        module, name = where.split(".")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)

    def __contains__(self, family: object) -> bool:
        return family in FAMILIES and FAMILIES[str(family)].runs

    def __iter__(self) -> Iterator[str]:
        return (name for name, family in FAMILIES.items() if family.runs)

    def __len__(self) -> int:
        return sum(family.runs for family in FAMILIES.values())


PIPELINES = _Pipelines()
