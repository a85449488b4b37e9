"""Files of ControlNets that are whole with the UNet of a model only."""

from __future__ import annotations

import dataclasses

import numpy as np

from sdcore import _core
from sdcore.checkpoint import Checkpoint, Component
from sdcore.checkpoint.infer import infer_config
from sdcore.checkpoint.names import controlnet
from sdcore.checkpoint.parts import Part
from sdcore.checkpoint.tensor import Tensor
from sdcore.models.unet import UNet2DConditionModel

__all__ = ["control_lora", "with_base"]


def with_base(part: Component, unet: UNet2DConditionModel) -> Component:
    """Differences from the UNet, and what they differ from."""
    base = unet.network.tensors
    tensors = {
        name: _sum(tensor.to_float(), base[name], tensor.type) if name in base else tensor
        for name, tensor in part.tensors.items()
    }
    return dataclasses.replace(part, tensors=tensors)


def control_lora(opened: Checkpoint, unet: UNet2DConditionModel) -> Component:
    """Stability's control-LoRA: what it has of the UNet's way down takes its place, pairs `up` and
    `down` are added as their product, and the rest is the UNet's (comfy/controlnet.py)."""
    table = controlnet.original(opened.tensors)
    known, unknown = table.apply(opened.tensors)
    up, down = ({n: t for n, t in known.items() if n.endswith(end)} for end in (".up", ".down"))
    tensors: dict[str, Tensor] = {
        name: tensor for name, tensor in unet.network.tensors.items() if controlnet.is_shared(name)
    }
    tensors |= {name: tensor for name, tensor in known.items() if name not in {**up, **down}}
    for name, left in up.items():
        module = name.removesuffix(".up")
        weight, right = tensors[f"{module}.weight"], down[f"{module}.down"]
        tensors[f"{module}.weight"] = _sum(_product(left, right), weight, left.type)
    part = Part("controlnet", "", "original", table, tensors, unknown)
    config = infer_config("controlnet", tensors, "controlnet", part.naming)
    return Component("controlnet", config, tensors, f"'{opened.path}' (controlnet)", part)


def _product(up: Tensor, down: Tensor) -> np.ndarray:
    left, right = up.to_float(), down.to_float()
    return left.reshape(len(left), -1) @ right.reshape(len(right), -1)


def _sum(more: np.ndarray, base: Tensor, type: str) -> Tensor:
    """As the type of what is added, where that is a half."""
    values = base.to_float() + more.reshape(base.shape)
    made: Tensor = _core.Tensor.from_array(values.astype(np.float16) if type == "f16" else values)
    return made
