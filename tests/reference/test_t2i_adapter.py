"""T2I-Adapters, and UNets and pictures with what they add, against diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import MultiAdapter, T2IAdapter
from PIL import Image
from safetensors.torch import save_file

import sdcore
import tiny_t2i
from reference.common import (
    BF16_FACTOR,
    NETWORK_F32,
    SAMPLED_F32,
    TORCH_TYPES,
    TorchComponent,
    error,
    in_dtype,
)
from sdcore import checkpoint, convert
from sdcore.models.base import RunOptions
from sdcore.models.controlnet import ControlNetModel
from sdcore.models.t2i_adapter import T2IAdapter as Ours
from sdcore.models.t2i_adapter import build_stretch
from sdcore.pipelines.control_unet import contexts
from sdcore.pipelines.memory import plan_memory
from tiny_control import controlnet, picture

KINDS = ("full_adapter", "light_adapter", "full_adapter_xl")


def _flat(features: Any) -> np.ndarray:
    """All with the same weight, as each counts in the UNet."""
    arrays = [np.asarray(a.float() if torch.is_tensor(a) else a) for a in features]
    return np.concatenate([a.ravel() / np.linalg.norm(a) for a in arrays])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_diffusers(kind: str, channels: int, dtype: str) -> None:
    """Of sides whose halves are odd, so that there are means of less than four."""
    module = tiny_t2i.adapter(kind, in_channels=channels)
    x = torch.rand((2, channels, 5 * 16, 9 * 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ref = _flat(module(x))
        own = _flat(in_dtype(module, dtype)(x.to(TORCH_TYPES[dtype])))
    allowed = NETWORK_F32 if dtype == "f32" else BF16_FACTOR * error(own, ref)
    net = Ours.from_component(TorchComponent(dict(module.config), module), RunOptions(dtype))
    assert error(_flat(net(x.numpy())), ref) <= allowed


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_sizes(kind: str) -> None:
    config = {"adapter_type": kind, "downscale_factor": 16 if kind.endswith("xl") else 8}
    if kind == "light_adapter":
        config |= {"channels": [320, 640, 1280], "num_res_blocks": 4}
    with torch.device("meta"):
        state = T2IAdapter(**config).state_dict()
    typed = Ours.read_config(config)
    weights: dict[str, Any] = {}
    for blocks in typed.stretches:
        weights |= build_stretch(typed, blocks).weights
    assert {k: tuple(v) for k, v in weights.items()} == {
        k: tuple(v.shape) for k, v in state.items()
    }


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_is_the_same(kind: str, channels: int, tmp_path: Path) -> None:
    """TencentARC's names, also in a dict of their own, diffusers', and both ways between them."""
    module = tiny_t2i.adapter(kind, in_channels=channels)
    module.save_pretrained(tmp_path / "folder")
    original = {name: tensor.clone() for name, tensor in tiny_t2i.original_state(module).items()}
    save_file(original, tmp_path / "bare.safetensors")
    torch.save({"adapter": original}, tmp_path / "nested.pth")
    save_file(module.state_dict(), tmp_path / "diffusers.safetensors")
    convert(tmp_path / "folder", tmp_path / "x.gguf")
    convert(tmp_path / "bare.safetensors", tmp_path / "again")
    x = np.random.default_rng(2).random((1, channels, 48, 80), np.float32)
    config = Ours.read_config(module.config)
    want = None
    for name in (
        "folder", "bare.safetensors", "nested.pth", "diffusers.safetensors", "x.gguf", "again"
    ):  # fmt: skip
        opened = checkpoint.open(tmp_path / name)
        assert opened.kind is not None and opened.kind.family == "t2i-adapter", name
        part = opened.component("t2i_adapter")
        net = Ours.from_component(part, RunOptions("f32"))
        assert (list(net.config.channels), net.config) == (
            list(config.channels),
            Ours.read_config(dict(module.config) | {"channels": net.config.channels}),
        ), name
        out = _flat(net(x))
        want = out if want is None else want
        assert np.array_equal(out, want), name
    T2IAdapter.from_pretrained(tmp_path / "again")
    gguf = checkpoint.open(tmp_path / "x.gguf").tensors
    assert set(gguf) == set(original)  # as other programs know them


# ---- pictures ------------------------------------------------------------------------------------

ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 3,
    "guidance_scale": 5.0,
}
# Of latents that are odd somewhere on their way down.
SIZES = {"sd1": {"width": 72, "height": 96}, "sdxl": {"width": 80, "height": 96}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """By family, diffusers' pipeline and its folder."""
    root = tmp_path_factory.mktemp("models")
    pipes = {
        "sd1": tiny_t2i.sd1_pipeline(root / "tokenizer"),
        "sdxl": tiny_t2i.xl_pipeline(root / "tokenizers"),
    }
    for family, pipe in pipes.items():
        pipe.save_pretrained(root / family)
    return {family: (pipe, root / family) for family, pipe in pipes.items()}


def _saved(net: T2IAdapter, folder: Path) -> Path:
    save_file({k: v.clone() for k, v in tiny_t2i.original_state(net).items()}, folder)
    return folder


def _theirs(pipe: Any, family: str, nets: list[T2IAdapter], **options: Any) -> np.ndarray:
    cls = getattr(diffusers, f"StableDiffusion{'XL' * (family == 'sdxl')}AdapterPipeline")
    parts = {k: v for k, v in pipe.components.items() if v is not None}
    parts |= {"adapter": MultiAdapter(nets) if len(nets) > 1 else nets[0]}
    if family == "sd1":
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts |= {"requires_safety_checker": False}
    reference = cls(**parts)
    reference.set_progress_bar_config(disable=True)
    out = reference(
        **ARGS | SIZES[family] | options,
        generator=[torch.Generator("cpu").manual_seed(5)],
        output_type="latent",
    )
    return out.images.float().numpy()


CASES: dict[str, tuple[str, tuple[tuple[str, int], ...], dict[str, Any]]] = {
    "one": ("sd1", (("full_adapter", 3),), {}),
    "weaker, in grey": ("sd1", (("full_adapter", 1),), {"adapter_conditioning_scale": 0.4}),
    "light, without guidance": ("sd1", (("light_adapter", 3),), {"guidance_scale": 1.0}),
    "two": (
        "sd1",
        (("full_adapter", 3), ("light_adapter", 3)),
        {"adapter_conditioning_scale": [0.4, 1.3]},
    ),
    "xl": ("sdxl", (("full_adapter_xl", 3),), {"adapter_conditioning_scale": 0.8}),
    "xl in a part of the steps": (
        "sdxl",
        (("full_adapter_xl", 1),),
        {"adapter_conditioning_factor": 0.6},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text_to_image_is_diffusers(
    made: dict[str, tuple[Any, Path]], tmp_path: Path, name: str
) -> None:
    family, which, options = CASES[name]
    theirs, folder = made[family]
    nets = [tiny_t2i.adapter(kind, 700 + i, channels) for i, (kind, channels) in enumerate(which)]
    pictures = [
        picture(seed).convert("RGB" if channels == 3 else "L")
        for seed, (_, channels) in enumerate(which)
    ]
    given: Any = pictures if len(which) > 1 else pictures[0]
    ref = _theirs(theirs, family, nets, image=given, **options)
    paths = [_saved(net, tmp_path / f"{i}.safetensors") for i, net in enumerate(nets)]
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=paths)
    run = {**ARGS, **SIZES[family], **options, "seed": 5, "output_type": "latent"}
    assert plan_memory(pipe, *SIZES[family].values()).arenas["controlnet"] > 0
    out = pipe(**run, control_image=given).images
    assert error(out, ref) <= SAMPLED_F32
    pipe.unload_controlnet()
    plain = {k: v for k, v in run.items() if not k.startswith("adapter")}
    assert error(pipe(**plain).images, ref) > 0.01


def test_beside_a_controlnet(made: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    """diffusers' UNet takes both; whichever is named first, the picture is the same."""
    theirs, folder = made["sd1"]
    adapter = tiny_t2i.adapter("full_adapter")
    control = controlnet(theirs.unet, conditioning_embedding_out_channels=(8, 8, 8, 12))
    control.save_pretrained(tmp_path / "control")
    path = _saved(adapter, tmp_path / "adapter.safetensors")
    size, pictures = SIZES["sd1"], [picture(3), picture(4)]

    def tensor(image: Image.Image) -> torch.Tensor:
        resized = image.resize((size["width"], size["height"]), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(resized, np.float32) / 255).permute(2, 0, 1)[None]

    pipe = sdcore.DiffusionPipeline.open(
        folder, dtype="f32", controlnet=[path, tmp_path / "control"]
    )
    latents = torch.randn((1, 4, 12, 9), generator=torch.Generator().manual_seed(6))
    run = {**ARGS, **size, "num_inference_steps": 1, "guidance_scale": 1.0}
    run |= {"latents": latents.numpy(), "output_type": "latent"}
    first = pipe(**run, control_image=pictures, controlnet_conditioning_scale=[0.7, 0.9]).images
    pipe.load_controlnet([tmp_path / "control", path])
    shared = {"control_image": pictures[::-1], "controlnet_conditioning_scale": [0.9, 0.7]}
    assert np.array_equal(pipe(**run, **shared).images, first)
    text = torch.from_numpy(pipe.encode([ARGS["prompt"]]))
    theirs.scheduler.set_timesteps(1)
    (t,) = theirs.scheduler.timesteps
    with torch.no_grad():
        down, mid = control(
            latents, t, text, tensor(pictures[1]), conditioning_scale=0.9, return_dict=False
        )
        features = [0.7 * one for one in adapter(tensor(pictures[0]))]
        noise = theirs.unet(
            latents,
            t,
            text,
            down_intrablock_additional_residuals=features,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        ref = theirs.scheduler.step(noise, t, latents, return_dict=False)[0].numpy()
    assert error(first, ref) <= SAMPLED_F32
    # One of them counts in steps that reuse deep features, too.
    run |= {"num_inference_steps": 4, "cache_interval": 2, "cache_branch_id": 3}
    both = pipe(**run, **shared).images
    for scales in ([0.9, 0.0], [0.0, 0.7]):
        one = pipe(**run, **shared | {"controlnet_conditioning_scale": scales}).images
        assert error(one, both) > 0.001


def test_a_controlnet_after_an_adapter_reads_the_face() -> None:
    """InstantID's is the first of the ControlNets; adapters read nothing."""
    models = [kind.__new__(kind) for kind in (Ours, ControlNetModel, ControlNetModel)]
    text = "encoder_hidden_states"
    assert contexts({}, models, "face tokens") == [text, "face tokens", text]


def test_what_is_wrong(made: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    paths = {
        kind: _saved(tiny_t2i.adapter(kind), tmp_path / f"{kind}.safetensors") for kind in KINDS
    }
    pipe = sdcore.DiffusionPipeline.open(made["sd1"][1], dtype="f32")
    with pytest.raises(
        sdcore.UnsupportedModelError, match=r"T2I-Adapter.*downscale_factor is 16 there and 8 here"
    ):
        pipe.load_controlnet(paths["full_adapter_xl"])
    pipe.load_controlnet(paths["full_adapter"])
    run = {**ARGS, "control_image": picture()}
    for wrong, message in (
        ({"guess_mode": True}, "guess_mode is for ControlNets"),
        (
            {"adapter_conditioning_scale": 1.0, "controlnet_conditioning_scale": 1.0},
            "another name of controlnet_conditioning_scale",
        ),
        ({"control_image": [picture()] * 2}, "one picture for each ControlNet, got 2 for 1"),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            pipe(**{**run, **wrong})
    xl = sdcore.DiffusionPipeline.open(made["sdxl"][1], dtype="f32")
    with pytest.raises(sdcore.UnsupportedModelError, match="which does not go with"):
        xl.load_controlnet(paths["light_adapter"])
