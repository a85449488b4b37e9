"""Stable Diffusion 1.x."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Config, Family, Layout, Rules
from sdcore.checkpoint.unet_families import (
    CONTEXT,
    CONV_IN,
    END,
    MIDDLE,
    ONE_CLIP,
    PNDM,
    SD1,
    folder_1,
)

RANK = 3


def _family(title: str, module: str, pipeline: str) -> Family:
    # Despite its name this is the number of heads: eight at every width.
    configs: dict[str, Config] = {"unet": {"attention_head_dim": 8}}
    layout = Layout(SD1, folder_1(pipeline, END))
    return Family(
        title, ONE_CLIP, f"{module}.{pipeline}", scheduler=PNDM, configs=configs, layout=layout
    )


FAMILIES = {
    "sd1": _family("Stable Diffusion 1.x", "stable_diffusion", "StableDiffusionPipeline"),
    "sd1-inpaint": _family(
        "Stable Diffusion 1.x for inpainting",
        "stable_diffusion_inpaint",
        "StableDiffusionInpaintPipeline",
    ),
    "sd1-edit": _family(
        "Stable Diffusion 1.x for editing (InstructPix2Pix)",
        "instruct_pix2pix",
        "StableDiffusionInstructPix2PixPipeline",
    ),
    # BK-SDM, Segmind's small-sd and tiny-sd, SDXS-512-DreamShaper, to which stable-diffusion.cpp
    # gives eight heads too.
    "sd1-small": _family(
        "Stable Diffusion 1.x, distilled to do without a middle block",
        "stable_diffusion",
        "StableDiffusionPipeline",
    ),
}

RULES: Rules = (
    ("sd1-inpaint", (Clue(CONV_IN, (None, 9)), Clue(CONTEXT))),
    ("sd1-edit", (Clue(CONV_IN, (None, 8)), Clue(CONTEXT))),
    ("sd1", (Clue(CONV_IN), Clue(CONTEXT), Clue(MIDDLE))),
    ("sd1-small", (Clue(CONV_IN), Clue(CONTEXT))),
)
