"""torch.Generators of a GPU draw there, and their seeds stand for the same numbers without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdcore


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU of PyTorch's")
def test_a_generator_of_a_gpu_is_its_seed() -> None:
    pipe = sdcore.DiffusionPipeline.open("pocket")
    args = {"num_inference_steps": 2, "output_type": "latent"}
    theirs = pipe("a red circle", generator=torch.Generator("cuda").manual_seed(5), **args)
    ours = pipe("a red circle", seed=5, rng="cuda", **args)
    assert theirs.parameters["rng"] == "cuda"
    assert np.allclose(theirs.images, ours.images, atol=1e-3)
