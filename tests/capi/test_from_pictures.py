"""Pictures from pictures: of the C ABI, what Python draws from the same ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdc
from drawing import GIVEN, MASK, PART, assert_draws_as_python, edited

import sdcore
import tiny_models
import tiny_transformers
import tiny_xl

PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"
SIZE = {"width": 24, "height": 16}


@pytest.fixture(scope="module")
def pipe(folder: Path) -> sdcore.DiffusionPipeline:
    return sdcore.DiffusionPipeline.open(folder, dtype="f32")


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_pictures_are_pythons(
    library: sdc.Library, folder: Path, tmp_path: Path, dtype: str
) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder, dtype=dtype)
    pipe.export(tmp_path / "model.gguf", steps=3, dtype=dtype)
    draw = partial(assert_draws_as_python, library, tmp_path / "model.gguf", pipe, PROMPT, NEGATIVE)
    draw(**PART)
    draw(image=GIVEN, strength=0.7)
    draw(**{**PART, "strength": 0.0})
    draw(**{**PART, "strength": 1.0})


@pytest.mark.parametrize("size", [(1, 1), (7, 150), (300, 5), (16, 24)])
def test_any_picture_is_resized_as_pillow_does(
    library: sdc.Library, exported: Path, pipe: Any, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(size[0])
    given = rng.integers(0, 256, (*size, 3), np.uint8)
    mask = rng.integers(0, 256, size, np.uint8)
    draw = partial(assert_draws_as_python, library, exported, pipe, PROMPT, None, **SIZE)
    draw(image=given, mask=mask, strength=0.4, guidance_scale=1.0)


@pytest.mark.parametrize("size", [(31, 45), (1, 2)])
def test_pictures_have_the_size_of_the_one_given(
    model: sdc.Model, pipe: Any, size: tuple[int, int]
) -> None:
    given = np.resize(GIVEN, (*size, 3))
    params = model.library.params(PROMPT, image=given, steps=3, seed=1, guidance_scale=1.0)
    (picture,), _ = model.generate(params)
    expected = pipe(PROMPT, image=given, num_inference_steps=3, seed=1, guidance_scale=1.0)
    assert np.array_equal(picture, np.asarray(expected.images[0]))
    params.width = 8  # then the height is the model's, too
    assert model.generate(params)[0][0].shape == (pipe.default_size[1], 8, 3)


STRENGTHS = (1e-9, 1 / 3, math.nextafter(2 / 3, 0), 2 / 3, math.nextafter(1, 0), 1.0)


@pytest.fixture(scope="module", params=["sd1", "sd3", "lcm"])
def kind(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: Any) -> tuple[Any, Path]:
    """Of which a strength means something else each."""
    made = tmp_path_factory.mktemp(request.param)
    if request.param == "sd3":
        tiny_transformers.sd3_pipeline(made)
    elif request.param == "lcm":
        tiny_xl.lcm(made / "tokenizers").save_pretrained(made)
    options = {"text_encoder_3": False} if request.param == "sd3" else {}
    source = folder if request.param == "sd1" else made
    pipe = sdcore.DiffusionPipeline.open(source, dtype="f32", **options)
    pipe.export(made / "exported.gguf", steps=3, dtype="f32")
    return pipe, made / "exported.gguf"


def test_any_strength_is_pythons(library: sdc.Library, kind: tuple[Any, Path]) -> None:
    pipe, file = kind
    model = sdc.Model(library, file)
    totals = set()
    for strength in STRENGTHS:
        more = {"image": GIVEN, "strength": strength, "guidance_scale": 1.0, "seed": 1, **SIZE}
        params = library.params(PROMPT, steps=3, **more)
        if pipe.spreads_steps and strength < 3 / 50:
            with pytest.raises(
                sdc.Failed, match=r"at least 0\.06 for 3 steps, got 1e-09"
            ) as failed:
                model.generate(params)
            assert failed.value.status == sdc.INVALID_ARGUMENT
            continue
        done: list[tuple[int, int]] = []
        (picture,), _ = model.generate(params, lambda *step, to=done: to.append(step) or 0)
        steps = pipe.stream(PROMPT, num_inference_steps=3, **more)
        totals.add(total := sum(1 for _ in steps))
        assert done == [(i + 1, total) for i in range(total)]
        assert np.array_equal(picture, np.asarray(steps.result().images[0])), strength
    assert len(totals) == (1 if pipe.spreads_steps else 3)


def sd1_inpaint(folder: Path) -> Any:
    spec = dataclasses.replace(tiny_models.PLAIN, name="inpaint", unet_inputs=9)
    return tiny_models.pipeline(spec, folder)


INPAINTERS: dict[str, Callable[[Path], Any]] = {
    "sd1-inpaint": sd1_inpaint,
    "sdxl-inpaint": tiny_xl.xl_inpaint,
}


@pytest.mark.parametrize(
    "family, dtype", [("sd1-inpaint", "f32"), ("sd1-inpaint", "bf16"), ("sdxl-inpaint", "f32")]
)
def test_models_for_inpainting_draw_what_python_draws(
    library: sdc.Library, tmp_path: Path, family: str, dtype: str
) -> None:
    INPAINTERS[family](tmp_path / "tokenizers").save_pretrained(tmp_path / "model")
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype=dtype)
    assert pipe.family == family
    file = tmp_path / "model.gguf"
    pipe.export(file, steps=3, dtype=dtype)
    draw = partial(assert_draws_as_python, library, file, pipe, PROMPT, NEGATIVE)
    draw(**PART)
    draw(**{**PART, "strength": 1.0})
    draw()
    again = sdcore.DiffusionPipeline.open(file, dtype=dtype)
    assert again.family == family and again.unet.config.in_channels == 9


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"strength": -0.5}, "strength must be from 0 and at most 1, got -0.5"),
        ({"strength": 1.5}, "strength must be from 0 and at most 1, got 1.5"),
        ({"strength": float("nan")}, "strength must be from 0 and at most 1, got -?nan"),
        ({"image": None, "mask": MASK}, "a mask without an image"),
        ({"mask": MASK[:, :-1]}, "mask must have the size of the image, 45 x 31, got 44 x 31"),
        ({"image_width": 0}, "image must have pixels, got 0 x 31"),
        ({"image_height": -1}, "image must have pixels, got 45 x -1"),
        ({"mask": MASK, "mask_height": -31}, "mask must have pixels, got 45 x -31"),
        ({"image": None, "image_width": 5}, r"params->image is NULL, and its size is 5 x 0"),
        ({"mask_height": 5}, r"params->mask is NULL, and its size is 0 x 5"),
        ({"image": np.resize(GIVEN, (1, 8194, 3))}, "width must be .* at most 8192, got 8194"),
    ],
)
def test_bad_requests(model: sdc.Model, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(sdc.Failed, match=text) as failed:
        model.generate(model.library.params(PROMPT, **{"image": GIVEN, **fields}))
    assert failed.value.status == sdc.INVALID_ARGUMENT


def test_a_file_without_an_encoder_draws_from_text_alone(
    library: sdc.Library, exported: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    model = sdc.Model(library, edited(exported, file, **{"sdcore.graph.vae_encoder": None}))
    assert model.generate(library.params(PROMPT, steps=3, **SIZE))[0]
    with pytest.raises(sdc.Failed, match="the file has no vae_encoder, by which") as failed:
        model.generate(library.params(PROMPT, steps=3, image=GIVEN))
    assert failed.value.status == sdc.UNSUPPORTED_MODEL


def test_a_file_for_inpainting_has_an_encoder(
    library: sdc.Library, exported: Path, tmp_path: Path
) -> None:
    keys = {"sdcore.graph.vae_encoder": None, "sdcore.denoiser.inpaints": True}
    with pytest.raises(sdc.Failed, match="without its network 'vae_encoder'") as failed:
        sdc.Model(library, edited(exported, tmp_path / "model.gguf", **keys))
    assert failed.value.status == sdc.CHECKPOINT


def test_a_file_of_an_older_version_says_what_to_do(
    library: sdc.Library, exported: Path, tmp_path: Path
) -> None:
    path = edited(exported, tmp_path / "model.gguf", **{"sdcore.pipeline.version": 4})
    with pytest.raises(sdc.Failed, match="version 4, and this sdcore reads version 5: export the"):
        sdc.Model(library, path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("strengths", np.array([0, 0.5], np.float64)),
        ("strengths", np.array([0, 1.5, 2], np.float64)),
        ("strengths", np.array([0.5, 0.4, 1], np.float64)),
        ("strengths", np.full(3, np.nan, np.float64)),
        ("starts", np.array([9, 4, 3, 4, 0, 0], np.uint32)),
        ("starts", np.array([1, 5, 3, 4, 0, 0], np.uint32)),
        ("starts", np.array([0, 4, 4, 4, 0, 0], np.uint32)),
        ("starts", np.array([1, 4, 2, 4, 0, 0], np.uint32)),
        ("starts", np.full(6, 2**32 - 1, np.uint32)),
        ("start_rows", np.zeros(26, np.float32)),
        ("start_rows", np.full(104, np.nan, np.float32)),
    ],
)
def test_damaged_starts(
    library: sdc.Library, exported: Path, tmp_path: Path, key: str, value: Any
) -> None:
    path = edited(exported, tmp_path / "model.gguf", **{f"sdcore.table.3.{key}": value})
    with pytest.raises(sdc.Failed, match=r"sdcore\.table\.3") as failed:
        sdc.Model(library, path)
    assert failed.value.status == sdc.CHECKPOINT


def test_a_file_may_have_no_starts(library: sdc.Library, exported: Path, tmp_path: Path) -> None:
    keys = {
        "sdcore.table.3.strengths": np.zeros(0, np.float64),
        "sdcore.table.3.starts": np.zeros(0, np.uint32),
        "sdcore.table.3.start_rows": np.zeros(0, np.float32),
    }
    model = sdc.Model(library, edited(exported, tmp_path / "model.gguf", **keys))
    assert model.generate(library.params(PROMPT, steps=3, **SIZE))[0]
    with pytest.raises(sdc.Failed, match="scheduler begins from no picture") as failed:
        model.generate(library.params(PROMPT, steps=3, image=GIVEN))
    assert failed.value.status == sdc.UNSUPPORTED_MODEL
