"""What the pocket model is made of: the configs of its parts, in diffusers' words."""

from __future__ import annotations

VAE = {
    "block_out_channels": (8, 16, 32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "norm_num_groups": 2,  # few, for they forget how bright and how coloured a flat picture is
    "sample_size": 128,
}

TOKENS = 77
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
    "hidden_act": "quick_gelu",
}

UNET = {
    "sample_size": 16,
    "block_out_channels": (48, 96, 96),
    "layers_per_block": 1,
    # Words meet the picture where it has 8 x 8 places and fewer, as in SDXL: where it has 16 x 16
    # that costs more than all the rest.
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,  # heads, whatever its name says
    "norm_num_groups": 8,
    "cross_attention_dim": TEXT["hidden_size"],
}

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    # Noisier at its end than SD's 0.012: latents of 16 x 16 show a colour through more noise.
    "beta_end": 0.02,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}
