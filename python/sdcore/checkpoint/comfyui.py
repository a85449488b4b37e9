"""ComfyUI-GGUF's kind of file: the denoiser alone under its original names without a prefix, and
what does not divide into rows of 256 folded so (city96/ComfyUI-GGUF, tools/convert.py)."""

from __future__ import annotations

import math

from sdcore.checkpoint.layouts import layout_of, original_names
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import UnsupportedModelError

ROW = 256
SMALLEST = 512  # elements of a tensor that is folded
FOLDED = ("sd1", "sdxl")


def unet_alone(opened: Checkpoint) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """The tensors, and the true shapes of those that are folded."""
    kind = opened.kind
    layout = layout_of(kind.family) if kind else None
    name = next((name for name in ("unet", "transformer") if name in opened.components), None)
    if kind is None or layout is None or name is None:
        raise UnsupportedModelError(
            f"[convert] '{opened.path}' holds {opened.title}, which has no denoiser for ComfyUI"
        )
    place = layout.original[name]
    named = original_names(name, opened.components[name].tensors, place)
    tensors = {key.removeprefix(place.prefix): tensor for key, tensor in named.items()}
    if kind.family.partition("-")[0] not in FOLDED:
        return tensors, {}
    shapes = {key: tuple(t.shape) for key, t in tensors.items() if _is_folded(tuple(t.shape))}
    return {
        key: t.reshape((math.prod(t.shape) // ROW, ROW)) if key in shapes else t
        for key, t in tensors.items()
    }, shapes


def _is_folded(shape: tuple[int, ...]) -> bool:
    count = math.prod(shape)
    return len(shape) > 1 and count >= SMALLEST and count % ROW == 0 and shape[-1] % ROW != 0
