"""What the denoiser is told about the pictures it is to make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sdcore.pipelines.request import Prompt

__all__ = ["Conditioning", "encode_unique"]

# Arguments of the denoiser besides sample and timestep, by diffusers' names, with a row an image.
Conditioning = Mapping[str, NDArray[np.float32]]


def encode_unique(
    prompts: Sequence[Prompt], encode: Callable[[Sequence[Prompt]], Conditioning]
) -> Conditioning:
    """`encode` of prompts, each one once however many images share it."""
    unique = list(dict.fromkeys(prompts))
    rows = [unique.index(prompt) for prompt in prompts]
    return {name: array[rows] for name, array in encode(unique).items()}
