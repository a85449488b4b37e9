"""Of families whose denoiser is a transformer the C ABI draws what Python draws, too."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sdc
from drawing import PART, assert_draws_as_python, assert_opens_again, edited

import sdcore
import tiny_transformers

PROMPT, NEGATIVE = "the red circle! of a cat", "blurry dog"
WEIGHTED = "a (red:1.3) cat [the] dog"
LONG = WEIGHTED + " BREAK " + "cat " * 80  # for CLIP; 80 words are few for T5's 256 tokens


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
    draw(PROMPT, NEGATIVE, **PART)


CAPTIONS = (
    "A red circle, 35mm photo of this-is-my-cute-cat_now (and a dog:1.3) & image.png, 4k!",
    "  the [blue] lighthouse. BREAK see www.example.com/x for a%20dog “of” 1920x1080  ",
)


@pytest.fixture(scope="module", params=["alpha", "sigma"])
def pixart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """α that is told sizes and draws in those of its training, and Σ that draws in any."""
    folder = tmp_path_factory.mktemp("pixart")
    alpha = request.param == "alpha"
    transformer = tiny_transformers.pixart(alpha, 32 if alpha else 16)
    tiny_transformers.pixart_pipeline(folder, alpha, transformer=transformer)
    return folder


@pytest.fixture
def exported_pixart(library: sdc.Library, pixart: Path) -> sdc.Model:
    file = pixart / "exported.gguf"
    if not file.exists():
        sdcore.DiffusionPipeline.open(pixart).export(file, steps=1, dtype="f32")
    return sdc.Model(library, file)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_pixart_draws_what_python_draws(
    library: sdc.Library, pixart: Path, tmp_path: Path, dtype: str
) -> None:
    pipe = sdcore.DiffusionPipeline.open(pixart, dtype=dtype)
    file = tmp_path / "model.gguf"
    pipe.export(file, steps=3, dtype=dtype)
    draw = partial(assert_draws_as_python, library, file, pipe)
    draw(CAPTIONS[0], NEGATIVE)
    draw(CAPTIONS[1], None, width=48, height=16)
    draw("", CAPTIONS[0], guidance_scale=3.3, width=96, height=120)
    draw("cat " * 400, None, guidance_scale=1.0)
    draw(CAPTIONS[0], None, **PART)


@pytest.mark.parametrize("markup", ["a <b>cat</b>", "a &amp; b", "&#99;at", "a &ampb", "</p>"])
def test_markup_is_refused(exported_pixart: sdc.Model, markup: str) -> None:
    """Python takes it out by a parser that C has not."""
    params = exported_pixart.library.params(markup, width=16, height=16)
    with pytest.raises(sdc.Failed, match="the prompt has markup") as failed:
        exported_pixart.generate(params)
    assert failed.value.status == sdc.INVALID_ARGUMENT


def test_what_only_looks_like_markup_is_drawn(exported_pixart: sdc.Model, pixart: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(pixart, dtype="f32")
    for prompt in ("r&b at the <3 of a <person>", "a & b; c <"):
        picture = exported_pixart.generate(
            exported_pixart.library.params(prompt, seed=7, width=16, height=16)
        )[0][0]
        expected = pipe(prompt, seed=7, num_inference_steps=1, width=16, height=16).images[0]
        assert np.array_equal(picture, np.asarray(expected))


def test_damaged_sizes_of_the_training(
    library: sdc.Library, exported_pixart: sdc.Model, pixart: Path, tmp_path: Path
) -> None:
    nan, inf = np.nan, np.inf
    for row in ([1, 32], [inf, 32, 32], [1, 33, 32], [1, 32, 9e9], [1, 0, 32], [1, 32, nan]):
        sizes = {"sdcore.size.trained": np.array(row, np.float64)}
        path = edited(pixart / "exported.gguf", tmp_path / "edited.gguf", **sizes)
        with pytest.raises(sdc.Failed, match=r"sdcore\.size\.trained must hold") as failed:
            sdc.Model(library, path)
        assert failed.value.status == sdc.CHECKPOINT


def test_pixart_that_compresses_keys_is_refused(pixart: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(pixart)
    config = dataclasses.replace(pipe.transformer.config, kv_compress_layers=(1,))
    pipe.transformer.config = config
    with pytest.raises(sdcore.UnsupportedModelError, match="compresses keys and values"):
        pipe.export(tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_python_opens_pixart_again(pixart: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(pixart, dtype="f32")
    assert_opens_again(pipe, tmp_path / "model.gguf", CAPTIONS[0])


def test_sd3_is_told_what_t5_reads(library: sdc.Library, sd3: Path, tmp_path: Path) -> None:
    """Weights too: otherwise equal pictures would prove little."""
    pictures = []
    for t5, prompt in ((None, PROMPT), (False, PROMPT), (None, "the red (circle!:1.4) of a cat")):
        pipe = sdcore.DiffusionPipeline.open(sd3, text_encoder_3=t5)
        pipe.export(tmp_path / "model.gguf", steps=2, overwrite=True)
        params = library.params(prompt, seed=1, width=32, height=32)
        pictures += sdc.Model(library, tmp_path / "model.gguf").generate(params)[0]
    assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.mark.parametrize("t5", [True, False])
def test_python_opens_what_it_exported(sd3: Path, tmp_path: Path, t5: bool) -> None:
    pipe = sdcore.DiffusionPipeline.open(sd3, dtype="f32", text_encoder_3=None if t5 else False)
    assert_opens_again(pipe, tmp_path / "model.gguf", WEIGHTED)


def test_zeros_for_t5_have_channels(library: sdc.Library, sd3: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(sd3, text_encoder_3=False)
    pipe.export(tmp_path / "model.gguf", steps=1)
    path = edited(tmp_path / "model.gguf", tmp_path / "edited.gguf", **{"sdcore.text.channels": 0})
    with pytest.raises(sdc.Failed, match="must be above 0 where zeros stand for T5") as failed:
        sdc.Model(library, path)
    assert failed.value.status == sdc.CHECKPOINT


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
