"""What the tests of the command line share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny_models
from sdcore.image_io import Infotext, read_png_parameters

REFUSED = (1, 2)  # what failed, and what was asked for wrongly


def one_error_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Nothing was written but one line that names an error, with all of the parts in it."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert captured.out == ""


def infotext_of(path: str | Path) -> Infotext:
    """The settings in a picture that was written."""
    return Infotext.parse(read_png_parameters(Path(path)) or "")


def save_models_and_photo(path: Path) -> None:
    """model/, edit/, which edits by instruction, and photo.png."""
    tiny_models.save_folder(tiny_models.PLAIN, path / "model")
    spec = dataclasses.replace(tiny_models.PLAIN, name="edit", unet_inputs=8)
    tiny_models.save_folder(spec, path / "edit")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path / "photo.png")
