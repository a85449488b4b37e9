"""A UNet's other graphs: perturbed attention against diffusers, and features kept between steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPAGPipeline

import sdcore
import tiny_models
from reference.common import TorchComponent, error
from sdcore.models.base import RunOptions
from sdcore.models.unet import DeepFeatures, UNet2DConditionModel
from sdcore.pipelines.hooks import FamilyHooks


def numbers(*shape: int, seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


@pytest.mark.parametrize(
    ("layers", "scale"), [("mid", 5.0), (["down_blocks.0", "up_blocks.1.attentions.(0|1)"], 1.0)]
)
def test_perturbed_attention_guidance_is_diffusers(
    folder: Path, layers: str | list[str], scale: float
) -> None:
    theirs = StableDiffusionPAGPipeline.from_pretrained(folder, pag_applied_layers=layers)
    theirs.set_progress_bar_config(disable=True)
    latents = numbers(1, 4, 8, 4)
    with torch.no_grad():
        ref = theirs(
            "a cat",
            negative_prompt="a dog",
            latents=torch.from_numpy(latents),
            num_inference_steps=2,
            guidance_scale=scale,
            pag_scale=2.5,
            width=4 * theirs.vae_scale_factor,
            height=8 * theirs.vae_scale_factor,
            output_type="latent",
        ).images.numpy()
    ours = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    out = ours(
        "a cat",
        "a dog",
        latents=latents,
        num_inference_steps=2,
        guidance_scale=scale,
        pag_scale=2.5,
        pag_applied_layers=layers,
        output_type="latent",
    ).images
    assert error(out, ref) < 1e-3


def test_layers_that_are_not_there_are_refused(folder: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder)
    with pytest.raises(sdcore.InvalidArgumentError, match=r"\['nowhere'\] name no self-attention"):
        pipe("x", pag_scale=3.0, pag_applied_layers="nowhere")


def opened(spec: tiny_models.Spec) -> UNet2DConditionModel:
    module = tiny_models.unet(spec)
    return UNet2DConditionModel.from_component(
        TorchComponent(dict(module.config), module), RunOptions(dtype="f32")
    )


@pytest.mark.parametrize("spec", tiny_models.SPECS[:2], ids=lambda spec: spec.name)
def test_kept_features_are_those_of_the_whole_network(spec: tiny_models.Spec) -> None:
    """At every branch: reused at the same input they give the same output, bit for bit, from a
    graph that has less to do."""
    unet = opened(spec)
    skips = sum(len(list(block.resnets)) for block in tiny_models.unet(spec).up_blocks)
    x, text = numbers(2, 4, 9, 6), numbers(2, 5, spec.context)
    whole = unet(x, 7, text)
    for branch in range(skips - 1):
        deep = DeepFeatures(2, branch)
        for index in range(2):
            deep.begin_step(index)
            assert np.array_equal(unet(x, 7, text, deep=(deep, None)), whole)
        graphs = {variant.reuses: net.graph for variant, net in unet._variants.items()}
        shapes = {"sample": [2, 9, 6, 4], "timestep": [2]}
        shapes["encoder_hidden_states"] = [2, 5, spec.context]
        full = unet.network.graph.plan(shapes)["flops"]
        found, _ = deep._kept[None, (), (2, 9, 6, 4), (2, 5, spec.context)]
        assert graphs[branch].plan({**shapes, "deep": list(found.shape)})["flops"] < full
    with pytest.raises(
        sdcore.InvalidArgumentError, match=f"cache_branch_id must be 0 to {skips - 2}"
    ):
        unet(x, 7, text, deep=(DeepFeatures(2, skips - 1), None))


def test_a_run_with_kept_features_is_diffusers_with_the_same_kept(
    folder: Path, monkeypatch: Any
) -> None:
    """Branch 0: what the last layer of the last block is given from below comes from the last
    whole step, in diffusers by a hook on that layer."""
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config)
    latents = numbers(1, 4, 6, 4)
    arguments: dict[str, Any] = {"num_inference_steps": 5, "output_type": "latent"}
    out = pipe("x", "y", latents=latents, cache_interval=2, **arguments).images

    module = tiny_models.unet(tiny_models.PLAIN)
    below, steps = tiny_models.PLAIN.channels[0], iter(range(5))
    kept: list[torch.Tensor] = []

    def hook(_module: Any, given: tuple[torch.Tensor, ...]) -> Any:
        x, *rest = given
        if next(steps) % 2 == 0:
            kept[:] = [x[:, :below].clone()]
        return (torch.cat([kept[0], x[:, below:]], 1), *rest)

    handle = module.up_blocks[-1].resnets[-1].register_forward_pre_hook(hook)

    def ask(_: Any, x: Any, t: Any, told: Any) -> np.ndarray:
        text = torch.from_numpy(told["encoder_hidden_states"])
        with torch.no_grad():
            given = torch.from_numpy(x), torch.tensor(float(t)), text
            return module(*given).sample.numpy()

    try:
        monkeypatch.setattr(FamilyHooks, "ask", ask)
        ref = pipe("x", "y", latents=latents, **arguments).images
    finally:
        handle.remove()
    assert error(out, ref) < 1e-3
