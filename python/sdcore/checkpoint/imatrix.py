"""Importance matrices: for each linear layer the mean square of what comes in at each input, which
is how much an error of the weights there matters. Files are llama.cpp's in GGUF (tools/imatrix)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdcore import gguf
from sdcore.errors import CheckpointError

__all__ = ["ImportanceMatrix", "read_imatrix", "write_imatrix"]

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass
class ImportanceMatrix:
    """By the name of a weight `[outputs, inputs]`: the sum of the squares of each input, and the
    number of rows that were added up."""

    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)

    def add(self, name: str, sums: NDArray[np.float64], count: int) -> None:
        if name not in self.sums:
            self.sums[name] = np.zeros(len(sums))
        self.sums[name] = self.sums[name] + sums
        self.counts[name] = self.counts.get(name, 0) + count

    def merge(self, other: ImportanceMatrix) -> None:
        """Adds what another run of the same model has seen. Raises CheckpointError if a weight has
        other inputs there."""
        for name, sums in other.sums.items():
            if len(sums) != len(self.sums.get(name, sums)):
                raise CheckpointError(
                    f"[imatrix] '{name}' has {len(sums)} inputs in one importance matrix and "
                    f"{len(self.sums[name])} in another: they are of different models"
                )
        for name, sums in other.sums.items():
            self.add(name, sums, other.counts[name])
        self.prompts += other.prompts

    def weights(self, name: str, inputs: int) -> NDArray[np.float32] | None:
        """The mean squares for a weight with this many inputs; None where nothing is known, or
        nothing ever came in. An input that was always zero still counts a little: it may not be
        zero in the next picture."""
        sums = self.sums.get(name)
        if sums is None or not sums.any():
            return None
        if len(sums) != inputs:
            raise CheckpointError(
                f"[imatrix] '{name}' has {inputs} inputs in the model, but {len(sums)} in the "
                "importance matrix: it is of another model"
            )
        means = sums / max(self.counts[name], 1)
        weights: NDArray[np.float32] = np.maximum(means, means.max() * 1e-6).astype(np.float32)
        return weights


def write_imatrix(path: str | os.PathLike[str], matrix: ImportanceMatrix) -> None:
    """Writes the file; it appears when it is complete."""
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, sums in sorted(matrix.sums.items()):
        tensors[name + _SUMS] = sums.astype(np.float32)[None]
        tensors[name + _COUNTS] = np.array([[matrix.counts[name]]], np.float32)
    gguf.write(
        path,
        {
            "general.type": "imatrix",
            "imatrix.datasets": gguf.Typed(matrix.prompts, "string"),
            "imatrix.chunk_count": max(len(matrix.prompts), 1),
            "imatrix.chunk_size": 1,
        },
        tensors,
    )


def read_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Raises FileError or CheckpointError for what is no such file."""
    file = gguf.open(path)
    if file.metadata.get("general.type") != "imatrix":
        raise CheckpointError(
            f"[imatrix] '{Path(path)}' is not an importance matrix: its general.type is "
            f"{file.metadata.get('general.type')!r:.40}, not 'imatrix'"
        )
    matrix = ImportanceMatrix()
    prompts = file.metadata.get("imatrix.datasets", [])
    matrix.prompts = [str(prompt) for prompt in prompts] if isinstance(prompts, list) else []
    for key, tensor in file.tensors.items():
        if not key.endswith(_SUMS):
            continue
        name = key.removesuffix(_SUMS)
        count = file.tensors.get(name + _COUNTS)
        sums = tensor.to_float().astype(np.float64).reshape(-1)
        counts = np.ones(1) if count is None else count.to_float().reshape(-1)
        if len(counts) != 1 or not np.isfinite(sums).all() or not _is_count(counts[0]):
            raise CheckpointError(f"[imatrix] '{Path(path)}': '{name}' has numbers that are none")
        if (sums < 0).any():
            raise CheckpointError(f"[imatrix] '{Path(path)}': '{name}' has negative squares")
        matrix.add(name, sums, int(counts[0]))
    return matrix


def _is_count(value: float) -> bool:
    return bool(np.isfinite(value)) and 0 <= value < 2**53
