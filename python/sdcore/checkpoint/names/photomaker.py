"""Names of PhotoMaker's ID encoder: its files', after `id_encoder.`, and those with diffusers' in
place of the resampler's numbered lists."""

from __future__ import annotations

from collections.abc import Iterable

from sdcore.checkpoint.names.image_projection import resampler_layers
from sdcore.checkpoint.names.table import NameTable

__all__ = ["table"]

_KEPT = ("vision_model", "visual_projection", "visual_projection_2", "fuse_module",
         "qformer_perceiver")  # fmt: skip
_RESAMPLER = "qformer_perceiver.perceiver_resampler."


def table(names: Iterable[str]) -> NameTable:
    """That of a file of these names."""
    rows, fused = resampler_layers(names, _RESAMPLER)
    return NameTable([*((name, name) for name in _KEPT), *rows], fused=fused)
