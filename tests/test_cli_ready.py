"""What `sdcore info` says of running a model is what opening it does, in the same words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tiny_models
from sdcore import DiffusionPipeline, SDCoreError
from sdcore.cli import main
from tiny_models import PLAIN, State

QUERY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q."
KEYS = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.k_proj."
DECODER = ("first_stage_model.decoder.", "first_stage_model.post_quant_conv.")
Change = Callable[[State], State]


def without(*starts: str) -> Change:
    return lambda state: {n: t for n, t in state.items() if not n.startswith(starts)}


def packed(module: str, beside: State, type: torch.dtype = torch.int8) -> Change:
    """A weight in bytes, and what says how they are meant."""

    def change(state: State) -> State:
        weight = torch.zeros(state[f"{module}weight"].shape, dtype=type)
        return {**state, f"{module}weight": weight, **{module + k: t for k, t in beside.items()}}

    return change


def nf4(state: State) -> State:
    """As bitsandbytes saves it: two numbers in a byte, of another shape."""
    weight = state[f"{QUERY}weight"]
    return {
        **state,
        f"{QUERY}weight": torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
        f"{QUERY}weight.absmax": torch.ones(weight.numel() // 64),
        f"{QUERY}weight.quant_map": torch.ones(16),
        f"{QUERY}weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8),
    }


def comfy(format: str) -> State:
    text = json.dumps({"format": format}).encode()
    quant = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return {"weight_scale": torch.ones(1), "comfy_quant": quant}


def two_unets(state: State) -> State:
    unet = {n: t for n, t in state.items() if n.startswith("model.diffusion_model.")}
    rest = {n: t for n, t in state.items() if n not in unet}
    for copy in ("student.", "teacher."):
        rest |= {copy + n.removeprefix("model.diffusion_model."): t for n, t in unet.items()}
    return rest


FAULTS: dict[str, tuple[Change, str, str]] = {
    "nf4": (nf4, "unet", "bitsandbytes' nf4, which sdcore does not read: take its file in float16"),
    "int8": (packed(QUERY, {"SCB": torch.ones(32)}), "unet", "bitsandbytes' int8, which sdcore"),
    "comfy": (packed(QUERY, comfy("int8_tensorwise")), "unet", "ComfyUI's int8_tensorwise, which"),
    "gptq": (packed(QUERY, {"qweight": torch.ones(4)}), "unet", "integers as GPTQ, AWQ or Nunch"),
    "bytes": (packed(QUERY, {}, torch.uint8), "unet", "whole numbers (u8), which sdcore does not"),
    "a tensor": (without(f"{QUERY}weight"), "unet", f"1 tensor missing: {QUERY}weight"),
    "copies": (two_unets, "unet", "its unet is not behind one prefix in names that sdcore knows"),
    "decoder": (without(*DECODER), "vae", "has no decoder, which makes the picture"),
    "vae": (without("first_stage_model."), "vae", "has no vae, only unet, text_encoder: give one"),
    "text": (without("cond_stage_model."), "text_encoder", "has no text_encoder, only unet, vae"),
    "text int8": (packed(KEYS, {"SCB": torch.ones(64)}), "text_encoder", "bitsandbytes' int8"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_info_says_what_opening_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, part, message = FAULTS[name]
    whole = tiny_models.save_original(PLAIN, tmp_path / "whole.safetensors")
    state = change(tiny_models.original_state(PLAIN))
    path = tmp_path / "x.safetensors"
    save_file({n: t.contiguous().clone() for n, t in state.items()}, path)
    tokenizer = tiny_models.write_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(SDCoreError) as caught:
        DiffusionPipeline.open(path, tokenizer=tokenizer)
    said = str(caught.value)
    assert message in said and "\n" not in said

    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    why = said.partition("] ")[2]
    if part == "unet":
        assert (facts["runs"], facts["hint"], facts["needs"]) == (False, why, {})
        assert f"no: {why}" in text
        return
    flag = {"vae": "--vae", "text_encoder": "--clip_l"}[part]
    assert said.endswith(f" as {part}=")
    assert facts["runs"] is True and facts["hint"] == ""
    assert facts["needs"] == {part: why.replace(f"{part}=", flag)}
    assert "yes, with parts from elsewhere" in text and facts["needs"][part] in text
    # What is wrong with one part is not in the way of another in its place.
    DiffusionPipeline.open(path, **{part: whole}, tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["decoder", "text int8"])
def test_a_part_alone_that_no_model_can_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, part, message = FAULTS[name]
    prefix = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model."}[part]
    state = change(tiny_models.original_state(PLAIN))
    alone = {n: t.contiguous().clone() for n, t in state.items() if n.startswith(prefix)}
    save_file(alone, tmp_path / "x.safetensors")
    whole = tiny_models.save_original(PLAIN, tmp_path / "whole.safetensors")
    assert main(["info", str(tmp_path / "x.safetensors"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["runs"] is False and message in facts["hint"]
    with pytest.raises(SDCoreError) as caught:
        DiffusionPipeline.open(whole, **{part: tmp_path / "x.safetensors"})
    assert str(caught.value).endswith(facts["hint"])


def test_a_whole_model_needs_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tiny, tiny_models.save_folder(PLAIN, tmp_path / "folder")):
        assert main(["info", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["runs"], facts["hint"], facts["needs"]) == (True, "", {})


def test_the_model_inside_has_its_name_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["info", "pocket", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] is True
    assert main(["convert", "pocket", "x.safetensors", "--quiet"]) == 0
    assert main(["quantize", "pocket", "x.gguf", "--type", "q8_0", "--quiet"]) == 0
    assert (tmp_path / "x.safetensors").is_file() and (tmp_path / "x.gguf").is_file()


def test_the_title_does_not_say_float8_of_other_packings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = packed(QUERY, comfy("int8_tensorwise"))(tiny_models.original_state(PLAIN))
    save_file(state, tmp_path / "x.safetensors")
    assert main(["info", str(tmp_path / "x.safetensors")]) == 0
    title = capsys.readouterr().out.splitlines()[0]
    assert "in ComfyUI's int8_tensorwise" in title and "float8" not in title
