"""What `sdcore info` tells about a checkpoint."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdcore.checkpoint.detect import Kind
from sdcore.checkpoint.parts import Part
from sdcore.checkpoint.tensor import Tensor


@dataclass(frozen=True)
class PartSummary:
    name: str
    naming: str  # whose names the file has: "original", "diffusers" or "openclip"
    tensors: int
    parameters: int
    bytes: int
    types: dict[str, int]  # stored type -> tensors, the most frequent first


@dataclass(frozen=True)
class Summary:
    path: Path
    format: str
    family: str | None
    title: str
    target: str | None  # the family of the model that an adapter is for
    details: tuple[str, ...]
    why: str
    runs: bool
    bytes: int  # of all tensors
    types: dict[str, int]
    parts: tuple[PartSummary, ...]
    passed_over: int  # tensors of no part


def summarise(
    path: Path,
    format: str,
    kind: Kind | None,
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, Part],
    passed_over: int,
) -> Summary:
    return Summary(
        path=path,
        format=format,
        family=kind.family if kind else None,
        title=kind.title if kind else "unknown",
        target=kind.target if kind else None,
        details=kind.details if kind else (),
        why=kind.why if kind else "",
        runs=bool(kind and kind.about.runs),
        bytes=sum(tensor.nbytes for tensor in tensors.values()),
        types=_types(tensors.values()),
        parts=tuple(_part(part) for part in parts.values()),
        passed_over=passed_over,
    )


def _part(part: Part) -> PartSummary:
    tensors = part.tensors.values()
    return PartSummary(
        name=part.component,
        naming=part.naming,
        tensors=len(tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        bytes=sum(tensor.nbytes for tensor in tensors),
        types=_types(tensors),
    )


def _types(tensors: Iterable[Tensor]) -> dict[str, int]:
    return dict(Counter(tensor.type for tensor in tensors).most_common())
