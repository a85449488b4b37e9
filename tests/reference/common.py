"""What the comparisons with diffusers and transformers share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdcore import _core

# AVX-VNNI makes the sums of AVX2's integers by other instructions, which kernels' tests compare.
ISAS = [isa for isa in _core.supported_isas() if isa != "avx2_vnni"]

# DESIGN's numerical contract: the error of one network, and of a whole sampled latent.
NETWORK_F32 = 1e-4
SAMPLED_F32 = 1e-3
BF16_FACTOR = 1.5  # times PyTorch's own error in bf16, or in f16

TORCH_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def error(out: np.ndarray, ref: np.ndarray) -> float:
    """‖out − ref‖ / ‖ref‖"""
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


@dataclass
class TorchComponent:
    """A module of diffusers or transformers as sdcore takes a part of a checkpoint."""

    config: Mapping[str, Any]
    module: torch.nn.Module

    def weights(self, expected: Mapping[str, Sequence[int]]) -> dict[str, _core.Tensor]:
        state = self.module.state_dict()
        found = {}
        for name, shape in expected.items():
            # transformers 5 leaves out the prefix that older files have.
            key = name if name in state else name.removeprefix("text_model.")
            found[name] = _core.Tensor.from_array(state[key].numpy()).reshape(list(shape))
        return found


def randomized(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter random, norms too: ones and zeros would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(float(name.endswith("weight")) + 0.1 * noise)
    return module.eval()


def in_dtype(module: torch.nn.Module, dtype: str) -> torch.nn.Module:
    return copy.deepcopy(module).to(TORCH_TYPES[dtype])


def in_bf16(module: torch.nn.Module) -> torch.nn.Module:
    return in_dtype(module, "bf16")
