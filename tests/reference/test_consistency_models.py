"""Consistency models against diffusers' pipeline, on tiny networks of the published topology."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

import sdcore
import tiny_models
from reference.common import NETWORK_F32, SAMPLED_F32, error
from sdcore.cli import main

CLASSES = 10


def unet(classes: int | None) -> UNet2DModel:
    """As openai's for ImageNet at 64x64, with few channels; theirs of rooms have no classes."""
    down = ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up = ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
    return tiny_models._random(
        900,
        lambda: UNet2DModel(
            sample_size=16,
            block_out_channels=(32, 64, 64),
            down_block_types=down,
            up_block_types=up,
            layers_per_block=2,
            downsample_type="resnet",
            upsample_type="resnet",
            attention_head_dim=16,
            attn_norm_num_groups=16,
            norm_num_groups=16,
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=classes,
            num_train_timesteps=40,
        ),
    )


@pytest.fixture(scope="module", params=[CLASSES, None], ids=["classes", "none"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    pipe = ConsistencyModelPipeline(unet(request.param), CMStochasticIterativeScheduler())
    pipe.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("consistency")
    pipe.save_pretrained(folder)
    return pipe, folder, sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")


def test_the_network_is_diffusers(model: Any) -> None:
    reference, _, pipe = model
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((2, 3, 16, 16), np.float32)
    labels = None if pipe.unet.config.num_class_embeds is None else np.array([3, 9])
    with torch.no_grad():
        ref = reference.unet(
            torch.from_numpy(sample),
            torch.tensor([700.0, 12.5]),
            None if labels is None else torch.from_numpy(labels),
        ).sample.numpy()
    assert error(pipe.unet(sample, [700.0, 12.5], labels), ref) <= NETWORK_F32


def test_they_cannot_be_exported(model: Any, tmp_path: Path) -> None:
    with pytest.raises(sdcore.UnsupportedModelError, match="not draw with a consistency model"):
        model[2].export(tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_step_and_several_are_diffusers(model: Any, steps: int) -> None:
    reference, _, pipe = model
    labels = {} if pipe.unet.config.num_class_embeds is None else {"class_labels": 7}
    generator = torch.Generator("cpu").manual_seed(5)
    ref = reference(
        **labels, num_inference_steps=steps, generator=generator, output_type="np"
    ).images
    out = pipe(**labels, num_inference_steps=steps, seed=5, output_type="np")
    assert out.images.shape == (1, 16, 16, 3)
    assert error(out.images, ref) <= SAMPLED_F32
    if labels:
        by_prompt = pipe("7", num_inference_steps=steps, seed=5, output_type="np").images
        assert np.array_equal(by_prompt, out.images)


def test_classes_of_a_batch(model: Any) -> None:
    pipe = model[2]
    if pipe.unet.config.num_class_embeds is None:
        assert len(pipe(num_images_per_prompt=2, seed=1).images) == 2
        with pytest.raises(sdcore.InvalidArgumentError, match="takes no prompt, got 'a cat'"):
            pipe("a cat")
        return
    both = pipe(class_labels=[2, 4], seed=1, output_type="np").images
    assert np.array_equal(both[1:], pipe(class_labels=4, seed=2, output_type="np").images)
    drawn = [pipe(seed=seed, output_type="np").images for seed in (1, 1)]
    assert np.array_equal(*drawn)
    for prompt in ("a cat", str(CLASSES), "-1"):
        with pytest.raises(sdcore.InvalidArgumentError, match="is a class, a number from 0 to 9"):
            pipe(prompt)
    with pytest.raises(sdcore.InvalidArgumentError, match="say the same: give one"):
        pipe("3", class_labels=3)
    with pytest.raises(sdcore.InvalidArgumentError, match="begin from no image"):
        pipe("3", image=np.zeros((16, 16, 3)))


def test_the_command_draws_a_class(model: Any, tmp_path: Path) -> None:
    _, folder, pipe = model
    prompt = "" if pipe.unet.config.num_class_embeds is None else "7"
    output = tmp_path / "x.png"
    words = ("-m", str(folder), prompt, "--steps", "2", "-o", str(output), "--quiet")
    assert main(["txt2img", *words, "-s", "3", "--dtype", "f32"]) == 0
    from PIL import Image

    drawn = pipe(prompt, num_inference_steps=2, seed=3).images[0]
    assert np.array_equal(np.asarray(Image.open(output)), np.asarray(drawn))
