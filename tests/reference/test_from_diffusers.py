"""What scripts for diffusers say, which draws here what it draws there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import sdcore
import tiny_models
from reference.common import SAMPLED_F32, error

PROMPT = "the red circle of a cat"
ARGS: dict[str, Any] = {
    "negative_prompt": "blurry dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "height": 32,
    "width": 24,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture
def ours(folder: Path) -> sdcore.DiffusionPipeline:
    return with_ddim(sdcore, sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32"))


@pytest.fixture
def theirs(folder: Path) -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return with_ddim(diffusers, pipe)


def with_ddim(library: Any, pipe: Any) -> Any:
    config = pipe.scheduler.config
    pipe.scheduler = library.DDIMScheduler.from_config(config, clip_sample=False)
    return pipe


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def latents(pipe: Any, **arguments: Any) -> np.ndarray:
    """What a pipeline of either library draws."""
    arguments = {"prompt": PROMPT, **ARGS, **arguments}
    return np.asarray(pipe(**arguments, output_type="latent").images)


def test_a_generator_goes_on_from_call_to_call(ours: Any, theirs: Any) -> None:
    mine, other = generator(), generator()
    for more in ({}, {}, {"num_images_per_prompt": 2, "eta": 0.7}, {"width": 40}):
        drawn = latents(ours, generator=mine, **more)
        assert error(drawn, latents(theirs, generator=other, **more)) <= SAMPLED_F32
    assert torch.equal(mine.get_state(), other.get_state())
    pair = [generator(1), generator(2)]
    expected = latents(theirs, generator=[generator(1), generator(2)], num_images_per_prompt=2)
    assert error(latents(ours, generator=pair, num_images_per_prompt=2), expected) <= SAMPLED_F32
    assert not np.array_equal(
        latents(ours, generator=pair, num_images_per_prompt=2),
        latents(ours, generator=pair, num_images_per_prompt=2),
    )
