"""Names with more before them than files are known to have: what a training program leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny_models
import tiny_transformers
import tiny_xl
from sdcore import CheckpointError, checkpoint
from tiny_models import PLAIN, State

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = "cond_stage_model.transformer."


def whole() -> State:
    return tiny_models.original_state(PLAIN)


def part(prefix: str) -> State:
    """One of them alone, without its prefix."""
    return {n.removeprefix(prefix): t for n, t in whole().items() if n.startswith(prefix)}


def under(prefix: str, state: Mapping[str, torch.Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(state: State, path: Path) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    return path


def check(opened: checkpoint.Checkpoint, *names: str) -> None:
    """These parts are there, whole and with their own numbers."""
    networks = {
        "unet": tiny_models.unet(PLAIN),
        "vae": tiny_models.vae(PLAIN),
        "text_encoder": tiny_models.text_encoder(PLAIN),
    }
    assert opened.components.keys() == set(names)
    for name in names:
        want = networks[name].state_dict()
        if name == "text_encoder":
            want = {f"text_model.{k.removeprefix('text_model.')}": t for k, t in want.items()}
        got = opened.component(name).weights({key: t.shape for key, t in want.items()})
        for key, tensor in want.items():
            np.testing.assert_array_equal(got[key].to_float(), tensor.numpy())


BEFORE = ("module.", "state_dict.", "model.", "_orig_mod.", "module.model.", "a.b.c.")


@pytest.mark.parametrize("before", BEFORE)
def test_something_before_all_names_of_a_model(tmp_path: Path, before: str) -> None:
    path = saved(under(before, whole()), tmp_path / "x.safetensors")
    opened = checkpoint.open_model(path)
    check(opened, "unet", "vae", "text_encoder")
    assert opened.summary().passed_over == 0


@pytest.mark.parametrize(
    "before", [*BEFORE, "diffusion_model.", "model.model.diffusion_model.", f"module.{UNET}"]
)
def test_something_before_a_unet_alone(tmp_path: Path, before: str) -> None:
    path = saved(under(before, part(UNET)), tmp_path / "x.safetensors")
    check(checkpoint.open_model(path), "unet")


@pytest.mark.parametrize("before", ["module.", "_orig_mod.", "model.unet."])
def test_something_before_diffusers_names(tmp_path: Path, before: str) -> None:
    state = under(before, tiny_models.unet(PLAIN).state_dict())
    check(checkpoint.open_model(saved(state, tmp_path / "x.safetensors")), "unet")


@pytest.mark.parametrize("before", [*BEFORE, "vae.module.", "autoencoder."])
def test_something_before_a_vae_alone(tmp_path: Path, before: str) -> None:
    path = saved(under(before, part(VAE)), tmp_path / "x.safetensors")
    check(checkpoint.open(path), "vae")


@pytest.mark.parametrize(
    "before", [*BEFORE, "clip_l.transformer.", "text_encoders.clip_g.transformer.", "te1."]
)
def test_something_before_a_text_encoder_alone(tmp_path: Path, before: str) -> None:
    path = saved(under(before, part(CLIP)), tmp_path / "x.safetensors")
    check(checkpoint.open(path), "text_encoder")


@pytest.mark.parametrize(
    "before", ["diffusion_model.", "model.model.diffusion_model.", f"{UNET}_orig_mod.", "denoiser."]
)
def test_something_else_before_the_unet_of_a_model(tmp_path: Path, before: str) -> None:
    state = {name: t for name, t in whole().items() if not name.startswith(UNET)}
    path = saved(state | under(before, part(UNET)), tmp_path / "x.safetensors")
    opened = checkpoint.open_model(path)
    check(opened, "unet", "vae", "text_encoder")
    # Messages name tensors as the file has them.
    assert opened.component("unet").source_name("conv_in.bias").startswith(before)


def test_what_no_shape_shows_is_behind_the_prefix_too(tmp_path: Path) -> None:
    pipe = tiny_xl.xl(tmp_path / "tokenizers")
    state = tiny_xl.original_state(pipe) | {"v_pred": torch.ones(1)}
    opened = checkpoint.open_model(saved(under("state_dict.", state), tmp_path / "x.safetensors"))
    assert set(opened.components) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert opened.scheduler_config["prediction_type"] == "v_prediction"


def test_text_encoders_are_told_apart_by_what_is_left_of_their_prefixes(tmp_path: Path) -> None:
    """And one that is another's is not taken for one that is not there."""
    denoiser = tiny_transformers.original_sd3(tiny_transformers.sd3().state_dict())
    state = under("diffusion_model.", denoiser)
    widths = {"clip_l.transformer.": 64, "clip_g.transformer.": 128}
    for before, width in widths.items():
        net = tiny_transformers.clip(width, width, "gelu", 1)
        state |= under(before, net.state_dict())
    opened = checkpoint.open_model(saved(state, tmp_path / "both.safetensors"))
    assert opened.components.keys() == {"transformer", "text_encoder", "text_encoder_2"}
    assert opened.component("text_encoder").config["hidden_size"] == 64
    assert opened.component("text_encoder_2").config["hidden_size"] == 128
    state = {name: t for name, t in state.items() if not name.startswith("clip_l.")}
    opened = checkpoint.open_model(saved(state, tmp_path / "one.safetensors"))
    assert opened.components.keys() == {"transformer", "text_encoder_2"}


def test_of_two_alike_none_is_chosen(tmp_path: Path) -> None:
    """Which of two networks is meant, nothing says."""
    state = under("student.", part(UNET)) | under("teacher.", part(UNET)) | under(VAE, part(VAE))
    opened = checkpoint.open(saved(state, tmp_path / "x.safetensors"))
    assert "unet" not in opened.components


WRAPPERS = (
    "weights", "ema", "state_dict_ema", "network", "net", "generator", "module",
    "model_state_dict", "ema_state_dict", "checkpoint", "unet",
)  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_pickled_dictionaries(tmp_path: Path, wrapper: str) -> None:
    """Whatever a training program calls them, and what it keeps beside them."""
    beside = {"epoch": 3, "config": {"lr": 0.1}, "optimizer": {"exp_avg": whole(), "step": 1}}
    torch.save({wrapper: whole(), **beside}, tmp_path / "x.pt")
    opened = checkpoint.open_model(tmp_path / "x.pt")
    check(opened, "unet", "vae", "text_encoder")
    torch.save({wrapper: part(UNET), "step": 3}, tmp_path / "unet.pt")
    check(checkpoint.open_model(tmp_path / "unet.pt"), "unet")


def test_a_dictionary_of_settings_is_not_the_model(tmp_path: Path) -> None:
    torch.save({"model": {"name": "unet"}, "weights": whole()}, tmp_path / "x.pt")
    check(checkpoint.open_model(tmp_path / "x.pt"), "unet", "vae", "text_encoder")


def test_parallel_training_inside_a_state_dict(tmp_path: Path) -> None:
    torch.save({"state_dict": under("module.", whole()), "epoch": 1}, tmp_path / "x.ckpt")
    check(checkpoint.open_model(tmp_path / "x.ckpt"), "unet", "vae", "text_encoder")


def test_parts_that_are_dictionaries_keep_their_names(tmp_path: Path) -> None:
    parts = {
        name: getattr(tiny_models, name)(PLAIN).state_dict()
        for name in ("unet", "vae", "text_encoder")
    }
    torch.save({**parts, "step": 3}, tmp_path / "x.pt")
    check(checkpoint.open_model(tmp_path / "x.pt"), "unet", "vae", "text_encoder")


def test_other_networks_are_not_searched_for_models(tmp_path: Path) -> None:
    """A small part of a file that would be a model by itself does not make it one."""
    rest = {f"head.{i}.weight": torch.zeros(2, 3) for i in range(2000)}
    path = saved(rest | under("aux.", tiny_models.unet(PLAIN).state_dict()), tmp_path / "x")
    assert checkpoint.open(path).kind is None
    with pytest.raises(CheckpointError, match="has no unet"):
        checkpoint.open(path).component("unet")


@pytest.mark.parametrize("lora", ["lora_unet_{}", "lora_te_{}", "model.diffusion_model.{}"])
def test_stray_tensors_of_a_lora_do_not_make_a_model_one(tmp_path: Path, lora: str) -> None:
    """Merges leave them behind; a LoRA alone stays one."""
    name = lora.format("input_blocks_1_1_proj_in.lora_")
    stray = {f"{name}{end}.weight": torch.zeros(4, 4) for end in ("down", "up")}
    opened = checkpoint.open_model(saved(whole() | stray, tmp_path / "x.safetensors"))
    assert opened.title.endswith("with tensors of a LoRA, which are passed over")
    check(opened, "unet", "vae", "text_encoder")
    alone = checkpoint.open(saved(stray, tmp_path / "lora.safetensors"))
    assert alone.kind is not None and alone.kind.family == "lora"
