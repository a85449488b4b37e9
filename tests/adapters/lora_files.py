"""LoRA files for tests: one random LoRA made by PEFT, written under every naming by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import tiny_models

State = dict[str, torch.Tensor]

# Attention, feed-forward, both projections, and convolutions of 3x3, 1x1, strides 1 and 2.
UNET = (
    r".*(to_q|to_k|to_v|to_out\.0|0\.proj|proj_in|proj_out|net\.2"
    r"|conv1|conv_shortcut|conv|conv_in|linear_1|time_emb_proj)"
)
TEXT = r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
ATTENTION = r".*(to_q|to_k|to_v|to_out\.0)"


def with_lora(module: torch.nn.Module, targets: str, seed: int, **options: Any) -> Any:
    """A copy of the module with PEFT's LoRA in it, every number random."""
    options = {"r": 4, "lora_alpha": 3, **options}
    config = LoraConfig(target_modules=targets, init_lora_weights=False, **options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = inject_adapter_in_model(config, copy.deepcopy(module)).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "lora_magnitude" in name:
                    parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
                elif "lora_" in name:
                    parameter.copy_(0.2 * torch.randn_like(parameter))
    return module


def peft_state(module: torch.nn.Module) -> State:
    """`path.lora_A.weight`, `path.lora_B.weight`, `path.lora_magnitude_vector`."""
    state = get_peft_model_state_dict(module)
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


def kohya(state: Mapping[str, torch.Tensor], prefix: str, alpha: float) -> State:
    """As sd-scripts writes it: flat names, an alpha a module."""
    result: State = {}
    for key, value in state.items():
        path, _, kind = key.partition(".lora_")
        name = prefix + path.replace(".", "_")
        if kind == "magnitude_vector":
            result[f"{name}.dora_scale"] = value.reshape(-1, 1)
        else:
            leaf = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[kind]
            result[f"{name}.{leaf}"] = value
        result[f"{name}.alpha"] = torch.tensor(alpha)
    return result


def original_paths(spec: tiny_models.Spec) -> dict[str, str]:
    """Diffusers' module paths to CompVis', found by matching the weights of the two layouts."""
    net = tiny_models.unet(spec)
    original = tiny_models.original_unet(net)
    by_data = {value.data_ptr(): key for key, value in original.items()}
    paths = {}
    for key, value in net.state_dict().items():
        if key.endswith(".weight"):
            paths[key.removesuffix(".weight")] = by_data[value.data_ptr()].removesuffix(".weight")
    return paths


def write_peft_folder(folder: Path, state: State, config: Mapping[str, Any]) -> Path:
    folder.mkdir()
    named = {f"base_model.model.{key}": value for key, value in state.items()}
    save_file(named, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
