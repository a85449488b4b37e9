"""Which model a set of tensors is: clues in names and shapes, first match wins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sdcore.checkpoint.clue import Clue, Shapes
from sdcore.checkpoint.detect_marks import said, shown
from sdcore.checkpoint.families import FAMILIES, RULES
from sdcore.checkpoint.family import Family
from sdcore.checkpoint.tensor import Tensor
from sdcore.checkpoint.unet_families import CONTEXT

__all__ = ["FAMILIES", "RULES", "Family", "Kind", "recognise"]


ADAPTERS = ("lora", "lycoris")  # known by any tensor of theirs


@dataclass(frozen=True)
class Kind:
    """`target` is the family of the model that an adapter is for; `details` say which of its kind
    it is."""

    family: str
    why: str  # the tensors that gave it away
    target: str | None = None
    details: tuple[str, ...] = ()

    @property
    def about(self) -> Family:
        return FAMILIES[self.family]

    @property
    def title(self) -> str:
        target = f" for {FAMILIES[self.target].title}" if self.target else ""
        return ", ".join([self.about.title + target, *self.details])


def recognise(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None
) -> Kind | None:
    """The kind of the model or adapter; `metadata` is asked for what an adapter's tensors do not
    show."""
    shapes = Shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    for family, clues in RULES:
        if found := _found(clues, shapes):
            if family in ADAPTERS and (model := _model_around(clues, tensors, metadata)):
                return model
            return _kind(family, list(_evidence(clues, found, shapes)), shapes, metadata or {})
    return None


def _model_around(
    clues: tuple[Clue, ...],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, object] | None,
) -> Kind | None:
    """A model with stray tensors of a LoRA in it, which are passed over: where most are others."""
    patterns = [re.compile(clue.pattern) for clue in clues]
    rest = {n: t for n, t in tensors.items() if not any(p.search(n) for p in patterns)}
    if 2 * len(rest) <= len(tensors):
        return None
    kind = recognise(rest, metadata)
    if kind is None or not kind.about.runs:
        return None
    return replace(kind, details=(*kind.details, "with tensors of a LoRA, which are passed over"))


def _found(clues: tuple[Clue, ...], shapes: Shapes) -> list[str]:
    """A tensor for each of the clues; nothing where one of them has none."""
    found = []
    for clue in clues:
        if (name := clue.find(shapes)) is None:
            return []
        found.append(name)
    return found


def _kind(family: str, why: list[str], shapes: Shapes, metadata: Mapping[str, object]) -> Kind:
    more = shown(family, shapes)
    target = more.target
    if more.why is not None:
        why.append(f"{more.why} is {list(shapes[more.why])}")
    elif family in ("lora", "lycoris") and (named := said(metadata)):
        target, evidence = named
        why.append(evidence)
    return Kind(family, " and ".join(dict.fromkeys(why)), target, more.details)


def _evidence(clues: tuple[Clue, ...], found: list[str], shapes: Shapes) -> Iterator[str]:
    for clue, name in zip(clues, found, strict=True):
        if clue.pattern == CONTEXT and shapes[name]:
            yield f"{name} takes {shapes[name][-1]}"
        else:
            yield f"{name} is {list(shapes[name])}"
