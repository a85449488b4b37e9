"""Full-size graphs and memory plans of every family, without weights and in no time."""

from __future__ import annotations

import time

import pytest

from sdcore.models.clip import CLIPTextConfig
from sdcore.models.unet import UNetConfig
from sdcore.models.vae import VAEConfig
from sdcore.pipelines import DiffusionPipeline
from sdcore.pipelines.plan import planned_graphs

CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
VIT_H = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)
BIG_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
    architectures=("CLIPTextModelWithProjection",),
)
VAE = VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
SDXL = UNetConfig(
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
REFINER = UNetConfig(
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=(
        *("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    ),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=4,
    attention_head_dim=(6, 12, 24, 24),
    cross_attention_dim=1280,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2560,
)
SD2 = UNetConfig(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)

# family -> configs, pixels a side, millions of weights as counted from diffusers' and transformers'
# own modules (of the VAE its decoder)
FAMILIES = {
    "sd1": (
        {"text_encoder": CLIP_L, "unet": UNetConfig(cross_attention_dim=768)},
        512,
        {"text_encoder": 123.06, "unet": 859.52},
    ),
    "sd2": ({"text_encoder": VIT_H, "unet": SD2}, 768, {"text_encoder": 340.39, "unet": 865.91}),
    "sdxl": (
        {"text_encoder": CLIP_L, "text_encoder_2": BIG_G, "unet": SDXL},
        1024,
        # The last layer of the first encoder and its norm are never run.
        {"text_encoder": 115.97, "text_encoder_2": 694.66, "unet": 2567.46},
    ),
    "sdxl-refiner": (
        {"text_encoder_2": BIG_G, "unet": REFINER},
        1024,
        {"text_encoder_2": 694.66, "unet": 2259.53},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_size_family_is_planned_without_weights(family: str) -> None:
    configs, side, millions = FAMILIES[family]
    start = time.process_time()
    graphs = planned_graphs(DiffusionPipeline.registry[family], {**configs, "vae": VAE}, side, side)
    plans = {name: graph.plan(shapes, "bf16") for name, (graph, shapes) in graphs.items()}
    seconds = time.process_time() - start
    assert list(graphs) == [*configs, "vae"]
    for name, expected in millions.items():
        weights = graphs[name][0].weights
        count = sum(_elements(shape) for shape in weights.values())
        assert count / 1e6 == pytest.approx(expected, abs=0.01), name
    assert max(plan["arena_bytes"] for plan in plans.values()) < 4e9
    # Milliseconds; the bound is for a machine that does other things as well.
    assert seconds < 1, seconds


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
