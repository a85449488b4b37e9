"""The peers of benchmarks/full_size_families.py are the networks that they are measured beside."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("full_size_families")


@pytest.mark.parametrize("title", ["sdxl", "sd3.5-medium", "pixart-sigma", "t5-xxl"])
def test_both_sides_hold_the_same_weights(families: Any, title: str) -> None:
    subject = families.SUBJECTS[title]
    fields = {k: v for k, v in vars(subject.config).items() if v is not None}
    with torch.device("meta"):
        theirs = subject.peer(fields)
    ours = subject.model.build(subject.config).weights
    positions = "pos_embed.pos_embed"  # a buffer there, and of PixArt made from nothing here
    shapes = [tuple(shape) for name, shape in ours.items() if name != positions]
    assert sum(map(math.prod, shapes)) == sum(p.numel() for p in theirs.parameters())
