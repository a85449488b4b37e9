"""IP-Adapters against diffusers: projections, a UNet with them, and whole pictures."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_ip_adapter
import tiny_models
import tiny_xl
from reference.common import BF16_FACTOR, ISAS, NETWORK_F32, TorchComponent, error, in_bf16
from sdcore.adapters import ip_adapter
from sdcore.models.base import RunOptions
from sdcore.models.image_projection import PROJECTIONS
from sdcore.models.unet import UNet2DConditionModel
from sdcore.models.unet_graph import text_attentions

KINDS = ("classic", "plus", "full", "face")
WIDTHS = {"classic": tiny_ip_adapter.PROJECTION, "plus": 64, "full": 64, "face": 40}


def file_of(unet: torch.nn.Module, kind: str, path: Path, seed: int = 0) -> Path:
    state = tiny_ip_adapter.adapter(unet, kind, seed, WIDTHS[kind])
    return tiny_ip_adapter.save(state, path / f"{kind}-{seed}.safetensors")


def read(path: Path, unet: torch.nn.Module, number: int = 0) -> ip_adapter.IPAdapterFile:
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    return ip_adapter.read(path, number, text_attentions(shapes), shapes, "a tiny model")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_projections_are_diffusers(kind: str, isa: str, tmp_path: Path) -> None:
    unet = tiny_models.unet(tiny_models.PLAIN)
    found = read(file_of(unet, kind, tmp_path), unet)
    state = tiny_ip_adapter.nested(tiny_ip_adapter.adapter(unet, kind, 0, WIDTHS[kind]))
    module = unet._convert_ip_adapter_image_proj_to_diffusers(
        state["image_proj"], low_cpu_mem_usage=False
    ).eval()
    assert type(module).__name__ == found.kind
    shape = (3, 10, WIDTHS[kind]) if kind in ("plus", "full") else (3, WIDTHS[kind])
    embeds = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ref = module(embeds).numpy()
        rounded = error(in_bf16(module)(embeds.bfloat16()).float().numpy(), ref)
    for dtype, allowed in (("f32", NETWORK_F32), ("bf16", BF16_FACTOR * rounded)):
        ours = PROJECTIONS[found.kind].from_component(
            found.projection, RunOptions(dtype=dtype, isa=isa, threads=1)
        )
        out = ours(embeds)
        assert out.shape == ref.shape and error(out, ref) <= allowed
        assert np.array_equal(ours(embeds[1:2]), out[1:2])


UNETS = {"sd1": lambda: tiny_models.unet(tiny_models.ODD), "sdxl": lambda: tiny_xl.base_unet()}


@lru_cache
def _adapted(name: str, folder: Path) -> dict[str, Any]:
    """diffusers' UNet with two adapters in it, of which the second is weaker in the middle."""
    unet = copy.deepcopy(UNETS[name]())
    plain = TorchComponent(dict(unet.config), copy.deepcopy(unet))
    states = [tiny_ip_adapter.adapter(unet, "classic", seed) for seed in (0, 1)]
    read_files = [
        read(tiny_ip_adapter.save(state, folder / f"{i}.bin"), unet, i)
        for i, state in enumerate(states)
    ]
    unet._load_ip_adapter_weights(
        [tiny_ip_adapter.nested(state) for state in states], low_cpu_mem_usage=False
    )
    names = text_attentions(plain.module.state_dict())
    scales = np.array([[0.7] * len(names), [0.2 if "mid" in n else 0.9 for n in names]])
    for row, path in enumerate(names):
        unet.get_submodule(path).processor.scale = list(scales[:, row])
    torch.manual_seed(4)
    x, t = torch.randn(2, 4, 9, 11), torch.tensor([981.0, 1.0])
    context = torch.randn(2, 9, unet.config.cross_attention_dim)
    embeds = [torch.randn(2, pictures, tiny_ip_adapter.PROJECTION) for pictures in (1, 3)]
    more = {}
    if unet.config.addition_embed_type:
        more = {"text_embeds": torch.randn(2, tiny_xl.POOLED), "time_ids": torch.rand(2, 6) * 99}

    def run(module: torch.nn.Module) -> np.ndarray:
        kind = next(module.parameters()).dtype
        added = {"image_embeds": [one.to(kind) for one in embeds]}
        added |= {key: value.to(kind) for key, value in more.items()}
        with torch.no_grad():
            out = module(x.to(kind), t, context.to(kind), added_cond_kwargs=added)
        return out.sample.float().numpy()

    with torch.no_grad():
        tokens = [tokens.flatten(1, 2).numpy() for tokens in unet.encoder_hid_proj(embeds)]
    ref = run(unet)
    return {
        "component": plain,
        "weights": {k: w for file in read_files for k, w in file.weights.items()},
        "arguments": (x.numpy(), t.numpy(), context.numpy()),
        "conditions": {f"ip_hidden_states_{i}": one for i, one in enumerate(tokens)}
        | {key: value.numpy() for key, value in more.items()},
        "scales": scales,
        "ref": ref,
        "rounded": error(run(in_bf16(unet)), ref),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", UNETS)
def test_a_unet_with_adapters_is_diffusers(name: str, isa: str, folder: Path) -> None:
    case = _adapted(name, folder)
    for dtype, allowed in (("f32", NETWORK_F32), ("bf16", BF16_FACTOR * case["rounded"])):
        plain = UNet2DConditionModel.from_component(
            case["component"], RunOptions(dtype=dtype, isa=isa, threads=1)
        )
        unet = plain.with_network(plain.network.with_weights(case["weights"]))
        told = case["conditions"]
        out = unet(*case["arguments"], **told, ip_scales=case["scales"])
        assert error(out, case["ref"]) <= allowed
        x, t, context = (array[1:] for array in case["arguments"])
        alone = {key: value[1:] for key, value in told.items()}
        second = unet(x, t, context, **alone, ip_scales=case["scales"])
        assert np.array_equal(second[0], out[1])


def numbered(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """An adapter each of whose tensors holds its own number, 1, 3, 5 and on."""
    state = tiny_ip_adapter.adapter(unet, "classic")
    return {
        name: torch.full_like(value, float(name.split(".")[1])) if "_ip." in name else value
        for name, value in state.items()
    }


@pytest.mark.parametrize("name", UNETS)
def test_numbers_are_those_of_diffusers_processors(name: str, tmp_path: Path) -> None:
    """Down, up, the middle last: a wrong order has the same shapes and would load."""
    unet = UNETS[name]()
    path = tiny_ip_adapter.save(numbered(unet), tmp_path / "numbered.safetensors")
    processors = list(unet.attn_processors)
    assert processors[-1].startswith("mid_block.")
    weights = read(path, unet).weights
    for key, tensor in weights.items():
        number = processors.index(key.partition(".to_")[0])
        assert np.all(tensor.to_float() == number)
    assert len(weights) == len(processors)


@pytest.mark.parametrize("config", ["SD15", "SDXL", "SD2"])
def test_attentions_of_published_unets(config: str) -> None:
    unet = tiny_models.on_meta(getattr(tiny_models, config))
    wanted = [name for name in unet.attn_processors if ".attn2." in name]
    assert text_attentions(unet.state_dict()) == [n.removesuffix(".processor") for n in wanted]


def test_a_bin_is_the_same_as_safetensors(tmp_path: Path) -> None:
    unet = tiny_models.unet(tiny_models.PLAIN)
    state = tiny_ip_adapter.adapter(unet, "plus", 0, 64)
    one, two = (read(tiny_ip_adapter.save(state, tmp_path / f"a.{end}"), unet)
                for end in ("bin", "safetensors"))  # fmt: skip
    assert one.title == two.title and one.kind == two.kind
    for first, second in ((one.weights, two.weights),
                          (one.projection.tensors, two.projection.tensors)):  # fmt: skip
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            assert np.array_equal(tensor.to_float(), second[key].to_float())
