"""Each network against diffusers and transformers, at every instruction-set level."""

from __future__ import annotations

import copy
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from diffusers import UNet2DConditionModel as TorchUNet
from transformers import CLIPTextConfig as TorchCLIPConfig
from transformers import CLIPTextModel as TorchCLIP
from transformers import CLIPTextModelWithProjection as TorchProjection

from reference.common import (
    BF16_FACTOR,
    ISAS,
    NETWORK_F32,
    TORCH_TYPES,
    TorchComponent,
    error,
    in_bf16,
    in_dtype,
    randomized,
)
from sdcore import _core
from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.models.base import RunOptions
from sdcore.models.clip import CLIPTextModel
from sdcore.models.unet import UNet2DConditionModel
from sdcore.models.vae import AutoencoderKL

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"


def _blocks(attends: tuple[bool, ...]) -> dict[str, tuple[str, ...]]:
    down = tuple((CROSS if a else PLAIN).format("Down") for a in attends)
    up = tuple((CROSS if a else PLAIN).format("Up") for a in reversed(attends))
    return {"down_block_types": down, "up_block_types": up}


# name -> (config, size of the latents): odd channels, odd sizes, SD 2.x's and XL's ways too.
UNETS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "sd1": (
        dict(
            block_out_channels=(32, 64, 64),
            layers_per_block=2,
            cross_attention_dim=48,
            attention_head_dim=8,
            norm_num_groups=16,
            **_blocks((True, True, False)),
        ),
        (16, 16),
    ),
    "odd": (
        dict(
            block_out_channels=(20, 44),
            layers_per_block=1,
            cross_attention_dim=30,
            attention_head_dim=4,
            norm_num_groups=4,
            **_blocks((True, False)),
        ),
        (13, 18),
    ),
    "sd2": (
        dict(
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            **_blocks((True, False)),
        ),
        (8, 24),
    ),
    "xl": (
        dict(
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
            **_blocks((False, True)),
        ),
        (16, 8),
    ),
    "refiner": (
        dict(
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            cross_attention_dim=64,
            attention_head_dim=(2, 4, 4),
            transformer_layers_per_block=2,
            use_linear_projection=True,
            upcast_attention=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=5 * 8 + 24,
            **_blocks((False, True, False)),
        ),
        (8, 12),
    ),
    "inpainting": (
        dict(
            in_channels=9,
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=(2, 4),
            only_cross_attention=(True, False),
            **_blocks((True, True)),
        ),
        (8, 8),
    ),
    "distilled": (
        dict(
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=48,
            attention_head_dim=4,
            mid_block_type=None,
            only_cross_attention=(True, False),
            **_blocks((True, True)),
        ),
        (8, 12),
    ),
    "uneven": (
        dict(
            block_out_channels=(32, 64),
            layers_per_block=2,
            cross_attention_dim=48,
            attention_head_dim=(2, 4),
            mid_block_type="UNetMidBlock2D",
            transformer_layers_per_block=[[1, 2], 2],
            reverse_transformer_layers_per_block=[[2, 3, 1], [1, 0, 2]],
            use_linear_projection=True,
            **_blocks((True, True)),
        ),
        (12, 8),
    ),
    "lcm": (
        dict(
            block_out_channels=(32, 32),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=4,
            time_cond_proj_dim=16,
            **_blocks((True, True)),
        ),
        (8, 8),
    ),
}


@lru_cache
def _unet_case(name: str) -> dict[str, Any]:
    config, (h, w) = UNETS[name]
    torch.manual_seed(0)
    module = randomized(TorchUNet(**config), 1)
    x = torch.randn(2, config.get("in_channels", 4), h, w)
    context = torch.randn(2, 9, config["cross_attention_dim"])
    t = torch.tensor([981.0, 1.0])
    given: dict[str, Any] = {}
    if sizes := {"xl": 6, "refiner": 5}.get(name):
        given = {"text_embeds": torch.randn(2, 24), "time_ids": torch.rand(2, sizes) * 1024}
    cond = torch.randn(2, 16) if name == "lcm" else None

    def run(m: torch.nn.Module, kind: torch.dtype) -> np.ndarray:
        added = {k: v if k == "time_ids" else v.to(kind) for k, v in given.items()}
        with torch.no_grad():
            out = m(
                x.to(kind),
                t,
                context.to(kind),
                timestep_cond=None if cond is None else cond.to(kind),
                added_cond_kwargs=added or None,
            )
        return out.sample.float().numpy()

    ref = run(module, torch.float32)
    return {
        "component": TorchComponent(dict(module.config), module),
        "arguments": (x.numpy(), t.numpy(), context.numpy()),
        "conditions": {k: v.numpy() for k, v in given.items()}
        | ({} if cond is None else {"timestep_cond": cond.numpy()}),
        "ref": ref,
        "own_error": cache(
            lambda dtype: error(run(in_dtype(module, dtype), TORCH_TYPES[dtype]), ref)
        ),
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", UNETS)
def test_unet_is_diffusers(name: str, isa: str) -> None:
    case = _unet_case(name)
    for dtype, allowed in (("f32", NETWORK_F32), ("bf16", BF16_FACTOR * case["own_error"]("bf16"))):
        unet = UNet2DConditionModel.from_component(
            case["component"], RunOptions(dtype=dtype, isa=isa)
        )
        out = unet(*case["arguments"], **case["conditions"])
        assert error(out, case["ref"]) <= allowed, dtype


VAES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "three levels": ({"block_out_channels": (32, 64, 64), "layers_per_block": 2}, (7, 12)),
    "odd": (
        {"block_out_channels": (18, 30), "norm_num_groups": 6, "latent_channels": 3},
        (11, 5),
    ),
    "bare": (
        {
            "block_out_channels": (32,),
            "norm_num_groups": 8,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "mid_block_add_attention": False,
            "latent_channels": 16,
        },
        (9, 9),
    ),
}


@lru_cache
def _vae_case(name: str) -> dict[str, Any]:
    config, (h, w) = VAES[name]
    levels = len(config["block_out_channels"])
    torch.manual_seed(1)
    module = randomized(
        TorchVAE(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **config,
        ),
        2,
    )
    z = torch.randn(2, config.get("latent_channels", 4), h, w)
    factor = 2 ** (levels - 1)
    x = torch.randn(2, 3, h * factor, w * factor)

    def run(m: torch.nn.Module, kind: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            moments = m.encode(x.to(kind)).latent_dist.parameters
            return moments.float().numpy(), m.decode(z.to(kind)).sample.float().numpy()

    refs = run(module, torch.float32)

    @cache
    def own_errors(dtype: str) -> list[float]:
        rounded = run(in_dtype(module, dtype), TORCH_TYPES[dtype])
        return [error(a, b) for a, b in zip(rounded, refs, strict=True)]

    return {
        "component": TorchComponent(dict(module.config), module),
        "x": x.numpy(),
        "z": z.numpy(),
        "refs": refs,
        "own_errors": own_errors,
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", VAES)
def test_vae_is_diffusers(name: str, isa: str) -> None:
    case = _vae_case(name)
    for dtype in ("f32", "bf16"):
        vae = AutoencoderKL.from_component(case["component"], RunOptions(dtype=dtype, isa=isa))
        outs = vae.moments(case["x"]), vae.decode(case["z"])
        for out, ref, rounded in zip(outs, case["refs"], case["own_errors"]("bf16"), strict=True):
            allowed = NETWORK_F32 if dtype == "f32" else BF16_FACTOR * rounded
            assert error(out, ref) <= allowed, dtype


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_vae_does_not_overflow_where_float16_does(stored: torch.dtype) -> None:
    """SDXL's: what flows past its norms is beyond float16's 65504, and pictures come out black."""
    module = copy.deepcopy(_vae_case("three levels")["component"].module)
    with torch.no_grad():
        for half in (module.encoder, module.decoder):
            for parameter in half.conv_in.parameters():
                parameter.mul_(3e5).clamp_(-60000, 60000)  # what float16 can store
    module = module.to(stored).float()
    z = torch.from_numpy(_vae_case("three levels")["z"])
    with torch.no_grad():
        assert not copy.deepcopy(module).half().decode(z.half()).sample.isfinite().any()
        ref = module.decode(z).sample.numpy()
        rounded = in_bf16(module).decode(z.bfloat16()).sample.float().numpy()
    component = TorchComponent(dict(module.config), module.to(stored))
    for dtype, allowed in (("f32", NETWORK_F32), ("bf16", BF16_FACTOR * error(rounded, ref))):
        vae = AutoencoderKL.from_component(component, RunOptions(dtype=dtype))
        assert error(vae.decode(z.numpy()), ref) <= allowed, dtype
        assert np.isfinite(vae.encode(_vae_case("three levels")["x"])).all()


def test_vae_encode_gives_the_means() -> None:
    case = _vae_case("odd")
    vae = AutoencoderKL.from_component(case["component"], RunOptions(dtype="f32"))
    assert np.array_equal(vae.encode(case["x"]), vae.moments(case["x"])[:, :3])


@lru_cache
def _clip_case(act: str, projects: bool, eos: int) -> dict[str, Any]:
    torch.manual_seed(2)
    config = TorchCLIPConfig(
        hidden_size=60,
        intermediate_size=100,
        num_hidden_layers=4,
        num_attention_heads=3,
        vocab_size=500,
        hidden_act=act,
        projection_dim=44,
        eos_token_id=eos,
    )
    module = randomized((TorchProjection if projects else TorchCLIP)(config), 3)
    config.architectures = [type(module).__name__]
    ids = torch.randint(3, 499, (2, 77))
    ids[0, 5:], ids[1, 70:] = 498, 498  # the end, and padding by it
    ids[1, 30] = 499  # the highest id is not the end

    def run(m: torch.nn.Module) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        with torch.no_grad():
            out = m(ids, output_hidden_states=True)
        pooled = out.text_embeds if projects else out.pooler_output
        arrays = [state.float().numpy() for state in out.hidden_states]
        return arrays, out.last_hidden_state.float().numpy(), pooled.float().numpy()

    norm = (module.text_model if projects else module).final_layer_norm
    return {
        "component": TorchComponent(config.to_dict(), module),
        "ids": ids.numpy(),
        "ref": run(module),
        "rounded": cache(lambda dtype: run(in_dtype(module, dtype))),
        "norm": lambda x: norm(torch.from_numpy(x)).detach().numpy(),
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_clip_is_transformers(act: str, isa: str) -> None:
    case = _clip_case(act, True, 498)
    states, last, pooled = case["ref"]
    for dtype in ("f32", "bf16"):
        clip = CLIPTextModel.from_component(case["component"], RunOptions(dtype=dtype, isa=isa))
        out = clip.encode(case["ids"], skip=1, final_norm=False, pooled=True)
        rounded_states, rounded_last, rounded_pooled = case["rounded"]("bf16")
        pairs = [
            (clip(case["ids"]), last, rounded_last),
            (out.hidden_states, states[-2], rounded_states[-2]),
            (out.pooled, pooled, rounded_pooled),
        ]
        for ours, ref, rounded in pairs:
            allowed = NETWORK_F32 if dtype == "f32" else BF16_FACTOR * error(rounded, ref)
            assert error(ours, ref) <= allowed, dtype


def test_clip_skips_layers_and_norms_what_is_left() -> None:
    case = _clip_case("quick_gelu", False, 498)
    clip = CLIPTextModel.from_component(case["component"], RunOptions(dtype="f32"))
    states = case["ref"][0]
    for skip in range(4):
        bare = clip.encode(case["ids"], skip=skip, final_norm=False)
        normed = clip.encode(case["ids"], skip=skip)
        assert error(bare.hidden_states, states[-1 - skip]) <= NETWORK_F32
        assert error(normed.hidden_states, case["norm"](states[-1 - skip])) <= NETWORK_F32
        assert bare.pooled is None
    with pytest.raises(InvalidArgumentError, match=r"skip must be from 0 to 3.*4 layers, got 4"):
        clip.encode(case["ids"], skip=4)


@pytest.mark.parametrize("projects", [True, False])
@pytest.mark.parametrize("eos", [498, 2])
def test_clip_pools_where_transformers_does(eos: int, projects: bool) -> None:
    """At the first end token; where the config has the old wrong one, at the highest id."""
    case = _clip_case("gelu", projects, eos)
    clip = CLIPTextModel.from_component(case["component"], RunOptions(dtype="f32"))
    pooled = clip.encode(case["ids"], pooled=True).pooled
    assert pooled is not None and pooled.shape == (2, 44 if projects else 60)
    assert error(pooled, case["ref"][2]) <= NETWORK_F32
    end, highest = (498, 499) if eos == 498 else (499, 498)
    assert (case["ids"][1] == end).argmax() != (case["ids"][1] == highest).argmax()


def test_threads_and_batch_do_not_change_a_bit() -> None:
    case = _unet_case("odd")
    x, t, context = case["arguments"]
    for dtype in ("f32", "bf16"):
        one, two, three = (
            UNet2DConditionModel.from_component(
                case["component"], RunOptions(dtype=dtype, threads=threads)
            )
            for threads in (1, 2, 3)
        )
        out = one(x, t, context)
        assert np.array_equal(out, two(x, t, context))
        assert np.array_equal(out, three(x, t, context))
        for i in range(2):
            alone = two(x[i : i + 1], t[i], context[i : i + 1])
            assert np.array_equal(alone[0], out[i])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resnet_time_scale_shift", "scale_shift"),
        ("class_embed_type", "timestep"),
        ("down_block_types", ("AttnDownBlock2D", "DownBlock2D")),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("layers_per_block", [1, 2, 3]),
    ],
)
def test_unet_names_a_config_that_it_cannot_run(field: str, value: object) -> None:
    config = {**UNETS["odd"][0], field: value}
    with pytest.raises(UnsupportedModelError, match=field):
        UNet2DConditionModel.build(UNet2DConditionModel.read_config(config))


def test_networks_refuse_arrays_that_do_not_fit() -> None:
    case = _unet_case("odd")
    unet = UNet2DConditionModel.from_component(case["component"], RunOptions(dtype="f32"))
    x, t, context = case["arguments"]
    with pytest.raises(InvalidArgumentError, match=r"sample must be \[n, 4, height, width\]"):
        unet(x[:, :3], t, context)
    with pytest.raises(InvalidArgumentError, match="encoder_hidden_states"):
        unet(x, t, context[:1])
    with pytest.raises(InvalidArgumentError, match=r"linear\] x must have 30 channels"):
        unet(x, t, context[:, :, :8])
    with pytest.raises(InvalidArgumentError, match="no input 'text_embeds'"):
        unet(x, t, context, text_embeds=x)


# DESIGN's contract for quantized weights: times the error of running the weights dequantized.
QUANTIZED_FACTOR = 1.2


@lru_cache
def _quantized_unet(name: str, type_name: str) -> dict[str, Any]:
    """Linear layers hold what blocks of this type can; the convolutions stay floats."""
    config, (h, w) = UNETS[name]
    config = {**config, "block_out_channels": (32, 64, 96), "cross_attention_dim": 64}
    module = randomized(TorchUNet(**config), 5)
    blocks = {}
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if parameter.ndim == 2 and parameter.shape[1] % 32 == 0:
                blocks[key] = _core.quantize(parameter.numpy(), type_name)
                parameter.copy_(torch.from_numpy(blocks[key].to_float()))
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 4, h, w, generator=generator)
    context = torch.randn(2, 11, 64, generator=generator)
    with torch.no_grad():
        ref = module(x, 701, context).sample.numpy()
    return {
        "component": TorchComponent(dict(module.config), module),
        "blocks": blocks,
        "arguments": (x.numpy(), 701, context.numpy()),
        "ref": ref,
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_name", ["q8_0", "q4_0", "q4_1"])
def test_quantized_weights_cost_no_more_than_their_contract(type_name: str, isa: str) -> None:
    case = _quantized_unet("sd1", type_name)
    component, blocks = case["component"], case["blocks"]
    assert len(blocks) > 40
    plain = UNet2DConditionModel.from_component(component, RunOptions(dtype="bf16", isa=isa))
    quantized = plain.with_network(plain.network.with_weights(blocks))
    errors = [error(unet(*case["arguments"]), case["ref"]) for unet in (quantized, plain)]
    assert errors[0] <= QUANTIZED_FACTOR * errors[1]
    exact = UNet2DConditionModel.from_component(component, RunOptions(dtype="f32", isa=isa))
    exact = exact.with_network(exact.network.with_weights(blocks))
    assert error(exact(*case["arguments"]), case["ref"]) <= NETWORK_F32
