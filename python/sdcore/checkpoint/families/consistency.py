"""Consistency models, whose UNets draw pixels and read no text."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Family, Rules
from sdcore.checkpoint.unet_families import CONV_IN

FAMILIES = {
    "consistency": Family(
        "a consistency model", ("unet",), "consistency_models.ConsistencyModelPipeline"
    )
}
RULES: Rules = (
    (
        "consistency",
        (
            Clue(CONV_IN, (None, 3)),
            Clue(r"(^|\.)down_blocks\.0\.downsamplers\.0\.time_emb_proj\.weight$"),
        ),
    ),
)
