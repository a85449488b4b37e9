"""A part of a checkpoint whose weights are quantized when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdcore import _core
from sdcore.checkpoint.model import Component
from sdcore.checkpoint.recipe import TypeRules, checked_rules, checked_type, choose_type
from sdcore.checkpoint.tensor import Tensor, core_tensor

__all__ = ["QuantizedComponent", "quantized"]


@dataclass(frozen=True)
class QuantizedComponent:
    """Looks like the part it is made of."""

    component: Component
    type: str
    rules: TypeRules

    @property
    def config(self) -> Mapping[str, Any]:
        return self.component.config

    def weights(self, expected: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        tensors = self.component.weights(expected)
        return {name: self._made(name, tensor) for name, tensor in tensors.items()}

    def _made(self, name: str, tensor: Tensor) -> Tensor:
        full_name = f"{self.component.name}.{name}"
        type = choose_type(full_name, tensor.type, tensor.shape, self.type, self.rules)
        # What the type is not for stays as it lies in the file.
        if type == tensor.type or (type in ("f32", "f16") and type != self.type):
            return tensor
        made: Tensor = _core.quantize(core_tensor(tensor), type)
        tensor.release()
        return made


def quantized(component: Component, type: str, rules: TypeRules = ()) -> QuantizedComponent:
    """The part with the matrices of its layers in a storage type such as "q8_0". `rules` look at
    names such as "unet.down_blocks.0.…". Raises InvalidArgumentError if there is no such type."""
    return QuantizedComponent(component, checked_type(type), checked_rules(rules))
