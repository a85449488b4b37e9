"""What a program can ask about a model before it draws."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int32, c_size_t
from pathlib import Path

import numpy as np
import pytest
import sdc
from building import compiler, run
from drawing import edited

import sdcore
from sdcore import _core


@pytest.fixture
def networks_alone(library: sdc.Library, folder: Path, tmp_path: Path) -> sdc.Model:
    decoder = sdcore.DiffusionPipeline.open(folder, dtype="f32").vae.decoder
    path = tmp_path / "decoder.gguf"
    _core.save_model(path, {"decoder": (decoder.graph, decoder.tensors)}, {})
    return sdc.Model(library, path)


def test_what_requests_may_be(model: sdc.Model, exported: Path) -> None:
    info, keys = model.info(), sdcore.gguf.open(exported).metadata
    for name in ("width", "height", "steps", "guidance_scale"):
        assert getattr(info, name) == keys[f"sdcore.default.{name}"], name
    assert info.size_multiple == keys["sdcore.size.multiple"] == 2
    assert info.largest_side == keys["sdcore.size.largest"] == 8192
    with pytest.raises(sdc.Failed, match="try 8192"):
        model.generate(model.library.params(width=info.largest_side + info.size_multiple))
    assert model.steps() == [3, 20] and info.steps in model.steps()
    assert set(model.networks()) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}


def test_a_file_of_networks_alone(networks_alone: sdc.Model) -> None:
    assert networks_alone.networks() == ["decoder"]
    assert networks_alone.steps() == []
    for ask in (networks_alone.info, lambda: networks_alone.step_at(0)):
        with pytest.raises(sdc.Failed, match=r"\[model\] the file holds .* no pipeline") as failed:
            ask()
        assert failed.value.status == sdc.UNSUPPORTED_MODEL


def test_an_older_programs_struct_is_not_overrun(model: sdc.Model) -> None:
    info = sdc.ModelInfo(largest_side=77, size_multiple=77)
    size = c_size_t(sdc.ModelInfo.size_multiple.offset)
    model.library.check(model.c.sdc_model_info_get(model.handle, byref(info), size))
    assert info.struct_size == size.value and info.steps == model.info().steps
    assert info.largest_side == info.size_multiple == 77


def test_what_is_not_there_is_refused(model: sdc.Model) -> None:
    c, handle, size = model.c, model.handle, c_size_t(ctypes.sizeof(sdc.ModelInfo))
    info, steps, name = sdc.ModelInfo(width=77), c_int32(77), c_char_p(b"before")
    for call, text in (
        (lambda: c.sdc_model_info_get(None, byref(info), size), "model is NULL"),
        (lambda: c.sdc_model_info_get(handle, None, size), "out is NULL"),
        (lambda: c.sdc_model_info_get(handle, byref(info), c_size_t(4)), "size is 4"),
        (lambda: c.sdc_model_steps_get(None, c_size_t(0), byref(steps)), "model is NULL"),
        (lambda: c.sdc_model_steps_get(handle, c_size_t(2), byref(steps)), "steps 2 among 2"),
        (lambda: c.sdc_model_steps_get(handle, c_size_t(0), None), "out is NULL"),
        (lambda: c.sdc_model_networks_get(None, c_size_t(0), byref(name)), "model is NULL"),
        (lambda: c.sdc_model_networks_get(handle, c_size_t(4), byref(name)), "network 4 among 4"),
        (lambda: c.sdc_model_networks_get(handle, c_size_t(0), None), "out is NULL"),
    ):
        assert call() == sdc.INVALID_ARGUMENT
        assert text in c.sdc_last_error().decode()
    assert info.width == steps.value == 0 and name.value is None
    assert c.sdc_model_steps_count(None) == c.sdc_model_networks_count(None) == 0


def test_more_steps_than_a_request_can_name_are_damage(
    library: sdc.Library, exported: Path, tmp_path: Path
) -> None:
    old, new = "sdcore.table.3.", f"sdcore.table.{2**32 + 5}."
    keys = sdcore.gguf.open(exported).typed_metadata
    table = {key.replace(old, new): keys[key] for key in keys if key.startswith(old)}
    with pytest.raises(sdc.Failed, match="does not name a number of steps") as failed:
        sdc.Model(library, edited(exported, tmp_path / "model.gguf", **table))
    assert failed.value.status == sdc.CHECKPOINT


PROGRAM = r"""
#include <cstdio>

#include "sdcore/sdcore.hpp"

int main(int, char** words) {
  const sdc::Model model(words[1]);
  const sdc_model_info info = model.info();
  std::printf("%d %d %d %g\n", info.width, info.height, info.steps, info.guidance_scale);
  for (const auto steps : model.steps()) std::printf("%d ", steps);
  for (const auto& network : model.networks()) std::printf("%s ", network.c_str());
}
"""


def test_in_cpp(model: sdc.Model, installed: Path, exported: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "info.cpp", tmp_path / "info"
    source.write_text(PROGRAM)
    library = next(installed.glob("lib*/libsdcore.so")).parent
    links = (f"-I{installed / 'include'}", f"-L{library}", f"-Wl,-rpath,{library}", "-lsdcore")
    run(compiler("CXX", "c++"), "-std=c++17", source, "-o", program, *links)
    width, height, steps, guidance, *rest = run(program, exported).split()
    info = model.info()
    assert [int(width), int(height), int(steps)] == [info.width, info.height, info.steps]
    assert np.float32(guidance) == info.guidance_scale
    assert rest == ["3", "20", *model.networks()]
