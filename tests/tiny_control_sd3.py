"""Tiny random ControlNets of the tiny transformers of SD 3, as diffusers' modules and, of those for
3.5 large, under Stability's names, which are written down here a second time."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel

from reference.common import randomized
from tiny_models import State

# As diffusers' script for converting Stability's has it.
SINGLE: dict[str, Any] = {
    "joint_attention_dim": None,
    "pos_embed_max_size": None,
    "pos_embed_type": None,
    "use_pos_embed": False,
    "force_zeros_for_pooled_projection": False,
}


def control_sd3(
    transformer: SD3Transformer2DModel, seed: int = 960, layers: int = 2, **changes: Any
) -> SD3ControlNetModel:
    """One for this transformer, of joint blocks; what is made of zeros to begin with is random."""
    like = {k: v for k, v in transformer.config.items() if not k.startswith("_")}
    like |= {"num_layers": layers, "dual_attention_layers": (), "qk_norm": None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = SD3ControlNetModel(**like | changes)
        zeros = [p for p in made.parameters() if p.ndim > 1 and not p.abs().any()]
        assert len(zeros) == layers + 1
        with torch.no_grad():
            for parameter in zeros:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return randomized(made, seed)


def stability_state(net: SD3ControlNetModel, control_type: torch.Tensor) -> State:
    """As sd3.5_large_controlnet_*.safetensors."""
    state, found = dict(net.state_dict()), {"control_type": control_type}
    names = {"norm1.linear": "adaLN_modulation.1", "attn.to_out.0": "attn.proj"}
    names |= {"ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2"}
    for i in range(len(net.transformer_blocks)):
        block = f"transformer_blocks.{i}"
        for leaf in ("weight", "bias"):
            parts = [state.pop(f"{block}.attn.to_{x}.{leaf}") for x in "qkv"]
            found[f"{block}.attn.qkv.{leaf}"] = torch.cat(parts)
            for new, old in names.items():
                found[f"{block}.{old}.{leaf}"] = state.pop(f"{block}.{new}.{leaf}")
    return {name: value.clone() for name, value in {**found, **state}.items()}
