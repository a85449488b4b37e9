"""What families with UNets share: names by which they are told apart, schedules, and where their
parts lie in the files that are written."""

from __future__ import annotations

from sdcore.checkpoint.family import Config, Folder, Original
from sdcore.checkpoint.names import clip, unet, vae

ONE_CLIP = ("unet", "vae", "text_encoder")
TWO_CLIPS = (*ONE_CLIP, "text_encoder_2")

CONV_IN = r"((^|\.)input_blocks\.0\.0|^(unet\.)?conv_in)\.weight$"
LABEL = r"(^|\.)(label_emb\.0\.0|(add|class)_embedding\.linear_1)\.weight$"
CONTEXT = r"\.attn2\.to_k\.weight$"
MIDDLE = r"(^|\.)mid(dle_block\.1|_block\.attentions\.0)\.transformer_blocks\."
OPEN_CLIP = r"^(cond_stage_model|conditioner\.embedders\.0)\.model\.transformer\.resblocks\."

# Schedules of the classes that the makers published.
DISCRETE: Config = {
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
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **DISCRETE}
DDIM = {"_class_name": "DDIMScheduler", **DISCRETE}
EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
    **DISCRETE,
}

UNET = Original("model.diffusion_model.", unet.to_original)
VAE = Original("first_stage_model.", vae.to_original)
SD1: dict[str, Original] = {
    "unet": UNET,
    "vae": VAE,
    "text_encoder": Original("cond_stage_model.transformer.", clip.hugging_face),
}
SD2 = SD1 | {"text_encoder": Original("cond_stage_model.model.", clip.to_open_clip)}
SDXL = {
    "unet": UNET,
    "vae": VAE,
    "text_encoder": Original("conditioner.embedders.0.transformer.", clip.hugging_face),
    "text_encoder_2": Original("conditioner.embedders.1.model.", clip.to_open_clip),
}

UNET_CLASS = "UNet2DConditionModel"
_ONE = {"unet": UNET_CLASS, "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
_TWO = _ONE | {"text_encoder_2": "CLIPTextModelWithProjection"}
_UNCHECKED = {"requires_safety_checker": False}
END, BANG = "<|endoftext|>", "!"


def folder_1(pipeline: str, pad: str) -> Folder:
    return Folder(pipeline, _ONE, {"tokenizer": pad}, _UNCHECKED)


def folder_xl(pipeline: str) -> Folder:
    return Folder(
        pipeline,
        _TWO,
        {"tokenizer": END, "tokenizer_2": BANG},
        {"force_zeros_for_empty_prompt": True},
        absent=("feature_extractor", "image_encoder"),
    )
