"""PixArt-α and PixArt-Σ."""

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
from sdcore.checkpoint.names import pixart, t5
from sdcore.checkpoint.namings import T5, T5_PREFIX
from sdcore.checkpoint.sizes import count, side, size
from sdcore.checkpoint.unet_families import VAE

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
_ALPHA_CAPTION, _SIGMA_CAPTION = 120, 300  # tokens
_HEAD = 72  # channels, which no shape tells
_COMPRESSES = re.compile(r"transformer_blocks\.(\d+)\.attn1\.sr\.weight")


def _config(tensors: Tensors) -> Config:
    channels = size(tensors, r"pos_embed\.proj\.(weight|bias)", 0)
    patch = size(tensors, r"pos_embed\.proj\.weight", 2, 2)
    sizes = any(".resolution_embedder." in name for name in tensors)
    # What every file of its makers has, and what a file of diffusers' tensors has not.
    captions = size(tensors, r"caption_projection\.y_embedding", 0)
    sample = side(tensors, r"pos_embed\.pos_embed") * patch
    if not sample:
        sample = 64 if captions == _ALPHA_CAPTION and not sizes else 128
    fewer = {
        int(found[1]): tensor.shape[-1]
        for name, tensor in tensors.items()
        if (found := _COMPRESSES.fullmatch(name))
    }
    compression = {
        "kv_compress_layers": sorted(fewer),
        "kv_compress_scale": max(fewer.values(), default=1),
    }
    return {
        "_class_name": "PixArtTransformer2DModel",
        "sample_size": sample,
        "patch_size": patch,
        "in_channels": size(tensors, r"pos_embed\.proj\.weight", 1, 4),
        "out_channels": size(tensors, r"proj_out\.(weight|bias)", 0, 32) // max(1, patch) ** 2,
        "num_layers": count(tensors, r"transformer_blocks\.(\d+)\."),
        "attention_head_dim": _HEAD,
        "num_attention_heads": channels // _HEAD,
        "cross_attention_dim": channels,
        "caption_channels": size(tensors, r"caption_projection\.linear_1\.weight", 1, 4096),
        "use_additional_conditions": sizes,
        # Σ's makers have half a place a patch at 256 pixels too; α's have not.
        "interpolation_scale": None if captions == _ALPHA_CAPTION else sample / 64,
        **(compression if fewer else {}),
    }


_PLACES = (
    Place(
        "transformer",
        (*DENOISER, "transformer.", ""),
        (
            Naming("original", ("t_block.",), pixart.original),
            Naming("diffusers", ("adaln_single.",), pixart.diffusers),
        ),
    ),
    Place("text_encoder", (T5_PREFIX,), T5, alone="text_encoder_3"),
)
_ORIGINAL = {
    # Its makers' files hold a transformer alone, and diffusers' scripts ask for their names.
    "transformer": Original("model.diffusion_model.", pixart.to_original, alone=""),
    "vae": VAE,
    "text_encoder": Original(T5_PREFIX, t5.hugging_face),
}
_CLASSES = {
    "transformer": "PixArtTransformer2DModel",
    "vae": "AutoencoderKL",
    "text_encoder": "T5EncoderModel",
}


def _family(title: str, pipeline: str, scaling_factor: float) -> Family:
    return Family(
        title,
        ("transformer", "vae", "text_encoder"),
        "pixart.PixArtPipeline",
        scheduler=_DPM,
        configs={"vae": {"scaling_factor": scaling_factor}},
        infer={"transformer": _config},
        places=_PLACES,
        layout=Layout(_ORIGINAL, Folder(pipeline, _CLASSES, {"tokenizer": None}, absent=())),
    )


# Σ has SDXL's VAE; so has, likelier than not, what does not say which it is.
FAMILIES = {
    "pixart-alpha": _family("PixArt-α", "PixArtAlphaPipeline", 0.18215),
    "pixart-sigma": _family("PixArt-Σ", "PixArtSigmaPipeline", 0.13025),
    "pixart": _family("PixArt", "PixArtSigmaPipeline", 0.13025),
}

_CAPTIONS = r"(^|\.)(y_embedder|caption_projection)\.y_embedding$"
RULES: Rules = (
    # Only α is told sizes.
    ("pixart-alpha", (Clue(r"(^|\.)t_block\.1\.weight$"), Clue(r"(^|\.)csize_embedder\."))),
    ("pixart-alpha", (Clue(r"(^|\.)adaln_single\.emb\.resolution_embedder\."),)),
    ("pixart-alpha", (Clue(_CAPTIONS, (_ALPHA_CAPTION,)), Clue(r"(^|\.)(t_block|adaln_single)\."))),
    ("pixart-sigma", (Clue(_CAPTIONS, (_SIGMA_CAPTION,)), Clue(r"(^|\.)(t_block|adaln_single)\."))),
    ("pixart", (Clue(r"(^|\.)t_block\.1\.weight$"),)),
    ("pixart", (Clue(r"(^|\.)adaln_single\.emb\.timestep_embedder\.linear_1\.weight$"),)),
)
