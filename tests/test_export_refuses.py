"""Models that the C API cannot draw with: exporting them is refused, and nothing is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import sdcore
import tiny_models
import tiny_xl


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    inpaint = dataclasses.replace(tiny_models.PLAIN, name="inpaint", unet_inputs=9)
    tiny_models.save_folder(inpaint, tmp_path / "inpaint")
    tiny_xl.refiner(tmp_path / "tokenizers").save_pretrained(tmp_path / "refiner")
    for model, message in (
        ("inpaint", "sees more than latents"),
        ("refiner", "goes on with another model's latents"),
    ):
        pipe = sdcore.DiffusionPipeline.open(tmp_path / model)
        with pytest.raises(sdcore.UnsupportedModelError, match=message):
            pipe.export(tmp_path / "out.gguf")
        assert not (tmp_path / "out.gguf").exists()


def test_cfg_plus_plus_is_refused(tmp_path: Path) -> None:
    tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model")
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "model")
    pipe.scheduler = sdcore.EulerCFGPPScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(sdcore.UnsupportedModelError, match="does not sample with EulerCFGPP"):
        pipe.export(tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
