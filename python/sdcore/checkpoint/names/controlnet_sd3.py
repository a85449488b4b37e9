"""Names of Stable Diffusion 3's ControlNets: diffusers', which most files have, and Stability's of
those for 3.5 large (sd3.5_large_controlnet_*.safetensors), as diffusers'
convert_sd3_controlnet_to_diffusers.py and comfy/controlnet.py read them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sdcore.checkpoint.names.table import NameTable

_LEAVES = ("weight", "bias")
_SHARED = (
    *("pos_embed", "pos_embed_input", "time_text_embed", "controlnet_blocks"),
    "control_type",  # a number: what the pictures are
)
_BLOCK = (
    ("adaLN_modulation.1", "norm1.linear"),
    ("attn.proj", "attn.to_out.0"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
)
_INDEX = re.compile(r"transformer_blocks\.(\d+)\.")
_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")


def original(names: Iterable[str]) -> NameTable:
    """The table between Stability's names and diffusers', from either."""
    blocks = {f"transformer_blocks.{m[1]}" for name in names if (m := _INDEX.match(name))}
    rows = [(f"{block}.{old}", f"{block}.{new}") for block in blocks for old, new in _BLOCK]
    return NameTable(
        [*((root, root) for root in _SHARED), *rows],
        fused=(
            (f"{block}.attn.qkv.{leaf}", tuple(f"{block}.{one}.{leaf}" for one in _QKV))
            for block in blocks
            for leaf in _LEAVES
        ),
    )


def to_original(names: Iterable[str]) -> NameTable:
    """From diffusers' names: those with blocks that read a text have no others."""
    names = list(names)
    reads_text = any(name.startswith("context_embedder.") for name in names)
    return diffusers(names) if reads_text else original(names)


def diffusers(_names: Iterable[str]) -> NameTable:
    """The table for a file that has diffusers' names already."""
    roots = (*_SHARED, "context_embedder", "transformer_blocks")
    return NameTable((root, root) for root in roots)
