"""Tiny random image encoders and IP-Adapters, in the forms in which real ones are found."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import tiny_models
import tiny_xl
from tiny_models import State

PROJECTION = 48
SIDE = 42  # pixels


@lru_cache
def image_encoder(
    width: int = 64, layers: int = 2, projection: int = PROJECTION
) -> CLIPVisionModelWithProjection:
    """As OpenAI's are: quick_gelu and heads of 64; from 1280 channels on as ViT-H is."""
    large = width > 1024
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=96,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=16 if large else width // 64,
        image_size=SIDE,
        patch_size=14,
        hidden_act="gelu" if large else "quick_gelu",
    )
    return tiny_models._random(900 + width, lambda: CLIPVisionModelWithProjection(config))


def open_clip_vision(net: CLIPVisionModelWithProjection) -> State:
    """As OpenCLIP stores it: q, k and v in one, the projection the other way round."""
    tower = net.vision_model
    state = {
        "visual.class_embedding": tower.embeddings.class_embedding,
        "visual.positional_embedding": tower.embeddings.position_embedding.weight,
        "visual.proj": net.visual_projection.weight.T,
        **tiny_models._leaves("visual.conv1", tower.embeddings.patch_embedding),
        **tiny_models._leaves("visual.ln_pre", tower.pre_layrnorm),
        **tiny_models._leaves("visual.ln_post", tower.post_layernorm),
    }
    state |= tiny_xl.open_clip_layers(tower, "visual.transformer")
    return {name: value.detach() for name, value in state.items()}


# ---- adapters ------------------------------------------------------------------------------------

TOKENS = 4


def adapter(unet: UNet2DConditionModel, kind: str, seed: int = 0, reads: int = PROJECTION) -> State:
    """An adapter's tensors under the names of its files, of a kind of image projection. Attentions
    count as diffusers counts processors: those to the text are the odd ones."""
    random = torch.Generator().manual_seed(950 + seed)
    channels = unet.config.cross_attention_dim

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random) / shape[-1] ** 0.5

    sizes = PROJECTIONS[kind](reads, channels)
    state = {f"image_proj.{name}": tensor(*shape) for name, shape in sizes.items()}
    for name in state:
        if name.endswith("norm.weight") or (".norm" in name and name.endswith(".weight")):
            state[name] += 1
    for i, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            width = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
            for side in "kv":
                state[f"ip_adapter.{i}.to_{side}_ip.weight"] = 2 * tensor(width, channels)
    return state


def _linear(reads: int, channels: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.weight": (TOKENS * channels, reads),
        "proj.bias": (TOKENS * channels,),
        "norm.weight": (channels,),
        "norm.bias": (channels,),
    }


def _full(reads: int, channels: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.0.weight": (reads, reads),
        "proj.0.bias": (reads,),
        "proj.2.weight": (channels, reads),
        "proj.2.bias": (channels,),
        "proj.3.weight": (channels,),
        "proj.3.bias": (channels,),
    }


def _face_id(reads: int, channels: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.0.weight": (2 * reads, reads),
        "proj.0.bias": (2 * reads,),
        "proj.2.weight": (TOKENS * channels, 2 * reads),
        "proj.2.bias": (TOKENS * channels,),
        "norm.weight": (channels,),
        "norm.bias": (channels,),
    }


def _plus(reads: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Of 2 heads and, as all that are published, 4 blocks."""
    width, queries = 96, 5
    outer: dict[str, tuple[int, ...]] = {
        "latents": (1, queries, width),
        "proj_in.weight": (width, reads),
        "proj_in.bias": (width,),
        "proj_out.weight": (channels, width),
        "proj_out.bias": (channels,),
        "norm_out.weight": (channels,),
        "norm_out.bias": (channels,),
    }
    for i in range(4):
        inner = {
            "0.norm1.weight": (width,),
            "0.norm1.bias": (width,),
            "0.norm2.weight": (width,),
            "0.norm2.bias": (width,),
            "0.to_q.weight": (128, width),
            "0.to_kv.weight": (256, width),
            "0.to_out.weight": (width, 128),
            "1.0.weight": (width,),
            "1.0.bias": (width,),
            "1.1.weight": (4 * width, width),
            "1.3.weight": (width, 4 * width),
        }
        outer |= {f"layers.{i}.{name}": shape for name, shape in inner.items()}
    return outer


PROJECTIONS = {"classic": _linear, "full": _full, "face": _face_id, "plus": _plus}


def nested(state: State) -> dict[str, State]:
    """As .bin files have it, and as diffusers takes it."""
    parts: dict[str, State] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    return parts


def save(state: State, path: Path) -> Path:
    if path.suffix == ".bin":
        torch.save(nested(state), path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def with_face_lora(state: State, unet: UNet2DConditionModel) -> State:
    """FaceID's LoRA, of all attentions."""
    random = torch.Generator().manual_seed(960)
    more = {}
    for i, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        linears = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v}
        for leaf, linear in (linears | {"out": attention.to_out[0]}).items():
            rows, columns = linear.weight.shape
            key = f"ip_adapter.{i}.to_{leaf}_lora"
            more[f"{key}.down.weight"] = torch.randn(3, columns, generator=random) / columns**0.5
            more[f"{key}.up.weight"] = 0.2 * torch.randn(rows, 3, generator=random)
    return state | more
