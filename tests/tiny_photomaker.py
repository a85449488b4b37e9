"""Tiny random PhotoMakers: the networks of TencentARC/PhotoMaker (photomaker/model.py, model_v2.py,
resampler.py) in PyTorch, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import tiny_xl
from reference.common import randomized
from tiny_models import State

SIDE = 42  # pixels
WIDTHS = (64, 128)  # of tiny_xl's text encoders
BOTH = sum(WIDTHS)
FACE = 40
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 1,
    "num_hidden_layers": 2,
    "image_size": SIDE,
    "patch_size": 14,
    "projection_dim": WIDTHS[0],
}


class MLP(nn.Module):
    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int, use_residual: bool) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(in_dim)
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)
        self.use_residual = use_residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.fc2(nn.functional.gelu(self.fc1(self.layernorm(x))))
        return out + x if self.use_residual else out


class FuseModule(nn.Module):
    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.mlp1 = MLP(embed_dim * 2, embed_dim, embed_dim, use_residual=False)
        self.mlp2 = MLP(embed_dim, embed_dim, embed_dim, use_residual=True)
        self.layer_norm = nn.LayerNorm(embed_dim)

    def fuse_fn(self, prompt_embeds: torch.Tensor, id_embeds: torch.Tensor) -> torch.Tensor:
        stacked = self.mlp1(torch.cat([prompt_embeds, id_embeds], dim=-1)) + prompt_embeds
        return self.layer_norm(self.mlp2(stacked))

    def forward(
        self, prompt_embeds: torch.Tensor, id_embeds: torch.Tensor, class_tokens_mask: torch.Tensor
    ) -> torch.Tensor:
        """Of one prompt [1, 77, c]; `id_embeds` [1, pictures, tokens, c]."""
        out = prompt_embeds.clone()
        out[class_tokens_mask] = self.fuse_fn(
            prompt_embeds[class_tokens_mask], id_embeds.reshape(-1, id_embeds.shape[-1])
        )
        return out


class PerceiverAttention(nn.Module):
    def __init__(self, dim: int, dim_head: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, dim_head * heads * 2, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)

    def forward(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        q = self.to_q(latents)
        k, v = self.to_kv(torch.cat((x, latents), dim=-2)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.to_out(out.transpose(1, 2).flatten(2))


class FacePerceiverResampler(nn.Module):
    def __init__(self, dim: int, depth: int, dim_head: int, heads: int, embedding_dim: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.proj_out = nn.Linear(dim, dim)
        self.norm_out = nn.LayerNorm(dim)
        feed_forward = (
            nn.Sequential(
                nn.LayerNorm(dim),
                nn.Linear(dim, 4 * dim, bias=False),
                nn.GELU(),
                nn.Linear(4 * dim, dim, bias=False),
            )
            for _ in range(depth)
        )
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, dim_head, heads), ff]) for ff in feed_forward
        )

    def forward(self, latents: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = self.proj_in(x)
        for attention, feed_forward in self.layers:
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


class QFormerPerceiver(nn.Module):
    def __init__(
        self,
        id_embeddings_dim: int,
        cross_attention_dim: int,
        num_tokens: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.shape = (-1, num_tokens, cross_attention_dim)
        self.token_proj = nn.Sequential(
            nn.Linear(id_embeddings_dim, id_embeddings_dim * 4),
            nn.GELU(),
            nn.Linear(id_embeddings_dim * 4, cross_attention_dim * num_tokens),
        )
        self.token_norm = nn.LayerNorm(cross_attention_dim)
        self.perceiver_resampler = FacePerceiverResampler(
            cross_attention_dim, 4, 128, cross_attention_dim // 128, embedding_dim
        )

    def forward(self, x: torch.Tensor, last_hidden_state: torch.Tensor) -> torch.Tensor:
        x = self.token_norm(self.token_proj(x).reshape(self.shape))
        return x + self.perceiver_resampler(x, last_hidden_state)


class PhotoMakerIDEncoder(CLIPVisionModelWithProjection):
    """Version 1, and version 2's PhotoMakerIDEncoder_CLIPInsightfaceExtendtoken."""

    def __init__(
        self,
        version: int,
        vision: Mapping[str, int] = MappingProxyType(VISION),
        widths: tuple[int, int] = WIDTHS,
        face: int = FACE,
    ) -> None:
        super().__init__(CLIPVisionConfig(**vision))
        width = vision["hidden_size"]
        self.visual_projection_2 = nn.Linear(width, widths[1], bias=False)
        self.fuse_module = FuseModule(sum(widths))
        self.num_tokens = version
        if version == 2:
            self.qformer_perceiver = QFormerPerceiver(face, sum(widths), self.num_tokens, width)

    def id_tokens(
        self, id_pixel_values: torch.Tensor, id_embeds: torch.Tensor | None
    ) -> torch.Tensor:
        """[pictures, tokens, c]"""
        out = self.vision_model(id_pixel_values)
        if id_embeds is not None:
            return self.qformer_perceiver(id_embeds, out.last_hidden_state)
        pooled = out.pooler_output
        both = (self.visual_projection(pooled), self.visual_projection_2(pooled))
        return torch.cat(both, dim=-1)[:, None]

    def forward(
        self,
        id_pixel_values: torch.Tensor,
        prompt_embeds: torch.Tensor,
        class_tokens_mask: torch.Tensor,
        id_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        tokens = self.id_tokens(id_pixel_values, id_embeds)
        return self.fuse_module(prompt_embeds, tokens[None], class_tokens_mask)


@lru_cache
def id_encoder(version: int) -> PhotoMakerIDEncoder:
    """Of weights large enough that each picture says something of its own."""
    torch.manual_seed(700 + version)
    module = randomized(PhotoMakerIDEncoder(version), 710 + version)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(1.5 * torch.randn(parameter.shape) / fan_in**0.5)
        module.fuse_module.layer_norm.weight *= 20
    return module


@lru_cache
def lora_weights() -> State:
    """Of all attentions, as diffusers saved LoRAs when PhotoMaker was trained."""
    random, state = torch.Generator().manual_seed(720), {}
    for name, module in tiny_xl.base_unet().named_modules():
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")):
            rows, columns = module.weight.shape
            down = torch.randn(3, columns, generator=random) / columns**0.5
            state[f"unet.{name}.lora.down.weight"] = down
            state[f"unet.{name}.lora.up.weight"] = 0.2 * torch.randn(rows, 3, generator=random)
    return state


def flat(version: int, before: str = "", encoder: str = "id_encoder.") -> State:
    state = {encoder + name: value for name, value in id_encoder(version).state_dict().items()}
    state |= {f"lora_weights.{name}": value for name, value in lora_weights().items()}
    return {before + name: value for name, value in state.items()}


def save(version: int, path: Path, **names: Any) -> Path:
    """`names` are `flat`'s, for .safetensors."""
    if path.suffix == ".bin":
        parts = {"id_encoder": id_encoder(version).state_dict(), "lora_weights": lora_weights()}
        torch.save(parts, path)
    else:
        state = flat(version, **names)
        save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    return path
