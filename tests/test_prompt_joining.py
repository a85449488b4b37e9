"""Several prompts for one picture, which AND joins."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
import tiny_models
import tiny_xl
from sdcore.prompts.joining import misread, parts

ARGS: dict[str, Any] = {
    **{"num_inference_steps": 3, "height": 32, "width": 24},
    **{"output_type": "latent", "negative_prompt": "blurry"},
}
PROMPTS = ["the cat AND a [red:blue:2] dog :0.5 AND circle : -.3 ", "a dog", "cat :1.2 AND dog"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a cat :1.2", [("a cat :1.2", 1.0)]),
        ("a cat AND a dog", [("a cat ", 1.0), (" a dog", 1.0)]),
        ("a\ncat :1.2\nAND a dog:.5", [("a\ncat", 1.2), (" a dog", 0.5)]),
        ("a: 2. AND b :-1 AND c:d", [("a", 2.0), (" b", -1.0), (" c:d", 1.0)]),
        ("(a AND b:1.2) [c:d:2]", [("(a ", 1.0), (" b:1.2) [c:d:2]", 1.0)]),
        ("AND b", [("", 1.0), (" b", 1.0)]),
        ("ANDROID and HAND", [("ANDROID and HAND", 1.0)]),
        ("a :12345 AND b", [("a :12345 ", 1.0), (" b", 1.0)]),
    ],
)
def test_the_parts_of_a_prompt(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert parts(prompt) == expected


def test_what_may_have_been_meant_as_a_weight_is_said() -> None:
    assert misread("a :1,2 AND b :0.5 AND c:d AND e 1:2:", negative=False) == [
        ":1,2 is no weight of what AND joins, so it is words"
    ]
    assert misread("at 10:30", negative=False) == misread("a and b", negative=True) == []
    assert misread("a AND b", negative=True) == ["AND is a word in a negative prompt"]


def test_what_never_ends_takes_no_time() -> None:
    start = time.perf_counter()
    for prompt in ("AND " * 25_000, "a AND b :" + "1" * 100_000, "a AND b " + ":" * 100_000):
        parts(prompt)
        misread(prompt, negative=False)
    assert time.perf_counter() - start < 5


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("plain"))
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe


def by_hand(pipe: Any, scale: float, seed: int) -> np.ndarray:
    """The first prompt's picture: uncond + Σ weight · scale · (cond - uncond), as the web UI's
    combine_denoised."""
    texts = ["blurry", "the cat", "a red dog", "a blue dog", "circle"]
    encoded = {text: pipe.encode_prompt([text])[0] for text in texts}
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(3)
    x = torch.randn((1, 4, 16, 12), generator=torch.Generator().manual_seed(seed)).numpy()
    for step, t in enumerate(scheduler.timesteps):
        weights = {"the cat": 1.0, "a blue dog" if step == 2 else "a red dog": 0.5, "circle": -0.3}
        away = pipe.unet(x, t, encoded["blurry"])
        out = away.copy()
        for text, weight in weights.items():
            out += np.float32(weight * scale) * (pipe.unet(x, t, encoded[text]) - away)
        x = scheduler.step(out, t, x)
    return x


@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_a_picture_is_the_one_drawn_by_hand(pipe: Any, scale: float) -> None:
    """Without guidance too, for what AND joins is relative to the negative prompt."""
    out = pipe(PROMPTS[0], **ARGS, guidance_scale=scale, seed=4).images
    drawn = by_hand(pipe, scale, 4)
    assert np.linalg.norm(out - drawn) <= 1e-5 * np.linalg.norm(drawn)
    other = pipe("the cat", **ARGS, guidance_scale=scale, seed=4).images
    assert np.linalg.norm(out - other) > 1e-3 * np.linalg.norm(drawn)


@pytest.mark.parametrize(
    "more", [{}, {"guidance_scale": 1.0}, {"pag_scale": 2.0}, {"guidance_start": 0.4}], ids=str
)
def test_a_picture_of_a_batch_is_the_picture_alone(pipe: Any, more: dict[str, Any]) -> None:
    together = pipe(PROMPTS, **ARGS, **more, seed=1).images
    for i, prompt in enumerate(PROMPTS):
        assert np.array_equal(pipe(prompt, **ARGS, **more, seed=1 + i).images[0], together[i])
    pipe.guidance_in_turns = True
    in_turns = pipe(PROMPTS, **ARGS, **more, seed=1).images
    pipe.guidance_in_turns = None
    assert np.array_equal(in_turns, together)


def test_the_parts_of_two_encoders_go_together(tmp_path: Path) -> None:
    tiny_xl.xl(tmp_path / "tokenizers").save_pretrained(tmp_path / "model")
    xl = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    both = xl("cat AND dog :0.5", prompt_2="red", **ARGS, seed=1).images
    assert np.array_equal(
        xl("cat AND dog :0.5", prompt_2="red AND red", **ARGS, seed=1).images, both
    )
    assert not np.array_equal(xl("cat AND dog :0.5", **ARGS, seed=1).images, both)
    with pytest.raises(sdcore.InvalidArgumentError, match="AND joins 2 and 3 parts"):
        xl.stream("cat AND dog", prompt_2="a AND b AND c", **ARGS)
    with pytest.raises(sdcore.InvalidArgumentError, match="AND joins 17 parts"):
        xl.stream("AND " * 16, **ARGS)


def test_models_for_editing_take_it_as_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = dataclasses.replace(tiny_models.PLAIN, name="edit", unet_inputs=8)
    pipe = sdcore.DiffusionPipeline.open(tiny_models.save_folder(spec, tmp_path), dtype="f32")
    pipe("cat AND dog", image=np.zeros((32, 24, 3), np.uint8), num_inference_steps=1)
    assert [line for line in caplog.messages if "AND" in line] == [
        "[prompt] AND is a word to this model: it draws one prompt a picture"
    ]
