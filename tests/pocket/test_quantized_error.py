"""DESIGN's contract for quantized weights on a trained UNet, whose text and time steps matter as
those of a random one do not: 8-bit activations, and what else quantized weights bring, may cost no
more than 1.2 times the error of the same weights dequantized, at every time step."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import measures
import score
import sdcore
import world
from sdcore import _core
from sdcore.pipelines import POCKET
from sdcore.pipelines.clip_text import Encoder, encode_texts

FACTOR = 1.2
STEPS = (980, 900, 500, 200, 20)
COUNT = 8  # inputs a time step
ISAS = _core.supported_isas()[1:] or ["generic"]  # the portable kernels are the same, and slow
TYPES = ("q8_0", "q4_K")  # the latter's blocks fit few of its rows: q4_0 then


@functools.cache
def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Latents of pictures and the states of their captions."""
    pipe = sdcore.DiffusionPipeline.open(POCKET, dtype="f32")
    scenes, prompts = zip(*score.held_out(COUNT), strict=True)
    pictures = np.stack([world.render(scene) for scene in scenes]).astype(np.float32)
    latents = pipe.vae.scale(pipe.vae.encode(pictures.transpose(0, 3, 1, 2) / 127.5 - 1))
    states = encode_texts(
        [[text] for text in prompts], [Encoder(pipe.tokenizer, pipe.text_encoder)]
    )
    return latents, np.stack([of_text[0].hidden_states for of_text in states])


def noisy(latents: np.ndarray, t: int, betas: Mapping[str, Any]) -> np.ndarray:
    """The latents as they are at a time step of the model's schedule."""
    ends = np.sqrt([betas["beta_start"], betas["beta_end"]])
    signal = np.cumprod(1 - np.linspace(*ends, 1000) ** 2)[t]
    noise = np.random.default_rng(t).standard_normal(latents.shape)
    return (np.sqrt(signal) * latents + np.sqrt(1 - signal) * noise).astype(np.float32)


@functools.cache
def quantized(type: str, folder: Path) -> sdcore.DiffusionPipeline:
    file = measures.quantized(POCKET, folder / f"{type}.gguf", type)
    return sdcore.DiffusionPipeline.open(file, dtype="f32")


def dequantized(network: _core.Network) -> dict[str, _core.Tensor]:
    return {name: _core.Tensor.from_array(t.to_float()) for name, t in network.tensors.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
def test_a_trained_unet_keeps_the_contract(type: str, isa: str, folder: Path) -> None:
    pipe = quantized(type, folder)
    unet, network = pipe.unet, pipe.unet.network
    plain_weights = dequantized(network)

    def runs(weights: Mapping[str, _core.Tensor], dtype: str) -> Any:
        return unet.with_network(_core.Network(network.graph, weights, dtype=dtype, isa=isa))

    reference = runs(plain_weights, "f32")
    sides = [runs(network.tensors, "bf16"), runs(plain_weights, "bf16")]
    latents, states = inputs()
    for t in STEPS:
        x = noisy(latents, t, pipe.scheduler.config)
        ref = reference(x, t, states)
        own, plain = (np.linalg.norm(side(x, t, states) - ref) for side in sides)
        assert own <= FACTOR * plain, (t, own / plain)
