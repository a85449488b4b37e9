"""Stable Diffusion XL and its refiner."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Config, Family, Folder, Layout, Original, Rules
from sdcore.checkpoint.names import clip
from sdcore.checkpoint.unet_families import (
    BANG,
    CONTEXT,
    CONV_IN,
    EULER,
    LABEL,
    MIDDLE,
    SDXL,
    TWO_CLIPS,
    UNET,
    UNET_CLASS,
    VAE,
    folder_xl,
)

RANK = 1
_SECOND_CLIP = r"^(conditioner\.embedders\.1|text_encoder_2)\."
_FACTS: dict[str, Config] = {"unet": {"sample_size": 128}, "vae": {"scaling_factor": 0.13025}}


def _family(title: str, module: str, pipeline: str) -> Family:
    return Family(
        title,
        TWO_CLIPS,
        f"{module}.{pipeline}",
        scheduler=EULER,
        configs=_FACTS,
        layout=Layout(SDXL, folder_xl(pipeline)),
    )


_REFINER = Layout(
    {
        "unet": UNET,
        "vae": VAE,
        "text_encoder_2": Original("conditioner.embedders.0.model.", clip.to_open_clip),
    },
    Folder(
        "StableDiffusionXLImg2ImgPipeline",
        {
            "unet": UNET_CLASS,
            "vae": "AutoencoderKL",
            "text_encoder_2": "CLIPTextModelWithProjection",
        },
        {"tokenizer_2": BANG},
        {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
        absent=("text_encoder", "tokenizer", "feature_extractor", "image_encoder"),
    ),
)

FAMILIES = {
    "sdxl": _family("Stable Diffusion XL", "stable_diffusion_xl", "StableDiffusionXLPipeline"),
    "sdxl-refiner": Family(
        "Stable Diffusion XL refiner",
        ("unet", "vae", "text_encoder_2"),
        "stable_diffusion_xl.StableDiffusionXLRefinerPipeline",
        scheduler=EULER,
        configs=_FACTS,
        layout=_REFINER,
    ),
    "sdxl-inpaint": _family(
        "Stable Diffusion XL for inpainting",
        "stable_diffusion_inpaint",
        "StableDiffusionXLInpaintPipeline",
    ),
    "sdxl-edit": _family(
        "Stable Diffusion XL for editing",
        "instruct_pix2pix",
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
    # SSD-1B, Segmind-Vega, KOALA-700M: levels of uneven depths, and no attention in the middle.
    "sdxl-small": _family(
        "Stable Diffusion XL, distilled to do without attention in the middle",
        "stable_diffusion_xl",
        "StableDiffusionXLPipeline",
    ),
}

RULES: Rules = (
    ("sdxl-refiner", (Clue(LABEL, (None, 2560)),)),
    ("sdxl-inpaint", (Clue(LABEL, (None, 2816)), Clue(CONV_IN, (None, 9)))),
    ("sdxl-edit", (Clue(LABEL, (None, 2816)), Clue(CONV_IN, (None, 8)))),
    ("sdxl", (Clue(LABEL, (None, 2816)), Clue(MIDDLE))),
    ("sdxl-small", (Clue(LABEL, (None, 2816)), Clue(CONTEXT))),
    ("sdxl", (Clue(LABEL), Clue(_SECOND_CLIP))),
)
