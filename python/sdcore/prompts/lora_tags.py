"""`<lora:name:0.8>` in a prompt, as A1111's web UI reads it."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass

__all__ = ["LoraTag", "split_tags"]

log = logging.getLogger("sdcore")

_TAG = re.compile(r"<(?:lora|lyco):([^>]+)>")


@dataclass(frozen=True)
class LoraTag:
    """A LoRA by name, and how strongly it changes the text encoders and the denoiser."""

    name: str
    text: float
    denoiser: float


def split_tags(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """The prompt without its tags, and them.

    `<lora:name:w>`, `<lora:name:text:unet>`, `<lora:name:te=a:unet=b>`; a strength that is missing
    is 1, and the denoiser's is the text encoders'. What is no number is said in a warning, and the
    tag left out.
    """
    tags = []
    for match in _TAG.finditer(prompt):
        name, *arguments = match[1].split(":")
        plain = [a for a in arguments if "=" not in a]
        named = dict(a.split("=", 1) for a in arguments if "=" in a)
        try:
            text = float(named.get("te", plain[0] if plain else 1.0))
            denoiser = float(named.get("unet", plain[1] if len(plain) > 1 else text))
            if not (math.isfinite(text) and math.isfinite(denoiser)):
                raise ValueError
        except ValueError:
            log.warning("[prompt] left out %s: its weight is not a number", match[0])
            continue
        tags.append(LoraTag(name.strip(), text, denoiser))
    return _TAG.sub("", prompt), tuple(tags)
