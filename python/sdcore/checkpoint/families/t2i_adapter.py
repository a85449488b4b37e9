"""T2I-Adapters. They are asked for as ControlNets are."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.families.controlnet import OPEN
from sdcore.checkpoint.family import Config, Family, Naming, Place, Rules, Tensors
from sdcore.checkpoint.names import t2i_adapter
from sdcore.checkpoint.sizes import count, size

RANK = -1
# Pixels of a side that become channels; SDXL's make 256 of each colour.
_FACTOR, _FACTOR_XL = 8, 16


def _config(tensors: Tensors) -> Config:
    blocks = range(count(tensors, r"adapter\.body\.(\d+)\."))
    is_light = any(".out_conv." in name for name in tensors)
    first = r"adapter\.(body\.0\.in_conv|conv_in)\.weight"
    pixels = size(tensors, first, 1, 3 * _FACTOR**2)
    kind, factor = "light_adapter" if is_light else "full_adapter", _FACTOR
    if not is_light and pixels % _FACTOR_XL**2 == 0:
        kind, factor = "full_adapter_xl", _FACTOR_XL
    out = "out_conv" if is_light else r"resnets\.\d+\.block[12]"
    channels = [size(tensors, rf"adapter\.body\.{i}\.{out}\.(weight|bias)", 0) for i in blocks]
    return {
        "_class_name": "T2IAdapter",
        "adapter_type": kind,
        "in_channels": pixels // factor**2,
        # The last of a light adapter is as wide as the one before, and not named.
        "channels": channels[:-1] if is_light else channels,
        "num_res_blocks": count(tensors, r"adapter\.body\.\d+\.resnets\.(\d+)\."),
        "downscale_factor": factor,
    }


_PLACE = Place(
    "t2i_adapter",
    ("t2i_adapter.", "", "adapter."),
    (
        Naming("diffusers", ("adapter.body.0.resnets.",), t2i_adapter.diffusers),
        Naming("original", ("body.0.block1.", "body.0.body."), t2i_adapter.original),
    ),
)

FAMILIES = {
    "t2i-adapter": Family(
        "a T2I-Adapter",
        ("t2i_adapter",),
        hint=OPEN,
        infer={"t2i_adapter": _config},
        places=(_PLACE,),
    ),
}

_BLOCK = r"^(t2i_adapter\.)?(adapter\.)?body\.\d+\.((resnets|body)\.\d+\.)?block1\.weight$"

RULES: Rules = (("t2i-adapter", (Clue(_BLOCK),)),)
