"""LoRA on whole pipelines against diffusers with the same file, and what a pipeline promises."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler as TorchDDIM

import sdcore
import tiny_models
from adapters import test_lora as files
from reference.common import SAMPLED_F32, error

SPEC = tiny_models.PLAIN
ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "height": 16,
    "width": 24,
}
_SHAPE = (1, 4, 8, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(SPEC, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kohya.safetensors, old.bin and diffusers/: one LoRA under three namings."""
    path = tmp_path_factory.mktemp("loras")
    files.as_kohya(path)
    files.as_diffusers(path)
    files.as_old_diffusers(path, alphas=False)  # which diffusers no longer takes
    return path


def ours(folder: Path, **options: Any) -> sdcore.DiffusionPipeline:
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32", **options)
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


def draw(pipe: Any, **changes: Any) -> np.ndarray:
    return pipe(**{**ARGS, **changes}, seed=5, output_type="latent").images


@lru_cache
def expected(folder: Path, *adapters: tuple[Path, float]) -> np.ndarray:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = TorchDDIM.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    names = [f"adapter_{i}" for i in range(len(adapters))]
    for name, (path, _) in zip(names, adapters, strict=True):
        options = {} if path.is_dir() else {"weight_name": path.name}
        pipe.load_lora_weights(path if path.is_dir() else path.parent, adapter_name=name, **options)
    if names:
        pipe.set_adapters(names, [weight for _, weight in adapters])
    noise = torch.randn(_SHAPE, generator=torch.Generator("cpu").manual_seed(5))
    return pipe(**ARGS, latents=noise, output_type="latent").images.numpy()


@pytest.mark.parametrize("name", ["kohya.safetensors", "diffusers", "old.bin"])
def test_latents_are_diffusers_with_the_same_file(folder: Path, loras: Path, name: str) -> None:
    path = loras / name
    ref = expected(folder, (path, 1.0))
    assert error(expected(folder), ref) > 0.05
    for mode in ("merge", "side"):
        pipe = ours(folder)
        pipe.load_lora_weights(path, mode=mode)
        assert error(draw(pipe), ref) <= SAMPLED_F32


def test_adapters_come_and_go_without_a_trace(folder: Path, loras: Path) -> None:
    pipe = ours(folder)
    plain = draw(pipe)
    one, two = loras / "kohya.safetensors", loras / "old.bin"
    pipe.load_lora_weights(one)
    pipe.load_lora_weights(two, adapter_name="second")
    assert pipe.get_active_adapters() == ["second"]  # the last one alone, as diffusers has it
    assert pipe.get_list_adapters() == {
        "text_encoder": ["kohya", "second"],
        "unet": ["kohya", "second"],
    }
    pipe.set_adapters(["kohya", "second"], [0.7, -0.3])
    ref = expected(folder, (one, 0.7), (two, -0.3))
    assert error(draw(pipe), ref) <= SAMPLED_F32
    pipe.set_adapters("kohya", {"text_encoder": 0.0})
    unet_only = draw(pipe)
    assert error(unet_only, ref) > 0.01
    pipe.delete_adapters("second")
    assert np.array_equal(draw(pipe), unet_only)
    pipe.delete_adapters(["kohya"])
    assert np.array_equal(draw(pipe), plain)
    pipe.load_lora_weights(one)
    pipe.unload_lora_weights()
    assert np.array_equal(draw(pipe), plain)
    assert pipe.get_active_adapters() == []


def test_tags_are_for_one_call(folder: Path, loras: Path) -> None:
    pipe = ours(folder)
    pipe.lora_dir = loras
    plain = draw(pipe)
    tagged = draw(pipe, prompt=ARGS["prompt"] + "<lora:kohya:0.7><lora:old:-0.3>")
    one, two = loras / "kohya.safetensors", loras / "old.bin"
    assert error(tagged, expected(folder, (one, 0.7), (two, -0.3))) <= SAMPLED_F32
    assert np.array_equal(draw(pipe), plain)
    assert pipe.get_active_adapters() == []
    named = pipe(**{**ARGS, "prompt": "<lora:kohya>a cat"}, seed=1, output_type="latent")
    assert named.parameters["prompt"] == "<lora:kohya>a cat"
    apart = draw(pipe, prompt=ARGS["prompt"] + "<lora:kohya:0:1>")
    pipe.set_adapters("kohya", {"text_encoder": 0.0})
    assert np.array_equal(draw(pipe), apart)


def test_a_lora_that_is_missing_is_a_warning(
    folder: Path, loras: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = ours(folder)
    plain = draw(pipe)
    prompt = ARGS["prompt"] + "<lora:../kohya:1><lora:kohya:much><lora:kohya:1:nan>"
    assert np.array_equal(draw(pipe, prompt=prompt), plain)
    assert "no LoRA '../kohya' (lora_dir is not set): going on without it" in caplog.text
    assert "left out <lora:kohya:much>: its weight is not a number" in caplog.text
    assert "left out <lora:kohya:1:nan>: its weight is not a number" in caplog.text
    pipe.lora_dir = loras / "diffusers"  # a name does not lead out of the folder
    assert np.array_equal(draw(pipe, prompt=prompt), plain)
    assert f"no LoRA '../kohya' (not in '{loras / 'diffusers'}')" in caplog.text


def test_what_cannot_be_done_is_said(folder: Path, loras: Path, tmp_path: Path) -> None:
    pipe = ours(folder)
    pipe.load_lora_weights(loras / "kohya.safetensors", "style")
    before = draw(pipe)
    for message, act in {
        r"there is an adapter 'style' already": lambda: pipe.load_lora_weights(tmp_path, "style"),
        r"no adapter 'x'; loaded are: style": lambda: pipe.set_adapters(["style", "x"]),
        r"there are 1 adapters and 2 weights": lambda: pipe.set_adapters(["style"], [1, 2]),
        r"no component 'vae' to weight": lambda: pipe.set_adapters("style", {"vae": 1.0}),
        r"a weight must be a number, got '1'": lambda: pipe.set_adapters("style", ["1"]),
        r"a weight must be a number, got inf": lambda: pipe.set_adapters("style", float("inf")),
        r"mode must be auto, merge, side, got 'x'": lambda: pipe.set_adapters("style", mode="x"),
        r"must have the same <lora:…> tags": lambda: pipe(["a<lora:style:1>", "b"]),
    }.items():
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            act()
    with pytest.raises(sdcore.CheckpointError, match="does not fit the model, Stable Diffusion 1"):
        pipe.load_lora_weights(_of_another_family(tmp_path))
    assert pipe.get_active_adapters() == ["style"]
    assert np.array_equal(draw(pipe), before)


def _of_another_family(folder: Path) -> Path:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {
        f"{name}.lora_down.weight": torch.ones(2, 2048),
        f"{name}.lora_up.weight": torch.ones(64, 2),
    }
    return files.save(folder / "xl.safetensors", state)


def test_a_running_call_keeps_what_it_began_with(folder: Path, loras: Path) -> None:
    pipe = ours(folder)
    plain = draw(pipe)
    stream = pipe.stream(**ARGS, seed=5, output_type="latent")
    next(stream)
    pipe.load_lora_weights(loras / "kohya.safetensors")
    changed = draw(pipe)
    assert np.array_equal(stream.result().images, plain)
    results: dict[str, np.ndarray] = {}
    tags = {"plain": "", "more": "<lora:kohya:2>", "none": "<lora:kohya:0>"}

    def run(name: str) -> None:
        results[name] = draw(pipe, prompt=ARGS["prompt"] + tags[name])

    threads = [threading.Thread(target=run, args=(name,)) for name in tags]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(results["plain"], changed)
    assert np.array_equal(results["none"], plain)
    assert not np.array_equal(results["more"], changed)


def test_an_export_has_the_adapters_in_it(folder: Path, loras: Path, tmp_path: Path) -> None:
    pipe = ours(folder)
    pipe.load_lora_weights(loras / "kohya.safetensors", mode="side")
    pipe.export(tmp_path / "with.gguf", steps=4, dtype="f32")
    again = sdcore.DiffusionPipeline.open(tmp_path / "with.gguf", dtype="f32")
    again.scheduler = pipe.scheduler
    assert error(draw(again), draw(pipe)) <= SAMPLED_F32
    pipe.set_adapters("kohya", mode="merge")
    assert np.array_equal(draw(again), draw(pipe))


# ---- diffusers' other words ----------------------------------------------------------------------


def theirs(folder: Path, loras: Path) -> Any:
    """With kohya.safetensors at work as "one", and diffusers/ as "two"."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = TorchDDIM.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return loaded(pipe, loras)


def loaded(pipe: Any, loras: Path) -> Any:
    pipe.load_lora_weights(loras, weight_name="kohya.safetensors", adapter_name="one")
    pipe.load_lora_weights(loras.parent, subfolder=f"{loras.name}/diffusers", adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.7, -0.4])
    return pipe


def drawn(pipe: Any, **changes: Any) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(5)
    out = pipe(**{**ARGS, **changes}, generator=generator, output_type="latent")
    return np.asarray(out.images)


def agree(mine: Any, other: Any, **changes: Any) -> np.ndarray:
    images = drawn(mine, **changes)
    assert error(images, drawn(other, **changes)) <= SAMPLED_F32
    return images


def test_a_call_says_how_strong_they_are(folder: Path, loras: Path) -> None:
    mine, other = loaded(ours(folder), loras), theirs(folder, loras)
    scaled = agree(mine, other, cross_attention_kwargs={"scale": 0.3})
    assert np.array_equal(drawn(mine, lora_scale=0.3), scaled)
    assert error(agree(mine, other), scaled) > 0.01
    plain = ours(folder)
    assert np.array_equal(drawn(plain), drawn(mine, lora_scale=0.0))
    assert np.array_equal(drawn(plain, lora_scale=0.3), drawn(plain))
    with pytest.raises(sdcore.InvalidArgumentError, match="takes a scale, and no 'gligen'"):
        drawn(plain, cross_attention_kwargs={"gligen": {}})


def test_fused_adapters_stay_until_they_are_taken_out(folder: Path, loras: Path) -> None:
    mine, other = loaded(ours(folder), loras), theirs(folder, loras)
    both = agree(mine, other)
    for pipe in (mine, other):
        pipe.fuse_lora(lora_scale=0.5)
    fused = agree(mine, other)
    assert error(fused, both) > 0.01
    assert mine.get_active_adapters() == ["one", "two"]
    assert set(mine.lora_files) == {"one", "two"}
    with pytest.raises(sdcore.InvalidArgumentError, match="'one' is fused: unfuse_lora first"):
        mine.set_adapters("one")
    mine.unfuse_lora()  # which leaves them at half their strength in diffusers
    assert np.array_equal(drawn(mine), both)
    mine.fuse_lora(lora_scale=0.5)
    for pipe in (mine, other):
        pipe.unload_lora_weights()
    assert np.array_equal(agree(mine, other), fused)
    mine.unfuse_lora()
    assert np.array_equal(drawn(mine), drawn(ours(folder)))


def test_some_adapters_are_fused_into_some_parts(folder: Path, loras: Path) -> None:
    mine, other = loaded(ours(folder), loras), theirs(folder, loras)
    for pipe in (mine, other):
        pipe.fuse_lora(components=["unet"], adapter_names=["one"])
        pipe.unload_lora_weights()
    agree(mine, other)
    mine = loaded(ours(folder), loras)
    both = drawn(mine)
    mine.fuse_lora(components=["unet"], adapter_names=["one"])
    assert error(drawn(mine), both) <= SAMPLED_F32
    for act, message in {
        lambda: mine.fuse_lora(["vae"]): "no component 'vae'",
        lambda: mine.unfuse_lora(["unet"]): "takes adapters out of all components: text_encoder, u",
        lambda: ours(folder).fuse_lora(): "no adapter at work to be fused",
    }.items():
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            act()


def test_adapters_rest_for_a_while(folder: Path, loras: Path) -> None:
    mine, other = loaded(ours(folder), loras), theirs(folder, loras)
    both = drawn(mine)
    for pipe in (mine, other):
        pipe.disable_lora()
    assert np.array_equal(agree(mine, other), drawn(ours(folder)))
    for pipe in (mine, other):
        pipe.enable_lora()
    assert np.array_equal(agree(mine, other), both)


def test_a_lora_may_be_a_dict(folder: Path, loras: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(loras / "kohya.safetensors")
    mine, same = ours(folder), ours(folder)
    mine.load_lora_weights({name: tensor.bfloat16() for name, tensor in state.items()})
    assert mine.get_active_adapters() == ["default_0"]
    assert mine.lora_files == {}
    same.load_lora_weights(loras / "kohya.safetensors")
    assert 0 < error(drawn(mine), drawn(same)) < 0.1
    mine.load_lora_weights(state, adapter_name="whole")
    assert np.array_equal(drawn(mine), drawn(same))
    with pytest.raises(sdcore.CheckpointError, match=r"'\(a dict of tensors\)' changes nothing of"):
        mine.load_lora_weights({"a": torch.zeros(1)})
    with pytest.raises(sdcore.FileError, match=r"no such file or folder: .*nothing\.bin'"):
        mine.load_lora_weights(loras, weight_name="nothing.bin")


logging.getLogger("diffusers").setLevel(logging.ERROR)
