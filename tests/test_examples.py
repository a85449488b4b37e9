"""Programs in examples/ that draw."""

import runpy
import sys
from pathlib import Path

from PIL import Image

import tiny_models

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_grid_of_samplers(tmp_path, monkeypatch):
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model")
    out = tmp_path / "grid.png"
    options = ["--samplers", "euler,ddim_cfg_pp", "--steps", "1,2,3"]
    monkeypatch.setattr(sys, "argv", ["sampler_grid", str(folder), "a cat", str(out), *options])
    runpy.run_path(str(EXAMPLES / "sampler_grid.py"), run_name="__main__")
    with Image.open(out) as grid:
        assert grid.size == (3 * 32, 2 * (32 + 16))
        assert len(set(grid.getdata())) > 1000
