"""A network with changes applied: weights merged, or low-rank paths beside quantized ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sdcore import _core
from sdcore.adapters.lora.changes import Change
from sdcore.errors import InvalidArgumentError

__all__ = ["MODES", "adapted"]

Weighted = tuple[Mapping[str, Change], float]  # an adapter's changes by tensor, and its strength

MODES = ("auto", "merge", "side")
_BLOCKS = {str(row["name"]) for row in _core.types() if row["block_size"] != 1}


def adapted(network: _core.Network, adapters: Sequence[Weighted], mode: str) -> _core.Network:
    """The network with these adapters; it shares every tensor that none of them changes.

    A change is merged into float weights. Beside quantized ones it runs as a low-rank path, which
    keeps their blocks and all of the change; what has no low rank (LoHa, LoKr, DoRA, whole
    differences) is merged there too, into a weight that leaves its blocks for float16. `mode`
    "merge" or "side" asks for one of them wherever it can be.
    """
    if mode not in MODES:
        raise InvalidArgumentError(f"[lora] mode must be {', '.join(MODES)}, got {mode!r}")
    changes: dict[str, list[tuple[Change, float]]] = defaultdict(list)
    for by_tensor, strength in adapters:
        for name, change in by_tensor.items():
            if strength != 0.0:
                changes[name].append((change, strength))
    if not changes:
        return network
    stored, shapes = network.tensors, network.graph.weights
    tensors: dict[str, _core.Tensor] = {}
    ranks: dict[str, int] = {}
    for name, weighted in changes.items():
        beside = mode == "side" or (mode == "auto" and stored[name].type in _BLOCKS)
        pair = _low_rank(weighted) if beside else None
        if pair is None:
            tensors[name] = _merged(stored[name], shapes[name], weighted)
        else:
            module = name.removesuffix(".weight")
            down, up = pair
            ranks[name] = len(down)
            tensors[f"{module}.lora_down"] = _core.Tensor.from_array(down)
            tensors[f"{module}.lora_up"] = _core.Tensor.from_array(up)
    return network.with_weights(tensors, network.graph.with_side_paths(ranks) if ranks else None)


def _low_rank(
    weighted: Sequence[tuple[Change, float]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """All of them as one product, their ranks side by side; None if one of them is none."""
    downs, ups = [], []
    for change, strength in weighted:
        pair = change.low_rank()
        if pair is None:
            return None
        downs.append(pair[0])
        ups.append(pair[1] * np.float32(strength))
    return np.concatenate(downs), np.ascontiguousarray(np.concatenate(ups, axis=1))


def _merged(
    stored: _core.Tensor, shape: Sequence[int], weighted: Sequence[tuple[Change, float]]
) -> _core.Tensor:
    weight = stored.to_float().reshape(shape)
    total = weight.copy()
    for change, strength in weighted:
        total += change.delta(weight, strength)
    # Float16 rounds finer than bfloat16, and far below a quantized block.
    half = None if stored.type == "f32" else total.astype(np.float16)
    if half is None or not np.isfinite(half).all():
        return _core.Tensor.from_array(total)
    return _core.Tensor.from_array(half)
