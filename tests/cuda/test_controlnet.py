"""ControlNets on a device: their numbers, and that these stay there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
import tiny_models
from cuda.devices import ONE_ARCHITECTURE
from reference.common import (
    BF16_FACTOR,
    NETWORK_F32,
    SAMPLED_F32,
    TORCH_TYPES,
    TorchComponent,
    error,
    in_dtype,
)
from reference.test_controlnet import _flat
from sdcore.models.base import RunOptions
from sdcore.models.controlnet import ControlNetModel
from tiny_control import controlnet, picture

on_one_architecture = pytest.mark.parametrize("device", ONE_ARCHITECTURE, indirect=True)


@on_one_architecture
@pytest.mark.parametrize("pools", [False, True])
def test_controlnet(device: str, dtype: str, pools: bool) -> None:
    module = controlnet(tiny_models.unet(tiny_models.PLAIN), global_pool_conditions=pools)
    generator = torch.Generator().manual_seed(2)
    arrays = [torch.randn(size, generator=generator) for size in ((1, 4, 6, 4), (1, 5, 64))]
    arrays.append(torch.rand((1, 3, 12, 8), generator=generator))

    def run(dtype: str) -> np.ndarray:
        x, context, cond = (a.to(TORCH_TYPES[dtype]) for a in arrays)
        with torch.no_grad():
            return _flat(*in_dtype(module, dtype)(x, 500, context, cond, 0.7, return_dict=False))

    component = TorchComponent(dict(module.config), module)
    net = ControlNetModel.from_component(component, RunOptions(dtype, device=device))
    x, context, cond = (a.numpy() for a in arrays)
    ref = run("f32")
    allowed = NETWORK_F32 if dtype == "f32" else BF16_FACTOR * error(run(dtype), ref)
    assert error(_flat(*net(x, 500, context, cond, 0.7)), ref) <= allowed


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model and two ControlNets of it."""
    path, unet = tmp_path_factory.mktemp("models"), tiny_models.unet(tiny_models.PLAIN)
    controlnet(unet, 900).save_pretrained(path / "a")
    controlnet(unet, 901, global_pool_conditions=True).save_pretrained(path / "b")
    return [tiny_models.save_folder(tiny_models.PLAIN, path / "model"), path / "a", path / "b"]


@on_one_architecture
@pytest.mark.parametrize("where", ["with the UNet", "on the CPU"])
def test_a_picture_is_the_cpu_s(
    device: str, folders: list[Path], where: str, monkeypatch: Any
) -> None:
    model, *nets = folders
    run: dict[str, Any] = {"num_inference_steps": 2, "seed": 3, "output_type": "latent"}
    run |= {"control_image": [picture(1, 12, 8), picture(2)], "guidance_scale": 1.0}
    run["cache_interval"] = 2  # what is added is kept there, too
    want = sdcore.DiffusionPipeline.open(model, dtype="f32", controlnet=nets)("a cat", **run)
    devices = {"unet": device} | ({"controlnet": "cpu"} if where == "on the CPU" else {})
    pipe = sdcore.DiffusionPipeline.open(model, dtype="f32", device=devices, controlnet=nets)
    kinds: set[type] = set()
    residuals = ControlNetModel.residuals

    def watched(self: Any, *args: Any, **more: Any) -> Any:
        found = residuals(self, *args, **more)
        kinds.update(type(array) for array in found.values())
        return found

    monkeypatch.setattr(ControlNetModel, "residuals", watched)
    assert error(pipe("a cat", **run).images, want.images) <= SAMPLED_F32
    assert kinds == {np.ndarray if where == "on the CPU" else sdcore.DeviceArray}
