"""Tiny random models of the later UNet families, as diffusers' pipelines and as single files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import tiny_models
from tiny_models import QuantType, State

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# Heads are 64 wide and groups 32, as in the real ones: no file says so.
UNET = {
    "sample_size": 16,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
}
VAE_CHANNELS = (32, 64)
OPEN_CLIP_PAD = "!"
POOLED = 1280


@lru_cache
def text_encoder(width: int, open_clip: bool, projection: int = 0) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=len(tiny_models.vocabulary()),
        hidden_size=width,
        intermediate_size=min(4 * width, 512),
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        projection_dim=projection or width,
        hidden_act="gelu" if open_clip else "quick_gelu",
        bos_token_id=len(tiny_models.vocabulary()) - 2,
        eos_token_id=len(tiny_models.vocabulary()) - 1,
    )
    make = CLIPTextModelWithProjection if projection else CLIPTextModel
    return tiny_models._random(300 + width + projection, lambda: make(config))


@lru_cache
def vae(**more: Any) -> AutoencoderKL:
    return tiny_models._random(
        400,
        lambda: AutoencoderKL(
            block_out_channels=VAE_CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            **{"scaling_factor": 0.13025, **more},
        ),
    )


def _unet(seed: int, **config: Any) -> UNet2DConditionModel:
    return tiny_models._random(seed, lambda: UNet2DConditionModel(**{**UNET, **config}))


def _size_conditions(pooled: int, ids: int) -> dict[str, Any]:
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": pooled + ids * 256,
    }


@lru_cache
def base_unet(in_channels: int = 4, **more: Any) -> UNet2DConditionModel:
    return _unet(
        500 + in_channels,
        in_channels=in_channels,
        **more,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=64 + 128,
        **_size_conditions(POOLED, 6),  # 2816 in all, by which SDXL is known
    )


@lru_cache
def refiner_unet() -> UNet2DConditionModel:
    return _unet(
        600,
        block_out_channels=(64, 128, 128),
        attention_head_dim=(1, 2, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=2,
        cross_attention_dim=128,
        **_size_conditions(POOLED, 5),  # 2560, the refiner
    )


@lru_cache
def sd2_unet(in_channels: int = 4, texts: int = 128) -> UNet2DConditionModel:
    return _unet(
        696 + in_channels,
        in_channels=in_channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=texts,
    )


def tokenizer(folder: Path, pad: str | None = None) -> CLIPTokenizer:
    made = tiny_models.tokenizer(folder)
    if pad is not None:
        made.pad_token = pad
    return made


def euler(**config: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        **{**BETAS, "timestep_spacing": "leading", "steps_offset": 1, **config}
    )


def xl(folder: Path, scheduler: Any = None, **vae_config: Any) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        unet=base_unet(),
        vae=vae(**vae_config),
        text_encoder=text_encoder(64, False),
        text_encoder_2=text_encoder(128, True, POOLED),
        tokenizer=tokenizer(folder / "a"),
        tokenizer_2=tokenizer(folder / "b", OPEN_CLIP_PAD),
        scheduler=scheduler or euler(),
        add_watermarker=False,
    )


def xl_inpaint(folder: Path) -> StableDiffusionXLInpaintPipeline:
    parts = xl(folder).components | {"unet": base_unet(9)}
    return StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)


PLAYGROUND_LATENTS = {
    "latents_mean": (-1.6574, 1.886, -1.383, 2.5155),
    "latents_std": (8.4927, 5.9022, 6.5498, 5.2299),
}


def playground(folder: Path) -> StableDiffusionXLPipeline:
    edm = EDMDPMSolverMultistepScheduler()  # the published config is the class's defaults
    return xl(folder, edm, **PLAYGROUND_LATENTS, scaling_factor=0.5)


def refiner(folder: Path) -> StableDiffusionXLImg2ImgPipeline:
    return StableDiffusionXLImg2ImgPipeline(
        unet=refiner_unet(),
        vae=vae(),
        text_encoder=None,
        text_encoder_2=text_encoder(128, True, POOLED),
        tokenizer=None,
        tokenizer_2=tokenizer(folder / "b", OPEN_CLIP_PAD),
        scheduler=euler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def sd2(folder: Path) -> StableDiffusionPipeline:
    """The 768 model: it predicts v."""
    return StableDiffusionPipeline(
        unet=sd2_unet(),
        vae=vae(),
        text_encoder=text_encoder(128, True),
        tokenizer=tokenizer(folder / "b", OPEN_CLIP_PAD),
        scheduler=DDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lcm(folder: Path) -> LatentConsistencyModelPipeline:
    return LatentConsistencyModelPipeline(
        unet=_unet(
            800,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=64,
            time_cond_proj_dim=32,
        ),
        vae=vae(),
        text_encoder=text_encoder(64, False),
        tokenizer=tokenizer(folder / "a"),
        scheduler=LCMScheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def xl_lcm(folder: Path) -> StableDiffusionXLPipeline:
    parts = xl(folder, LCMScheduler(**BETAS)).components
    return StableDiffusionXLPipeline(
        **{**parts, "unet": base_unet(time_cond_proj_dim=32)}, add_watermarker=False
    )


def open_clip_layers(tower: torch.nn.Module, at: str) -> State:
    """A text's or an image's, as OpenCLIP stores them: q, k and v in one."""
    state: State = {}
    for n, layer in enumerate(tower.encoder.layers):
        block, attention = f"{at}.resblocks.{n}", layer.self_attn
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        state[f"{block}.attn.in_proj_weight"] = torch.cat([proj.weight for proj in qkv])
        state[f"{block}.attn.in_proj_bias"] = torch.cat([proj.bias for proj in qkv])
        for name, module in (
            ("ln_1", layer.layer_norm1),
            ("ln_2", layer.layer_norm2),
            ("attn.out_proj", attention.out_proj),
            ("mlp.c_fc", layer.mlp.fc1),
            ("mlp.c_proj", layer.mlp.fc2),
        ):
            state |= tiny_models._leaves(f"{block}.{name}", module)
    return state


def open_clip_state(net: torch.nn.Module) -> State:
    """As OpenCLIP stores it: q, k and v in one, the projection the other way round."""
    tower = getattr(net, "text_model", net)
    state = {
        "token_embedding.weight": tower.embeddings.token_embedding.weight,
        "positional_embedding": tower.embeddings.position_embedding.weight,
        "ln_final.weight": tower.final_layer_norm.weight,
        "ln_final.bias": tower.final_layer_norm.bias,
        "logit_scale": torch.tensor(4.6),
    }
    if hasattr(net, "text_projection"):
        state["text_projection"] = net.text_projection.weight.T
    state |= open_clip_layers(tower, "transformer")
    return {name: value.detach() for name, value in state.items()}


def original_state(pipe: Any) -> State:
    """All weights of a pipeline under the names of Stability's single files."""
    under = tiny_models._under
    encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
    if isinstance(pipe, StableDiffusionPipeline):
        texts = under("cond_stage_model.model.", open_clip_state(encoders[0]))
    elif encoders[0] is None:
        texts = under("conditioner.embedders.0.model.", open_clip_state(encoders[1]))
    else:
        first = {
            tiny_models._clip_key(key, True): value
            for key, value in encoders[0].state_dict().items()
        }
        texts = {
            **under("conditioner.embedders.0.transformer.", first),
            **under("conditioner.embedders.1.model.", open_clip_state(encoders[1])),
        }
    return {
        **under("model.diffusion_model.", tiny_models.original_unet(pipe.unet)),
        **under("first_stage_model.", tiny_models.original_vae(pipe.vae)),
        **texts,
    }


def save_original(pipe: Any, path: Path, extras: State | None = None, **metadata: str) -> Path:
    state = original_state(pipe) | (extras or {})
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    return path


def save_gguf(pipe: Any, path: Path, type: QuantType) -> State:
    """As stable-diffusion.cpp converts, with no metadata; what its tensors hold is returned."""
    stored = {
        name: tiny_models._stored(name, value.numpy(), type)
        for name, value in original_state(pipe).items()
        if value.ndim
    }
    tiny_models.write_gguf(path, stored)
    return {
        name: torch.from_numpy(gguf.quants.dequantize(*data).copy())
        for name, data in stored.items()
    }


def save_comfy_gguf(unet: UNet2DConditionModel, path: Path, type: QuantType) -> None:
    """As ComfyUI-GGUF converts: the UNet alone without a prefix, convolutions as rows of 256 or
    as many as divide, their shape in the metadata."""
    writer = gguf.GGUFWriter(path, "sdxl")
    for name, value in tiny_models.original_unet(unet).items():
        array, row = value.detach().numpy(), value.shape[-1]
        if value.ndim == 4 and value.numel() % 32 == 0:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(value.shape))
            array = array.reshape(-1, row := 32)
        kept = type if value.ndim > 1 and row % 32 == 0 else QuantType.F32
        data = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), kept)
        writer.add_tensor(name, data, raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
