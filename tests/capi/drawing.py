"""Pictures of the C ABI beside those of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sdc

import sdcore

SIZE = {"width": 32, "height": 24}
# A picture to begin from, and what of it to paint over: an odd size, of which little is one color.
GIVEN = np.random.default_rng(3).integers(0, 256, (31, 45, 3), np.uint8)
MASK = np.zeros(GIVEN.shape[:2], np.uint8)
MASK[9:25, 5:30] = 255
MASK[0, :] = np.arange(MASK.shape[1]) * 5  # greys too
PART: dict[str, Any] = {"image": GIVEN, "mask": MASK, "strength": 0.7}


def assert_draws_as_python(
    library: sdc.Library, file: Path, pipe: Any, prompt: str, negative: str | None, **more: Any
) -> None:
    """In three steps."""
    more = {"seed": 7, **SIZE, **more}
    params = library.params(prompt, negative_prompt=negative, steps=3, count=2, **more)
    pictures, _ = sdc.Model(library, file).generate(params)
    if "mask" in more:
        more["mask_image"] = more.pop("mask")
    out = pipe(prompt, negative, num_inference_steps=3, num_images_per_prompt=2, **more)
    assert len(out.images) == len(pictures)
    for picture, expected in zip(pictures, out.images, strict=True):
        assert picture.std() > 1  # grey or black would prove nothing
        assert np.array_equal(picture, np.asarray(expected))


def assert_opens_again(pipe: Any, path: Path, prompt: str, negative: str = "blurry dog") -> None:
    """Python draws the same with the file that it exported to."""
    pipe.export(path, overwrite=True)
    file = sdcore.DiffusionPipeline.open(path, dtype="f32")
    assert file.family == pipe.family
    pictures = [
        one(prompt, negative, seed=7, num_inference_steps=2, **SIZE).images[0]
        for one in (pipe, file)
    ]
    assert np.array_equal(*map(np.asarray, pictures))


def edited(source: Path | sdcore.gguf.File, path: Path, **changes: Any) -> Path:
    """A copy whose metadata has other values; None takes a key out."""
    file = sdcore.gguf.open(source) if isinstance(source, Path) else source
    metadata = {**file.typed_metadata, **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    sdcore.gguf.write(path, kept, file.tensors)
    return path
