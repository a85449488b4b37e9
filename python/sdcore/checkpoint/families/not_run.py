"""Models that are known to be told what they are, and not run."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Family, Rules
from sdcore.checkpoint.unet_families import CONTEXT, CONV_IN, LABEL

FAMILIES = {
    "flux": Family("FLUX"),
    "video": Family("a video model"),
    "sd2-unclip": Family("Stable Diffusion 2.1 unCLIP"),
    "sd-upscaler": Family(
        "Stable Diffusion x4 upscaler", configs={"vae": {"scaling_factor": 0.08333}}
    ),
}

RULES: Rules = (
    ("flux", (Clue(r"(^|\.)(double_blocks\.0\.img_attn|single_transformer_blocks\.0)\."),)),
    ("video", (Clue(r"\.(time_stack|temporal_transformer_blocks|motion_modules)\."),)),
    ("sd2-unclip", (Clue(LABEL, (None, 1536)), Clue(CONTEXT, (None, 1024)))),
    ("sd2-unclip", (Clue(LABEL, (None, 2048)), Clue(CONTEXT, (None, 1024)))),
    ("sd-upscaler", (Clue(CONV_IN, (None, 7)), Clue(CONTEXT))),
)
