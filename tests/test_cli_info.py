"""`sdcore info`: what it tells of the machine, of models and of pictures."""

import json

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sdcore
from command_line import one_error_line
from sdcore.checkpoint import safetensors
from sdcore.cli import main


def test_about_the_machine(capsys):
    assert main(["info"]) == 0
    assert sdcore.__version__ in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["isa"] in facts["isas"]
    assert facts["threads"] >= 1
    assert "DDIMScheduler" in facts["schedulers"]


def test_about_a_model(tiny, capsys):
    assert main(["info", str(tiny), "--plan", "64x96"]) == 0
    text = capsys.readouterr().out
    for part in ("Stable Diffusion 1.x", "unet", "vae", "text_encoder", "plan for 64x96", "arena"):
        assert part in text
    assert main(["info", str(tiny), "--json", "--plan", "64x96", "--dtype", "f32"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == "sd1"
    assert facts["runs"] is True
    parts = {part["name"]: part for part in facts["parts"]}
    assert set(parts) == {"unet", "vae", "text_encoder"}
    assert sum(part["tensors"] for part in parts.values()) == facts["tensors"]
    plan = facts["plan"]
    assert plan["dtype"] == "f32"
    assert plan["arena_bytes"] == max(n["arena_bytes"] for n in plan["networks"].values())


def test_about_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    chunk = PngInfo()
    chunk.add_text("parameters", "a cat\nSteps: 3, Sampler: DDIM, Seed: 5")
    Image.new("RGB", (8, 8)).save("x.png", pnginfo=chunk)
    assert main(["info", "x.png"]) == 0
    text = capsys.readouterr().out
    assert "x.png: a picture (png)\na cat\nSteps: 3, Sampler: DDIM" in text
    assert main(["info", "x.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["prompt"], facts["settings"]["Seed"]) == ("a cat", "5")
    Image.new("RGB", (8, 8)).save("plain.png")
    assert main(["info", "plain.png"]) == 0
    assert "without settings" in capsys.readouterr().out


def test_about_what_is_no_model(tmp_path, capsys):
    path = tmp_path / "model.gguf"
    path.write_text("only words here")
    assert main(["info", str(path)]) == 1
    one_error_line(capsys, str(path), "text file")
    assert main(["info", str(tmp_path / "none")]) == 1
    one_error_line(capsys, "no such file")


def test_about_what_does_not_run(tmp_path, capsys):
    path = tmp_path / "lora.safetensors"
    down = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    safetensors.save(path, {down: np.zeros((4, 2048), np.float16)})
    assert main(["info", str(path)]) == 0
    assert "a LoRA for Stable Diffusion XL" in capsys.readouterr().out
    assert main(["info", str(path), "--plan", "64x64"]) == 1
    one_error_line(capsys, "a LoRA for Stable Diffusion XL")


def test_plan_wants_sizes_that_the_model_can_draw(tiny, capsys):
    assert main(["info", str(tiny), "--plan", "65x64"]) == 2
    one_error_line(capsys, "multiples of 8, got 65x64")
