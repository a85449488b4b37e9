"""What a picture's last bits depend on besides its settings: number types and kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sdcore import _core

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["dtypes", "kernels"]


def dtypes(pipe: DiffusionPipeline) -> str:
    """The dtype that the networks run in: "bf16", or where they differ "unet=bf16 vae=f32"."""
    return _each(pipe, lambda network: network.dtype)


def kernels(pipe: DiffusionPipeline) -> str:
    """Likewise whose kernels run: an instruction-set level of the CPU, or a kind of device."""
    return _each(
        pipe,
        lambda network: (
            network.isa if network.device == "cpu" else network.device.partition(":")[0]
        ),
    )


def _each(pipe: DiffusionPipeline, what: Callable[[_core.Network], str]) -> str:
    parts = {name: getattr(pipe, name) for name in pipe.networks}
    values = {name: what(part.networks[0]) for name, part in parts.items() if part is not None}
    if len({*values.values()}) == 1:
        return next(iter(values.values()))
    return " ".join(f"{name}={value}" for name, value in values.items())
