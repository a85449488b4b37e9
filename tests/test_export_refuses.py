"""Exporting on the command line, and what is refused: models that the C API cannot draw with, and
files that would be lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import sdcore
import tiny_models
import tiny_xl
from sdcore.cli import main


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    edit = dataclasses.replace(tiny_models.PLAIN, name="edit", unet_inputs=8)
    tiny_models.save_folder(edit, tmp_path / "edit")
    tiny_xl.refiner(tmp_path / "tokenizers").save_pretrained(tmp_path / "refiner")
    for model, message in (
        ("edit", "sees more than latents and a mask"),
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


def test_the_command_exports_as_python_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model"))
    out, same = tmp_path / "out.gguf", tmp_path / "same.gguf"
    words = ["export", model, str(out), "--steps", "2,3", "--sampler", "DPM++ 2M Karras"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}\n"
    pipe = sdcore.DiffusionPipeline.open(model)
    pipe.scheduler = sdcore.DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, algorithm_type="dpmsolver++", use_karras_sigmas=True
    )
    pipe.export(same, steps=[2, 3])
    written, expected = (sdcore.gguf.open(path).metadata for path in (out, same))
    own = "sdcore.config.scheduler"
    assert {k: v for k, v in written.items() if k != own and ".rows" not in k} == {
        k: v for k, v in expected.items() if k != own and ".rows" not in k
    }
    for steps in (2, 3):
        rows = f"sdcore.table.{steps}.rows"
        assert list(written[rows]) == list(expected[rows])

    before = out.read_bytes()
    assert main([*words, "--dtype", "f32"]) == 1
    assert f"'{out}' exists already: -f" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*words, "--dtype", "f32", "-f"]) == 0
    assert sdcore.gguf.open(out).metadata["sdcore.default.dtype"] == "f32"
    with pytest.raises(SystemExit) as stop:
        main([*words, "--steps", "many"])
    assert stop.value.code == 2


def test_an_end_that_a_small_vocabulary_has_not_is_not_written(tmp_path: Path) -> None:
    sdcore.DiffusionPipeline.open("pocket").export(tmp_path / "out.gguf", steps=2)
    metadata = sdcore.gguf.open(tmp_path / "out.gguf").metadata
    assert len(metadata["tokenizer.ggml.tokens"]) < 49407
    assert "sdcore.text.text_encoder.end" not in metadata
