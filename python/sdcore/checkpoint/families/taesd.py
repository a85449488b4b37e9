"""Tiny autoencoders (TAESD), which stand in for a model's VAE."""

from __future__ import annotations

import re
from itertools import pairwise

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Config, Family, Naming, Place, Rules, Tensors
from sdcore.checkpoint.names import taesd
from sdcore.checkpoint.sizes import size

RANK = 9


def _layers(tensors: Tensors, half: str, inside: str) -> list[int]:
    match = re.compile(rf"{half}\.layers\.(\d+)\.{inside}").fullmatch
    return sorted(int(found[1]) for name in tensors if (found := match(name)))


def _config(tensors: Tensors) -> Config:
    config: Config = {"_class_name": "AutoencoderTiny"}
    last = {}
    for half in ("encoder", "decoder"):
        convolutions = _layers(tensors, half, "weight")
        blocks = _layers(tensors, half, r"conv\.0\.weight")
        counts = [sum(a < i < b for i in blocks) for a, b in pairwise(convolutions)]
        channels = size(tensors, rf"{half}\.layers\.\d+\.conv\.\d\.(weight|bias)", 0)
        config[f"num_{half}_blocks"] = counts
        config[f"{half}_block_out_channels"] = [channels] * len(counts)
        last[half] = convolutions[-1] if convolutions else 0
    first, end = r"{}\.layers\.0\.weight", r"{}\.layers\.{}\.(weight|bias)"
    return config | {
        "in_channels": size(tensors, first.format("encoder"), 1, 3),
        "out_channels": size(tensors, end.format("decoder", last["decoder"]), 0, 3),
        "latent_channels": size(tensors, first.format("decoder"), 1)
        or size(tensors, end.format("encoder", last["encoder"]), 0, 4),
        # Diffusers writes it beside those of the halves.
        "block_out_channels": config["decoder_block_out_channels"],
        "scaling_factor": 1.0,  # its latents are the denoiser's, whichever family that is of
        "shift_factor": 0.0,
    }


FAMILIES = {
    "taesd": Family(
        "a tiny autoencoder (TAESD)",
        ("vae",),
        hint="not a whole model: open its model and pass this as vae= (--taesd)",
        infer={"vae": _config},
        places=(
            Place(
                "vae",
                ("taesd_", "first_stage_model.", "vae.", ""),
                (
                    Naming(
                        "original",
                        ("encoder.0.", "decoder.1.", "0.weight", "1.weight"),
                        taesd.original,
                    ),
                    Naming(
                        "diffusers",
                        ("encoder.layers.0.weight", "decoder.layers.0.weight"),
                        taesd.diffusers,
                    ),
                ),
            ),
        ),
    )
}

_HALF = r"^(taesd_|vae\.)?((de|en)coder\.)?(layers\.)?"
RULES: Rules = (
    ("taesd", (Clue(rf"{_HALF}[01]\.weight$", (64, None, 3, 3)),
               Clue(rf"{_HALF}\d+\.conv\.0\.weight$"))),
)  # fmt: skip
