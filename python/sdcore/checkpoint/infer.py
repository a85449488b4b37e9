"""Configs of networks, read off the shapes of their tensors (under diffusers' names).

Only what the shapes say, in the JSON form of diffusers and transformers, and the few facts of a
family that no shape shows. The rest are the classes' defaults, which the networks know.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import CheckpointError

Config = dict[str, Any]
Tensors = Mapping[str, Tensor]

_SCALING_FACTOR = {
    "sd-upscaler": 0.08333,
    "sdxl": 0.13025,
    "sdxl-refiner": 0.13025,
    "sdxl-inpaint": 0.13025,
    "sdxl-edit": 0.13025,
    "playground-v2.5": 0.5,
    "sd3": 1.5305,
}
_SHIFT_FACTOR = {"sd3": 0.0609}
_SCALING_FACTOR_SD1 = 0.18215
# Latents along each side, of the pictures that a family was trained on. Some were trained twice.
_SAMPLE_SIZE = {
    "sdxl": 128,
    "sdxl-refiner": 128,
    "sdxl-inpaint": 128,
    "sdxl-edit": 128,
    "playground-v2.5": 128,
}
_SAMPLE_SIZE_SD1 = 64
_SAMPLE_SIZE_SD2_V = 96
# Of playgroundai/playground-v2.5-1024px-aesthetic's VAE config.
_LATENTS: dict[str, Config] = {
    "playground-v2.5": {
        "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
        "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    }
}

# What a single file means without saying it; the classes are those its makers published.
_DISCRETE: Config = {
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
_PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **_DISCRETE}
_DDIM = {"_class_name": "DDIMScheduler", **_DISCRETE}
_EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
    **_DISCRETE,
}
_EDM: Config = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "rho": 7.0,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}
# Of diffusers' CosXL pipelines; the two bounds of the levels are in the file.
_EDM_V: Config = {
    "_class_name": "EDMEulerScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
}
_FLOW: Config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
_DPM: Config = {
    "_class_name": "DPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "timestep_spacing": "linspace",
}
_SCHEDULER = {
    "pixart": _DPM,
    "sd3": _FLOW,
    "sd2": _DDIM,
    "sdxl": _EULER,
    "sdxl-refiner": _EULER,
    "sdxl-inpaint": _EULER,
    "sdxl-edit": _EULER,
    "playground-v2.5": _EDM,
}


def infer_config(component: str, tensors: Tensors, family: str, naming: str) -> Config:
    return _INFER[component](tensors, family, naming)


def infer_scheduler(
    family: str, tensors: Tensors, metadata: Mapping[str, Any], unet: Tensors
) -> Config:
    """The scheduler's config from all tensors of a file, its metadata and the UNet's tensors under
    diffusers' names."""
    if bounds := _numbers(tensors, "edm_vpred.sigma_min", "edm_vpred.sigma_max"):
        return _EDM_V | {"sigma_min": bounds[0], "sigma_max": bounds[1]}
    config = dict(_SCHEDULER.get(family, _PNDM))
    if _predicts_v(family, tensors, metadata, unet):
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in tensors:
        # Sampling must begin at the last time step (Lin et al. 2024, section 3.3).
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def _numbers(tensors: Tensors, *names: str) -> list[float]:
    """Those of all these tensors; none if one is not there."""
    if not all(name in tensors for name in names):
        return []
    return [float(value) for name in names for value in tensors[name].to_float().reshape(-1)]


def _predicts_v(family: str, tensors: Tensors, metadata: Mapping[str, Any], unet: Tensors) -> bool:
    """By the key of Stability's model metadata, by the marker tensor of trainers, and for SD 2.x,
    which has neither, by its weights."""
    if said := metadata.get("modelspec.prediction_type"):
        return str(said).startswith("v")
    return "v_pred" in tensors or (family == "sd2" and _is_sd2_v(unet))


def _is_sd2_v(unet: Tensors) -> bool:
    """Of SD 2.x, the 768 model predicts v: this bias varies more than in the base model, whatever
    was trained further from it (ComfyUI's test, comfy/supported_models.py)."""
    bias = unet.get("up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias")
    return bias is not None and float(bias.to_float().std()) > 0.09


def _infer_unet(tensors: Tensors, family: str, _naming: str) -> Config:
    levels = range(_count(tensors, r"down_blocks\.(\d+)\."))
    if not levels:
        raise CheckpointError("[checkpoint] the UNet has no tensor under down_blocks")
    channels = [_size(tensors, rf"down_blocks\.{b}\.{_RESNET_OUT}", 0) for b in levels]
    depths = [_depth(tensors, rf"down_blocks\.{b}") for b in levels]
    up_depths = [_depth(tensors, rf"up_blocks\.{b}") for b in levels]
    config: Config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": _sample_size(tensors, family),
        "in_channels": _size(tensors, r"conv_in\.weight", 1, 4),
        "out_channels": _size(tensors, r"conv_out\.(weight|bias)", 0, 4),
        "block_out_channels": channels,
        "layers_per_block": _same(
            [_count(tensors, rf"down_blocks\.{b}\.resnets\.(\d+)\.") for b in levels]
        ),
        # The middle block's depth is the last level's by definition, attention there or not.
        "transformer_layers_per_block": _same(
            [depth or 1 for depth in [*depths[:-1], depths[-1] or _depth(tensors, "mid_block")]]
        ),
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in up_depths],
        "cross_attention_dim": _size(tensors, r".*\.attn2\.to_[kv]\.weight", 1),
        "use_linear_projection": _size(tensors, r".*\.proj_(in|out)\.weight", 2) == 0,
        # Despite its name this is the number of heads. SD 1.x has 8 at every width; later models
        # have heads of 64.
        "attention_head_dim": 8 if family.startswith("sd1") else [c // 64 for c in channels],
    }
    if width := _size(tensors, r"time_embedding\.cond_proj\.weight", 1):
        config["time_cond_proj_dim"] = width
    if width := _size(tensors, r"add_embedding\.linear_1\.weight", 1):
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
        config["projection_class_embeddings_input_dim"] = width
    return config


def _sample_size(tensors: Tensors, family: str) -> int:
    if family == "sd2" and _is_sd2_v(tensors):
        return _SAMPLE_SIZE_SD2_V
    return _SAMPLE_SIZE.get(family, _SAMPLE_SIZE_SD1)


def _infer_vae(tensors: Tensors, family: str, _naming: str) -> Config:
    encoder = [
        _size(tensors, rf"encoder\.down_blocks\.{b}\.{_RESNET_OUT}", 0)
        for b in range(_count(tensors, r"encoder\.down_blocks\.(\d+)\."))
    ]
    decoder = [
        _size(tensors, rf"decoder\.up_blocks\.{b}\.{_RESNET_OUT}", 0)
        for b in range(_count(tensors, r"decoder\.up_blocks\.(\d+)\."))
    ]
    channels = encoder or decoder[::-1]
    layers = (
        _count(tensors, r"encoder\.down_blocks\.\d+\.resnets\.(\d+)\.")
        or _count(tensors, r"decoder\.up_blocks\.\d+\.resnets\.(\d+)\.") - 1
    )
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": _size(tensors, r"encoder\.conv_in\.weight", 1, 3),
        "out_channels": _size(tensors, r"decoder\.conv_out\.(weight|bias)", 0, 3),
        "latent_channels": _size(tensors, r"decoder\.conv_in\.weight", 1)
        or _size(tensors, r"encoder\.conv_out\.(weight|bias)", 0, 8) // 2,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "scaling_factor": _SCALING_FACTOR.get(family, _SCALING_FACTOR_SD1),
        **_LATENTS.get(family, {}),
        "shift_factor": _SHIFT_FACTOR.get(family),
        "use_quant_conv": any(name.startswith("quant_conv.") for name in tensors),
        "use_post_quant_conv": any(name.startswith("post_quant_conv.") for name in tensors),
    }


def _infer_clip(tensors: Tensors, family: str, naming: str) -> Config:
    embeddings = r"text_model\.embeddings"
    layer = r"text_model\.encoder\.layers\.(\d+)"
    width = _size(tensors, rf"{layer}\.layer_norm[12]\.(weight|bias)", 0)
    layers = _count(tensors, rf"{layer}\.")
    projection = _size(tensors, r"text_projection\.weight", 0)
    vocabulary = _size(tensors, rf"{embeddings}\.token_embedding\.weight", 0, 49408)
    if family.startswith("sd2") and naming == "openclip":
        # SD 2.x was trained on the output of layer 23 of ViT-H's 24, and does not pool. Converters
        # leave out the last layer, which is never run.
        layers, projection = min(layers, 23), 0
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "vocab_size": vocabulary,
        "eos_token_id": vocabulary - 1,
        "max_position_embeddings": _size(
            tensors, rf"{embeddings}\.position_embedding\.weight", 0, 77
        ),
        "hidden_size": width,
        "intermediate_size": _size(tensors, rf"{layer}\.mlp\.fc1\.(weight|bias)", 0),
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "projection_dim": projection or width,
        "hidden_act": "gelu" if naming == "openclip" else "quick_gelu",
    }


def _infer_text_encoder(tensors: Tensors, family: str, naming: str) -> Config:
    is_t5 = any(name.startswith("encoder.block.") for name in tensors)
    return (_infer_t5 if is_t5 else _infer_clip)(tensors, family, naming)


def _infer_second_clip(tensors: Tensors, family: str, naming: str) -> Config:
    # OpenCLIP's wherever there are two, under whichever names.
    return _infer_clip(tensors, family, naming) | {"hidden_act": "gelu"}


def _infer_t5(tensors: Tensors, _family: str, _naming: str) -> Config:
    block = r"encoder\.block\.(\d+)"
    attention, feed = rf"{block}\.layer\.0\.SelfAttention", rf"{block}\.layer\.1\.DenseReluDense"
    heads = _size(tensors, rf"{attention}\.relative_attention_bias\.weight", 1, 64)
    gated = any(".wi_0." in name for name in tensors)
    return {
        "architectures": ["T5EncoderModel"],
        "vocab_size": _size(tensors, r"shared\.weight", 0, 32128),
        "d_model": _size(tensors, rf"{attention}\.[qkv]\.weight", 1),
        "d_kv": _size(tensors, rf"{attention}\.[qkv]\.weight", 0) // max(1, heads),
        "d_ff": _size(tensors, rf"{feed}\.wi(_[01])?\.weight", 0),
        "num_layers": _count(tensors, rf"{block}\."),
        "num_heads": heads,
        "relative_attention_num_buckets": _size(
            tensors, rf"{attention}\.relative_attention_bias\.weight", 0, 32
        ),
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }


def _infer_transformer(tensors: Tensors, family: str, naming: str) -> Config:
    return (_infer_mmdit if family == "sd3" else _infer_pixart)(tensors, family, naming)


def _infer_mmdit(tensors: Tensors, _family: str, _naming: str) -> Config:
    channels = _size(tensors, r"pos_embed\.proj\.(weight|bias)", 0)
    patch = _size(tensors, r"pos_embed\.proj\.weight", 2, 2)
    block = r"transformer_blocks\.(\d+)"
    dual = re.compile(rf"{block}\.attn2\.to_out\.0\.weight").fullmatch
    head = _size(tensors, rf"{block}\.attn\.norm_[qk]\.weight", 0)
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": _size(tensors, r"pos_embed\.proj\.weight", 1, 16),
        "out_channels": _size(tensors, r"proj_out\.(weight|bias)", 0, 64) // max(1, patch) ** 2,
        "num_layers": _count(tensors, rf"{block}\."),
        "attention_head_dim": head or 64,
        "num_attention_heads": channels // (head or 64),
        "joint_attention_dim": _size(tensors, r"context_embedder\.weight", 1, 4096),
        "caption_projection_dim": channels,
        "pooled_projection_dim": _size(
            tensors, r"time_text_embed\.text_embedder\.linear_1\.weight", 1, 2048
        ),
        # [1, side * side, channels]; GGUF drops leading ones.
        "pos_embed_max_size": _side(tensors, r"pos_embed\.pos_embed"),
        "dual_attention_layers": sorted(int(m[1]) for name in tensors if (m := dual(name))),
        "qk_norm": "rms_norm" if head else None,
    }


def _infer_pixart(tensors: Tensors, _family: str, _naming: str) -> Config:
    channels = _size(tensors, r"pos_embed\.proj\.(weight|bias)", 0)
    patch = _size(tensors, r"pos_embed\.proj\.weight", 2, 2)
    sizes = any(".resolution_embedder." in name for name in tensors)
    # What every file of its makers has, and what a file of diffusers' tensors has not.
    captions = _size(tensors, r"caption_projection\.y_embedding", 0)
    sample = _side(tensors, r"pos_embed\.pos_embed") * patch
    if not sample:
        sample = 64 if captions == _ALPHA_CAPTION and not sizes else 128
    return {
        "_class_name": "PixArtTransformer2DModel",
        "sample_size": sample,
        "patch_size": patch,
        "in_channels": _size(tensors, r"pos_embed\.proj\.weight", 1, 4),
        "out_channels": _size(tensors, r"proj_out\.(weight|bias)", 0, 32) // max(1, patch) ** 2,
        "num_layers": _count(tensors, r"transformer_blocks\.(\d+)\."),
        "attention_head_dim": _PIXART_HEAD,
        "num_attention_heads": channels // _PIXART_HEAD,
        "cross_attention_dim": channels,
        "caption_channels": _size(tensors, r"caption_projection\.linear_1\.weight", 1, 4096),
        "use_additional_conditions": sizes,
        # Σ's makers have half a place a patch at 256 pixels too; α's have not.
        "interpolation_scale": None if captions == _ALPHA_CAPTION else sample / 64,
    }


_ALPHA_CAPTION = 120  # tokens of a caption; Σ has 300
_PIXART_HEAD = 72  # channels, which no shape tells


def _side(tensors: Tensors, pattern: str) -> int:
    """Of a square of positions, `[1, side * side, c]` or without the leading one."""
    match = re.compile(pattern).fullmatch
    rows = [t.shape[-2] for name, t in tensors.items() if match(name) and len(t.shape) > 1]
    return math.isqrt(rows[0]) if rows else 0


_INFER: dict[str, Callable[[Tensors, str, str], Config]] = {
    "unet": _infer_unet,
    "vae": _infer_vae,
    "transformer": _infer_transformer,
    "text_encoder": _infer_text_encoder,
    "text_encoder_2": _infer_second_clip,
    "text_encoder_3": _infer_text_encoder,
}

# Every tensor of a resnet whose first size is the channels that come out of it.
_RESNET_OUT = r"resnets\.\d+\.(conv1|conv2|norm2|time_emb_proj)\.(weight|bias)"


def _size(tensors: Tensors, pattern: str, axis: int, missing: int = 0) -> int:
    """The size that most tensors of these names have. So one that is missing or odd changes no
    config, and the network that needs it can name it."""
    match = re.compile(pattern).fullmatch
    sizes = Counter(
        tensor.shape[axis]
        for name, tensor in tensors.items()
        if match(name) and axis < len(tensor.shape)
    )
    return sizes.most_common(1)[0][0] if sizes else missing


def _count(names: Iterable[str], pattern: str) -> int:
    """How many of something numbered there are: the highest number and one."""
    match = re.compile(pattern).match
    return max((int(found[1]) + 1 for name in names if (found := match(name))), default=0)


def _depth(names: Iterable[str], block: str) -> int:
    return _count(names, rf"{block}\.attentions\.\d+\.transformer_blocks\.(\d+)\.")


def _same(values: list[int]) -> int | list[int]:
    """As diffusers writes it: one number when all levels agree."""
    return values[0] if len(set(values)) == 1 else values
