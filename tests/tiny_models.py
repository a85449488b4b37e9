"""Tiny random Stable Diffusion 1 models, saved in every form in which real ones are found.

Networks are diffusers' and transformers' own, with few channels and fixed seeds. The original
layout is made by walking their modules, with no table of sdcore's, so it can test those tables.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gguf
import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Spec:
    """Shapes of a tiny model. As in SD 1, heads are 8 in the UNet, 64 wide in the text encoder."""

    name: str
    channels: tuple[int, ...]
    layers: int
    attends: tuple[bool, ...]
    context: int
    groups: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    text_layers: int
    seed: int
    unet_inputs: int = 4  # 9 for inpainting, 8 for editing


PLAIN = Spec("plain", (32, 64), 1, (True, False), 64, 32, (32, 64), 1, 2, seed=1)
# Odd in all that the format leaves open: head size 5, four levels, groups that are not 32.
ODD = Spec(
    "odd", (40, 80, 80, 80), 2, (True, True, True, False), 128, 8, (24, 48, 48), 2, 3, seed=2
)
SINGLE = Spec("single", (64,), 3, (True,), 64, 32, (32,), 2, 1, seed=3)  # one resolution only
SPECS = (PLAIN, ODD, SINGLE)


# ---- networks ------------------------------------------------------------------------------------


@lru_cache
def unet(spec: Spec) -> UNet2DConditionModel:
    kinds = [("CrossAttn" if attends else "", attends) for attends in spec.attends]
    return _random(
        spec.seed,
        lambda: UNet2DConditionModel(
            sample_size=16,
            in_channels=spec.unet_inputs,
            block_out_channels=spec.channels,
            layers_per_block=spec.layers,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind, _ in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind, _ in reversed(kinds)),
            cross_attention_dim=spec.context,
            attention_head_dim=8,
            norm_num_groups=spec.groups,
        ),
    )


@lru_cache
def vae(spec: Spec) -> AutoencoderKL:
    levels = len(spec.vae_channels)
    return _random(
        spec.seed + 100,
        lambda: AutoencoderKL(
            block_out_channels=spec.vae_channels,
            layers_per_block=spec.vae_layers,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=spec.groups,
            sample_size=16 * 2 ** (levels - 1),
        ),
    )


@lru_cache
def text_encoder(spec: Spec) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(vocabulary()),
        hidden_size=spec.context,
        intermediate_size=4 * spec.context,
        num_hidden_layers=spec.text_layers,
        num_attention_heads=spec.context // 64,
        projection_dim=spec.context,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary()["<|startoftext|>"],
        # As in the published configs, wrong as it is: transformers knows this value and takes the
        # highest id for the end.
        eos_token_id=2,
    )
    return _random(spec.seed + 200, lambda: CLIPTextModel(config))


def scheduler() -> PNDMScheduler:
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def pipeline(spec: Spec, tokenizer_folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=unet(spec),
        vae=vae(spec),
        text_encoder=text_encoder(spec),
        tokenizer=tokenizer(tokenizer_folder),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _random(seed: int, make):
    """Every parameter random, norms too: their initial ones and zeros would hide a mistake."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim == 1:
                    offset = 1.0 if name.endswith("weight") else 0.0
                    parameter.copy_(offset + 0.1 * torch.randn_like(parameter))
    return module


# ---- published UNets, without their data ---------------------------------------------------------

SD15 = {"cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = SDXL | {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
# Distilled ones, of fewer layers and without all or a part of the middle.
_THREE_LEVELS = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 1,
    "mid_block_type": None,
}
BK_SDM_TINY = SD15 | _THREE_LEVELS
SDXS = _THREE_LEVELS | {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20),
    "only_cross_attention": (True, False, False),
    "use_linear_projection": True,
}
SSD_1B = SDXL | {
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [1, 2, 4],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}
KOALA = SDXL | {
    "layers_per_block": 1,
    "mid_block_type": None,
    "transformer_layers_per_block": (0, 2, 5),
}
SD2 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}


def on_meta(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


# ---- tokenizer -----------------------------------------------------------------------------------

MERGES = (
    "t h", "th e</w>", "i n", "r e", "e d</w>", "re d</w>", "c a", "ca t</w>", "d o", "do g</w>",
    "o f</w>", "a n", "an d</w>", "in g</w>", "c i", "ci r", "cir c", "circ l", "circl e</w>",
)  # fmt: skip


def vocabulary() -> dict[str, int]:
    """CLIP's order: bytes, bytes that end a word, merges, and the specials last."""
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in MERGES)]
    return {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", "utf-8")
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    specials |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | specials))
    return folder


def tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(write_tokenizer(folder))


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


# ---- diffusers folders ---------------------------------------------------------------------------


def save_folder(
    spec: Spec,
    path: Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    shard_size: str | None = None,
    old_vae_names: bool = False,
    text_model_prefix: bool = True,
) -> Path:
    """A whole pipeline. `variant` and `shard_size` are save_pretrained's; old VAE names are those
    of before 2023; without `text_model_prefix` CLIP's keys are as transformers 5 writes them."""
    pipe = pipeline(spec, path / "tokenizer")
    options = {"variant": variant} | ({"max_shard_size": shard_size} if shard_size else {})
    for name in ("unet", "vae", "text_encoder"):
        module = getattr(pipe, name)
        if dtype != torch.float32:
            module = copy.deepcopy(module).to(dtype)
        module.save_pretrained(path / name, **options)
    pipe.scheduler.save_pretrained(path / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (path / "model_index.json").write_text(json.dumps(index, indent=2))
    _rename_keys(path / "text_encoder", lambda key: _clip_key(key, text_model_prefix))
    if old_vae_names:
        _rename_keys(path / "vae", _old_vae_key)
    return path


def _clip_key(key: str, prefix: bool) -> str:
    return "text_model." * prefix + key.removeprefix("text_model.")


def _old_vae_key(key: str) -> str:
    for new, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return key


def _rename_keys(folder: Path, rename) -> None:
    for path in folder.glob("*.safetensors"):
        save_file({rename(key): t for key, t in load_file(path).items()}, path, {"format": "pt"})
    for path in folder.glob("*.index*.json"):
        index = json.loads(path.read_text())
        index["weight_map"] = {rename(key): file for key, file in index["weight_map"].items()}
        path.write_text(json.dumps(index))


# ---- the original single-file layout -------------------------------------------------------------


def original_state(spec: Spec, *, text_model_prefix: bool = True) -> State:
    """All weights under CompVis' names, SD 1.x as it was published."""
    clip = {
        _clip_key(key, text_model_prefix): value
        for key, value in text_encoder(spec).state_dict().items()
        if not key.endswith("position_ids")
    }
    return {
        **_under("model.diffusion_model.", original_unet(unet(spec))),
        **_under("first_stage_model.", original_vae(vae(spec))),
        **_under("cond_stage_model.transformer.", clip),
    }


def leftovers(spec: Spec) -> State:
    """What real files hold besides: schedule buffers, position ids (float in merges), EMA."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    ema = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value.clone()
        for key, value in original_state(spec).items()
        if key.startswith("model.diffusion_model.")
    }
    return {
        "betas": betas.float(),
        "alphas_cumprod": torch.cumprod(1 - betas, 0).float(),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(
            77, dtype=torch.float32
        )[None],
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        **ema,
    }


def save_original(
    spec: Spec,
    path: Path,
    dtype: torch.dtype = torch.float32,
    *,
    text_model_prefix: bool = True,
    extras: State | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    state = original_state(spec, text_model_prefix=text_model_prefix)
    state = {key: value.to(dtype).contiguous() for key, value in state.items()} | (extras or {})
    save_file(state, path, metadata)
    return path


def config_metadata(spec: Spec) -> dict[str, str]:
    """What no shape shows, said in the file as sdcore writes it."""
    return {
        "sdcore.config.unet": unet(spec).to_json_string(),
        "sdcore.config.vae": vae(spec).to_json_string(),
        "sdcore.config.text_encoder": text_encoder(spec).config.to_json_string(),
    }


def _under(prefix: str, state: Mapping[str, torch.Tensor]) -> State:
    return {prefix + key: value for key, value in state.items()}


def _leaves(prefix: str, module: nn.Module) -> State:
    return {f"{prefix}.{key}": value for key, value in module.state_dict().items()}


def original_unet(net: UNet2DConditionModel, gaps: bool = False) -> State:
    """With `gaps` as diffusers' scripts number distilled models: as if each level had two layers,
    and what samples up in a block of its own."""
    state: State = {}
    state |= _leaves("time_embed.0", net.time_embedding.linear_1)
    state |= _leaves("time_embed.2", net.time_embedding.linear_2)
    if net.time_embedding.cond_proj is not None:  # a distilled LCM
        state |= _leaves("time_embed.cond_proj", net.time_embedding.cond_proj)
    if getattr(net, "add_embedding", None) is not None:  # SDXL
        state |= _leaves("label_emb.0.0", net.add_embedding.linear_1)
        state |= _leaves("label_emb.0.2", net.add_embedding.linear_2)
    state |= _leaves("input_blocks.0.0", net.conv_in)
    state |= _leaves("out.0", net.conv_norm_out)
    state |= _leaves("out.2", net.conv_out)
    middle: list[nn.Module] = []
    if net.mid_block is not None:
        middle = [net.mid_block.resnets[0]]
        if len(net.mid_block.resnets) > 1:
            middle += [net.mid_block.attentions[0], net.mid_block.resnets[1]]
    for i, module in enumerate(middle):
        state |= _original_part(f"middle_block.{i}", module)
    blocks = iter(range(1, 1000))
    for b, level in enumerate(net.down_blocks):
        if gaps:
            blocks = iter((3 * b + 1, 3 * b + 3))
        for parts in _layers(level):
            i = next(blocks)
            for j, part in enumerate(parts):
                state |= _original_part(f"input_blocks.{i}.{j}", part)
        if level.downsamplers:
            state |= _leaves(f"input_blocks.{next(blocks)}.0.op", level.downsamplers[0].conv)
    blocks = iter(range(1000))
    for b, level in enumerate(net.up_blocks):
        if gaps:
            blocks = iter((3 * b, 3 * b + 1))
        for parts in _layers(level):
            i = next(blocks)
            for j, part in enumerate(parts):
                state |= _original_part(f"output_blocks.{i}.{j}", part)
        if level.upsamplers:
            at = f"{3 * b + 2}.{min(b, 1) + 1}" if gaps else f"{i}.{len(parts)}"
            state |= _leaves(f"output_blocks.{at}.conv", level.upsamplers[0].conv)
    return state


def _layers(level: nn.Module) -> Iterator[list[nn.Module]]:
    attentions = getattr(level, "attentions", None)
    for j, resnet in enumerate(level.resnets):
        yield [resnet, attentions[j]] if attentions else [resnet]


def _original_part(prefix: str, module: nn.Module) -> State:
    if not hasattr(module, "time_emb_proj"):
        return _leaves(prefix, module)
    state: State = {}
    state |= _leaves(f"{prefix}.in_layers.0", module.norm1)
    state |= _leaves(f"{prefix}.in_layers.2", module.conv1)
    state |= _leaves(f"{prefix}.emb_layers.1", module.time_emb_proj)
    state |= _leaves(f"{prefix}.out_layers.0", module.norm2)
    state |= _leaves(f"{prefix}.out_layers.3", module.conv2)
    if module.conv_shortcut is not None:
        state |= _leaves(f"{prefix}.skip_connection", module.conv_shortcut)
    return state


def original_vae(net: AutoencoderKL) -> State:
    state = _leaves("quant_conv", net.quant_conv) | _leaves("post_quant_conv", net.post_quant_conv)
    for side, half in (("encoder", net.encoder), ("decoder", net.decoder)):
        state |= _leaves(f"{side}.conv_in", half.conv_in)
        state |= _leaves(f"{side}.norm_out", half.conv_norm_out)
        state |= _leaves(f"{side}.conv_out", half.conv_out)
        state |= _original_vae_resnet(f"{side}.mid.block_1", half.mid_block.resnets[0])
        state |= _original_vae_resnet(f"{side}.mid.block_2", half.mid_block.resnets[1])
        attention = half.mid_block.attentions[0]
        state |= _leaves(f"{side}.mid.attn_1.norm", attention.group_norm)
        for name, linear in (
            ("q", attention.to_q),
            ("k", attention.to_k),
            ("v", attention.to_v),
            ("proj_out", attention.to_out[0]),
        ):
            state[f"{side}.mid.attn_1.{name}.weight"] = linear.weight.data[:, :, None, None]
            state[f"{side}.mid.attn_1.{name}.bias"] = linear.bias.data
    for i, level in enumerate(net.encoder.down_blocks):
        for j, resnet in enumerate(level.resnets):
            state |= _original_vae_resnet(f"encoder.down.{i}.block.{j}", resnet)
        if level.downsamplers:
            state |= _leaves(f"encoder.down.{i}.downsample.conv", level.downsamplers[0].conv)
    for i, level in enumerate(reversed(net.decoder.up_blocks)):
        for j, resnet in enumerate(level.resnets):
            state |= _original_vae_resnet(f"decoder.up.{i}.block.{j}", resnet)
        if level.upsamplers:
            state |= _leaves(f"decoder.up.{i}.upsample.conv", level.upsamplers[0].conv)
    return state


def _original_vae_resnet(prefix: str, module: nn.Module) -> State:
    return {
        f"{prefix}.{key.replace('conv_shortcut', 'nin_shortcut')}": value
        for key, value in module.state_dict().items()
    }


# ---- GGUF ----------------------------------------------------------------------------------------

QuantType = gguf.GGMLQuantizationType


def save_gguf(
    spec: Spec,
    path: Path,
    type: QuantType = QuantType.Q8_0,
    *,
    names: str = "original",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """As stable-diffusion.cpp converts: no metadata unless given, every tensor quantized whose rows
    divide into blocks, norms too, but biases and embeddings, which stay F16."""
    if names == "original":
        state = original_state(spec)
    else:
        parts = {"unet": unet(spec), "vae": vae(spec), "text_encoder": text_encoder(spec)}
        state = {k: v for name, net in parts.items() for k, v in _leaves(name, net).items()}
    write_gguf(path, {key: _stored(key, v.numpy(), type) for key, v in state.items()}, metadata)
    return path


def _stored(name: str, values: np.ndarray, type: QuantType) -> tuple[np.ndarray, QuantType]:
    keep = name.endswith("bias") or "embed" in name
    block = gguf.GGML_QUANT_SIZES[type][0]
    kept = QuantType.F16 if keep or values.shape[-1] % block else type
    return gguf.quants.quantize(values.astype(np.float32), kept), kept


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[np.ndarray, QuantType]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """GGUF version 3. The gguf package's own writer cannot leave the metadata empty."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata or {}))
    for key, value in (metadata or {}).items():
        head += text(key) + struct.pack("<I", 8) + text(value)
    body = bytearray()
    for name, (data, type) in tensors.items():
        block, size = gguf.GGML_QUANT_SIZES[type]
        shape = list(data.shape)
        if block > 1:
            shape[-1] = shape[-1] // size * block
        while len(shape) > 1 and shape[0] == 1:  # ggml counts no outer sizes of one
            shape.pop(0)
        sizes = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += text(name) + struct.pack("<I", len(shape)) + sizes
        head += struct.pack("<IQ", type.value, len(body))
        body += data.tobytes()
        body += bytes(-len(body) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + body)
