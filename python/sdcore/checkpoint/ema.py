"""Averaged weights (EMA), which original training files keep beside the last ones.

Their names are the UNet's without "model." and without dots, after "model_ema."
(CompVis/stable-diffusion, ldm/modules/ema.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import CheckpointError

PREFIX = "model_ema."
_MODEL = "model."


def averaged(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors with averages in place of what they are averages of, and no others."""
    averages = {name for name in tensors if name.startswith(PREFIX)}
    taken = {
        name: tensors[average]
        for name in tensors
        if (average := _average_of(name)) in averages and name not in averages
    }
    if not taken:
        raise CheckpointError(
            f"[checkpoint] '{where}' has no averaged weights (named {PREFIX}…): do without --ema"
        )
    missing = [name for name in tensors if _is_denoiser(name) and name not in taken]
    if missing:
        raise CheckpointError(
            f"[checkpoint] '{where}' has no averages of {len(missing)} tensors of the UNet, "
            f"{missing[0]} first: do without --ema"
        )
    return {name: taken.get(name, t) for name, t in tensors.items() if name not in averages}


def _is_denoiser(name: str) -> bool:
    return name.startswith("model.diffusion_model.")


def _average_of(name: str) -> str:
    if not name.startswith(_MODEL):
        return ""
    return PREFIX + name.removeprefix(_MODEL).replace(".", "")
