"""Whole networks and pictures on a device, by the rule of the numerical contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
import tiny_ip_adapter
import tiny_models
import tiny_transformers
from cuda.devices import DEVICES, ONE_ARCHITECTURE
from reference.common import BF16_FACTOR, NETWORK_F32, SAMPLED_F32, TorchComponent, error, in_dtype
from reference.test_networks import _clip_case, _unet_case, _vae_case
from sdcore import _core
from sdcore.cli import main
from sdcore.graph import Builder, nn
from sdcore.models.base import RunOptions
from sdcore.models.clip import CLIPTextModel
from sdcore.models.t5 import T5EncoderModel
from sdcore.models.unet import DeepFeatures, UNet2DConditionModel
from sdcore.models.vae import AutoencoderKL
from sdcore.pipelines import memory

MODES = pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
on_one_architecture = pytest.mark.parametrize("device", ONE_ARCHITECTURE, indirect=True)


def allowed(dtype: str, own_error: Callable[[str], float]) -> float:
    """By the contract, with what PyTorch errs in a dtype."""
    return NETWORK_F32 if dtype == "f32" else BF16_FACTOR * own_error(dtype)


@MODES
def test_unet(device: str, dtype: str) -> None:
    case = _unet_case("lcm")
    options = RunOptions(dtype=dtype, device=device)
    unet = UNet2DConditionModel.from_component(case["component"], options)
    out = unet(*case["arguments"], **case["conditions"])
    assert error(out, case["ref"]) <= allowed(dtype, case["own_error"])
    # What is replayed gives the same; and so does a picture of the batch alone.
    np.testing.assert_array_equal(unet(*case["arguments"], **case["conditions"]), out)
    x, t, context = (a[1:] for a in case["arguments"])
    alone = unet(x, t, context, **{k: v[1:] for k, v in case["conditions"].items()})
    np.testing.assert_array_equal(alone[0], out[1])


@on_one_architecture
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_kept_features_stay_on_the_device(device: str, dtype: str) -> None:
    case = _unet_case("lcm")
    options = RunOptions(dtype=dtype, device=device)
    unet = UNet2DConditionModel.from_component(case["component"], options)
    whole = unet(*case["arguments"], **case["conditions"])
    deep = DeepFeatures(2)
    for index in range(2):
        deep.begin_step(index)
        out = unet(*case["arguments"], **case["conditions"], deep=(deep, None))
        np.testing.assert_array_equal(out, whole)
    assert all(isinstance(kept, sdcore.DeviceArray) for kept, _ in deep._kept.values())


@MODES
def test_vae(device: str, dtype: str) -> None:
    case = _vae_case("odd")
    options = RunOptions(dtype=dtype, device=device)
    vae = AutoencoderKL.from_component(case["component"], options)
    outs = vae.moments(case["x"]), vae.decode(case["z"])
    for i, (out, ref) in enumerate(zip(outs, case["refs"], strict=True)):
        assert error(out, ref) <= allowed(dtype, lambda kind, i=i: case["own_errors"](kind)[i])


@MODES
def test_clip(device: str, dtype: str) -> None:
    case = _clip_case("quick_gelu", True, 498)
    options = RunOptions(dtype=dtype, device=device)
    out = CLIPTextModel.from_component(case["component"], options)(case["ids"])
    ref = case["ref"][1]
    assert error(out, ref) <= allowed(dtype, lambda kind: error(case["rounded"](kind)[1], ref))


@MODES
def test_t5(device: str, dtype: str) -> None:
    module = tiny_transformers.t5()
    ids = torch.randint(3, 399, (2, 19), generator=torch.Generator().manual_seed(0))

    def run(kind: str) -> np.ndarray:
        with torch.no_grad():
            return in_dtype(module, kind)(ids).last_hidden_state.float().numpy()

    ref = run("f32")
    component = TorchComponent(module.config.to_dict(), module)
    model = T5EncoderModel.from_component(component, RunOptions(dtype=dtype, device=device))
    assert error(model(ids.numpy()), ref) <= allowed(dtype, lambda kind: error(run(kind), ref))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("model") / "plain"
    yield tiny_models.save_folder(tiny_models.PLAIN, path)


PICTURE = {"height": 16, "width": 24, "num_inference_steps": 1, "seed": 1}


@on_one_architecture
def test_a_picture_is_the_cpu_s(device: str, folder: Path) -> None:
    here, there = (
        sdcore.DiffusionPipeline.open(folder, dtype="f32", device=where)
        for where in ("cpu", device)
    )
    assert there.unet.network.device.startswith(device)
    arguments = PICTURE | {"num_inference_steps": 2}
    steps = [list(pipe.stream("a cat", **arguments))[-1] for pipe in (here, there)]
    assert error(steps[1].latents, steps[0].latents) <= SAMPLED_F32
    pictures = [pipe.vae.decode(steps[0].latents) for pipe in (here, there)]
    assert error(pictures[1], pictures[0]) <= NETWORK_F32


@on_one_architecture
def test_a_picture_like_a_picture_is_the_cpu_s(device: str, folder: Path, tmp_path: Path) -> None:
    state = tiny_ip_adapter.adapter(tiny_models.unet(tiny_models.PLAIN), "plus", 0, 64)
    adapter = tiny_ip_adapter.save(state, tmp_path / "plus.safetensors")
    tiny_ip_adapter.image_encoder().save_pretrained(tmp_path / "image_encoder")
    look_at = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    latents = []
    for where in ("cpu", device):
        pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", device=where)
        pipe.load_ip_adapter(adapter)
        assert pipe.image_encoder is not None
        assert pipe.image_encoder.network.device == pipe.unet.network.device
        out = pipe("a cat", **PICTURE, ip_adapter_image=look_at, output_type="latent")
        latents.append(out.images)
    assert error(latents[1], latents[0]) <= SAMPLED_F32


@on_one_architecture
def test_parts_may_stay_on_the_cpu(device: str, folder: Path, tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder, device={"unet": device})
    assert pipe.unet.network.dtype == "bf16"  # the best of a GPU
    assert {part.networks[0].device for part in (pipe.vae, pipe.text_encoder)} == {"cpu"}
    assert pipe("a cat", **PICTURE).images[0].size == (24, 16)
    with pytest.raises(sdcore.InvalidArgumentError, match=r"no part 'unett', only"):
        sdcore.DiffusionPipeline.open(folder, device={"unett": device})
    flags = ["--device", device, "--vae-on-cpu", "--clip-on-cpu", "-H", "16", "-W", "24"]
    picture = tmp_path / "picture.png"
    assert (
        main(["txt2img", "-m", str(folder), "a", *flags, "--steps", "1", "-o", str(picture)]) == 0
    )
    assert picture.is_file()


@on_one_architecture
def test_prompts_take_turns_where_the_devices_memory_is_short(
    device: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sdcore.DiffusionPipeline.open(folder, device=device)
    assert not memory.is_too_large(pipe, *pipe.default_size)
    # What the program's own memory has does not count.
    monkeypatch.setattr(_core, "device_memory", lambda _: (1 << 10, 1 << 30))
    assert memory.is_too_large(pipe, *pipe.default_size)


@on_one_architecture
def test_f16_is_of_the_parts_on_a_gpu(device: str, folder: Path, tmp_path: Path) -> None:
    def kinds(**options: Any) -> list[str]:
        pipe = sdcore.DiffusionPipeline.open(folder, **options)
        return [part.networks[0].dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)]

    assert kinds(device=device, dtype="f16") == ["f16"] * 3
    assert kinds(device=device, dtype={"unet": "f16"}) == ["f16", "bf16", "bf16"]
    assert kinds(device={"unet": device}, dtype="f16") == ["f16", *kinds()[1:]]
    for options in ({}, {"device": {"unet": "cpu"}}):
        with pytest.raises(sdcore.InvalidArgumentError, match="f16 is for GPUs: on the CPU use"):
            kinds(dtype="f16", **options)
    with pytest.raises(sdcore.InvalidArgumentError, match=r"dtype: there is no part 'unett'"):
        kinds(dtype={"unett": "f16"})
    flags = ["--dtype", "f16", "-H", "16", "-W", "24", "--steps", "1"]
    picture = tmp_path / "picture.png"
    command = ["txt2img", "-m", str(folder), "a", *flags, "-o", str(picture)]
    assert main(command) == 2 and not picture.exists()
    assert main([*command, "--device", device, "--vae-on-cpu", "--clip-on-cpu"]) == 0
    assert picture.is_file()


def test_parts_give_back_a_device_s_memory(device: str) -> None:
    case = _clip_case("quick_gelu", True, 498)
    clip = CLIPTextModel.from_component(case["component"], RunOptions(device=device))
    first = clip(case["ids"])
    clip.release()
    np.testing.assert_array_equal(clip(case["ids"]), first)
    free, total = _core.device_memory(device)
    assert 0 < free <= total


def test_what_does_not_fit_is_said() -> None:
    """The emulation has 4 GiB."""
    if "emulated" not in DEVICES:
        pytest.skip("not built in")
    b = Builder()
    x = b.input("x")
    for _ in range(6):
        x = nn.upsample(x)
    b.output("out", nn.conv2d(b.weights.conv, x, 64, 4, kernel=1, stride=16))
    weights = {name: np.zeros(shape, np.float32) for name, shape in b.graph.weights.items()}
    tensors = {name: _core.Tensor.from_array(w) for name, w in weights.items()}
    network = _core.Network(b.graph, tensors, device="emulated")
    with pytest.raises(sdcore.OutOfMemoryError, match=r"needs \d+ MiB, and \d+ MiB of 4096 MiB"):
        network.run({"x": np.zeros((1, 64, 64, 64), np.float32)})
    assert network.run({"x": np.zeros((1, 1, 1, 64), np.float32)})["out"].shape == (1, 4, 4, 4)
