"""ControlNets of Stable Diffusion 3 and 3.5."""

from __future__ import annotations

import re

import numpy as np

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.families.controlnet import OPEN
from sdcore.checkpoint.family import Config, Family, Naming, Place, Rules, Tensors
from sdcore.checkpoint.names import controlnet_sd3
from sdcore.checkpoint.sizes import count, side, size
from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import CheckpointError

RANK = -3  # before controlnet.py, which knows FLUX's by the names that these have, too
_LATENTS = 16


def _config(tensors: Tensors) -> Config:
    """A file does not say whether pooled prompts are told. It is taken that Stability's, which read
    no text, are told them, and that all others are not, as InstantX's and diffusers' default."""
    block = r"transformer_blocks\.\d+"
    channels = size(tensors, r"pos_embed_input\.proj\.(weight|bias)", 0)
    condition = size(tensors, r"pos_embed_input\.proj\.weight", 1, _LATENTS)
    texts = size(tensors, r"context_embedder\.weight", 1)
    latents = size(tensors, r"pos_embed\.proj\.weight", 1, _LATENTS)
    head = size(tensors, rf"{block}\.attn\.norm_[qk]\.weight", 0)
    dual = re.compile(r"transformer_blocks\.(\d+)\.attn2\.to_out\.0\.weight").fullmatch
    kind = tensors.get("control_type")
    return {
        "_class_name": "SD3ControlNetModel",
        "patch_size": size(tensors, r"pos_embed_input\.proj\.weight", 2, 2),
        "in_channels": latents,
        "extra_conditioning_channels": condition - latents,
        "num_layers": count(tensors, r"transformer_blocks\.(\d+)\."),
        "attention_head_dim": head or 64,
        "num_attention_heads": channels // (head or 64),
        "joint_attention_dim": texts or None,
        "caption_projection_dim": channels,
        "pooled_projection_dim": size(
            tensors, r"time_text_embed\.text_embedder\.linear_1\.weight", 1, 2048
        ),
        "pos_embed_max_size": side(tensors, r"pos_embed\.pos_embed") or None,
        "pos_embed_type": "sincos" if "pos_embed.pos_embed" in tensors else None,
        "use_pos_embed": any(name.startswith("pos_embed.proj.") for name in tensors),
        "dual_attention_layers": sorted(int(m[1]) for name in tensors if (m := dual(name))),
        "qk_norm": "rms_norm" if head else None,
        "force_zeros_for_pooled_projection": bool(texts),
        **({} if kind is None else {"control_type": _number(kind)}),
    }


def _number(tensor: Tensor) -> int:
    """A whole number, whatever type a file keeps it in: Stability's program makes it an int32."""
    whole = re.fullmatch(r"([iu])(8|16|32|64)", tensor.type)
    values = (
        np.frombuffer(tensor.data, f"<{whole[1]}{int(whole[2]) // 8}")
        if whole
        else tensor.to_float().reshape(-1)
    )
    if len(values) != 1 or not np.isfinite(values[0]):
        raise CheckpointError(
            f"[checkpoint] the ControlNet's control_type must be one number, got {values!r:.60}"
        )
    return round(float(values[0]))


_PLACE = Place(
    "controlnet",
    ("controlnet.", ""),
    (
        Naming("original", ("transformer_blocks.0.attn.qkv.",), controlnet_sd3.original),
        Naming("diffusers", ("pos_embed_input.",), controlnet_sd3.diffusers),
    ),
)

FAMILIES = {
    "controlnet-sd3": Family(
        "a ControlNet",
        ("controlnet",),
        hint=OPEN,
        infer={"controlnet": _config},
        places=(_PLACE,),
    ),
}

RULES: Rules = (
    ("controlnet-sd3", (Clue(r"^(controlnet\.)?pos_embed_input\.proj\.weight$"),
                        Clue(r"^(controlnet\.)?controlnet_blocks\.0\.weight$"))),
)  # fmt: skip
