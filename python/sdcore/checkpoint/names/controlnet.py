"""Names of ControlNets: lllyasviel's, which are CompVis' for a UNet's way down, and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sdcore.checkpoint.names import controlnet_sd3, unet
from sdcore.checkpoint.names.table import NameTable, Row

_HINT = re.compile(r"input_hint_block\.(\d+)\.")
_EMBEDDING = re.compile(r"controlnet_cond_embedding\.(?:(conv_in|conv_out)|blocks\.(\d+))\.")
_COPIED = ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block")
_ROOTS = (
    *("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"),
    *_COPIED,
    # Of a ControlNet-Union, which has no other names than diffusers'.
    *("task_embedding", "transformer_layes", "spatial_ch_projs", "control_add_embedding"),
)


def original(names: Iterable[str]) -> NameTable:
    """The table for a file with original names, these."""
    names = list(names)
    places = {int(found[1]) for name in names if (found := _HINT.match(name))}
    return NameTable([*unet.way_down(names), *_own(names, r"zero_convs\.(\d+)\.", len(places))])


def to_original(names: Iterable[str]) -> NameTable:
    """The same table, found from diffusers' names, with the prefix that published files have."""
    names = list(names)
    if "pos_embed_input.proj.weight" in names:
        return controlnet_sd3.to_original(names)
    if "task_embedding" in names:
        return diffusers(names)
    convolutions = {found[0] for name in names if (found := _EMBEDDING.match(name))}
    own = _own(names, r"controlnet_down_blocks\.(\d+)\.", len(convolutions))
    rows = (*unet.way_down_to_original(names), *own)
    return NameTable((f"control_model.{old}", new) for old, new in rows)


def diffusers(_names: Iterable[str]) -> NameTable:
    """The table for a file that has diffusers' names already."""
    return NameTable((root, root) for root in _ROOTS)


def is_shared(name: str) -> bool:
    """Whether a tensor of a UNet is of what a ControlNet copies, by diffusers' name."""
    return name.split(".")[0] in _COPIED


def _own(names: Iterable[str], skip: str, convolutions: int) -> Iterator[Row]:
    """Activations stand between the convolutions of the picture, and count there."""
    for k in range(convolutions):
        name = {0: "conv_in", convolutions - 1: "conv_out"}.get(k, f"blocks.{k - 1}")
        yield f"input_hint_block.{2 * k}", f"controlnet_cond_embedding.{name}"
    for i in {int(found[1]) for name in names if (found := re.match(skip, name))}:
        yield f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}"
    yield "middle_block_out.0", "controlnet_mid_block"
