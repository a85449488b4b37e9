"""Renaming of tensors between an original file's names and diffusers' names, from one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sdcore.checkpoint.tensor import Tensor, row_range, stacked, swapped_halves, transposed
from sdcore.errors import CheckpointError

Row = tuple[str, str]


class NameTable:
    """Pairs of module paths, original and diffusers', read in both directions.

    The longest leading path of a name that has a row decides; what follows it is kept. `aliases`
    are read only towards diffusers' names: other spellings of what a row already says. `fused`
    names a tensor that holds several of diffusers' tensors one below the other; `transposed` and
    `swapped` (in diffusers' names) those that are stored the other way round, and those whose two
    halves are.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        aliases: Iterable[Row] = (),
        fused: Iterable[tuple[str, tuple[str, ...]]] = (),
        transposed: Iterable[str] = (),
        swapped: Iterable[str] = (),
    ) -> None:
        rows = list(rows)
        self._to_original = {new: old for old, new in rows}
        self._to_diffusers = dict([*aliases, *rows])
        self._fused = dict(fused)
        self._transposed = frozenset(transposed)
        self._swapped = frozenset(swapped)

    def to_diffusers(self, name: str) -> str | None:
        """Diffusers' name, or None for a name that no row knows."""
        return _rename(name, self._to_diffusers)

    def to_original(self, name: str) -> str | None:
        for fused, pieces in self._fused.items():
            if name in pieces:
                return fused
        return _rename(name, self._to_original)

    def apply(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The tensors under diffusers' names, and the names that no row knows."""
        known: dict[str, Tensor] = {}
        unknown: list[str] = []
        for name, tensor in tensors.items():
            if pieces := self._fused.get(name):
                size = tensor.shape[0] // len(pieces) if tensor.shape else 0
                for i, piece in enumerate(pieces):
                    known[piece] = row_range(tensor, i * size, (i + 1) * size)
            elif (new := self.to_diffusers(name)) is None:
                unknown.append(name)
            else:
                known[new] = self._turned(new, tensor)
        return known, unknown

    def restore(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The way back: the tensors under original names, and the names that no row knows."""
        restored: dict[str, Tensor] = {}
        unknown: list[str] = []
        for name, tensor in tensors.items():
            original = self.to_original(name)
            if original is None:
                unknown.append(name)
            elif pieces := self._fused.get(original):
                if missing := [piece for piece in pieces if piece not in tensors]:
                    raise CheckpointError(
                        f"[checkpoint] '{original}' is made of {len(pieces)} tensors, and these "
                        f"are not there: {', '.join(missing)}"
                    )
                restored[original] = stacked([tensors[piece] for piece in pieces])
            else:
                restored[original] = self._turned(name, tensor)
        return restored, unknown

    def _turned(self, name: str, tensor: Tensor) -> Tensor:
        if name in self._transposed:
            return transposed(tensor)
        return swapped_halves(tensor) if name in self._swapped else tensor


def _rename(name: str, rows: Mapping[str, str]) -> str | None:
    end = len(name)
    while end > 0:
        if (target := rows.get(name[:end])) is not None:
            return target + name[end:]
        end = name.rfind(".", 0, end)
    return None
