"""Steps at which the model is spared: which they are, and what stands in for its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdcore
import tiny_models
from sdcore.pipelines.step_cache import StepCache


def spared_by_formula(xs: np.ndarray, outs: np.ndarray, threshold: float) -> list[bool]:
    """One image, in plain words: EasyCache's criterion, step by step."""
    norm, steps = np.linalg.norm, len(xs)
    spared, rate, drift, last = [], None, 0.0, outs[0]
    for i in range(steps):
        skip = False
        if rate is not None:
            drift += rate * norm(xs[i] - xs[i - 1]) / norm(last)
            skip = drift < threshold and 0.15 * steps <= i < 0.95 * steps
        if not skip:
            if i:
                rate = norm(outs[i] - last) / norm(xs[i] - xs[i - 1])
            last, drift = outs[i], 0.0
        spared.append(skip)
    return spared


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.6])
def test_each_image_is_judged_by_the_formula(threshold: float) -> None:
    steps, images = 20, 3
    rng = np.random.default_rng(0)
    speeds = np.array([0.02, 0.1, 0.4])[:, None, None, None]
    xs, outs = (
        np.cumsum(rng.standard_normal((steps, images, 2, 3, 4)) * speeds, 0).astype(np.float32) + 1
        for _ in range(2)
    )
    cache = StepCache(threshold)
    expected = np.array([spared_by_formula(xs[:, i], outs[:, i], threshold) for i in range(images)])
    last = outs[0]
    for i in range(steps):
        assert cache.enough(xs[i], i, steps) == expected[:, i].all()
        last = np.where(expected[:, i, None, None, None], last, outs[i])
        given = None if expected[:, i].all() else outs[i]
        assert np.array_equal(cache.output(xs[i], given), last)
    assert expected.any()


def test_a_picture_of_a_batch_is_the_picture_alone(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path)
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    calls: list[int] = []
    run = type(pipe.unet).__call__
    monkeypatch.setattr(
        type(pipe.unet),
        "__call__",
        lambda self, *args, **more: calls.append(1) or run(self, *args, **more),
    )
    options: dict[str, Any] = {
        **{"num_inference_steps": 10, "output_type": "latent", "cache_threshold": 0.9},
        **{"width": 16, "height": 16},
    }
    together = pipe(["x", "y"], seed=1, **options).images
    for i, prompt in enumerate(["x", "y"]):
        calls.clear()
        assert np.array_equal(pipe(prompt, seed=1 + i, **options).images[0], together[i])
        assert len(calls) < 11  # PNDM's rows
    pipe.scheduler = sdcore.EulerCFGPPScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(sdcore.InvalidArgumentError, match="cache_threshold does not go with"):
        pipe("x", **options)
