"""Weights that are stored divided by a number beside them, as ComfyUI writes float8: `X.weight` and
`X.scale_weight` (later `X.weight_scale`), of one element. `X.scale_input` and `scaled_fp8` say how
ComfyUI multiplies by them (comfy/ops.py); for the weights they mean nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sdcore.checkpoint.tensor import RemadeTensor, Tensor

_SCALE = re.compile(r"^(.*\.)?(scale_weight|weight_scale)$")
_BESIDE = ("scale_input", "input_scale", "comfy_quant")
_MARKER = re.compile(r"(^|\.)scaled_fp8$")


def unscaled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with true weights and without what is only their scale; what is packed otherwise
    stays as it is."""
    found = dict(tensors)
    for name, scale in tensors.items():
        match = _SCALE.match(name)
        module = (match[1] or "") if match else ""
        weight = tensors.get(f"{module}weight")
        if match is None or weight is None or not _is_plain(tensors, module, weight, scale):
            continue
        found[f"{module}weight"] = ScaledTensor(weight, scale)
        for beside in (match[2], *_BESIDE):
            found.pop(module + beside, None)
    if len(found) == len(tensors):
        return found
    return {name: tensor for name, tensor in found.items() if not _MARKER.search(name)}


def _is_plain(tensors: Mapping[str, Tensor], module: str, weight: Tensor, scale: Tensor) -> bool:
    """One number for all of a float weight."""
    if any(size != 1 for size in scale.shape) or weight.type not in _FLOATS:
        return False
    quant = tensors.get(f"{module}comfy_quant")
    if quant is None:
        return True
    try:
        said: Any = json.loads(bytes(quant.data))
        return str(said["format"]).startswith("float8")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


_FLOATS = ("f8_e4m3", "f8_e5m2", "f16", "bf16", "f32")  # what float8 becomes in other formats


class ScaledTensor(RemadeTensor):
    """As bf16, which rounds a sixteenth as much as float8 does."""

    def __init__(self, stored: Tensor, scale: Tensor) -> None:
        super().__init__("bf16", tuple(stored.shape))
        self._stored = stored
        self._scale = scale

    @property
    def data(self) -> Any:
        scale = np.float32(self._scale.to_float().reshape(-1)[0])
        bits = (self._stored.to_float() * scale).view(np.uint32).astype(np.uint64)
        # To nearest, ties to even.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype(np.uint16).reshape(-1).view(np.uint8)

    def release(self) -> None:
        self._stored.release()
