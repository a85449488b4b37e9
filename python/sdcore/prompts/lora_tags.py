"""`<lora:name:0.8>` in a prompt, as A1111's web UI reads it."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass

__all__ = ["LoraTag", "split_tags"]

log = logging.getLogger("sdcore")

_TAG = re.compile(r"<(lora|lyco|hypernet):([^>]+)>", re.IGNORECASE)


@dataclass(frozen=True)
class LoraTag:
    """A LoRA by name, and how strongly it changes the text encoders and the denoiser."""

    name: str
    text: float
    denoiser: float


def split_tags(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """The prompt without its tags, and them.

    `<lora:name:w>`, `<lora:name:text:unet>`, `<lora:name:te=a:unet=b>`, or lyco for lora; a
    strength that is missing is 1, and the denoiser's is the text encoders'. What is no number is
    said in a warning, and the tag left out, as one of a hypernetwork is.
    """
    end = prompt.rfind(">") + 1  # no tag is looked for where none can end
    tags = []
    for match in _TAG.finditer(prompt, 0, end):
        if match[1].lower() == "hypernet":
            _leave_out(match[0], "hypernetworks are not supported")
            continue
        name, *arguments = match[2].split(":")
        plain = [a for a in arguments if "=" not in a]
        named = dict(a.split("=", 1) for a in arguments if "=" in a)
        try:
            text = float(named.get("te", plain[0] if plain else 1.0))
            denoiser = float(named.get("unet", plain[1] if len(plain) > 1 else text))
            if not (math.isfinite(text) and math.isfinite(denoiser)):
                raise ValueError
        except ValueError:
            _leave_out(match[0], "its weight is not a number")
            continue
        tags.append(LoraTag(name.strip(), text, denoiser))
    return _TAG.sub("", prompt[:end]) + prompt[end:], tuple(tags)


def _leave_out(tag: str, why: str) -> None:
    log.warning("[prompt] left out %.100s: %s", tag, why)
