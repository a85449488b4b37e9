"""LoRA on SD 2, SDXL, SD 3 and PixArt: every naming against diffusers' pipelines with PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler as TorchDDIM
from diffusers import LCMScheduler as TorchLCM
from diffusers import (
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

import sdcore
import tiny_models
import tiny_transformers
import tiny_xl
from adapters import lora_files
from adapters.lora_files import TEXT, UNET
from adapters.test_lora import save
from reference.common import SAMPLED_F32, error

ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 3,
    "guidance_scale": 5.0,
    "height": 32,
    "width": 24,
}
ALPHA = 3.0
TRANSFORMER = r".*(to_q|to_k|to_v|to_out\.0|add_q_proj|to_add_out|net\.0\.proj|net\.2|\.linear)"
SD3_TEXT = ("text_encoder", "text_encoder_2")
XL = ("unet", *SD3_TEXT)


def draw(pipe: Any, **changes: Any) -> np.ndarray:
    return pipe(**{**ARGS, **changes}, seed=5, output_type="latent").images


def drawn_by(pipe: Any, **changes: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(5)
    out = pipe(**{**ARGS, **changes}, generator=generator, output_type="latent")
    return out.images.float().numpy()


def adapted(pipe: Any, **targets: str) -> dict[str, Any]:
    """Puts PEFT's layers into the parts of a pipeline; they are returned by name."""
    made = {}
    for seed, (name, modules) in enumerate(targets.items()):
        made[name] = lora_files.with_lora(getattr(pipe, name), modules, seed)
        setattr(pipe, name, made[name])
    return made


def states(parts: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    return {name: lora_files.peft_state(part) for name, part in parts.items()}


def as_diffusers(kind: Any, parts: dict[str, Any], folder: Path) -> Path:
    """Diffusers' own writer, with PEFT's configs in the metadata."""
    options: dict[str, Any] = {}
    for name, part in parts.items():
        options[f"{name}_lora_layers"] = lora_files.peft_state(part)
        options[f"{name}_lora_adapter_metadata"] = part.peft_config["default"].to_dict()
    kind.save_lora_weights(folder, **options)
    return folder


def as_kohya(path: Path, prefixes: dict[str, str], parts: dict[str, Any]) -> Path:
    """Flat names, where text encoders begin with text_model."""
    state = {}
    for name, of_part in states(parts).items():
        if name.startswith("text"):
            of_part = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in of_part.items()}
        state |= lora_files.kohya(of_part, prefixes[name], ALPHA)
    return save(path, state)


def as_original(net: torch.nn.Module, original: dict[str, torch.Tensor], state: Any) -> Any:
    """A LoRA under the names that the original layout has for the weights."""
    by_data = {value.data_ptr(): key for key, value in original.items()}
    named = {}
    for key, value in state.items():
        path, _, leaf = key.partition(".lora_")
        name = by_data[net.get_parameter(f"{path}.weight").data_ptr()]
        named[f"{name.removesuffix('.weight')}.lora_{leaf}"] = value
    return named


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """SDXL's folder, one with a LoRA in every naming, and diffusers' pipeline with it."""
    folder, files = tmp_path_factory.mktemp("xl"), tmp_path_factory.mktemp("loras")
    pipe = tiny_xl.xl(folder / "tokenizers")
    pipe.save_pretrained(folder / "model")
    parts = adapted(pipe, unet=UNET, text_encoder=TEXT, text_encoder_2=TEXT)
    as_diffusers(StableDiffusionXLPipeline, parts, files / "diffusers")
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    as_kohya(files / "kohya.safetensors", prefixes, parts)
    net = tiny_xl.base_unet()
    unet = as_original(net, tiny_models.original_unet(net), lora_files.peft_state(parts["unet"]))
    texts = as_kohya(files / "texts", prefixes, {name: parts[name] for name in SD3_TEXT})
    from safetensors.torch import load_file

    save(files / "sgm.safetensors", lora_files.kohya(unet, "lora_unet_", ALPHA) | load_file(texts))
    pipe.scheduler = TorchDDIM.from_config(pipe.scheduler.config, clip_sample=False)
    return folder / "model", files, pipe


def opened_xl(folder: Path) -> Any:
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


@pytest.mark.parametrize("name", ["diffusers", "kohya.safetensors", "sgm.safetensors"])
def test_sdxl(xl: tuple[Path, Path, Any], name: str) -> None:
    folder, files, reference = xl
    pipe = opened_xl(folder)
    plain = draw(pipe)
    ref = drawn_by(reference)
    pipe.load_lora_weights(files / name)
    assert pipe.get_list_adapters() == {part: [Path(name).stem] for part in XL}
    assert error(draw(pipe), ref) <= SAMPLED_F32
    pipe.set_adapters(Path(name).stem, mode="side")
    assert error(draw(pipe), ref) <= SAMPLED_F32
    assert error(plain, ref) > 0.01


@pytest.mark.parametrize("name", ["diffusers", "kohya.safetensors"])
def test_sd2(tmp_path: Path, name: str) -> None:
    """Known by the width of the texts that its attentions read; the model predicts v."""
    vit_h = 1024
    pipe = tiny_xl.sd2(tmp_path / "tokenizers")
    pipe.register_modules(
        unet=tiny_xl.sd2_unet(4, vit_h), text_encoder=tiny_xl.text_encoder(vit_h, True)
    )
    pipe.save_pretrained(tmp_path / "model")
    parts = adapted(pipe, unet=UNET, text_encoder=TEXT)
    if name == "diffusers":
        as_diffusers(StableDiffusionPipeline, parts, tmp_path / name)
    else:
        prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
        as_kohya(tmp_path / name, prefixes, parts)
    mine = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    assert mine.family == "sd2"
    plain, ref = draw(mine), drawn_by(pipe)
    mine.load_lora_weights(tmp_path / name)
    assert error(draw(mine), ref) <= SAMPLED_F32
    assert error(plain, ref) > 0.01
    other = sdcore.DiffusionPipeline.open(
        tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "sd1")
    )
    with pytest.raises(sdcore.SDCoreError, match=r"Stable Diffusion 2\.x"):
        other.load_lora_weights(tmp_path / name)


def test_a_lora_draws_sdxl_in_four_steps_of_lcm(xl: tuple[Path, Path, Any]) -> None:
    """LCM-LoRA: LCM's sampler on a model without guidance as an input."""
    folder, files, reference = xl
    pipe = opened_xl(folder)
    pipe.load_lora_weights(files / "sgm.safetensors")
    pipe.scheduler = sdcore.LCMScheduler.from_config(pipe.scheduler.config)
    before = reference.scheduler
    reference.scheduler = TorchLCM.from_config(before.config)
    try:
        for scale in (1.0, 1.5):
            changes = {"num_inference_steps": 4, "guidance_scale": scale}
            assert error(draw(pipe, **changes), drawn_by(reference, **changes)) <= SAMPLED_F32
    finally:
        reference.scheduler = before


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    folder, files = tmp_path_factory.mktemp("sd3"), tmp_path_factory.mktemp("loras")
    pipe = tiny_transformers.sd3_pipeline(folder)
    parts = adapted(pipe, transformer=TRANSFORMER, text_encoder=TEXT, text_encoder_2=TEXT)
    as_diffusers(StableDiffusion3Pipeline, parts, files / "diffusers")
    prefixes = {
        "transformer": "lora_transformer_",
        "text_encoder": "lora_te1_",
        "text_encoder_2": "lora_te2_",
    }
    as_kohya(files / "onetrainer.safetensors", prefixes, parts)
    return folder, files, pipe


@pytest.mark.parametrize("name", ["diffusers", "onetrainer.safetensors"])
def test_sd3(sd3: tuple[Path, Path, Any], name: str) -> None:
    folder, files, reference = sd3
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    changes = {"max_sequence_length": 20}
    plain, ref = draw(pipe, **changes), drawn_by(reference, **changes)
    for mode in ("merge", "side"):
        pipe.load_lora_weights(files / name, mode, mode=mode)
        assert error(draw(pipe, **changes), ref) <= SAMPLED_F32
    assert error(plain, ref) > 0.01
    pipe.unload_lora_weights()
    assert np.array_equal(draw(pipe, **changes), plain)


def _peft_folder(path: Path, part: Any) -> None:
    config = {"r": 4, "lora_alpha": ALPHA, "peft_type": "LORA"}
    lora_files.write_peft_folder(path / "peft", lora_files.peft_state(part), config)


WRITE: dict[str, Callable[[Path, Any], Any]] = {
    "peft": _peft_folder,
    "onetrainer.safetensors": lambda path, part: as_kohya(
        path / "onetrainer.safetensors",
        {"transformer": "lora_transformer_"},
        {"transformer": part},
    ),
}


@pytest.mark.parametrize("name", WRITE)
def test_pixart(tmp_path: Path, name: str) -> None:
    reference = tiny_transformers.pixart_pipeline(tmp_path / "model", False)
    parts = adapted(reference, transformer=TRANSFORMER)
    WRITE[name](tmp_path, parts["transformer"])
    pipe = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    plain = draw(pipe)
    ref = drawn_by(reference, use_resolution_binning=False)
    pipe.load_lora_weights(tmp_path / name)
    assert error(draw(pipe), ref) <= SAMPLED_F32
    assert error(plain, ref) > 0.01
