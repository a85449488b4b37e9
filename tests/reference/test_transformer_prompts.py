"""Prompts of SD 3 and PixArt: what is written in them besides words, and what takes their place,
against diffusers where it has that, and against the formulas in float64 where it has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
import tiny_transformers as tiny
from reference.common import NETWORK_F32, SAMPLED_F32, error
from sdcore.pipelines.request import Prompt

PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"
ARGS: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 5.0,
    "max_sequence_length": 20,
    "height": 24,
    "width": 16,
}


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("sd3")
    pipe = tiny.sd3_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("pixart")
    pipe = tiny.pixart_pipeline(folder, False)
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


def theirs(pipe: Any, **arguments: Any) -> np.ndarray:
    arguments = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    generator = torch.Generator("cpu").manual_seed(5)
    out = pipe(**ARGS, **arguments, generator=generator, output_type="latent")
    return out.images.float().numpy()


def opened(folder: Path) -> Any:
    return sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")


def ours(pipe: Any, **arguments: Any) -> np.ndarray:
    return pipe(**ARGS, **arguments, seed=5, output_type="latent").images


def encoded(pipe: Any, *texts: str, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    found = pipe.encode([Prompt((text,)) for text in texts], 20, skip)
    return found["encoder_hidden_states"], found["pooled_projections"]


def test_every_text_encoder_of_sd3_has_its_prompt(sd3: tuple[Any, Path]) -> None:
    reference, folder = sd3
    pipe = opened(folder)
    prompts = {
        "prompt": PROMPT,
        "prompt_2": "a dog",
        "prompt_3": "the circle",
        "negative_prompt": NEGATIVE,
        "negative_prompt_2": "ring",
        "negative_prompt_3": "cat",
    }
    ref = theirs(reference, **prompts)
    assert error(ours(pipe, **prompts), ref) <= SAMPLED_F32
    assert error(ours(pipe, prompt=PROMPT, negative_prompt=NEGATIVE), ref) > 0.01


def test_sd3s_clip_skip_is_diffusers(sd3: tuple[Any, Path]) -> None:
    reference, folder = sd3
    pipe = opened(folder)
    assert pipe.clip_layer == 2
    prompts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    ref, plain = (theirs(reference, **prompts, clip_skip=skip) for skip in (1, None))
    # diffusers skips in the prompt alone, and the web UI in the negative one as well.
    states, pooled = encoded(pipe, NEGATIVE)
    embeds = {"negative_prompt_embeds": states, "negative_pooled_prompt_embeds": pooled}
    assert error(ours(pipe, prompt=PROMPT, **embeds, clip_skip=1), ref) <= SAMPLED_F32
    assert error(plain, ref) > 10 * SAMPLED_F32


def test_a_long_prompt_of_sd3_draws_as_its_states_do_in_diffusers(sd3: tuple[Any, Path]) -> None:
    reference, folder = sd3
    pipe = opened(folder)
    prompt = "a (red:1.3) cat BREAK the dog"
    states, pooled = encoded(pipe, prompt)
    assert states.shape[1] == 2 * 77 + 20
    negative, negative_pooled = encoded(pipe, NEGATIVE + " BREAK")
    long = encoded(pipe, NEGATIVE + " BREAK BREAK dog")[0]
    assert (negative.shape[1], long.shape[1]) == (77 + 20, 3 * 77 + 20)
    # diffusers takes both sides at one length only.
    negative = np.concatenate([negative[:, :77], negative], axis=1)
    embeds = {
        "prompt_embeds": states,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": negative,
        "negative_pooled_prompt_embeds": negative_pooled,
    }
    assert error(ours(pipe, **embeds), theirs(reference, **embeds)) <= SAMPLED_F32
    # Prompts of different lengths go into batches of their own.
    both = ours(pipe, prompt=[prompt, PROMPT], negative_prompt=NEGATIVE)
    assert np.array_equal(both[:1], ours(pipe, prompt=prompt, negative_prompt=NEGATIVE))


def places(tokens: int, *weights: float) -> np.ndarray:
    """A weight a token of a sequence, from its first on."""
    return np.array([*weights, *[1.0] * (tokens - len(weights))])[:, None]


def test_sd3s_weights(sd3: tuple[Any, Path]) -> None:
    """CLIP's states times weights at the mean that they had, each encoder by itself; T5's away from
    those of an empty prompt."""
    pipe = opened(sd3[1])
    plain, empty = (encoded(pipe, text)[0][0].astype(np.float64) for text in ("a red cat", ""))
    weighted = encoded(pipe, "a (red:1.5) cat")[0][0]
    (_, red, _), first = pipe.tokenizer.encode("a red cat"), pipe.text_encoder.config.hidden_size
    assert pipe.tokenizer.encode("red") == [red]
    ref = plain.copy()
    second = first + pipe.text_encoder_2.config.hidden_size
    for part in (slice(0, first), slice(first, second)):
        scaled = plain[:77, part] * places(77, 1, 1, 1.5)
        ref[:77, part] = scaled * plain[:77, part].mean() / scaled.mean()
    counts = [len(pipe.tokenizer_3.encode(word)) for word in ("a", "red", "cat")]
    assert pipe.tokenizer_3.encode("a red cat") == [
        token for word in ("a", "red", "cat") for token in pipe.tokenizer_3.encode(word)
    ]
    weights = places(20, *[1] * counts[0], *[1.5] * counts[1])
    ref[77:] = empty[77:] + weights * (plain[77:] - empty[77:])
    assert error(weighted, ref) <= NETWORK_F32
    for part in (slice(0, 77), slice(77, None)):
        assert error(plain[part], ref[part]) > 10 * NETWORK_F32


def test_pixarts_weights(pixart: tuple[Any, Path]) -> None:
    pipe = opened(pixart[1])

    def states(text: str) -> dict[str, np.ndarray]:
        return pipe.encode([Prompt((text,))], 12)

    weighted, plain, empty = (states(text) for text in ("A (Red:0.5) BREAK cat", "a red cat", ""))
    counts = [len(pipe.tokenizer.encode(word)) for word in ("a", "red", "cat")]
    weights = places(12, *[1] * counts[0], *[0.5] * counts[1])
    away, start = (found["encoder_hidden_states"][0].astype(np.float64) for found in (plain, empty))
    ref = start + weights * (away - start)
    assert error(weighted["encoder_hidden_states"][0], ref) <= NETWORK_F32
    assert error(away, ref) > 10 * NETWORK_F32
    mask = np.arange(12) <= sum(counts)
    assert np.array_equal(weighted["encoder_attention_mask"][0], mask)


def test_pixarts_prompt_embeds_are_diffusers(pixart: tuple[Any, Path]) -> None:
    reference, folder = pixart
    pipe = opened(folder)
    found = {
        f"{side}prompt_{name}": pipe.encode([Prompt((text,))], 20)[of]
        for side, text in (("", PROMPT), ("negative_", NEGATIVE))
        for name, of in (
            ("embeds", "encoder_hidden_states"),
            ("attention_mask", "encoder_attention_mask"),
        )
    }
    out = ours(pipe, **found)
    ref = theirs(reference, **found, negative_prompt=None, use_resolution_binning=False)
    assert error(out, ref) <= SAMPLED_F32
    assert np.array_equal(out, ours(pipe, prompt=PROMPT, negative_prompt=NEGATIVE))
    with pytest.raises(sdcore.InvalidArgumentError, match=r"mask must be \[n, tokens\], got None"):
        ours(pipe, prompt_embeds=found["prompt_embeds"])
