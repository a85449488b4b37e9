"""`encode_prompt` gives what diffusers' does, and calls take it in place of prompts."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdcore
import tiny_models
import tiny_transformers
import tiny_xl
from reference.common import NETWORK_F32, error

PROMPTS, NEGATIVE = ["the red cat", "a dog"], "blurry circle"
RUN: dict[str, Any] = {
    **{"num_inference_steps": 2, "height": 16, "width": 16, "guidance_scale": 4.0},
    **{"output_type": "latent", "seed": 3},
}
FAMILIES = ("sd1", "xl", "sd3", "pixart")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """diffusers' pipelines, and the folders in which they are."""
    import diffusers

    folders = {name: tmp_path_factory.mktemp(name) for name in FAMILIES}
    tiny_models.save_folder(tiny_models.PLAIN, folders["sd1"] / "model")
    folders["sd1"] /= "model"
    xl = tiny_xl.xl(folders["xl"] / "tokenizers")
    folders["xl"] /= "model"
    xl.save_pretrained(folders["xl"])
    theirs = {
        "sd1": diffusers.StableDiffusionPipeline.from_pretrained(folders["sd1"]),
        "xl": xl,
        "sd3": tiny_transformers.sd3_pipeline(folders["sd3"]),
        "pixart": tiny_transformers.pixart_pipeline(folders["pixart"], sizes=False),
    }
    return {name: (theirs[name], folder) for name, folder in folders.items()}


@pytest.fixture(params=FAMILIES)
def both(saved: dict[str, tuple[Any, Path]], request: pytest.FixtureRequest) -> tuple[Any, Any]:
    theirs, folder = saved[request.param]
    return sdcore.DiffusionPipeline.open(folder, dtype="f32"), theirs


def test_the_order_of_arguments(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    names = list(inspect.signature(theirs.encode_prompt).parameters)
    assert ["prompt", *ours.encode_order] == [name for name in names if name != "kwargs"]


@pytest.mark.parametrize("guided", [True, False])
def test_what_is_given(both: tuple[Any, Any], guided: bool) -> None:
    ours, theirs = both
    options: dict[str, Any] = {
        **{"num_images_per_prompt": 2, "do_classifier_free_guidance": guided, "device": "cpu"},
        **{"negative_prompt": [NEGATIVE] * 2},
    }
    if "prompt_3" in ours.encode_order:
        options |= {"prompt_2": None, "prompt_3": ["a house", "a circle"]}
    if "max_sequence_length" in ours.encode_order:
        options["max_sequence_length"] = 24
    expected = theirs.encode_prompt(PROMPTS, **options)
    found = ours.encode_prompt(PROMPTS, **options)
    assert [None if one is None else tuple(one.shape) for one in expected] == [
        None if one is None else one.shape for one in found
    ]
    for one, ref in zip(found, expected, strict=True):
        assert one is None or error(one, ref.detach().numpy()) <= NETWORK_F32


def test_a_call_takes_it(both: tuple[Any, Any]) -> None:
    ours, _ = both
    names = [side + name for name in ours.embeds for side in ("", "negative_")]
    if "prompt_attention_mask" in ours.embeds:
        names = sorted(names, key=lambda name: name.startswith("negative"))
    encoded = ours.encode_prompt(PROMPTS, negative_prompt=NEGATIVE)
    drawn = ours(**dict(zip(names, encoded, strict=True)), **RUN).images
    more = {"clean_caption": False} if "clean_caption" in ours.extra_arguments else {}
    np.testing.assert_array_equal(drawn, ours(PROMPTS, NEGATIVE, **RUN, **more).images)
    # What is given is passed on, once an image.
    again = ours.encode_prompt(
        None, num_images_per_prompt=3, **dict(zip(names, encoded, strict=True))
    )
    for one, before in zip(again, encoded, strict=True):
        np.testing.assert_array_equal(one, np.repeat(before, 3, axis=0))


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        (("a [cat:dog:0.5]",), {}, "a prompt that changes on the way has no encoding"),
        (("a cat AND a dog",), {}, "joined of parts by AND has no encoding"),
        ((["a cat", "a cat " * 90],), {}, "of several lengths, in multiples of 77 tokens"),
        (("a cat",), {"negativ_prompt": "x"}, "no argument 'negativ_prompt'; did you mean 'neg"),
        (("a cat", "cpu"), {"device": "cpu"}, "device is given twice"),
    ],
)
def test_what_is_wrong(saved: Any, values: Any, options: Any, says: str) -> None:
    pipe = sdcore.DiffusionPipeline.open(saved["sd1"][1], dtype="f32")
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        pipe.encode_prompt(*values, **options)
