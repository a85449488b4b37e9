"""Stable Diffusion 2.x and SD-Turbo."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Family, Layout, Rules
from sdcore.checkpoint.unet_families import (
    BANG,
    CONTEXT,
    CONV_IN,
    DDIM,
    MIDDLE,
    ONE_CLIP,
    OPEN_CLIP,
    PNDM,
    SD2,
    folder_1,
)

RANK = 2

FAMILIES = {
    "sd2": Family(
        "Stable Diffusion 2.x",
        ONE_CLIP,
        "stable_diffusion_2.StableDiffusion2Pipeline",
        scheduler=DDIM,
        layout=Layout(SD2, folder_1("StableDiffusionPipeline", BANG)),
    ),
    # BK-SDM-v2, SDXS-512-0.9.
    "sd2-small": Family(
        "Stable Diffusion 2.x, distilled to do without a middle block",
        ONE_CLIP,
        "stable_diffusion_2.StableDiffusion2Pipeline",
        scheduler=DDIM,
        layout=Layout(SD2, folder_1("StableDiffusionPipeline", BANG)),
    ),
    "sd2-inpaint": Family(
        "Stable Diffusion 2.x for inpainting",
        ONE_CLIP,
        "stable_diffusion_inpaint.StableDiffusion2InpaintPipeline",
        scheduler=PNDM,
        layout=Layout(SD2, folder_1("StableDiffusionInpaintPipeline", BANG)),
    ),
    "sd2-depth": Family(
        "Stable Diffusion 2.x with depth",
        ONE_CLIP,
        "stable_diffusion_depth.StableDiffusionDepth2ImgPipeline",
        scheduler=PNDM,
        layout=Layout(SD2, folder_1("StableDiffusionDepth2ImgPipeline", BANG)),
    ),
}

RULES: Rules = (
    ("sd2-inpaint", (Clue(CONV_IN, (None, 9)), Clue(CONTEXT, (None, 1024)))),
    ("sd2-depth", (Clue(CONV_IN, (None, 5)), Clue(CONTEXT, (None, 1024)))),
    ("sd2", (Clue(CONV_IN), Clue(CONTEXT, (None, 1024)), Clue(MIDDLE))),
    ("sd2", (Clue(CONV_IN), Clue(OPEN_CLIP), Clue(MIDDLE))),
    ("sd2-small", (Clue(CONV_IN), Clue(CONTEXT, (None, 1024)))),
)
