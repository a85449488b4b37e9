"""Programs in examples/ that draw."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

import tiny_models

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(("across", "size"), [(1, (3, 3)), (2, (6, 2))])
def test_a_grid_of_samplers(tmp_path, monkeypatch, across, size):
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model")
    out = tmp_path / "grid.png"
    options = ["--samplers", "euler,ddim_cfg_pp,lcm", "--steps", "1,2,3", "--across", str(across)]
    monkeypatch.setattr(sys, "argv", ["sampler_grid", str(folder), "a cat", str(out), *options])
    runpy.run_path(str(EXAMPLES / "sampler_grid.py"), run_name="__main__")
    with Image.open(out) as grid:
        assert grid.size == (size[0] * 32, size[1] * (32 + 16))
        assert len(set(grid.getdata())) > 1000


def test_a_page_of_prompts(tmp_path, monkeypatch):
    folder = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model")
    out = tmp_path / "page.png"
    words = [str(out), "-m", str(folder), "--columns", "2", "a cat", "a dog", "a cow"]
    monkeypatch.setattr(sys, "argv", ["gallery", *words])
    runpy.run_path(str(EXAMPLES / "gallery.py"), run_name="__main__")
    with Image.open(out) as page:
        columns, rows = 2, 2
        line = 13
        assert page.size == (columns * (32 + line) + line, rows * (32 + 2 * line) + line)
        corner = page.crop((line, line, line + 32, line + 32))
        assert len(set(corner.getdata())) > 100
