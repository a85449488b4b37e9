"""ControlNets, and UNets with what they add, against diffusers, at every instruction-set level."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel as TorchControlNet
from diffusers import ControlNetUnionModel as TorchUnion
from diffusers import UNet2DConditionModel as TorchUNet

from reference.common import (
    BF16_FACTOR,
    ISAS,
    NETWORK_F32,
    TORCH_TYPES,
    TorchComponent,
    error,
    in_dtype,
    randomized,
)
from sdcore.errors import UnsupportedModelError
from sdcore.models.base import RunOptions
from sdcore.models.controlnet import ControlNetModel, build_control, build_embedding
from sdcore.models.unet import DeepFeatures, UNet2DConditionModel
from tiny_control import random_control
from tiny_models import SD2, SD15, SDXL

SD1: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 48,
    "norm_num_groups": 16,
    "conditioning_embedding_out_channels": (6, 10, 14),
}
ODD = SD1 | {
    "block_out_channels": (20, 44),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "attention_head_dim": (4, 2),
    "use_linear_projection": True,
    "norm_num_groups": 4,
}
XL = SD1 | {
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": (2, 4, 4),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 24,
}
PLAIN = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
# name -> (config, size of the latents)
CONTROLS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "sd1": (SD1, (16, 12)),
    "sd2, odd": (ODD, (13, 18)),
    "xl": (XL, (8, 16)),
    "xl mid, which attends in the middle alone": (
        XL | {"transformer_layers_per_block": (0, 0, 1)},
        (8, 8),
    ),
    "xl small, which attends nowhere": (XL | PLAIN, (8, 8)),
    "of blue, green and red": (SD1 | {"controlnet_conditioning_channel_order": "bgr"}, (8, 8)),
    "of means": (SD1 | {"global_pool_conditions": True}, (8, 12)),
}


@lru_cache
def _case(name: str) -> dict[str, Any]:
    config, (h, w) = CONTROLS[name]
    module = random_control(1, **config)
    generator = torch.Generator().manual_seed(2)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    arrays = {
        "sample": numbers(2, 4, h, w),
        "encoder_hidden_states": numbers(2, 9, config["cross_attention_dim"]),
        "controlnet_cond": torch.rand((2, 3, 4 * h, 4 * w), generator=generator),
    }
    conditions = {"text_embeds": numbers(2, 24), "time_ids": 1000 * numbers(2, 6)}
    t = torch.tensor([981.0, 1.0])

    @cache
    def run(dtype: str, guess_mode: bool) -> np.ndarray:
        kind, net = TORCH_TYPES[dtype], in_dtype(module, dtype)
        added = {k: v if k == "time_ids" else v.to(kind) for k, v in conditions.items()}
        with torch.no_grad():
            down, mid = net(
                timestep=t,
                conditioning_scale=0.7,
                guess_mode=guess_mode,
                added_cond_kwargs=added,
                return_dict=False,
                **{k: v.to(kind) for k, v in arrays.items()},
            )
        return _flat(down, mid)

    return {
        "component": TorchComponent(dict(module.config), module),
        "arguments": {k: v.numpy() for k, v in arrays.items()} | {"timestep": t.numpy()},
        "conditions": {k: v.numpy() for k, v in conditions.items()},
        "run": run,
    }


def _flat(down: Any, mid: Any) -> np.ndarray:
    """All of them with the same weight, as each counts in the UNet."""
    arrays = [np.asarray(a.float() if torch.is_tensor(a) else a) for a in (*down, mid)]
    return np.concatenate([a.ravel() / np.linalg.norm(a) for a in arrays])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CONTROLS)
def test_controlnet_is_diffusers(name: str, isa: str) -> None:
    case = _case(name)
    for guess_mode in (False, True):
        ref = case["run"]("f32", guess_mode)
        own = error(case["run"]("bf16", guess_mode), ref)
        for dtype, allowed in (("f32", NETWORK_F32), ("bf16", BF16_FACTOR * own)):
            net = ControlNetModel.from_component(case["component"], RunOptions(dtype, isa))
            out = net(
                **case["arguments"],
                conditioning_scale=0.7,
                guess_mode=guess_mode,
                **case["conditions"],
            )
            assert error(_flat(*out), ref) <= allowed, (dtype, guess_mode)


def test_the_scale_is_of_every_residual_and_guessing_of_the_first_most() -> None:
    """Which the comparison above, where each weighs the same, cannot see."""
    case = _case("sd1")
    net = ControlNetModel.from_component(case["component"], RunOptions("f32"))
    whole, half, guessed = (
        (*(out := net(**case["arguments"], **options))[0], out[1])
        for options in ({}, {"conditioning_scale": 0.5}, {"guess_mode": True})
    )
    shares = np.logspace(-1, 0, len(whole))
    for one, scaled, guess, share in zip(whole, half, guessed, shares, strict=True):
        assert error(scaled, 0.5 * one) < 1e-6 and error(guess, share * one) < 1e-6


UNETS: dict[str, tuple[dict[str, Any], str]] = {
    "sd1": (
        {
            **{k: v for k, v in SD1.items() if not k.startswith("conditioning")},
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        },
        "of means",
    ),
    "xl": (
        {
            **{k: v for k, v in XL.items() if not k.startswith("conditioning")},
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        },
        "xl small, which attends nowhere",
    ),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", UNETS)
def test_what_two_controlnets_add_to_a_unet(name: str, dtype: str) -> None:
    """Their sum, whichever of them is first."""
    config, second = UNETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(6)
        module = randomized(TorchUNet(**config), 6)
    cases = _case(name), _case(second)
    h, w = 8, 12
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 4, h, w), np.float32)
    t = np.array([981.0, 1.0], np.float32)
    context = rng.standard_normal((2, 9, 48), np.float32)
    pictures = [rng.random((1, 3, 4 * h, 4 * w), np.float32) for _ in cases]
    conditions = cases[0]["conditions"] if name == "xl" else {}

    def theirs(dtype: str) -> np.ndarray:
        kind = TORCH_TYPES[dtype]
        tensors = [torch.from_numpy(a).to(kind) for a in (x, context)]
        added = {k: torch.from_numpy(v) for k, v in conditions.items()}
        added = {k: v if k == "time_ids" else v.to(kind) for k, v in added.items()}
        shared = {"encoder_hidden_states": tensors[1], "added_cond_kwargs": added}
        shared |= {"timestep": torch.from_numpy(t), "return_dict": False}
        with torch.no_grad():
            found = [
                in_dtype(case["component"].module, dtype)(
                    tensors[0],
                    controlnet_cond=torch.from_numpy(picture).to(kind).expand(2, -1, -1, -1),
                    conditioning_scale=scale,
                    **shared,
                )
                for case, picture, scale in zip(cases, pictures, (0.8, 0.5), strict=True)
            ]
            (down, mid), (more, also) = found
            out = in_dtype(module, dtype)(
                tensors[0],
                down_block_additional_residuals=[a + b for a, b in zip(down, more, strict=True)],
                mid_block_additional_residual=mid + also,
                **shared,
            )
        return out[0].float().numpy()

    ref = theirs("f32")
    allowed = NETWORK_F32 if dtype == "f32" else BF16_FACTOR * error(theirs(dtype), ref)
    unet = UNet2DConditionModel.from_component(
        TorchComponent(dict(module.config), module), RunOptions(dtype)
    )
    nets = [ControlNetModel.from_component(case["component"], RunOptions(dtype)) for case in cases]
    ways = list(zip(nets, pictures, (0.8, 0.5), strict=True))
    for order in (ways, ways[::-1]):
        added = None
        for net, picture, scale in order:
            added = net.residuals(
                x, t, context, net.embed(picture), scale, after=added, **conditions
            )
        out = unet(x, t, context, residuals=lambda added=added: added, **conditions)
        assert error(out, ref) <= allowed
    assert error(unet(x, t, context, **conditions), ref) > 0.1


@pytest.mark.parametrize("branch", [0, 2])
def test_a_step_that_reuses_features_adds_what_was_added(branch: int) -> None:
    """At the same input it gives the same output, bit for bit, and asks for nothing new."""
    config, _ = UNETS["sd1"]
    with torch.random.fork_rng():
        torch.manual_seed(6)
        module = randomized(TorchUNet(**config), 6)
    unet = UNet2DConditionModel.from_component(
        TorchComponent(dict(module.config), module), RunOptions("f32")
    )
    case = _case("sd1")
    net = ControlNetModel.from_component(case["component"], RunOptions("f32"))
    x, t, context = (case["arguments"][k] for k in ("sample", "timestep", "encoder_hidden_states"))
    features = net.embed(case["arguments"]["controlnet_cond"])
    asked = []

    def residuals() -> Any:
        asked.append(1)
        return net.residuals(x, t, context, features)

    deep = DeepFeatures(2, branch)
    outs = []
    for step in range(2):
        deep.begin_step(step)
        outs.append(unet(x, t, context, deep=(deep, "all"), residuals=residuals))
    plain = unet(x, t, context, residuals=residuals)
    assert np.array_equal(outs[0], plain) and np.array_equal(outs[1], plain)
    assert len(asked) == 2


def test_one_picture_is_that_of_all_images() -> None:
    case = _case("sd1")
    net = ControlNetModel.from_component(case["component"], RunOptions("f32"))
    given = {k: v for k, v in case["arguments"].items() if k != "controlnet_cond"}
    picture = case["arguments"]["controlnet_cond"][:1]
    one = net.residuals(**given, features=net.embed(picture))
    each = net.residuals(**given, features=net.embed(np.repeat(picture, 2, axis=0)))
    assert all(np.array_equal(one[name], each[name]) for name in each)


PUBLISHED = {
    "sd1": SD15,
    "sd2": SD2,
    "xl": {k: v for k, v in SDXL.items() if k != "up_block_types"},
}
PUBLISHED["union"] = PUBLISHED["xl"] | {"_class_name": "ControlNetUnionModel"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name: str) -> None:
    """Without any weights: each tensor, and as many numbers in it as diffusers has."""
    kind = TorchUnion if name == "union" else TorchControlNet
    with torch.device("meta"):
        state = kind.from_config(PUBLISHED[name]).state_dict()
    config = ControlNetModel.read_config(PUBLISHED[name])
    weights = build_control(config).weights | build_embedding(config).weights
    sizes = {name: int(np.prod(shape)) for name, shape in weights.items()}
    assert sizes == {name: tensor.numel() for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"conditioning_channels": 6}, r"conditioning_channels is 6; sdcore runs 3"),
        ({"controlnet_conditioning_channel_order": "hsv"}, "'hsv'; sdcore runs 'rgb' or 'bgr'"),
        ({"mid_block_type": None}, "mid_block_type is None"),
        ({"class_embed_type": "projection"}, "class_embed_type is 'projection'"),
        ({"down_block_types": ["AttnDownBlock2D"]}, "AttnDownBlock2D"),
    ],
)
def test_what_is_not_built_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        ControlNetModel.read_config(wrong)
