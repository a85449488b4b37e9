"""Tiny random T2I-Adapters, and models with as many levels as those that they are made for, whose
VAEs make 8 pixels one latent: in the original names nothing else says how pixels become channels.

The original names are made by walking modules, with no table of sdcore's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, T2IAdapter, UNet2DConditionModel

import tiny_models
import tiny_xl
from reference.common import randomized
from tiny_models import State

SD1 = replace(tiny_models.ODD, layers=1, vae_channels=(8, 8, 8, 16), vae_layers=1, text_layers=2)
_XL_CHANNELS = (64, 128, 128)
_XL_LEVELS = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")


@lru_cache
def adapter(kind: str, seed: int = 700, in_channels: int = 3) -> T2IAdapter:
    """As wide as the UNets below."""
    config: dict[str, Any] = {
        "full_adapter": {"channels": list(SD1.channels), "downscale_factor": 8},
        "light_adapter": {
            "channels": list(SD1.channels[:3]), "num_res_blocks": 3, "downscale_factor": 8
        },
        "full_adapter_xl": {"channels": [*_XL_CHANNELS, 128], "downscale_factor": 16},
    }[kind]  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = T2IAdapter(adapter_type=kind, in_channels=in_channels, **config)
    return randomized(made, seed)


def sd1_pipeline(folder: Path) -> Any:
    pipe = tiny_models.pipeline(SD1, folder)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


@lru_cache
def _xl_unet() -> UNet2DConditionModel:
    config = dict(tiny_xl.base_unet().config)
    config |= {
        "block_out_channels": _XL_CHANNELS,
        "attention_head_dim": (1, 2, 2),
        "down_block_types": _XL_LEVELS,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
    }
    return tiny_models._random(710, lambda: UNet2DConditionModel.from_config(config))


@lru_cache
def _xl_vae() -> AutoencoderKL:
    return tiny_models._random(
        711,
        lambda: AutoencoderKL(
            block_out_channels=(8, 8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
            scaling_factor=0.13025,
        ),
    )


def xl_pipeline(folder: Path) -> Any:
    pipe = tiny_xl.xl(folder)
    return type(pipe)(
        **pipe.components | {"unet": _xl_unet(), "vae": _xl_vae()}, add_watermarker=False
    )


def original_state(net: T2IAdapter) -> State:
    """TencentARC's names: blocks of a full adapter in one row."""
    leaves, state, own = tiny_models._leaves, {}, net.adapter
    if not hasattr(own, "conv_in"):  # light
        for i, block in enumerate(own.body):
            state |= leaves(f"body.{i}.in_conv", block.in_conv)
            state |= leaves(f"body.{i}.out_conv", block.out_conv)
            for k, resnet in enumerate(block.resnets):
                state |= leaves(f"body.{i}.body.{k}.block1", resnet.block1)
                state |= leaves(f"body.{i}.body.{k}.block2", resnet.block2)
        return state
    state |= leaves("conv_in", own.conv_in)
    i = 0
    for block in own.body:
        if block.in_conv is not None:
            state |= leaves(f"body.{i}.in_conv", block.in_conv)
        for resnet in block.resnets:
            state |= leaves(f"body.{i}.block1", resnet.block1)
            state |= leaves(f"body.{i}.block2", resnet.block2)
            i += 1
    return state
