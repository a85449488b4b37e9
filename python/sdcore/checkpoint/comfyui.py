"""ComfyUI-GGUF's kind of file: the denoiser alone under its original names without a prefix, and
what does not divide into rows of 256 folded so (city96/ComfyUI-GGUF, tools/convert.py)."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

from sdcore.checkpoint.layouts import layout_of, original_names
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.tensor import FoldedTensor, Tensor
from sdcore.errors import UnsupportedModelError

ROW = 256
SMALLEST = 512  # elements of a tensor that is folded
# What it calls a family's denoisers, and whether it folds them. It knows a UNet by its layout, so
# that SD 2 is SD 1 to it, and reads no file of another architecture (loader.py, IMG_ARCH_LIST).
_ARCHITECTURES = {
    "sd1": ("sd1", True),
    "sd2": ("sd1", True),
    "sdxl": ("sdxl", True),
    "playground": ("sdxl", True),
    "sd3": ("sd3", False),
}


def architecture(opened: Checkpoint) -> str:
    """What `general.architecture` must say. Raises UnsupportedModelError where it reads no such."""
    return _architecture(opened)[0]


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
    if not _architecture(opened)[1]:
        return tensors, {}
    return fold(tensors, tensors)


def fold(
    tensors: Mapping[str, Tensor], wanted: Container[str]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """The tensors, those that are wanted in rows of 256 if they have no such; and the true shapes
    of these."""
    shapes = {key: tuple(t.shape) for key, t in tensors.items() if key in wanted}
    shapes = {key: shape for key, shape in shapes.items() if _is_folded(shape)}
    return {
        key: t.reshape((math.prod(t.shape) // ROW, ROW)) if key in shapes else t
        for key, t in tensors.items()
    }, shapes


def folded_already(tensors: Mapping[str, Tensor]) -> set[str]:
    """Those that lie so in their file."""
    return {name for name, tensor in tensors.items() if isinstance(tensor, FoldedTensor)}


def _architecture(opened: Checkpoint) -> tuple[str, bool]:
    family = opened.kind.family.partition("-")[0] if opened.kind else ""
    if family not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"[convert] '{opened.path}' holds {opened.title}, which ComfyUI-GGUF does not read: it "
            "reads Stable Diffusion 1, 2, XL and 3"
        )
    return _ARCHITECTURES[family]


def _is_folded(shape: tuple[int, ...]) -> bool:
    count = math.prod(shape)
    return len(shape) > 1 and count >= SMALLEST and count % ROW == 0 and shape[-1] % ROW != 0
