"""Tiny autoencoders (TAESD) in their real topology against diffusers, and in every layout in which
they are found against the original's own layers."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny as TorchTiny
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sdcore
import tiny_models
import tiny_transformers
import tiny_xl
from reference.common import (
    BF16_FACTOR,
    ISAS,
    SAMPLED_F32,
    TorchComponent,
    error,
    in_bf16,
    randomized,
)
from sdcore import checkpoint, cli
from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.models.base import RunOptions
from sdcore.pipelines.plan import plan
from sdcore.server.drawing import preview

F32 = 3e-6  # of one network, which is some thirty convolutions deep


def _strong(module: Any) -> Any:
    """With random weights that matter: of the initial ones little gets past the biases."""
    randomized(module, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return module


@lru_cache
def tiny(latents: int) -> TorchTiny:
    torch.manual_seed(latents)
    return _strong(TorchTiny(latent_channels=latents))


def picture_and_latents(latents: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(1, 3, 24, 16, generator=generator) * 2 - 1
    return x, 3 * torch.randn(1, latents, 3, 2, generator=generator)  # past the clamp


def halves(module: nn.Module, latents: int) -> tuple[np.ndarray, np.ndarray]:
    dtype = next(module.parameters()).dtype
    x, z = picture_and_latents(latents)
    with torch.no_grad():
        encoded, decoded = module.encode(x.to(dtype)).latents, module.decode(z.to(dtype)).sample
    return encoded.float().numpy(), decoded.float().numpy()


@lru_cache
def references(latents: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """In float32, and in bf16."""
    module = tiny(latents)
    return [halves(module, latents), halves(in_bf16(module), latents)]


@pytest.mark.parametrize("latents, isa", [*((4, isa) for isa in ISAS), (16, None)])
def test_it_is_diffusers(latents: int, isa: str | None) -> None:
    module = tiny(latents)
    refs, rounded = references(latents)
    x, z = (array.numpy() for array in picture_and_latents(latents))
    component = TorchComponent(dict(module.config), module)
    for dtype in ("f32", "bf16"):
        vae = AutoencoderTiny.from_component(component, RunOptions(dtype=dtype, isa=isa))
        for out, ref, own in zip((vae.encode(x), vae.decode(z)), refs, rounded, strict=True):
            allowed = F32 if dtype == "f32" else BF16_FACTOR * error(own, ref)
            assert error(out, ref) <= allowed, dtype


# ---- files ---------------------------------------------------------------------------------------


class _Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x)


@lru_cache
def originals(latents: int) -> nn.ModuleDict:
    """The two halves as madebyollin's taesd.py numbers their layers, with random weights."""

    def blocks(n: int) -> list[nn.Module]:
        return [_Block() for _ in range(n)]

    def up() -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1, bias=False)]

    def down() -> nn.Module:
        return nn.Conv2d(64, 64, 3, padding=1, stride=2, bias=False)

    torch.manual_seed(3)
    encoder = [nn.Conv2d(3, 64, 3, padding=1), *blocks(1)]
    decoder = [_Clamp(), nn.Conv2d(latents, 64, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        encoder += [down(), *blocks(3)]
        decoder += [*blocks(3), *up()]
    encoder += [nn.Conv2d(64, latents, 3, padding=1)]
    decoder += [*blocks(1), nn.Conv2d(64, 3, 3, padding=1)]
    halves = {"encoder": nn.Sequential(*encoder), "decoder": nn.Sequential(*decoder)}
    return _strong(nn.ModuleDict(halves))


def as_file(latents: int, layout: str, folder: Path) -> Path:
    """One of the ways in which they are published or written by other programs."""
    both = originals(latents)
    if layout in both:
        torch.save(both[layout].state_dict(), folder / f"taesd_{layout}.pth")
        return folder / f"taesd_{layout}.pth"
    state = both.state_dict()
    if layout == "ComfyUI":
        state = {f"taesd_{name}": value for name, value in state.items()}
        state["vae_scale"] = torch.tensor(0.18215)
    save_file(state, folder / "taesd.safetensors")
    return folder / "taesd.safetensors"


def opened(path: Path, family: str = "sd1") -> AutoencoderTiny:
    part = checkpoint.open(path).component("vae", family)
    return AutoencoderTiny.from_component(part, RunOptions(dtype="f32"))


@pytest.mark.parametrize(
    "latents, layout", [(4, "decoder"), (4, "together"), (4, "ComfyUI"), (16, "together")]
)
def test_files_of_original_names(latents: int, layout: str, tmp_path: Path) -> None:
    path = as_file(latents, layout, tmp_path)
    title = f"a tiny autoencoder (TAESD), of {latents} latent channels"
    assert checkpoint.open(path).title == title
    # Whichever family it is for, its latents are what the denoiser draws.
    vae = opened(path, "sd3" if latents == 16 else "sdxl")
    x, z = picture_and_latents(latents)
    with torch.no_grad():
        encoded = originals(latents)["encoder"]((x + 1) / 2).numpy()
        decoded = originals(latents)["decoder"](z).numpy() * 2 - 1
    assert error(vae.decode(vae.unscale(z.numpy())), decoded) <= F32
    if layout != "decoder":
        assert error(vae.scale(vae.encode(x.numpy())), encoded) <= F32


def test_original_files_become_diffusers_folders(tmp_path: Path) -> None:
    """Which diffusers itself opens: names and config."""
    folder = sdcore.convert(as_file(4, "together", tmp_path), tmp_path / "folder")
    theirs = TorchTiny.from_pretrained(folder)
    vae = opened(folder)
    x, z = picture_and_latents(4)
    for out, ref in zip((vae.encode(x), vae.decode(z)), halves(theirs, 4), strict=True):
        assert error(out, ref) <= F32
    back = sdcore.convert(folder, tmp_path / "back.safetensors")
    assert np.array_equal(opened(back).decode(z), vae.decode(z))


# ---- in place of a model's own -------------------------------------------------------------------


ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain/, a model with a full VAE, tiny/, the same with a tiny one, and taesd/ alone."""
    root = tmp_path_factory.mktemp("models")
    tiny(4).save_pretrained(root / "taesd")
    tiny_models.save_folder(tiny_models.PLAIN, root / "plain")
    tiny_models.save_folder(tiny_models.PLAIN, root / "tiny")
    for path in (root / "tiny" / "vae").iterdir():
        path.unlink()
    tiny(4).save_pretrained(root / "tiny" / "vae")
    index = (root / "tiny" / "model_index.json").read_text()
    (root / "tiny" / "model_index.json").write_text(index.replace("KL", "Tiny"))
    return root


def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((48, 64), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", ["", "Inpaint"])
def test_pipelines_draw_as_diffusers(folder: Path, kind: str) -> None:
    """A tiny VAE draws no numbers for its latents, so that those for the steps come sooner."""
    given: dict[str, Any] = {"width": 48, "height": 64}
    if kind == "Inpaint":
        mask = np.zeros((64, 48), np.uint8)
        mask[13:50, 9:30] = 255
        given |= {"image": picture(), "mask_image": Image.fromarray(mask), "strength": 0.6}
    theirs = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(folder / "tiny")
    config = theirs.scheduler.config
    theirs.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(config)
    theirs.set_progress_bar_config(disable=True)
    generator = [torch.Generator("cpu").manual_seed(5)]
    ref = theirs(**ARGS, **given, generator=generator, output_type="np").images
    ours = sdcore.DiffusionPipeline.open(folder / "tiny", dtype="f32")
    ours.scheduler = sdcore.EulerAncestralDiscreteScheduler.from_config(ours.scheduler.config)
    ours.vae_tiling = True  # of which it has no need
    assert error(ours(**ARGS, **given, seed=5, output_type="np").images, ref) <= SAMPLED_F32


def test_in_place_of_a_models_own(folder: Path, tmp_path: Path) -> None:
    """From Python and from the shell; a full one again after conversion to one file."""
    args = {**ARGS, "seed": 1, "output_type": "np", "width": 64, "height": 64}
    want = sdcore.DiffusionPipeline.open(folder / "tiny", dtype="f32")(**args).images
    pipe = sdcore.DiffusionPipeline.open(folder / "plain", vae=folder / "taesd", dtype="f32")
    assert np.array_equal(pipe(**args).images, want)
    assert pipe.default_size == (16 * 8, 16 * 8)
    words = ["txt2img", ARGS["prompt"], "-n", ARGS["negative_prompt"], "--steps", 2, "-s", 1,
             "--cfg-scale", 3, "-W", 64, "-H", 64, "--dtype", "f32", "--quiet"]  # fmt: skip
    taesd = ["--taesd", folder / "taesd" / "diffusion_pytorch_model.safetensors"]
    out = ["-m", folder / "plain", *taesd, "-o", tmp_path / "x.png"]
    assert cli.main(list(map(str, [*words, *out]))) == 0
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(pixels, np.round(want[0] * 255).astype(np.uint8))
    one = sdcore.convert(folder / "tiny", tmp_path / "one.safetensors")
    config = {"config": folder / "tiny"}  # heads of a tiny UNet, which no file says
    again = sdcore.DiffusionPipeline.open(one, dtype="f32", **config)
    assert np.array_equal(again(**args).images, want)
    whole = sdcore.convert(one, tmp_path / "whole")
    kinds = json.loads((whole / "model_index.json").read_text())
    assert kinds["vae"] == ["diffusers", "AutoencoderTiny"]
    assert plan(checkpoint.open_model(one), 64, 64, "f32")["networks"]["vae"]["flops"] > 0


def test_previews_are_larger_with_a_tiny_vae(folder: Path) -> None:
    """Being so quick it decodes up to 64 latents a side, where a full one decodes 32."""
    latents = np.zeros((1, 4, 40, 8), np.float32)
    for vae, size in ((None, (4 * 2, 20 * 2)), (folder / "taesd", (8 * 8, 40 * 8))):
        pipe = sdcore.DiffusionPipeline.open(folder / "plain", vae=vae, dtype="f32")
        step = SimpleNamespace(denoised=latents, pipe=pipe)
        job: Any = SimpleNamespace(looking=Lock(), step=step, shown=None)
        assert preview(job).size == size


def test_sd3_takes_one_of_16_channels(tmp_path: Path) -> None:
    tiny_transformers.sd3_pipeline(tmp_path / "sd3")
    path = as_file(16, "together", tmp_path)
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "sd3", vae=path, dtype="f32")
    args = {"width": 64, "height": 64, "num_inference_steps": 1, "seed": 2}
    latents = pipe("a cat", output_type="latent", **args).images
    with torch.no_grad():
        ref = originals(16)["decoder"](torch.from_numpy(latents)).numpy().transpose(0, 2, 3, 1)
    assert error(pipe("a cat", output_type="np", **args).images, ref.clip(0, 1)) <= SAMPLED_F32


def test_what_does_not_go(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = folder / "plain"
    with pytest.raises(sdcore.CheckpointError, match="16 channels, and the denoiser gives 4"):
        sdcore.DiffusionPipeline.open(plain, vae=as_file(16, "together", tmp_path))
    with pytest.raises(sdcore.CheckpointError, match="has no decoder"):
        sdcore.DiffusionPipeline.open(plain, vae=as_file(4, "encoder", tmp_path))
    pipe = sdcore.DiffusionPipeline.open(plain, vae=as_file(4, "decoder", tmp_path))
    for given in ({"image": picture()}, {"hires_scale": 2.0, "width": 64, "height": 64}):
        with pytest.raises(sdcore.UnsupportedModelError, match="has a decoder alone"):
            pipe.stream("a cat", **given)
    with pytest.raises(sdcore.UnsupportedModelError, match=r"C API .* tiny autoencoder"):
        pipe.export(tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
    with pytest.raises(sdcore.UnsupportedModelError, match=r"Playground .* scales its latents"):
        mean_and_std = {"edm_mean": torch.ones(4), "edm_std": torch.ones(4)}
        model = tiny_xl.playground(tmp_path / "tokenizers")
        path = tiny_xl.save_original(model, tmp_path / "playground.ckpt", mean_and_std)
        sdcore.DiffusionPipeline.open(path, vae=folder / "taesd")
    edit = dataclasses.replace(tiny_models.PLAIN, name="edit", unet_inputs=8)
    edit_folder = tiny_models.save_folder(edit, tmp_path / "edit")
    pipe = sdcore.DiffusionPipeline.open(edit_folder, vae=folder / "taesd")
    with pytest.raises(sdcore.UnsupportedModelError, match="latents before they are scaled"):
        pipe.stream("a cat", image=picture())
    both = ["txt2img", "a cat", "-m", plain, "--vae", plain / "vae", "--tae", folder / "taesd"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, both)))
    assert stopped.value.code == 2 and "--tae: " in capsys.readouterr().err
