"""What drawing a picture takes in memory and work, from the graphs alone: nothing is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError
from sdcore.models.base import RunOptions
from sdcore.models.clip import CLIPTextModel, build_clip
from sdcore.models.unet import UNet2DConditionModel, build_unet
from sdcore.models.vae import AutoencoderKL, build_decoder

if TYPE_CHECKING:
    from sdcore import _core
    from sdcore.checkpoint import Checkpoint

__all__ = ["plan"]

Shapes = dict[str, list[int]]
_GUIDED = 2  # classifier-free guidance runs the prompt and the negative one as one batch


def plan(opened: Checkpoint, width: int, height: int, dtype: str) -> dict[str, Any]:
    """The arena, the multiply-adds (as two operations each) and the ops of every network."""
    clip = CLIPTextModel.read_config(opened.component("text_encoder").config)
    unet = UNet2DConditionModel.read_config(opened.component("unet").config)
    vae = AutoencoderKL.read_config(opened.component("vae").config)
    factor = 2 ** (len(vae.block_out_channels) - 1)
    if width % factor or height % factor or min(width, height) < factor:
        raise InvalidArgumentError(
            f"[plan] width and height must be multiples of {factor}, got {width}x{height}"
        )
    w, h, tokens = width // factor, height // factor, clip.max_position_embeddings
    text = [_GUIDED, tokens, clip.hidden_size]
    networks: dict[str, tuple[_core.Graph, Shapes]] = {
        "text_encoder": (build_clip(clip), {"input_ids": text[:2]}),
        "unet": (
            build_unet(unet),
            {
                "sample": [_GUIDED, h, w, unet.in_channels],
                "timestep": [_GUIDED],
                "encoder_hidden_states": text,
            },
        ),
        "vae decoder": (build_decoder(vae), {"latents": [1, h, w, vae.latent_channels]}),
    }
    resolved = RunOptions(dtype=dtype).resolved_dtype()
    planned = {
        name: _planned(graph, shapes, resolved) for name, (graph, shapes) in networks.items()
    }
    return {
        "width": width,
        "height": height,
        "dtype": resolved,
        "networks": planned,
        # The pipeline runs one network after the other, and each keeps its arena.
        "arena_bytes": max(part["arena_bytes"] for part in planned.values()),
    }


def _planned(graph: _core.Graph, shapes: Shapes, dtype: str) -> dict[str, Any]:
    made = graph.plan(shapes, dtype)
    return {
        "batch": next(iter(shapes.values()))[0],
        "arena_bytes": made["arena_bytes"],
        "flops": made["flops"],
        "ops": made["steps"],
    }
