"""T5, SD 3's and PixArt's transformers against transformers and diffusers, on small random models
of the real topology."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel as TorchPixArt
from diffusers import SD3Transformer2DModel as TorchSD3
from transformers import T5Config as TorchT5Config
from transformers import T5EncoderModel as TorchT5

from sdcore import InvalidArgumentError, UnsupportedModelError
from sdcore.models.base import RunOptions
from sdcore.models.mmdit import SD3Transformer2DModel
from sdcore.models.pixart import PixArtTransformer2DModel
from sdcore.models.t5 import T5EncoderModel

from .common import (
    BF16_FACTOR,
    ISAS,
    NETWORK_F32,
    TorchComponent,
    error,
    in_bf16,
    randomized,
)

isas = pytest.mark.parametrize("isa", ISAS)


class Case:
    """A module of torch's, what it is called with, and what it gives."""

    def __init__(
        self,
        module: torch.nn.Module,
        config: Mapping[str, Any],
        call: Callable[[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor],
    ) -> None:
        self.component = TorchComponent(config, module)

        def run(m: torch.nn.Module, kind: torch.dtype) -> np.ndarray:
            with torch.no_grad():
                return call(m, lambda x: x.to(kind)).float().numpy()

        self.ref = run(module, torch.float32)
        self.bf16_error = error(run(in_bf16(module), torch.bfloat16), self.ref)


def small_weights(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random, with the tables of adaLN, that torch leaves at zero or large, too."""
    randomized(module, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("scale_shift_table"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


# -- T5 ----------------------------------------

T5S = {
    "v1.1": {
        "feed_forward_proj": "gated-gelu",
        "num_heads": 3,
        "d_kv": 16,
        "d_model": 40,
        "d_ff": 72,
    },
    "t5": {"feed_forward_proj": "relu", "num_heads": 2, "d_kv": 20, "d_model": 32, "d_ff": 64},
}
IDS = np.random.default_rng(0).integers(0, 99, (2, 77))
MASK = (np.arange(77)[None] < np.array([[20], [77]])).astype(np.int64)


@lru_cache
def t5_case(name: str) -> Case:
    torch.manual_seed(0)
    config = TorchT5Config(vocab_size=99, num_layers=3, dropout_rate=0, **T5S[name])
    module = randomized(TorchT5(config), 1)
    with torch.no_grad():  # biases of relative positions as large as trained ones
        module.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_(0, 2)
        for parameter in module.parameters():
            parameter.mul_(1.5 if parameter.ndim == 2 else 1)

    def call(m: torch.nn.Module, _: object) -> torch.Tensor:
        return m(torch.from_numpy(IDS), torch.from_numpy(MASK)).last_hidden_state

    return Case(module, config.to_dict(), call)


@isas
@pytest.mark.parametrize("name", T5S)
def test_t5(name: str, isa: str) -> None:
    case = t5_case(name)
    model = T5EncoderModel.from_component(case.component, RunOptions("f32", isa))
    assert error(model(IDS, MASK), case.ref) <= NETWORK_F32


@pytest.mark.parametrize("name", T5S)
def test_t5_in_bf16(name: str) -> None:
    case = t5_case(name)
    model = T5EncoderModel.from_component(case.component, RunOptions("bf16"))
    assert error(model(IDS, MASK), case.ref) <= BF16_FACTOR * case.bf16_error


def test_t5_stays_finite_at_states_far_beyond_float16() -> None:
    module = t5_case("v1.1").component.module
    loud = in_bf16(module).float()
    with torch.no_grad():
        loud.shared.weight.mul_(1e6)
        ref = loud(torch.from_numpy(IDS)).last_hidden_state.numpy()
    component = TorchComponent(module.config.to_dict(), loud)
    for dtype, tolerance in [("f32", NETWORK_F32), ("bf16", 0.02)]:
        out = T5EncoderModel.from_component(component, RunOptions(dtype))(IDS)
        assert error(out, ref) <= tolerance


def test_t5_refuses_what_does_not_fit() -> None:
    case = t5_case("v1.1")
    model = T5EncoderModel.from_component(case.component)
    with pytest.raises(InvalidArgumentError, match=r"attention_mask must be \[2, 77\], got \[77\]"):
        model(IDS, MASK[0])
    with pytest.raises(UnsupportedModelError, match="feed_forward_proj is 'swish'"):
        T5EncoderModel.read_config({"feed_forward_proj": "swish"})


# -- SD 3 ----------------------------------------

SD3S: dict[str, dict[str, Any]] = {
    "3-medium": {},
    "3.5-large": {"qk_norm": "rms_norm"},
    "3.5-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}


def sd3_module(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return small_weights(
        TorchSD3(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=24,
            caption_projection_dim=48,
            pooled_projection_dim=20,
            pos_embed_max_size=12,
            **SD3S[name],
        ),
        1,
    )


@lru_cache
def sd3_case(name: str, skip: tuple[int, ...] = ()) -> Case:
    module = sd3_module(name)
    x, t, context, pooled = (torch.from_numpy(v) for v in sd3_inputs())

    def call(m: torch.nn.Module, cast: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return m(cast(x), cast(context), cast(pooled), t, skip_layers=list(skip)).sample

    return Case(module, dict(module.config), call)


def sd3_inputs() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    shapes = [(2, 4, 22, 10), (2, 19, 24), (2, 20)]
    x, context, pooled = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    return x, np.array([981.0, 3.5], np.float32), context, pooled


@isas
@pytest.mark.parametrize("name", SD3S)
def test_mmdit(name: str, isa: str) -> None:
    case = sd3_case(name)
    model = SD3Transformer2DModel.from_component(case.component, RunOptions("f32", isa))
    assert error(model(*sd3_inputs()), case.ref) <= NETWORK_F32


@pytest.mark.parametrize("name", SD3S)
def test_mmdit_in_bf16(name: str) -> None:
    case = sd3_case(name)
    model = SD3Transformer2DModel.from_component(case.component, RunOptions("bf16"))
    assert error(model(*sd3_inputs()), case.ref) <= BF16_FACTOR * case.bf16_error


def test_mmdit_leaves_layers_out() -> None:
    component = sd3_case("3.5-medium").component
    model = SD3Transformer2DModel.from_component(component, RunOptions("f32"))
    out = model(*sd3_inputs(), skip_layers=(1, 2))
    assert error(out, sd3_case("3.5-medium", (1, 2)).ref) <= NETWORK_F32
    assert error(model(*sd3_inputs()), sd3_case("3.5-medium").ref) <= NETWORK_F32
    with pytest.raises(InvalidArgumentError, match="skip_layers must be 0 to 3, got 4"):
        model(*sd3_inputs(), skip_layers=(4,))


def test_mmdit_refuses_what_does_not_fit() -> None:
    model = SD3Transformer2DModel.from_component(sd3_case("3-medium").component)
    x, t, context, pooled = sd3_inputs()
    with pytest.raises(InvalidArgumentError, match=r"must be \[2, tokens, channels\]"):
        model(x, t, context[:1], pooled)
    with pytest.raises(InvalidArgumentError, match="13 x 5 patches is larger than the model's 12"):
        model(np.zeros((2, 4, 26, 10)), t, context, pooled)
    with pytest.raises(UnsupportedModelError, match="qk_norm is 'layer_norm'"):
        SD3Transformer2DModel.read_config({"qk_norm": "layer_norm"})


# -- PixArt ----------------------------------------

PIXARTS: dict[str, dict[str, Any]] = {
    "alpha-1024": {"sample_size": 32, "use_additional_conditions": True},
    "alpha-512": {"sample_size": 8, "use_additional_conditions": False},
    "sigma": {"sample_size": 16, "use_additional_conditions": False, "interpolation_scale": 2},
    "without-caption": {
        "sample_size": 16,
        "caption_channels": None,
        "cross_attention_dim": 40,
        "out_channels": 4,
    },
}


@lru_cache
def pixart_case(name: str) -> Case:
    torch.manual_seed(0)
    options = {"caption_channels": 40, "cross_attention_dim": 48, "out_channels": 8}
    module = small_weights(
        TorchPixArt(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            num_layers=3,
            **(options | PIXARTS[name]),
        ),
        1,
    )
    x, t, context, mask = (torch.from_numpy(v) for v in pixart_inputs())
    added = {k: torch.from_numpy(v) for k, v in conditions_of(name).items()}

    def call(m: torch.nn.Module, cast: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        given = added or {"resolution": None, "aspect_ratio": None}
        return m(
            cast(x), cast(context), t, encoder_attention_mask=mask, added_cond_kwargs=given
        ).sample

    return Case(module, dict(module.config), call)


def pixart_inputs() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    x, context = (rng.standard_normal(s).astype(np.float32) for s in [(2, 4, 16, 12), (2, 30, 40)])
    mask = (np.arange(30)[None] < np.array([[7], [30]])).astype(np.float32)
    return x, np.array([981.0, 3.0], np.float32), context, mask


def conditions_of(name: str) -> dict[str, np.ndarray]:
    if not PIXARTS[name].get("use_additional_conditions"):
        return {}
    resolution = np.array([[1024, 768], [512, 2048]], np.float32)
    return {"resolution": resolution, "aspect_ratio": resolution[:, :1] / resolution[:, 1:]}


@isas
@pytest.mark.parametrize("name", PIXARTS)
def test_pixart(name: str, isa: str) -> None:
    case = pixart_case(name)
    model = PixArtTransformer2DModel.from_component(case.component, RunOptions("f32", isa))
    assert error(model(*pixart_inputs(), **conditions_of(name)), case.ref) <= NETWORK_F32


@pytest.mark.parametrize("name", PIXARTS)
def test_pixart_in_bf16(name: str) -> None:
    case = pixart_case(name)
    model = PixArtTransformer2DModel.from_component(case.component, RunOptions("bf16"))
    out = model(*pixart_inputs(), **conditions_of(name))
    assert error(out, case.ref) <= BF16_FACTOR * case.bf16_error


def test_pixart_refuses_what_does_not_fit() -> None:
    model = PixArtTransformer2DModel.from_component(pixart_case("alpha-1024").component)
    x, t, context, mask = pixart_inputs()
    with pytest.raises(InvalidArgumentError, match="input 'aspect_ratio' is missing"):
        model(x, t, context, mask, resolution=np.ones((2, 2)))
    with pytest.raises(UnsupportedModelError, match="norm_type is 'layer_norm'"):
        PixArtTransformer2DModel.read_config({"norm_type": "layer_norm"})
