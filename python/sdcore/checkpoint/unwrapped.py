"""Names that a training program has put something before: `module.`, `state_dict.`, `_orig_mod.`,
or what a pickle's dictionary was called, `weights.` say."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from sdcore.checkpoint.detect import recognise
from sdcore.checkpoint.parts import find_prefixes, is_listed, listed_prefixes
from sdcore.checkpoint.tensor import Tensor

__all__ = ["unwrapped"]

log = logging.getLogger("sdcore")

_MAX_DEPTH = 4
# Beside a weight, Adam keeps two tensors of its size.
_SMALLEST_SHARE = 3


def unwrapped(
    tensors: dict[str, Tensor], metadata: Mapping[str, object], where: str
) -> dict[str, Tensor]:
    """The tensors as they are, where they are known; else those behind the shortest prefix behind
    which they are, if no part of a model is lost, with a log line of what is left out."""
    prefixes = [] if any(map(is_listed, tensors)) else list(_prefixes(tensors))
    if not prefixes:
        return tensors
    kind = recognise(tensors, metadata)
    parts = find_prefixes(tensors, kind.about.components if kind else ()).keys()
    if kind and not kind.about.components:
        return tensors
    for prefix in prefixes:
        inner = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if _is_known(inner, metadata, parts):
            log.info(
                "[checkpoint] '%s': took '%s' off the names of %d tensors, and left out %d others",
                where, prefix, len(inner), len(tensors) - len(inner),
            )  # fmt: skip
            return inner
    return tensors


def _is_known(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, object], parts: Collection[str]
) -> bool:
    kind = recognise(tensors, metadata)
    if kind is None:
        return False
    found = listed_prefixes(tensors, kind.about.components).keys()
    return found >= set(parts) and bool(found or not kind.about.components)


def _prefixes(names: Mapping[str, Tensor]) -> Iterator[str]:
    """Those that a good share of the names have: the shorter first, then the more frequent."""
    level = [""]
    for _ in range(_MAX_DEPTH):
        counts = Counter(
            name[: name.index(".", len(before)) + 1]
            for before in level
            for name in names
            if name.startswith(before) and "." in name[len(before) :]
        )
        level = [p for p, n in counts.most_common() if n * _SMALLEST_SHARE >= len(names)]
        yield from level
