"""Tiny random transformers of SD 3 and PixArt, and T5, under every naming that files have.

Networks are diffusers' and transformers' own. Original names are written down here a second time,
with no table of sdcore's, so that they can test those tables.
"""

from __future__ import annotations

import io
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

import tiny_models

State = dict[str, torch.Tensor]


def _random(module: torch.nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            shift = float(parameter.ndim == 1 and "norm" in name and name.endswith("weight"))
            parameter.copy_(shift + noise / fan_in**0.5)
    return module.eval()


@lru_cache
def sd3(kind: str = "3.5-medium") -> SD3Transformer2DModel:
    """Heads of 64 channels, as in all of them."""
    extra = {
        "3-medium": {},
        "3.5-large": {"qk_norm": "rms_norm"},
        "3.5-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    }[kind]
    return _random(
        SD3Transformer2DModel(
            sample_size=16,
            num_layers=3,
            num_attention_heads=2,
            joint_attention_dim=192,
            caption_projection_dim=128,
            pooled_projection_dim=64 + 128,
            pos_embed_max_size=12,
            **extra,
        ),
        1,
    )


@lru_cache
def pixart(sizes: bool = False, sample_size: int = 16) -> PixArtTransformer2DModel:
    """Heads of 72 channels, as in all of them."""
    return _random(
        PixArtTransformer2DModel(
            num_attention_heads=1,
            attention_head_dim=72,
            cross_attention_dim=72,
            num_layers=2,
            sample_size=sample_size,
            caption_channels=48,
            use_additional_conditions=sizes,
            interpolation_scale=sample_size / 64,
        ),
        2,
    )


@lru_cache
def t5(width: int = 48, vocabulary: int = 400) -> T5EncoderModel:
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return _random(T5EncoderModel(config), 3)


def _move(state: State, out: State, old: str, new: str, leaves: str = "weight bias") -> None:
    for leaf in leaves.split():
        if f"{new}.{leaf}" in state:
            out[f"{old}.{leaf}"] = state[f"{new}.{leaf}"].clone()


def _fuse(state: State, out: State, old: str, pieces: list[str]) -> None:
    for leaf in ("weight", "bias"):
        if f"{pieces[0]}.{leaf}" in state:
            out[f"{old}.{leaf}"] = torch.cat([state[f"{piece}.{leaf}"] for piece in pieces])


def _swap(out: State, name: str) -> None:
    for leaf in ("weight", "bias"):
        first, second = out[f"{name}.{leaf}"].chunk(2)
        out[f"{name}.{leaf}"] = torch.cat([second, first])


def original_sd3(state: State) -> State:
    """Stability's names."""
    out = {"pos_embed": state["pos_embed.pos_embed"].clone()}
    _move(state, out, "x_embedder.proj", "pos_embed.proj")
    _move(state, out, "context_embedder", "context_embedder")
    for i, j in ((0, 1), (2, 2)):
        _move(state, out, f"t_embedder.mlp.{i}", f"time_text_embed.timestep_embedder.linear_{j}")
        _move(state, out, f"y_embedder.mlp.{i}", f"time_text_embed.text_embedder.linear_{j}")
    layers = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("transformer_blocks."))
    for i in range(layers):
        new, x, c = (
            f"transformer_blocks.{i}",
            f"joint_blocks.{i}.x_block",
            f"joint_blocks.{i}.context_block",
        )
        for attention in ("attn", "attn2"):
            own = f"{new}.{attention}"
            _fuse(state, out, f"{x}.{attention}.qkv", [f"{own}.to_{p}" for p in "qkv"])
            _move(state, out, f"{x}.{attention}.proj", f"{own}.to_out.0")
            _move(state, out, f"{x}.{attention}.ln_q", f"{own}.norm_q")
            _move(state, out, f"{x}.{attention}.ln_k", f"{own}.norm_k")
        _fuse(state, out, f"{c}.attn.qkv", [f"{new}.attn.add_{p}_proj" for p in "qkv"])
        _move(state, out, f"{c}.attn.proj", f"{new}.attn.to_add_out")
        _move(state, out, f"{c}.attn.ln_q", f"{new}.attn.norm_added_q")
        _move(state, out, f"{c}.attn.ln_k", f"{new}.attn.norm_added_k")
        for block, norm, ff in ((x, "norm1", "ff"), (c, "norm1_context", "ff_context")):
            _move(state, out, f"{block}.adaLN_modulation.1", f"{new}.{norm}.linear")
            _move(state, out, f"{block}.mlp.fc1", f"{new}.{ff}.net.0.proj")
            _move(state, out, f"{block}.mlp.fc2", f"{new}.{ff}.net.2")
    _swap(out, f"joint_blocks.{layers - 1}.context_block.adaLN_modulation.1")
    _move(state, out, "final_layer.adaLN_modulation.1", "norm_out.linear")
    _swap(out, "final_layer.adaLN_modulation.1")
    _move(state, out, "final_layer.linear", "proj_out")
    return out


def original_pixart(state: State, captions: int, positions: torch.Tensor | None) -> State:
    """The names of its makers' `.pth` files, which also have what the network can do without."""
    out: State = {}
    _move(state, out, "x_embedder.proj", "pos_embed.proj")
    embedders = {"t": "timestep", "csize": "resolution", "ar": "aspect_ratio"}
    for old, new in embedders.items():
        for i, j in ((0, 1), (2, 2)):
            _move(
                state,
                out,
                f"{old}_embedder.mlp.{i}",
                f"adaln_single.emb.{new}_embedder.linear_{j}",
            )
    _move(state, out, "t_block.1", "adaln_single.linear")
    _move(state, out, "y_embedder.y_proj.fc1", "caption_projection.linear_1")
    _move(state, out, "y_embedder.y_proj.fc2", "caption_projection.linear_2")
    out["final_layer.scale_shift_table"] = state["scale_shift_table"].clone()
    _move(state, out, "final_layer.linear", "proj_out")
    width = state["caption_projection.linear_1.weight"].shape[1]
    out["y_embedder.y_embedding"] = torch.zeros(captions, width)
    if positions is not None:
        out["pos_embed"] = positions.clone()
    layers = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("transformer_blocks."))
    for i in range(layers):
        new, old = f"transformer_blocks.{i}", f"blocks.{i}"
        out[f"{old}.scale_shift_table"] = state[f"{new}.scale_shift_table"].clone()
        _fuse(state, out, f"{old}.attn.qkv", [f"{new}.attn1.to_{p}" for p in "qkv"])
        _move(state, out, f"{old}.attn.proj", f"{new}.attn1.to_out.0")
        _move(state, out, f"{old}.cross_attn.q_linear", f"{new}.attn2.to_q")
        _fuse(state, out, f"{old}.cross_attn.kv_linear", [f"{new}.attn2.to_{p}" for p in "kv"])
        _move(state, out, f"{old}.cross_attn.proj", f"{new}.attn2.to_out.0")
        _move(state, out, f"{old}.mlp.fc1", f"{new}.ff.net.0.proj")
        _move(state, out, f"{old}.mlp.fc2", f"{new}.ff.net.2")
    return out


def llama_cpp_t5(state: State) -> State:
    """llama.cpp's names."""
    out = {
        "token_embd.weight": state["shared.weight"],
        "enc.output_norm.weight": state["encoder.final_layer_norm.weight"],
    }
    layers = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("encoder.block."))
    for i in range(layers):
        new, old = f"encoder.block.{i}.layer", f"enc.blk.{i}"
        _move(state, out, f"{old}.attn_norm", f"{new}.0.layer_norm")
        _move(state, out, f"{old}.ffn_norm", f"{new}.1.layer_norm")
        attention = f"{new}.0.SelfAttention"
        for part in "qkvo":
            _move(state, out, f"{old}.attn_{part}", f"{attention}.{part}")
        _move(state, out, f"{old}.attn_rel_b", f"{attention}.relative_attention_bias")
        for part, name in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
            _move(state, out, f"{old}.ffn_{part}", f"{new}.1.DenseReluDense.{name}")
    return {name: tensor.contiguous() for name, tensor in out.items()}


# ---- whole pipelines -----------------------------------------------------------------------------


@lru_cache
def clip(width: int, projection: int, act: str, seed: int) -> CLIPTextModelWithProjection:
    vocabulary = tiny_models.vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        projection_dim=projection,
        hidden_act=act,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
    return _random(CLIPTextModelWithProjection(config), seed)


@lru_cache
def vae(latents: int, levels: int = 2, **config: Any) -> AutoencoderKL:
    return _random(
        AutoencoderKL(
            block_out_channels=(32, 64, 32, 32)[:levels],
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=32,
            sample_size=32,
            latent_channels=latents,
            use_quant_conv=latents == 4,
            use_post_quant_conv=latents == 4,
            **config,
        ),
        5,
    )


@lru_cache
def spiece_model() -> bytes:
    """A small SentencePiece model of T5's kind, padding, end and unknown first."""
    words = ["the", "red", "blue", "circle", "of", "a", "cat", "and", "dog", "lighthouse", "blurry"]
    rng = random.Random(0)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(rng.choices(words, k=10)) for _ in range(300)),
        model_writer=model,
        model_type="unigram",
        vocab_size=75,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def t5_tokenizer(folder: Path) -> T5Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(spiece_model())
    return T5Tokenizer.from_pretrained(folder)


def sd3_pipeline(folder: Path, kind: str = "3.5-medium") -> StableDiffusion3Pipeline:
    """Written to `folder` too."""
    tokenizer = tiny_models.tokenizer(folder / "clip")
    pipe = StableDiffusion3Pipeline(
        transformer=sd3(kind),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip(64, 64, "quick_gelu", 6),
        tokenizer=tokenizer,
        text_encoder_2=clip(128, 128, "gelu", 7),
        tokenizer_2=tokenizer,
        text_encoder_3=t5(192),
        tokenizer_3=t5_tokenizer(folder / "t5"),
    )
    pipe.save_pretrained(folder)
    return pipe


def pixart_pipeline(folder: Path, sizes: bool, **parts: Any) -> PixArtSigmaPipeline:
    """α where it is told sizes, else Σ; written to `folder` too."""
    kind = PixArtAlphaPipeline if sizes else PixArtSigmaPipeline
    linear = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    pipe = kind(
        transformer=parts.get("transformer") or pixart(sizes, 128 if sizes else 16),
        scheduler=parts.get("scheduler") or DPMSolverMultistepScheduler(**linear),
        vae=parts.get("vae") or vae(4, scaling_factor=0.18215 if sizes else 0.13025),
        text_encoder=t5(48),
        tokenizer=t5_tokenizer(folder / "t5"),
    )
    pipe.save_pretrained(folder)
    return pipe
