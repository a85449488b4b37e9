"""The model in the package, judged by what is in its pictures: the fast part of
benchmarks/pocket.py, whose 200 captions take some minutes. In float32, so that every processor
draws the same pictures but for rounding: one object more or less must not decide."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import measures
import score
import sdcore
from measures import DDIM, LCM
from sdcore.pipelines import POCKET

COUNT = 60
LORAS = POCKET.with_name("loras")


@functools.cache
def held_out() -> tuple:
    return tuple(zip(*score.held_out(COUNT), strict=True))


def shares(pipe: sdcore.DiffusionPipeline, **options: object) -> score.Score:
    scenes, prompts = held_out()
    return score.score(score.draw(pipe, prompts, **options), scenes)


@pytest.fixture(scope="module")
def pipe() -> sdcore.DiffusionPipeline:
    return sdcore.DiffusionPipeline.from_pretrained("pocket", dtype="f32")


@pytest.fixture(scope="module")
def plain(pipe: sdcore.DiffusionPipeline) -> score.Score:
    return shares(pipe, **DDIM)


def test_it_travels_light() -> None:
    assert POCKET.stat().st_size <= 12e6
    assert sum(path.stat().st_size for path in LORAS.iterdir()) <= 10e6
    about = sdcore.gguf.open(POCKET).metadata
    assert about["general.license"] == "mit"
    assert "steps" in about["general.description"]  # how it was trained, and what it scored


def test_the_vae_keeps_pictures(pipe: sdcore.DiffusionPipeline) -> None:
    assert measures.psnr(pipe, 24) >= 28


def test_it_draws_what_captions_ask_for(plain: score.Score) -> None:
    assert plain.color >= 0.95
    assert plain.shape >= 0.90
    assert plain.relation >= 0.80


def test_guidance_helps(pipe: sdcore.DiffusionPipeline, plain: score.Score) -> None:
    unguided = shares(pipe, **{**DDIM, "guidance_scale": 1.0})
    assert unguided.color < plain.color
    assert unguided.shape < plain.shape


def test_four_steps_are_enough_with_the_lcm_lora(plain: score.Score) -> None:
    pipe = measures.with_lcm(POCKET, LORAS / "lcm.safetensors", dtype="f32")
    few = shares(pipe, **LCM)
    assert few.color >= plain.color - 0.1
    assert few.shape >= plain.shape - 0.1
    assert few.relation >= plain.relation - 0.1


def test_the_style_lora_draws_silhouettes(pipe: sdcore.DiffusionPipeline) -> None:
    """What has a colour has none with it: pixels are as red as they are green and blue."""
    prompts = [prompt for _, prompt in score.held_out(8)]

    def colourful(*suffix: str) -> float:
        asked = [" ".join((prompt, *suffix)) for prompt in prompts]
        pixels = np.stack(score.draw(pipe, asked, **DDIM)).astype(int)
        return float(np.mean(np.ptp(pixels, axis=-1) > 40))

    assert colourful() > 0.1
    assert colourful("<lora:silhouette:1>") < 0.01


def test_a_negative_prompt_keeps_a_colour_out(pipe: sdcore.DiffusionPipeline) -> None:
    free, kept_out = (measures.red(pipe, 20, negative) for negative in ("", "red"))
    assert kept_out < free


def test_quantizing_costs_little(plain: score.Score, tmp_path) -> None:
    file = measures.quantized(POCKET, tmp_path / "q.gguf", "q4_K")
    found = shares(sdcore.DiffusionPipeline.open(file, dtype="f32"), **DDIM)
    assert found.color >= plain.color - 0.05
    assert found.shape >= plain.shape - 0.05
