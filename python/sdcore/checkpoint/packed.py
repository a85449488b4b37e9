"""Weights in a packing that sdcore does not read, told by what lies beside them: without it, their
numbers would be taken for the weights themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sdcore.checkpoint.tensor import Tensor

__all__ = ["REMEDY", "packing"]

REMEDY = "take its file in float16, float8 or GGUF"

_COMFY = ".comfy_quant"
# What a name ends with, and what packs so; a group is the format. The first row that fits counts.
_ROWS = (
    (re.compile(r"\.quant_state\.bitsandbytes__(\w+)$"), "bitsandbytes' "),
    (re.compile(r"\.SCB$"), "bitsandbytes' int8"),
    (re.compile(r"\.(?:qweight|qzeros)$"), "integers as GPTQ, AWQ or Nunchaku pack them"),
    (re.compile(re.escape(_COMFY) + "$"), "ComfyUI's "),
    (re.compile(r"\.(?:scale_weight|weight_scale)$"), "numbers scaled by other tensors"),
)
_MARKED = (".SCB", ".qweight", ".qzeros", _COMFY, ".scale_weight", ".weight_scale")
_INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "bool")


def packing(tensors: Mapping[str, Tensor]) -> tuple[str, Sequence[str]] | None:
    """What weights are packed as, and the tensors that show it; None where they are as they seem.
    `tensors` are those that are left when scaled float8 has been multiplied out."""
    marks = [name for name in tensors if name.endswith(_MARKED) or ".quant_state." in name]
    for pattern, words in _ROWS:
        found = [(name, match) for name in marks if (match := pattern.search(name))]
        if found:
            name, match = found[0]
            format = match[1] if match.lastindex else ""
            if name.endswith(_COMFY):
                format = _comfy_format(tensors[name])
            return words + format, [name for name, _ in found]
    integers = [name for name, tensor in tensors.items() if _is_integer_matrix(name, tensor)]
    if integers:
        return f"whole numbers ({tensors[integers[0]].type})", integers
    return None


def _comfy_format(quant: Tensor) -> str:
    try:
        said: Any = json.loads(bytes(quant.data))
        return str(said["format"])[:40]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "quantization"


def _is_integer_matrix(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.type in _INTEGERS and len(tensor.shape) > 1
