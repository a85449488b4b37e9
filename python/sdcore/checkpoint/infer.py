"""Configs of networks, read off the shapes of their tensors (under diffusers' names).

Only what the shapes say, in the JSON form of diffusers and transformers, and what the family says
that no shape shows. The rest are the classes' defaults, which the networks know.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from sdcore.checkpoint.families import FAMILIES
from sdcore.checkpoint.family import Config, Family, Tensors
from sdcore.checkpoint.names.taesd import is_tiny
from sdcore.checkpoint.sizes import count, size
from sdcore.checkpoint.unet_families import PNDM
from sdcore.errors import CheckpointError

T = TypeVar("T")

_UNKNOWN = Family("nothing that is known")

_SCALING_FACTOR = 0.18215  # of the first VAE, and of those whose family says nothing
_SAMPLE_SIZE, _SAMPLE_SIZE_SD2_V = 64, 96  # latents along each side

# Of diffusers' CosXL pipelines; the two bounds of the levels are in the file.
_EDM_V: Config = {
    "_class_name": "EDMEulerScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
}


def infer_config(component: str, tensors: Tensors, family: str, naming: str) -> Config:
    """`family` is that of the model which the part is for."""
    if component == "vae" and is_tiny(tensors):
        family = "taesd"
    about = FAMILIES.get(family, _UNKNOWN)
    if own := about.infer.get(component):
        config = own(tensors)
    else:
        config = _INFER[component](tensors, family, naming)
    return config | about.configs.get(component, {})


def infer_scheduler(
    family: str, tensors: Tensors, metadata: Mapping[str, Any], unet: Tensors
) -> Config:
    """The scheduler's config from all tensors of a file, its metadata and the UNet's tensors under
    diffusers' names."""
    if bounds := _numbers(tensors, "edm_vpred.sigma_min", "edm_vpred.sigma_max"):
        return _EDM_V | {"sigma_min": bounds[0], "sigma_max": bounds[1]}
    config = dict(FAMILIES.get(family, _UNKNOWN).scheduler or PNDM)
    if "time_embedding.cond_proj.weight" in unet:  # distilled with guidance, which no other is
        config["_class_name"] = "LCMScheduler"
        if family == "sd1":  # as its makers have it (SimianLuo/LCM_Dreamshaper_v7)
            config |= {"set_alpha_to_one": True, "steps_offset": 0}
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
    levels = range(count(tensors, r"down_blocks\.(\d+)\."))
    if not levels:
        raise CheckpointError("[checkpoint] the UNet has no tensor under down_blocks")
    channels = [size(tensors, rf"down_blocks\.{b}\.{_RESNET_OUT}", 0) for b in levels]
    layers = [count(tensors, rf"down_blocks\.{b}\.resnets\.(\d+)\.") for b in levels]
    found = _depths(tensors)
    depths = [[found[f"down_blocks.{b}", j] for j in range(max(1, layers[b]))] for b in levels]
    up_depths = [[found[f"up_blocks.{b}", j] for j in range(layers[~b] + 1)] for b in levels]
    texts = size(tensors, r".*\.attn2\.to_[kv]\.weight", 1)
    config: Config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": _sample_size(tensors, family),
        "in_channels": size(tensors, r"conv_in\.weight", 1, 4),
        "out_channels": size(tensors, r"conv_out\.(weight|bias)", 0, 4),
        "block_out_channels": channels,
        "layers_per_block": _same(layers),
        "down_block_types": ["CrossAttnDownBlock2D" if any(d) else "DownBlock2D" for d in depths],
        "mid_block_type": _middle(tensors),
        "up_block_types": ["CrossAttnUpBlock2D" if any(d) else "UpBlock2D" for d in up_depths],
        **_transformer_layers(depths, up_depths, found["mid_block", 0]),
        "cross_attention_dim": texts,
        "use_linear_projection": size(tensors, r".*\.proj_(in|out)\.weight", 2) == 0,
        # Despite its name this is the number of heads, which are 64 wide but in SD 1.x.
        "attention_head_dim": [c // 64 for c in channels],
    }
    # What reads the text in place of the image is as wide as the text is.
    widths = [size(tensors, rf"down_blocks\.{b}\..*\.attn1\.to_[kv]\.weight", 1) for b in levels]
    only_text = [width == texts != c for width, c in zip(widths, channels, strict=True)]
    if any(only_text):
        config["only_cross_attention"] = only_text
    if width := size(tensors, r"time_embedding\.cond_proj\.weight", 1):
        config["time_cond_proj_dim"] = width
    if width := size(tensors, r"add_embedding\.linear_1\.weight", 1):
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
        config["projection_class_embeddings_input_dim"] = width
    return config


def _sample_size(tensors: Tensors, family: str) -> int:
    if family == "sd2" and _is_sd2_v(tensors):
        return _SAMPLE_SIZE_SD2_V
    return _SAMPLE_SIZE


def _infer_vae(tensors: Tensors, _family: str, _naming: str) -> Config:
    encoder = [
        size(tensors, rf"encoder\.down_blocks\.{b}\.{_RESNET_OUT}", 0)
        for b in range(count(tensors, r"encoder\.down_blocks\.(\d+)\."))
    ]
    decoder = [
        size(tensors, rf"decoder\.up_blocks\.{b}\.{_RESNET_OUT}", 0)
        for b in range(count(tensors, r"decoder\.up_blocks\.(\d+)\."))
    ]
    channels = encoder or decoder[::-1]
    layers = (
        count(tensors, r"encoder\.down_blocks\.\d+\.resnets\.(\d+)\.")
        or count(tensors, r"decoder\.up_blocks\.\d+\.resnets\.(\d+)\.") - 1
    )
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": size(tensors, r"encoder\.conv_in\.weight", 1, 3),
        "out_channels": size(tensors, r"decoder\.conv_out\.(weight|bias)", 0, 3),
        "latent_channels": size(tensors, r"decoder\.conv_in\.weight", 1)
        or size(tensors, r"encoder\.conv_out\.(weight|bias)", 0, 8) // 2,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "scaling_factor": _SCALING_FACTOR,
        "shift_factor": None,
        "use_quant_conv": any(name.startswith("quant_conv.") for name in tensors),
        "use_post_quant_conv": any(name.startswith("post_quant_conv.") for name in tensors),
    }


def _infer_clip(tensors: Tensors, family: str, naming: str) -> Config:
    embeddings = r"text_model\.embeddings"
    layer = r"text_model\.encoder\.layers\.(\d+)"
    width = size(tensors, rf"{layer}\.layer_norm[12]\.(weight|bias)", 0)
    layers = count(tensors, rf"{layer}\.")
    projection = size(tensors, r"text_projection\.weight", 0)
    vocabulary = size(tensors, rf"{embeddings}\.token_embedding\.weight", 0, 49408)
    # SD 2.x has OpenCLIP's ViT-H under whichever names: diffusers' own script writes transformers'.
    is_open_clip = naming == "openclip" or family.startswith("sd2")
    if family.startswith("sd2"):
        # It was trained on the output of layer 23 of 24, and does not pool. Converters leave out
        # the last layer, which is never run.
        layers, projection = min(layers, 23), 0
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "vocab_size": vocabulary,
        "eos_token_id": vocabulary - 1,
        "max_position_embeddings": size(
            tensors, rf"{embeddings}\.position_embedding\.weight", 0, 77
        ),
        "hidden_size": width,
        "intermediate_size": size(tensors, rf"{layer}\.mlp\.fc1\.(weight|bias)", 0),
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "projection_dim": projection or width,
        "hidden_act": "gelu" if is_open_clip else "quick_gelu",
    }


def _infer_text_encoder(tensors: Tensors, family: str, naming: str) -> Config:
    is_t5 = any(name.startswith("encoder.block.") for name in tensors)
    return (_infer_t5 if is_t5 else _infer_clip)(tensors, family, naming)


def _infer_second_clip(tensors: Tensors, family: str, naming: str) -> Config:
    # OpenCLIP's wherever there are two, under whichever names.
    return _infer_clip(tensors, family, naming) | {"hidden_act": "gelu"}


def _infer_clip_vision(tensors: Tensors, _family: str, naming: str) -> Config:
    embeddings = r"vision_model\.embeddings"
    layer = r"vision_model\.encoder\.layers\.(\d+)"
    width = size(tensors, rf"{layer}\.layer_norm[12]\.(weight|bias)", 0)
    patch = size(tensors, rf"{embeddings}\.patch_embedding\.weight", 2)
    tokens = size(tensors, rf"{embeddings}\.position_embedding\.weight", 0)
    # Up to ViT-L, of 1024 channels, heads are 64 wide, and OpenAI's have quick_gelu; the larger
    # ones, H and bigG, are OpenCLIP's, with 16 heads.
    large = width > 1024
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_size": width,
        "intermediate_size": size(tensors, rf"{layer}\.mlp\.fc1\.(weight|bias)", 0),
        "projection_dim": size(tensors, r"visual_projection\.weight", 0),
        "num_hidden_layers": count(tensors, rf"{layer}\."),
        "num_attention_heads": 16 if large else max(1, width // 64),
        "image_size": math.isqrt(max(0, tokens - 1)) * patch,
        "patch_size": patch,
        "hidden_act": "gelu" if large or naming == "openclip" else "quick_gelu",
    }


def _infer_t5(tensors: Tensors, _family: str, _naming: str) -> Config:
    block = r"encoder\.block\.(\d+)"
    attention, feed = rf"{block}\.layer\.0\.SelfAttention", rf"{block}\.layer\.1\.DenseReluDense"
    heads = size(tensors, rf"{attention}\.relative_attention_bias\.weight", 1, 64)
    gated = any(".wi_0." in name for name in tensors)
    return {
        "architectures": ["T5EncoderModel"],
        "vocab_size": size(tensors, r"shared\.weight", 0, 32128),
        "d_model": size(tensors, rf"{attention}\.[qkv]\.weight", 1),
        "d_kv": size(tensors, rf"{attention}\.[qkv]\.weight", 0) // max(1, heads),
        "d_ff": size(tensors, rf"{feed}\.wi(_[01])?\.weight", 0),
        "num_layers": count(tensors, rf"{block}\."),
        "num_heads": heads,
        "relative_attention_num_buckets": size(
            tensors, rf"{attention}\.relative_attention_bias\.weight", 0, 32
        ),
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }


_INFER: dict[str, Callable[[Tensors, str, str], Config]] = {
    "unet": _infer_unet,
    "vae": _infer_vae,
    "text_encoder": _infer_text_encoder,
    "text_encoder_2": _infer_second_clip,
    "text_encoder_3": _infer_text_encoder,
    "image_encoder": _infer_clip_vision,
}

_TRANSFORMER = re.compile(
    r"((?:down|up)_blocks\.\d+|mid_block)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\."
)
# Every tensor of a resnet whose first size is the channels that come out of it.
_RESNET_OUT = r"resnets\.\d+\.(conv1|conv2|norm2|time_emb_proj)\.(weight|bias)"


def _depths(names: Iterable[str]) -> dict[tuple[str, int], int]:
    """Transformer blocks of each attention, by the block that it is in and its number."""
    depths: dict[tuple[str, int], int] = defaultdict(int)
    for name in names:
        if found := _TRANSFORMER.match(name):
            at = found[1], int(found[2])
            depths[at] = max(depths[at], int(found[3]) + 1)
    return depths


def _middle(names: Iterable[str]) -> str | None:
    inside = [name for name in names if name.startswith("mid_block.")]
    if any(name.startswith(("mid_block.attentions.", "mid_block.resnets.1.")) for name in inside):
        return "UNetMidBlock2DCrossAttn"
    return "UNetMidBlock2D" if inside else None


def _transformer_layers(down: list[list[int]], up: list[list[int]], middle: int) -> Config:
    """By level as diffusers writes it: one number where its layers agree, and the way up only where
    it differs from the way down. Numbers of what has no attention mean nothing."""
    # The middle block's depth is the last level's by definition, attention there or not.
    *first, last = (_same(depths) or 1 for depths in down)
    there = [*first, last if any(down[-1]) else middle or 1]
    back = [_same(depths) or 1 for depths in up]
    config: Config = {"transformer_layers_per_block": _same(there)}
    if any(any(d) and b != t for d, b, t in zip(up, back, reversed(there), strict=True)):
        config["reverse_transformer_layers_per_block"] = back
    return config


def _same(values: list[T]) -> T | list[T]:
    """As diffusers writes it: one number where all agree."""
    return values[0] if all(value == values[0] for value in values) else values
