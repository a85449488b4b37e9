"""The hashes in a picture's settings, which say what files it was drawn with.

civitai.com knows models and LoRAs by those that A1111's web UI writes, and needs no `Hashes` beside
them (civitai, src/utils/metadata/automatic.metadata.ts).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sdcore.checkpoint import hashes

if TYPE_CHECKING:
    from sdcore.pipelines import PipelineOutput

__all__ = ["hashes_of", "short_hash"]

_SHORT, _SHORT_OF_LORA = 10, 12  # digits, in modules/sd_models.py and extensions-builtin/Lora
_MARKS = re.compile("[:,]")  # of the list of LoRAs, which their names have not


def hashes_of(
    out: PipelineOutput, model: Path, refiner: Path | None = None, vae: Path | None = None
) -> dict[str, str | None]:
    """By the key of the settings, None where there is no file. Files that nobody has hashed are
    hashed now."""
    loras = [
        f"{_MARKS.sub('', name)}: {found[:_SHORT_OF_LORA]}"
        for name, path in out.parameters.get("lora_files", {}).items()
        if (found := hashes.lora_hash(path))
    ]
    return {
        "Model hash": short_hash(model),
        "VAE hash": short_hash(vae) if vae else None,
        "Refiner": short_hash(refiner) if refiner else None,
        "Lora hashes": ", ".join(loras) or None,
    }


def short_hash(path: Path, *, known: bool = False) -> str | None:
    """What the web UI and civitai.com (AutoV2) call a model, from its file's hash. One that must be
    `known` already costs nothing."""
    found = hashes.known_sha256(path) if known else hashes.sha256(path)
    return found and found[:_SHORT]
