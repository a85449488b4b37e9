"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

import re

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import (
    DENOISER,
    Config,
    Family,
    Folder,
    Layout,
    Naming,
    Original,
    Place,
    Rules,
    Tensors,
)
from sdcore.checkpoint.names import clip, mmdit, t5
from sdcore.checkpoint.namings import T5, T5_PREFIX
from sdcore.checkpoint.sizes import count, side, size
from sdcore.checkpoint.unet_families import BANG, END, VAE


def _config(tensors: Tensors) -> Config:
    channels = size(tensors, r"pos_embed\.proj\.(weight|bias)", 0)
    patch = size(tensors, r"pos_embed\.proj\.weight", 2, 2)
    block = r"transformer_blocks\.(\d+)"
    dual = re.compile(rf"{block}\.attn2\.to_out\.0\.weight").fullmatch
    head = size(tensors, rf"{block}\.attn\.norm_[qk]\.weight", 0)
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": size(tensors, r"pos_embed\.proj\.weight", 1, 16),
        "out_channels": size(tensors, r"proj_out\.(weight|bias)", 0, 64) // max(1, patch) ** 2,
        "num_layers": count(tensors, rf"{block}\."),
        "attention_head_dim": head or 64,
        "num_attention_heads": channels // (head or 64),
        "joint_attention_dim": size(tensors, r"context_embedder\.weight", 1, 4096),
        "caption_projection_dim": channels,
        "pooled_projection_dim": size(
            tensors, r"time_text_embed\.text_embedder\.linear_1\.weight", 1, 2048
        ),
        # [1, side * side, channels]; GGUF drops leading ones.
        "pos_embed_max_size": side(tensors, r"pos_embed\.pos_embed"),
        "dual_attention_layers": sorted(int(m[1]) for name in tensors if (m := dual(name))),
        "qk_norm": "rms_norm" if head else None,
    }


FAMILIES = {
    "sd3": Family(
        "Stable Diffusion 3",
        ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"),
        "stable_diffusion_3.StableDiffusion3Pipeline",
        scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        configs={"vae": {"scaling_factor": 1.5305, "shift_factor": 0.0609}},
        infer={"transformer": _config},
        places=(
            Place(
                "transformer",
                (*DENOISER, "transformer.", ""),
                (
                    Naming("original", ("joint_blocks.",), mmdit.original),
                    Naming("diffusers", ("time_text_embed.",), mmdit.diffusers),
                ),
            ),
            Place("text_encoder_3", (T5_PREFIX, "text_encoder_3."), T5),
        ),
        layout=Layout(
            {
                "transformer": Original("model.diffusion_model.", mmdit.to_original),
                "vae": VAE,
                "text_encoder": Original("text_encoders.clip_l.transformer.", clip.hugging_face),
                "text_encoder_2": Original("text_encoders.clip_g.transformer.", clip.hugging_face),
                "text_encoder_3": Original(T5_PREFIX, t5.hugging_face),
            },
            Folder(
                "StableDiffusion3Pipeline",
                {
                    "transformer": "SD3Transformer2DModel",
                    "vae": "AutoencoderKL",
                    "text_encoder": "CLIPTextModelWithProjection",
                    "text_encoder_2": "CLIPTextModelWithProjection",
                    "text_encoder_3": "T5EncoderModel",
                },
                {"tokenizer": END, "tokenizer_2": BANG, "tokenizer_3": None},
                absent=("feature_extractor", "image_encoder"),
            ),
        ),
    )
}

RULES: Rules = (
    ("sd3", (Clue(r"(^|\.)joint_blocks\.0\.context_block\.adaLN_modulation\.1\.weight$"),)),
    ("sd3", (Clue(r"^(transformer\.)?transformer_blocks\.0\.norm1_context\.linear\.weight$"),)),
)
