"""PixArt-Σ whose keys and values are made fewer (Chen et al. 2024, section 3.3), against diffusers'
network with that attention written down as its makers' AttentionKVCompress has it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

import sdcore
import tiny_transformers as tiny
from reference.common import BF16_FACTOR, ISAS, NETWORK_F32, error
from sdcore import checkpoint, convert
from sdcore.models.base import RunOptions
from sdcore.models.pixart import PixArtTransformer2DModel

LAYER, SCALE, CHANNELS = 1, 2, 72


class Compressed(torch.nn.Module):
    """What the second block attends with: each channel of keys and values convolved by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.sr = torch.nn.Conv2d(CHANNELS, CHANNELS, SCALE, SCALE, groups=CHANNELS)
        self.norm = torch.nn.LayerNorm(CHANNELS)
        self.size = (0, 0)

    def __call__(self, attn: Any, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        n = len(hidden_states)

        def fewer(x: torch.Tensor) -> torch.Tensor:
            image = x.transpose(1, 2).reshape(n, CHANNELS, *self.size)
            return self.norm(self.sr(image).flatten(2).transpose(1, 2))

        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        heads = [t.unflatten(2, (attn.heads, -1)).transpose(1, 2) for t in (q, fewer(k), fewer(v))]
        out = functional.scaled_dot_product_attention(*heads)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


@pytest.fixture(scope="module")
def theirs() -> Any:
    module = copy.deepcopy(tiny.pixart())
    compressed = tiny._random(Compressed(), 9)
    module.transformer_blocks[LAYER].attn1.processor = compressed  # and its parameters with it
    return module


@pytest.fixture(scope="module", params=[".safetensors", ".gguf"])
def file(request: pytest.FixtureRequest, theirs: Any, tmp_path_factory: Any) -> Path:
    """Its makers' names."""
    state = {k: v for k, v in theirs.state_dict().items() if ".processor." not in k}
    original = tiny.original_pixart(state, 300, theirs.pos_embed.pos_embed)
    for name, value in theirs.transformer_blocks[LAYER].attn1.processor.state_dict().items():
        original[f"blocks.{LAYER}.attn.{name}"] = value
    folder = tmp_path_factory.mktemp("compressed")
    save_file({k: v.contiguous() for k, v in original.items()}, folder / "a.safetensors")
    if request.param == ".gguf":
        return convert(folder / "a.safetensors", folder / "a.gguf")
    return folder / "a.safetensors"


def inputs(size: tuple[int, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "hidden_states": torch.randn(2, 4, *size, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 48, generator=generator),
        "timestep": torch.tensor([700.0, 20.0]),
    }


def reference(module: Any, size: tuple[int, int], kind: torch.dtype) -> np.ndarray:
    module = copy.deepcopy(module).to(kind)
    module.transformer_blocks[LAYER].attn1.processor.size = (size[0] // 2, size[1] // 2)
    given = {k: v if k == "timestep" else v.to(kind) for k, v in inputs(size).items()}
    with torch.no_grad():
        out = module(**given, added_cond_kwargs={"resolution": None, "aspect_ratio": None})
    return out.sample.float().numpy()


@pytest.mark.parametrize("size", [(8, 12), (10, 14)])  # even and odd in patches
def test_the_network_is_its_makers(theirs: Any, file: Path, size: tuple[int, int]) -> None:
    component = checkpoint.open(file).component("transformer")
    assert component.config["kv_compress_layers"] == [LAYER]
    assert component.config["kv_compress_scale"] == SCALE
    ref = reference(theirs, size, torch.float32)
    rounded = error(reference(theirs, size, torch.bfloat16), ref)
    given = inputs(size)
    arguments = [given[k].numpy() for k in ("hidden_states", "timestep", "encoder_hidden_states")]
    for isa in ISAS:
        for dtype, allowed in (("f32", NETWORK_F32), ("bf16", BF16_FACTOR * rounded)):
            model = PixArtTransformer2DModel.from_component(component, RunOptions(dtype, isa=isa))
            assert error(model(*arguments), ref) <= allowed, (isa, dtype)
    # What is left out is missed: no compression is another network.
    plain = dict(component.config, kv_compress_layers=[])
    other = PixArtTransformer2DModel.from_component(
        checkpoint.Component(
            component.name, plain, component.tensors, component.where, component.part
        ),
        RunOptions("f32"),
    )
    assert error(other(*arguments), ref) > 0.01


def test_names_come_back(file: Path, tmp_path: Path) -> None:
    """Through a folder, with what no diffusers config says."""
    folder = convert(file, tmp_path / "folder")
    again = checkpoint.open(convert(folder, tmp_path / "b.safetensors"))
    was = checkpoint.open(file)
    missing = {"pos_embed", "y_embedder.y_embedding"}  # which is not of the network
    assert set(again.tensors) == set(was.tensors) - missing
    for name in (f"blocks.{LAYER}.attn.sr.weight", f"blocks.{LAYER}.attn.norm.bias"):
        old, new = was.tensors[name], again.tensors[name]
        assert np.array_equal(old.to_float(), new.to_float())
    config = again.component("transformer").config
    assert list(config["kv_compress_layers"]) == [LAYER]


def test_a_missing_tensor_is_named(file: Path, tmp_path: Path) -> None:
    opened = checkpoint.open(file)
    tensors = dict(opened.tensors)
    del tensors[f"blocks.{LAYER}.attn.norm.weight"]
    component = opened.replaced(tensors=tensors).component("transformer")
    with pytest.raises(sdcore.CheckpointError, match=rf"missing: blocks\.{LAYER}\.attn\.norm"):
        PixArtTransformer2DModel.from_component(component)


def test_quantized_on_opening(theirs: Any, file: Path) -> None:
    from sdcore.checkpoint.quantized import quantized

    component = checkpoint.open(file).component("transformer")
    exact, rough = (
        PixArtTransformer2DModel.from_component(part, RunOptions("f32"))
        for part in (component, quantized(component, "q8_0"))
    )
    given = inputs((8, 12))
    arguments = [given[k].numpy() for k in ("hidden_states", "timestep", "encoder_hidden_states")]
    assert error(rough(*arguments), exact(*arguments)) < 0.05
