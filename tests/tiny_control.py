"""Tiny random ControlNets of the tiny UNets, as diffusers' modules and in lllyasviel's names.

As in tiny_models, the original names are made by walking modules, with no table of sdcore's.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from PIL import Image

import tiny_models
from reference.common import randomized
from tiny_models import State

# What the picture is brought down by has to be what the tiny VAEs bring it down by.
EMBEDDING = (8, 12)


def random_control(seed: int, kind: Any = ControlNetModel, **config: Any) -> Any:
    """What is made of zeros to begin with is random too, or it would add nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = kind(**config)
        zeros = [p for p in made.parameters() if p.ndim > 1 and not p.abs().any()]
        assert len(zeros) >= len(made.controlnet_down_blocks) + 2
        with torch.no_grad():
            for parameter in zeros:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return randomized(made, seed)


def controlnet(unet: UNet2DConditionModel, seed: int = 900, **changes: Any) -> ControlNetModel:
    """One for this UNet."""
    like = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=EMBEDDING, load_weights_from_unet=False
    )
    config = {key: value for key, value in like.config.items() if not key.startswith("_")}
    return random_control(seed, **config | changes)


def union(unet: UNet2DConditionModel, seed: int = 950) -> ControlNetUnionModel:
    """One for several kinds of pictures."""
    taken = inspect.signature(ControlNetUnionModel.__init__).parameters
    config = {key: value for key, value in unet.config.items() if key in taken}
    width = unet.config.block_out_channels[0]
    config |= {"num_trans_channel": width, "num_proj_channel": width, "num_trans_layer": 2}
    config |= {"conditioning_embedding_out_channels": EMBEDDING}
    return random_control(seed, ControlNetUnionModel, **config)


def picture(seed: int = 3, width: int = 30, height: int = 40) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def original_state(net: ControlNetModel) -> State:
    """lllyasviel's names, without a prefix."""
    leaves, state = tiny_models._leaves, {}
    state |= leaves("time_embed.0", net.time_embedding.linear_1)
    state |= leaves("time_embed.2", net.time_embedding.linear_2)
    if getattr(net, "add_embedding", None) is not None:  # SDXL
        state |= leaves("label_emb.0.0", net.add_embedding.linear_1)
        state |= leaves("label_emb.0.2", net.add_embedding.linear_2)
    state |= leaves("input_blocks.0.0", net.conv_in)
    i = 1
    for level in net.down_blocks:
        for parts in tiny_models._layers(level):
            for j, part in enumerate(parts):
                state |= tiny_models._original_part(f"input_blocks.{i}.{j}", part)
            i += 1
        if level.downsamplers:
            state |= leaves(f"input_blocks.{i}.0.op", level.downsamplers[0].conv)
            i += 1
    middle = [net.mid_block.resnets[0], net.mid_block.attentions[0], net.mid_block.resnets[1]]
    for j, part in enumerate(middle):
        state |= tiny_models._original_part(f"middle_block.{j}", part)
    embedding = net.controlnet_cond_embedding
    for j, conv in enumerate([embedding.conv_in, *embedding.blocks, embedding.conv_out]):
        state |= leaves(f"input_hint_block.{2 * j}", conv)
    for j, conv in enumerate(net.controlnet_down_blocks):
        state |= leaves(f"zero_convs.{j}.0", conv)
    return state | leaves("middle_block_out.0", net.controlnet_mid_block)
