"""LoRA of every naming and kind on networks, against PEFT's own layers and float64 sums."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sdcore
import tiny_models
from adapters import lora_files
from adapters.lora_files import ATTENTION, TEXT, UNET, State
from adapters.lora_kinds import KINDS, LINEAR, random
from reference.common import NETWORK_F32, TorchComponent, error
from sdcore import _core
from sdcore.adapters import lora
from sdcore.models.base import RunOptions
from sdcore.models.clip import CLIPTextModel
from sdcore.models.unet import UNet2DConditionModel

SPEC = tiny_models.PLAIN
RNG = np.random.default_rng(7)
IDS = RNG.integers(0, len(tiny_models.vocabulary()), (2, 77))
INPUTS = (
    RNG.standard_normal((2, 4, 9, 6), dtype=np.float32),
    np.float32(321),
    RNG.standard_normal((2, 7, SPEC.context), dtype=np.float32),
)


@lru_cache
def plain(component: str) -> Any:
    kinds = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    module: Any = getattr(tiny_models, component)(SPEC)
    config = module.config if component == "unet" else module.config.to_dict()
    return kinds[component].from_component(TorchComponent(config, module), RunOptions(dtype="f32"))


def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    return {name: plain(name).network.graph.weights for name in ("unet", "text_encoder")}


def read(path: Path) -> lora.LoraFile:
    return lora.read(path, shapes(), "a tiny model")


def run(component: str, *adapters: tuple[Path, float], mode: str = "auto") -> np.ndarray:
    weighted = [(read(path).changes.get(component, {}), weight) for path, weight in adapters]
    network = lora.adapted(plain(component).network, weighted, mode)
    return run_network(component, network)


def run_network(component: str, network: Any) -> np.ndarray:
    if component == "text_encoder":
        return network.run({"input_ids": IDS})["last_hidden_state"]
    model = UNet2DConditionModel(plain("unet").config, network)
    return model(*INPUTS)


def expected(component: str, module: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        if component == "text_encoder":
            return module(torch.from_numpy(IDS)).last_hidden_state.numpy()
        sample, timestep, states = (torch.from_numpy(np.asarray(a)) for a in INPUTS)
        return module(sample, timestep, states).sample.numpy()


def save(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    return path


@lru_cache
def unet_lora(**options: Any) -> Any:
    return lora_files.with_lora(tiny_models.unet(SPEC), UNET, seed=5, **options)


@lru_cache
def text_lora() -> Any:
    return lora_files.with_lora(tiny_models.text_encoder(SPEC), TEXT, seed=6)


def renamed(state: State, rename: Any) -> State:
    return {rename(key): value for key, value in state.items()}


# ---- namings -------------------------------------------------------------------------------------


def as_kohya(folder: Path) -> Path:
    state = lora_files.kohya(lora_files.peft_state(unet_lora()), "lora_unet_", 3.0)
    text = lora_files.kohya(lora_files.peft_state(text_lora()), "lora_te_", 3.0)
    text = renamed(text, lambda key: re.sub("^lora_te_(text_model_)?", "lora_te_text_model_", key))
    return save(folder / "kohya.safetensors", state | text)


def as_kohya_original(folder: Path) -> Path:
    """As sd-scripts writes SDXL's: CompVis' names in the UNet, lora_te1 in the text encoder."""
    paths = lora_files.original_paths(SPEC)
    state = {
        f"{paths[key.rpartition('.lora_')[0]]}.lora_{key.rpartition('.lora_')[2]}": value
        for key, value in lora_files.peft_state(unet_lora()).items()
    }
    text = lora_files.kohya(lora_files.peft_state(text_lora()), "lora_te1_", 3.0)
    return save(folder / "xl.safetensors", lora_files.kohya(state, "lora_unet_", 3.0) | text)


def as_diffusers(folder: Path) -> Path:
    """`save_lora_weights` itself, with PEFT's config in the metadata."""
    from diffusers import StableDiffusionPipeline

    networks = {"unet": unet_lora(), "text_encoder": text_lora()}
    options: dict[str, Any] = {}
    for name, module in networks.items():
        options[f"{name}_lora_layers"] = lora_files.peft_state(module)
        config = module.peft_config["default"].to_dict()
        options[f"{name}_lora_adapter_metadata"] = config
    StableDiffusionPipeline.save_lora_weights(folder / "diffusers", **options)
    return folder / "diffusers"


def as_old_diffusers(folder: Path, alphas: bool = True) -> Path:
    """Before PEFT: attention processors', `lora_linear_layer`, and alphas beside them."""

    def unet_name(key: str) -> str:
        key = key.replace("to_out.0", "to_out")
        if match := re.fullmatch(r"(.*attn\d)\.(to_\w+)\.(lora_[AB])\.weight", key):
            return f"unet.{match[1]}.processor.{match[2]}_lora.{_WAYS[match[3]]}.weight"
        return "unet." + re.sub(r"lora_[AB]", lambda m: f"lora.{_WAYS[m[0]]}", key)

    def text_name(key: str) -> str:
        key = re.sub(r"lora_[AB]", lambda m: f"lora_linear_layer.{_WAYS[m[0]]}", key)
        return f"text_encoder.{key}"

    state = renamed(lora_files.peft_state(unet_lora()), unet_name)
    text = renamed(lora_files.peft_state(text_lora()), text_name)
    scales = {
        re.sub(r"([._]lora|\.lora_linear_layer)\.up\.weight$", ".alpha", key): torch.tensor([3.0])
        for key in (*state, *text)
        if alphas and ".up." in key
    }
    path = folder / "old.bin"
    torch.save(state | text | scales, path)
    return path


_WAYS = {"lora_A": "down", "lora_B": "up"}


@pytest.mark.parametrize("write", [as_kohya, as_kohya_original, as_diffusers, as_old_diffusers])
def test_every_naming_gives_the_network_of_peft(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path)
    for component, module in (("unet", unet_lora()), ("text_encoder", text_lora())):
        ref = expected(component, module)
        assert error(expected(component, getattr(tiny_models, component)(SPEC)), ref) > 0.02
        assert error(run(component, (path, 1.0)), ref) <= NETWORK_F32
        assert error(run(component, (path, 1.0), mode="side"), ref) <= NETWORK_F32


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_a_folder_of_peft_brings_its_config(component: str, tmp_path: Path) -> None:
    options = {
        "alpha_pattern": {"to_q": 5, "q_proj": 5},
        "rank_pattern": {"to_k": 2, "k_proj": 2},
        "use_rslora": True,
    }
    targets = {"unet": UNET, "text_encoder": TEXT}[component]
    module = lora_files.with_lora(getattr(tiny_models, component)(SPEC), targets, 9, **options)
    config = {"r": 4, "lora_alpha": 3, **options}
    folder = lora_files.write_peft_folder(tmp_path / "peft", lora_files.peft_state(module), config)
    assert error(run(component, (folder, 1.0)), expected(component, module)) <= NETWORK_F32


def test_strengths_and_several_at_once_are_pefts(tmp_path: Path) -> None:
    module = lora_files.with_lora(tiny_models.unet(SPEC), UNET, seed=5)
    other = lora_files.with_lora(tiny_models.unet(SPEC), ATTENTION, seed=8, r=2, lora_alpha=2)
    first = save(
        tmp_path / "a.safetensors",
        lora_files.kohya(lora_files.peft_state(module), "lora_unet_", 3.0),
    )
    second = save(tmp_path / "b.safetensors", lora_files.peft_state(other))
    delta = {}
    for net, weight in ((module, 0.7), (other, -0.4)):
        for name, layer in net.named_modules():
            if hasattr(layer, "lora_A"):
                change = weight * layer.get_delta_weight("default").detach()
                delta[name] = delta.get(name, 0) + change
    merged = copy.deepcopy(tiny_models.unet(SPEC))
    with torch.no_grad():
        for name, change in delta.items():
            merged.get_submodule(name).weight += change
    ref = expected("unet", merged)
    for mode in lora.MODES:
        out = run("unet", (first, 0.7), (second, -0.4), mode=mode)
        assert error(out, ref) <= NETWORK_F32
    nothing = run("unet", (first, 0.0), (second, 0.0))
    assert np.array_equal(nothing, run_network("unet", plain("unet").network))


# ---- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("naming", ["kohya", "peft"])
def test_dora_is_pefts(naming: str, tmp_path: Path) -> None:
    module = unet_lora(use_dora=True)
    state = lora_files.peft_state(module)
    assert any("magnitude" in key for key in state)
    if naming == "kohya":
        path = save(tmp_path / "dora.safetensors", lora_files.kohya(state, "lora_unet_", 3.0))
    else:
        config = {"r": 4, "lora_alpha": 3, "use_dora": True}
        path = lora_files.write_peft_folder(tmp_path / "dora", state, config)
    ref = expected("unet", module)
    assert error(ref, expected("unet", unet_lora())) > 0.02
    for mode in lora.MODES:  # there is no low rank in it, so it is merged in any of them
        assert error(run("unet", (path, 1.0), mode=mode), ref) <= NETWORK_F32


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_weight_as_published(kind: str, tmp_path: Path) -> None:
    module, tensors, change = KINDS[kind]
    flat = "lora_unet_" + module.replace(".", "_")
    path = save(tmp_path / "x.safetensors", {f"{flat}.{key}": t for key, t in tensors.items()})
    found = read(path).changes["unet"]
    assert list(found) == [f"{module}.weight"]
    weight = tiny_models.unet(SPEC).get_submodule(module).weight.detach()
    delta = found[f"{module}.weight"].delta(weight.numpy(), 1.0)
    assert error(delta, change.numpy()) <= 1e-6
    merged = copy.deepcopy(tiny_models.unet(SPEC))
    with torch.no_grad():
        merged.get_submodule(module).weight += change
    ref = expected("unet", merged)
    assert error(run("unet", (path, 1.0), mode="merge"), ref) <= NETWORK_F32
    assert error(run("unet", (path, 1.0), mode="side"), ref) <= NETWORK_F32


def test_differences_of_norms_and_biases(tmp_path: Path) -> None:
    net = copy.deepcopy(tiny_models.unet(SPEC))
    norm, conv = net.conv_norm_out, net.conv_out
    state = {
        "lora_unet_conv_norm_out.w_norm": random(len(norm.weight)),
        "lora_unet_conv_norm_out.b_norm": random(len(norm.bias)),
        "lora_unet_conv_out.diff_b": random(len(conv.bias)),
    }
    path = save(tmp_path / "norms.safetensors", state)
    with torch.no_grad():
        for parameter, change in zip(
            (norm.weight, norm.bias, conv.bias), state.values(), strict=True
        ):
            parameter += 0.5 * change
    assert error(run("unet", (path, 0.5)), expected("unet", net)) <= NETWORK_F32


# ---- quantized weights ---------------------------------------------------------------------------


def _quantized(component: str, type: str) -> Any:
    network = plain(component).network
    tensors = {
        name: _core.quantize(tensor, type)
        if len(tensor.shape) == 2 and tensor.shape[1] % 32 == 0 and "embed" not in name
        else tensor
        for name, tensor in network.tensors.items()
    }
    return _core.Network(network.graph, tensors, dtype="f32")


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_quantized_weights_stay_in_their_blocks(component: str, tmp_path: Path) -> None:
    changes = read(as_kohya(tmp_path)).changes[component]
    base = _quantized(component, "q4_0")
    merged, beside = (lora.adapted(base, [(changes, 0.8)], mode) for mode in ("merge", "auto"))
    blocks = {name for name, tensor in base.tensors.items() if tensor.type == "q4_0"}
    touched = blocks & set(changes)
    assert len(touched) > 5
    for name in blocks:
        assert beside.tensors[name].type == "q4_0"
        assert merged.tensors[name].type == ("f16" if name in touched else "q4_0")
    # The same weights as floats, with the change merged: what both should compute.
    dense = {
        name: _core.Tensor.from_array(tensor.to_float().reshape(tensor.shape))
        for name, tensor in base.tensors.items()
    }
    exact = lora.adapted(_core.Network(base.graph, dense), [(changes, 0.8)], "merge")
    ref = run_network(component, exact)
    assert error(run_network(component, base), ref) > 0.02
    assert error(run_network(component, beside), ref) <= NETWORK_F32
    assert error(run_network(component, merged), ref) <= 1e-3  # float16 weights


# ---- what may go wrong ---------------------------------------------------------------------------


def test_a_lora_of_another_family_names_both(tmp_path: Path) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {
        f"{module}.lora_down.weight": random(4, 2048),
        f"{module}.lora_up.weight": random(32, 4),
    }
    path = save(tmp_path / "xl.safetensors", state)
    with pytest.raises(
        sdcore.CheckpointError,
        match=r"\[lora\] .*xl\.safetensors' does not fit the model, a tiny model: it holds "
        r"a LoRA for Stable Diffusion XL, in kohya's names: "
        r".*attn2_to_k.*weight of \[32, 64\].*down \[4, 2048\]",
    ):
        read(path)


def test_files_that_change_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sdcore.CheckpointError, match="changes nothing of the model, a tiny model"):
        read(save(tmp_path / "x.safetensors", {"lora_unet_nowhere.lora_up.weight": random(2, 2)}))
    with pytest.raises(sdcore.CheckpointError, match=r"changes nothing.*Stable Diffusion 1"):
        read(tiny_models.save_original(SPEC, tmp_path / "model.safetensors"))
    with pytest.raises(sdcore.FileError, match=r"none of adapter_model\.safetensors"):
        read(tmp_path)
    with pytest.raises(sdcore.FileError, match="no such file"):
        read(tmp_path / "absent.safetensors")


def test_what_the_model_lacks_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = "lora_unet_" + LINEAR.replace(".", "_")
    o, i = tiny_models.unet(SPEC).get_submodule(LINEAR).weight.shape
    state = {f"{flat}.lora_down.weight": random(1, i), f"{flat}.lora_up.weight": random(o, 1),
             "lora_te2_text_model_x.lora_up.weight": random(2, 2),
             "lora_unet_conv_in.lora_down.weight": random(0, 4, 3, 3),
             "lora_unet_conv_in.lora_up.weight": random(32, 0, 1, 1)}  # fmt: skip
    path = save(tmp_path / "x.safetensors", state)
    assert list(read(path).changes["unet"]) == [f"{LINEAR}.weight"]
    assert "passed over 1 tensor (lora_te2_text_model_x.lora_up.weight)" in caplog.text


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_up.weight": (32, 4)}, "has no down"),
        ({"lora_down.weight": (4, 64)}, "has no up"),
        ({"lora_up.weight": (32, 4), "lora_down.weight": (3, 64)}, "up · down does not fit"),
        ({"lokr_w1": (2, 2), "lokr_w2": (3, 3)}, "w1 ⊗ w2 does not fit"),
        ({"hada_w1_a": (32, 2), "hada_w1_b": (2, 64)}, "has no hada_w2_a"),
        ({"hada_w1_a": (32, 2), "hada_w1_b": (3, 64), "hada_w2_a": (32, 2), "hada_w2_b": (2, 64)},
         "hada"),
        ({"diff": (3,)}, "diff does not fit"),
        ({"lora_up.weight": (32, 4), "lora_down.weight": (4, 64), "dora_scale": (5,)},
         "the magnitude does not fit"),
    ],
)  # fmt: skip
def test_damaged_modules_are_named(
    tensors: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    flat = "lora_unet_" + LINEAR.replace(".", "_")
    state = {f"{flat}.{key}": random(*shape) for key, shape in tensors.items()}
    path = save(tmp_path / "bad.safetensors", state)
    with pytest.raises(
        sdcore.CheckpointError, match=f"attn2_to_k.*{message}|{message}.*attn2_to_k"
    ):
        read(path)


def test_other_kinds_and_modes_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "oft.safetensors", {"lora_unet_x.oft_blocks": random(2, 2, 2)})
    with pytest.raises(sdcore.UnsupportedModelError, match=r"oft_blocks.*it runs LoRA, LoCon"):
        read(path)
    with pytest.raises(sdcore.InvalidArgumentError, match="mode must be auto, merge, side"):
        run("unet", mode="both")
    path = save(tmp_path / "m.safetensors", {"x": random(1)}, {"lora_adapter_metadata": "[1"})
    with pytest.raises(sdcore.CheckpointError, match="'lora_adapter_metadata' is not a JSON"):
        read(path)
