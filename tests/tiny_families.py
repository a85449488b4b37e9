"""Tiny random models of the families after SD 1: SD 2.x, SDXL and its refiner, with their real
topology, as diffusers' folders and in the original layout.

As in tiny_models, the original layout is made by walking modules, with no table of sdcore's.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import tiny_models
from tiny_models import PLAIN, REFINER, SDXL, State, vocabulary


@dataclass(frozen=True)
class Tower:
    """A text encoder: OpenCLIP's have an exact gelu, fused projections, and most of them pool."""

    width: int
    layers: int
    is_open_clip: bool
    pools: bool


@dataclass(frozen=True)
class FamilySpec:
    family: str
    pipeline: str
    unet: tuple[tuple[str, object], ...]
    towers: tuple[tuple[str, Tower, str], ...]  # folder, tower, prefix in an original file
    options: tuple[tuple[str, object], ...] = ()


def _unet(base: Mapping[str, object], **changes: object) -> tuple[tuple[str, object], ...]:
    return tuple((base | {"sample_size": 16, "norm_num_groups": 8} | changes).items())


# diffusers tells the two towers of a single file apart by their widths.
CLIP_L, BIG_G = Tower(64, 2, False, False), Tower(128, 2, True, True)
XL = _unet(
    SDXL,
    block_out_channels=(16, 32, 32),
    layers_per_block=1,
    transformer_layers_per_block=(1, 1, 2),
    attention_head_dim=(1, 2, 4),
    cross_attention_dim=64 + 128,
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=128 + 6 * 8,
)


def sd2(tower: Tower) -> FamilySpec:
    unet = _unet(
        {},
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=tower.width,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
    )
    towers = (("text_encoder", tower, "cond_stage_model.model."),)
    return FamilySpec("sd2", "StableDiffusionPipeline", unet, towers)


FAMILIES = (
    sd2(Tower(1024, 2, True, False)),  # the width of ViT-H is how a folder of it is known
    FamilySpec(
        "sdxl",
        "StableDiffusionXLPipeline",
        XL,
        (
            ("text_encoder", CLIP_L, "conditioner.embedders.0.transformer."),
            ("text_encoder_2", BIG_G, "conditioner.embedders.1.model."),
        ),
        (("force_zeros_for_empty_prompt", True),),
    ),
    FamilySpec(
        "sdxl-refiner",
        "StableDiffusionXLImg2ImgPipeline",
        _unet(
            REFINER,
            block_out_channels=(16, 32, 32, 32),
            layers_per_block=1,
            transformer_layers_per_block=2,
            attention_head_dim=(1, 2, 2, 2),
            cross_attention_dim=128,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=2560,  # by which it is known
        ),
        (("text_encoder_2", BIG_G, "conditioner.embedders.0.model."),),
        (("force_zeros_for_empty_prompt", False), ("requires_aesthetics_score", True)),
    ),
)


@lru_cache
def unet(spec: FamilySpec) -> UNet2DConditionModel:
    return tiny_models._random(11, lambda: UNet2DConditionModel(**dict(spec.unet)))


@lru_cache
def text_encoder(tower: Tower) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(vocabulary()),
        hidden_size=tower.width,
        intermediate_size=64,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.width // 64,
        projection_dim=tower.width,
        hidden_act="gelu" if tower.is_open_clip else "quick_gelu",
        bos_token_id=vocabulary()["<|startoftext|>"],
        eos_token_id=vocabulary()["<|endoftext|>"],
    )
    kind = CLIPTextModelWithProjection if tower.pools else CLIPTextModel
    return tiny_models._random(12, lambda: kind(config))


def save_folder(spec: FamilySpec, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    modules = {"unet": unet(spec), "vae": tiny_models.vae(PLAIN)}
    modules |= {name: text_encoder(tower) for name, tower, _ in spec.towers}
    index: dict[str, object] = {"_class_name": spec.pipeline, "_diffusers_version": "0.19.0"}
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    for name, module in modules.items():
        copy.deepcopy(module).to(dtype).save_pretrained(path / name)
        library = "diffusers" if name in ("unet", "vae") else "transformers"
        index[name] = [library, type(module).__name__]
        if library == "transformers":
            tokenizer = name.replace("text_encoder", "tokenizer")
            tiny_models.write_tokenizer(path / tokenizer)
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
    tiny_models.scheduler().save_pretrained(path / "scheduler")
    for name in (
        "text_encoder",
        "tokenizer",
        "safety_checker",
        "feature_extractor",
        "image_encoder",
    ):
        index.setdefault(name, [None, None])
    (path / "model_index.json").write_text(json.dumps(index | dict(spec.options)))
    return path


def original_state(spec: FamilySpec) -> State:
    """All weights under the names of the published single files."""
    state = tiny_models._under("model.diffusion_model.", tiny_models.original_unet(unet(spec)))
    state |= tiny_models._under(
        "first_stage_model.", tiny_models.original_vae(tiny_models.vae(PLAIN))
    )
    for _, tower, prefix in spec.towers:
        module = text_encoder(tower)
        weights = {key: value.detach() for key, value in module.state_dict().items()}
        if tower.is_open_clip:
            state |= tiny_models._under(prefix, _open_clip(weights))
        else:
            named = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in weights.items()}
            state |= tiny_models._under(prefix, named)
    return {key: value.contiguous() for key, value in state.items()}


def _open_clip(weights: State) -> State:
    plain = {key.removeprefix("text_model."): value for key, value in weights.items()}
    state: State = {
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "ln_final.weight": plain["final_layer_norm.weight"],
        "ln_final.bias": plain["final_layer_norm.bias"],
    }
    if "text_projection.weight" in plain:
        state["text_projection"] = plain["text_projection.weight"].T
    for n in range(sum(key.endswith("layer_norm1.bias") for key in plain)):
        old, new = f"transformer.resblocks.{n}", f"encoder.layers.{n}"
        for leaf in ("weight", "bias"):
            parts = [plain[f"{new}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            state[f"{old}.attn.in_proj_{leaf}"] = torch.cat(parts)
            state[f"{old}.attn.out_proj.{leaf}"] = plain[f"{new}.self_attn.out_proj.{leaf}"]
            state[f"{old}.ln_1.{leaf}"] = plain[f"{new}.layer_norm1.{leaf}"]
            state[f"{old}.ln_2.{leaf}"] = plain[f"{new}.layer_norm2.{leaf}"]
            state[f"{old}.mlp.c_fc.{leaf}"] = plain[f"{new}.mlp.fc1.{leaf}"]
            state[f"{old}.mlp.c_proj.{leaf}"] = plain[f"{new}.mlp.fc2.{leaf}"]
    return state
