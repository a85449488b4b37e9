"""Of every family that can be exported the C ABI draws what Python draws, whatever the prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdc
from drawing import PART, SIZE, assert_draws_as_python, assert_opens_again

import sdcore
import tiny_xl

PROMPT, NEGATIVE = "the red circle! of a cat", "blurry dog"
LONG = "a (red:1.3) cat, BREAK [the] dog " + "cat " * 80
FAMILIES: dict[str, Callable[[Path], Any]] = {
    "sd2": tiny_xl.sd2,
    "sdxl": tiny_xl.xl,
    "playground": tiny_xl.playground,
    "lcm": tiny_xl.lcm,
    "sdxl-lcm": tiny_xl.xl_lcm,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    FAMILIES[request.param](folder / "tokenizers").save_pretrained(folder / "model")
    return folder / "model"


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_families_draw_what_python_draws(
    library: sdc.Library, family: Path, tmp_path: Path, dtype: str
) -> None:
    pipe = sdcore.DiffusionPipeline.open(family, dtype=dtype)
    file = tmp_path / "model.gguf"
    pipe.export(file, steps=3, dtype=dtype)
    draw = partial(assert_draws_as_python, library, file, pipe)
    draw(PROMPT, NEGATIVE)
    draw(PROMPT, None, guidance_scale=3.3)
    draw(LONG, NEGATIVE)
    draw(PROMPT, "", guidance_scale=1.0)
    draw(PROMPT, NEGATIVE, **PART)


def test_no_negative_prompt_is_zeros_where_the_model_says_so(
    library: sdc.Library, tmp_path: Path
) -> None:
    tiny_xl.xl(tmp_path / "tokenizers").save_pretrained(tmp_path / "model")
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "model")
    pipe.export(tmp_path / "model.gguf", steps=2)
    model = sdc.Model(library, tmp_path / "model.gguf")
    (none,), (empty,) = (
        model.generate(library.params(PROMPT, negative_prompt=text, seed=1, **SIZE))[0]
        for text in (None, "")
    )
    assert not np.array_equal(none, empty)


def test_python_opens_what_it_exported(family: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(family, dtype="f32")
    assert_opens_again(pipe, tmp_path / "model.gguf", PROMPT)


@pytest.mark.parametrize(
    "prompt", ["a (red:1.3) [cat]", r"the \(red\) cat!", LONG, "BREAK cat", ""]
)
def test_prompts_are_read_as_in_python(
    library: sdc.Library, folder: Path, exported: Path, prompt: str
) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    draw = partial(assert_draws_as_python, library, exported, pipe)
    draw(prompt, NEGATIVE)
    draw(PROMPT, prompt)


def test_text_encoders_of_different_vocabularies_are_refused(tmp_path: Path) -> None:
    tiny_xl.xl(tmp_path / "tokenizers").save_pretrained(tmp_path / "model")
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "model")
    other = pipe.tokenizer_2.vocabulary
    more = sdcore._core.ClipVocabulary([*other.tokens, "more"], other.merges)
    pipe.tokenizer_2 = sdcore.tokenizer.CLIPTokenizer(more)
    with pytest.raises(sdcore.UnsupportedModelError, match="different vocabularies"):
        pipe.export(tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()
