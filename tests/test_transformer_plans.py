"""Full-size SD 3, SD 3.5, PixArt and T5 without weights: what they hold, and plans at once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sdcore import _core
from sdcore.models.mmdit import SD3Config, build_mmdit
from sdcore.models.pixart import PixArtConfig, build_pixart
from sdcore.models.t5 import T5Config, build_t5

SD3_MEDIUM: dict[str, Any] = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
SD3 = {
    "3-medium": SD3Config(**SD3_MEDIUM),
    "3.5-medium": SD3Config(
        **(SD3_MEDIUM | {"pos_embed_max_size": 384}),
        qk_norm="rms_norm",
        dual_attention_layers=tuple(range(13)),
    ),
    "3.5-large": SD3Config(
        num_layers=38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    ),
}
T5_XXL = T5Config(
    d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
)
SIGMA = PixArtConfig(caption_channels=4096, use_additional_conditions=False)
ALPHA = PixArtConfig(caption_channels=4096)


# Tensors and parameters as counted from diffusers' and transformers' own modules.
@pytest.mark.parametrize(
    ("graph", "tensors", "millions"),
    [
        (build_mmdit(SD3["3-medium"]), 683, 2084.95),
        (build_mmdit(SD3["3.5-medium"]), 909, 2469.66),
        (build_mmdit(SD3["3.5-large"]), 1227, 8146.28),
        (build_pixart(ALPHA), 611, 611.35),
        (build_t5(T5_XXL), 219, 4762.31),
    ],
    ids=["3-medium", "3.5-medium", "3.5-large", "pixart-alpha", "t5-xxl"],
)
def test_networks_have_the_published_weights(
    graph: _core.Graph, tensors: int, millions: float
) -> None:
    assert len(graph.weights) == tensors
    parameters = sum(math.prod(shape) for shape in graph.weights.values())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.01)


def sd3_inputs(config: SD3Config) -> dict[str, tuple[int, ...]]:
    return {
        "sample": (2, 128, 128, 16),
        "timestep": (2,),
        "encoder_hidden_states": (2, 333, 4096),
        "pooled_projections": (2, config.pooled_projection_dim),
    }


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_full_size_plans_hold_no_matrix_of_scores(dtype: str) -> None:
    size = {"f32": 4, "bf16": 2}[dtype]
    for config in SD3.values():
        plan = build_mmdit(config).plan(sd3_inputs(config), dtype)
        assert plan["outputs"] == {"sample": (2, 128, 128, 16)}
        # A feed-forward's middle and a few values of the width of the model; scores of 4429 tokens
        # would be 40 times that.
        assert plan["arena_bytes"] < 16 * 2 * 4429 * config.channels * size
    text = {"encoder_hidden_states": (2, 300, 4096), "mask": (2, 300), "timestep": (2,)}
    plan = build_pixart(SIGMA).plan({"sample": (2, 128, 128, 4), **text}, dtype)
    assert plan["outputs"] == {"sample": (2, 128, 128, 8)}
    ids = {"input_ids": (2, 512), "mask": (2, 512)}
    assert build_t5(T5_XXL).plan(ids, dtype)["outputs"] == {"last_hidden_state": (2, 512, 4096)}
