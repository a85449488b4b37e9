"""Of families whose denoiser is a transformer the C ABI draws what Python draws, too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import sdc
from drawing import assert_draws_as_python, assert_opens_again, edited

import sdcore
import tiny_transformers

PROMPT, NEGATIVE = "the red circle! of a cat", "blurry dog"
WEIGHTED = "a (red:1.3) cat [the] dog"
LONG = WEIGHTED + " BREAK " + "cat " * 80  # for CLIP; 80 words are few for T5's 256 tokens


@pytest.fixture(scope="module")
def library(installed: Path) -> sdc.Library:
    return sdc.Library(next(installed.glob("lib*/libsdcore.so")))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    tiny_transformers.sd3_pipeline(folder)
    return folder


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("t5", [True, False])
def test_sd3_draws_what_python_draws(
    library: sdc.Library, sd3: Path, tmp_path: Path, dtype: str, t5: bool
) -> None:
    pipe = sdcore.DiffusionPipeline.open(sd3, dtype=dtype, text_encoder_3=None if t5 else False)
    file = tmp_path / "model.gguf"
    pipe.export(file, steps=3, dtype=dtype)
    draw = partial(assert_draws_as_python, library, file, pipe)
    draw(PROMPT, NEGATIVE)
    draw(WEIGHTED, None, guidance_scale=3.3)
    draw(LONG, "")
    draw(PROMPT, WEIGHTED)
    draw(PROMPT, None, guidance_scale=1.0)


def test_sd3_is_told_what_t5_reads(library: sdc.Library, sd3: Path, tmp_path: Path) -> None:
    """Weights too: otherwise equal pictures would prove little."""
    pictures = []
    for t5, prompt in ((None, PROMPT), (False, PROMPT), (None, "the red (circle!:1.4) of a cat")):
        pipe = sdcore.DiffusionPipeline.open(sd3, text_encoder_3=t5)
        pipe.export(tmp_path / "model.gguf", steps=2)
        params = library.params(prompt, seed=1, width=32, height=32)
        pictures += sdc.Model(library, tmp_path / "model.gguf").generate(params)[0]
    assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.mark.parametrize("t5", [True, False])
def test_python_opens_what_it_exported(sd3: Path, tmp_path: Path, t5: bool) -> None:
    pipe = sdcore.DiffusionPipeline.open(sd3, dtype="f32", text_encoder_3=None if t5 else False)
    assert_opens_again(pipe, tmp_path / "model.gguf", WEIGHTED)


def test_a_converted_export_keeps_t5s_vocabulary(sd3: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(sd3, dtype="f32")
    pipe.export(tmp_path / "model.gguf")
    sdcore.convert(tmp_path / "model.gguf", tmp_path / "folder")
    again = sdcore.DiffusionPipeline.open(tmp_path / "folder")
    assert again.tokenizer_3.tokens == pipe.tokenizer_3.tokens


def test_sd3_without_a_clip_is_refused(sd3: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(sd3, text_encoder=False)
    with pytest.raises(sdcore.UnsupportedModelError, match="both CLIP text encoders"):
        pipe.export(tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_sizes_are_those_that_the_model_has_places_for(
    library: sdc.Library, sd3: Path, tmp_path: Path
) -> None:
    sdcore.DiffusionPipeline.open(sd3).export(tmp_path / "model.gguf", steps=1)
    model = sdc.Model(library, tmp_path / "model.gguf")
    for width, text in ((50, "multiple of 4 and at most 48, got 50; try 48"), (30, "try 28")):
        with pytest.raises(sdc.Failed, match=text) as failed:
            model.generate(library.params(width=width, height=32))
        assert failed.value.status == sdc.INVALID_ARGUMENT


def test_every_key_is_needed_in_its_type(library: sdc.Library, sd3: Path, tmp_path: Path) -> None:
    sdcore.DiffusionPipeline.open(sd3).export(tmp_path / "model.gguf", steps=1)
    file = sdcore.gguf.open(tmp_path / "model.gguf")
    own = ("sdcore.size.", "sdcore.denoiser.", "sdcore.captions.", "tokenizer_3.ggml.")
    keys = [key for key in file.metadata if key.startswith(own) and not key.endswith("ggml.model")]
    assert len(keys) > 12
    for key in keys:
        is_bool = isinstance(file.metadata[key], bool)
        other = sdcore.gguf.Typed(1, "u8") if is_bool else sdcore.gguf.Typed(True, "bool")
        for value in (None, other):
            with pytest.raises(sdc.Failed, match=key) as failed:
                sdc.Model(library, edited(file, tmp_path / "edited.gguf", **{key: value}))
            assert failed.value.status == sdc.CHECKPOINT, key
