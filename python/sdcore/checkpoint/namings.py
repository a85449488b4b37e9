"""What the tensors of networks are called that several families have."""

from __future__ import annotations

from sdcore.checkpoint.family import Naming
from sdcore.checkpoint.names import clip, t5, unet, vae

__all__ = ["CLIP", "CLIP_VISION", "OPEN_CLIP", "OPEN_CLIP_VISION", "T5", "T5_PREFIX", "UNET", "VAE"]

T5_PREFIX = "text_encoders.t5xxl.transformer."  # in whole files, as ComfyUI looks for it

UNET = (
    Naming("original", ("input_blocks.", "middle_block."), unet.original),
    Naming("diffusers", ("down_blocks.", "mid_block."), unet.diffusers),
)
VAE = (
    Naming("original", ("decoder.mid.", "encoder.mid."), vae.original),
    Naming("diffusers", ("decoder.mid_block.", "encoder.mid_block."), vae.diffusers),
)
CLIP = Naming("diffusers", ("text_model.encoder.", "encoder.layers."), clip.hugging_face)
OPEN_CLIP = Naming("openclip", ("transformer.resblocks.",), clip.open_clip)
CLIP_VISION = Naming("diffusers", ("vision_model.encoder.",), clip.vision)
OPEN_CLIP_VISION = Naming("openclip", ("transformer.resblocks.",), clip.open_clip_vision)
T5 = (
    Naming("diffusers", ("encoder.block.",), t5.hugging_face),
    Naming("llama.cpp", ("enc.blk.",), t5.llama_cpp),
)
