"""Configs of networks, read off the shapes of their tensors (under diffusers' names).

Only what the shapes say, in the JSON form of diffusers and transformers, and the few facts of a
family that no shape shows. The rest are the classes' defaults, which the networks know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sdcore.checkpoint.tensor import Tensor

Config = dict[str, Any]
Tensors = Mapping[str, Tensor]

_SCALING_FACTOR = {"sdxl": 0.13025, "sdxl-refiner": 0.13025, "sd-upscaler": 0.08333}
_SCALING_FACTOR_SD1 = 0.18215

# What a single file of SD 1.x means without saying it; the class is the one its makers published.
SCHEDULER: Config = {
    "_class_name": "PNDMScheduler",
    "skip_prk_steps": True,
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "trained_betas": None,
}


def infer_config(component: str, tensors: Tensors, family: str, naming: str) -> Config:
    return _INFER[component](tensors, family, naming)


def infer_scheduler(tensors: Tensors, metadata: Mapping[str, Any]) -> Config:
    config = dict(SCHEDULER)
    # Marker tensors of trainers, and the key of Stability's model metadata.
    if "v_pred" in tensors or str(metadata.get("modelspec.prediction_type", "")).startswith("v"):
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in tensors:
        config["rescale_betas_zero_snr"] = True
    return config


def _infer_unet(tensors: Tensors, family: str, _naming: str) -> Config:
    levels = range(_count(tensors, r"down_blocks\.(\d+)\."))
    channels = [_size(tensors, f"down_blocks.{b}.resnets.0.conv1.weight", 0) for b in levels]
    layers = [_count(tensors, rf"down_blocks\.{b}\.resnets\.(\d+)\.") for b in levels]
    depths = [
        _count(tensors, rf"down_blocks\.{b}\.attentions\.0\.transformer_blocks\.(\d+)\.")
        for b in levels
    ]
    # The middle block's depth is the last level's by definition, even where that has no attention.
    middle = _count(tensors, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    config_depths = [depth or 1 for depth in [*depths[:-1], depths[-1] or middle]]
    up_attends = [_count(tensors, rf"up_blocks\.{b}\.attentions\.(\d+)\.") > 0 for b in levels]
    context = _first(tensors, r"\.attn2\.to_k\.weight$")
    proj_in = _first(tensors, r"\.proj_in\.weight$")
    config: Config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": _size(tensors, "conv_in.weight", 1),
        "out_channels": _size(tensors, "conv_out.weight", 0),
        "block_out_channels": channels,
        "layers_per_block": _same(layers),
        "transformer_layers_per_block": _same(config_depths),
        "down_block_types": [
            "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths
        ],
        "up_block_types": [
            "CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in up_attends
        ],
        "cross_attention_dim": context.shape[-1] if context is not None else None,
        "use_linear_projection": proj_in is not None and len(proj_in.shape) == 2,
        # Despite its name this is the number of heads. SD 1.x has 8 at every width; later models
        # have heads of 64.
        "attention_head_dim": 8 if family.startswith("sd1") else [c // 64 for c in channels],
    }
    if "time_embedding.cond_proj.weight" in tensors:
        config["time_cond_proj_dim"] = _size(tensors, "time_embedding.cond_proj.weight", 1)
    if "add_embedding.linear_1.weight" in tensors:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
        width = _size(tensors, "add_embedding.linear_1.weight", 1)
        config["projection_class_embeddings_input_dim"] = width
    return config


def _infer_vae(tensors: Tensors, family: str, _naming: str) -> Config:
    encoder = [
        _size(tensors, f"encoder.down_blocks.{b}.resnets.0.conv1.weight", 0)
        for b in range(_count(tensors, r"encoder\.down_blocks\.(\d+)\."))
    ]
    decoder = [
        _size(tensors, f"decoder.up_blocks.{b}.resnets.0.conv1.weight", 0)
        for b in range(_count(tensors, r"decoder\.up_blocks\.(\d+)\."))
    ]
    channels = encoder or decoder[::-1]
    layers = (
        _count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
        or _count(tensors, r"decoder\.up_blocks\.0\.resnets\.(\d+)\.") - 1
    )
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": _size(tensors, "encoder.conv_in.weight", 1, 3),
        "out_channels": _size(tensors, "decoder.conv_out.weight", 0, 3),
        "latent_channels": _size(tensors, "decoder.conv_in.weight", 1)
        or _size(tensors, "encoder.conv_out.weight", 0) // 2,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "scaling_factor": _SCALING_FACTOR.get(family, _SCALING_FACTOR_SD1),
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


def _infer_clip(tensors: Tensors, family: str, naming: str) -> Config:
    embeddings = "text_model.embeddings."
    layer = "text_model.encoder.layers."
    width = _size(tensors, f"{embeddings}token_embedding.weight", 1)
    layers = _count(tensors, re.escape(layer) + r"(\d+)\.")
    projection = _size(tensors, "text_projection.weight", 0)
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "vocab_size": _size(tensors, f"{embeddings}token_embedding.weight", 0),
        "max_position_embeddings": _size(tensors, f"{embeddings}position_embedding.weight", 0),
        "hidden_size": width,
        "intermediate_size": _size(tensors, f"{layer}0.mlp.fc1.weight", 0),
        # SD 2.x was trained on the last layer but one, so its last is never run.
        "num_hidden_layers": layers - (family == "sd2" and naming == "openclip"),
        "num_attention_heads": max(1, width // 64),
        "projection_dim": projection or width,
        "hidden_act": "gelu" if naming == "openclip" else "quick_gelu",
    }


_INFER: dict[str, Callable[[Tensors, str, str], Config]] = {
    "unet": _infer_unet,
    "vae": _infer_vae,
    "text_encoder": _infer_clip,
    "text_encoder_2": _infer_clip,
}


def _size(tensors: Tensors, name: str, axis: int, missing: int = 0) -> int:
    """A size of a tensor; a tensor that is missing is named later, by the network that needs it."""
    tensor = tensors.get(name)
    return tensor.shape[axis] if tensor is not None and axis < len(tensor.shape) else missing


def _count(names: Iterable[str], pattern: str) -> int:
    """How many of something numbered there are: the highest number and one."""
    match = re.compile(pattern).match
    return max((int(found[1]) + 1 for name in names if (found := match(name))), default=0)


def _first(tensors: Tensors, pattern: str) -> Tensor | None:
    search = re.compile(pattern).search
    return next((tensor for name, tensor in tensors.items() if search(name)), None)


def _same(values: list[int]) -> int | list[int]:
    """As diffusers writes it: one number when all levels agree."""
    assert values, "a UNet without levels is not recognised as one"
    return values[0] if math.prod(v == values[0] for v in values) else values
