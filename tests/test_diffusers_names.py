"""Names of diffusers' that sdcore takes because they ask for nothing, or answers with its own."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import sdcore
import tiny_models

ARGS: dict[str, Any] = {
    **{"num_inference_steps": 2, "height": 16, "width": 16},
    **{"seed": 1, "output_type": "latent"},
}
OPEN = sdcore.DiffusionPipeline.from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model"))


@pytest.fixture
def pipe(folder: Path) -> sdcore.DiffusionPipeline:
    return OPEN(folder, dtype="f32")


# ---- classes -------------------------------------------------------------------------------------


def test_pipelines_are_imported_by_diffusers_names(folder: Path) -> None:
    from sdcore import AutoPipelineForText2Image, StableDiffusionPipeline, StableDiffusionXLPipeline

    for kind in (AutoPipelineForText2Image, StableDiffusionPipeline):
        assert type(kind.from_pretrained(folder)) is StableDiffusionPipeline
    with pytest.raises(sdcore.UnsupportedModelError, match="not for StableDiffusionXLPipeline"):
        StableDiffusionXLPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("StableDiffusionImg2ImgPipeline", r"give image=.* strength=, which .* to be 0\.8"),
        (
            "AutoPipelineForInpainting",
            r"mask_image= and strength=, which diffusers takes to be 1\.0",
        ),
        ("StableDiffusionControlNetPipeline", "with controlnet=, and .* as control_image="),
        ("ControlNetModel", "with controlnet="),
        ("AutoencoderKL", "with vae=, a path"),
    ],
)
def test_classes_that_there_are_not_name_what_there_is(name: str, says: str) -> None:
    with pytest.raises(ImportError, match=f"sdcore has no {name}: .*{says}"):
        exec(f"from sdcore import {name}")
    with pytest.raises(sdcore.SDCoreError):
        getattr(sdcore, name)


def test_a_pipeline_is_not_made_of_parts(pipe: sdcore.DiffusionPipeline) -> None:
    for kind in (sdcore.DiffusionPipeline, sdcore.StableDiffusionPipeline):
        with pytest.raises(sdcore.InvalidArgumentError, match="not made of parts: open it with"):
            kind(**pipe.components)


# ---- opening -------------------------------------------------------------------------------------


def test_options_that_ask_for_nothing(folder: Path, pipe: sdcore.DiffusionPipeline) -> None:
    scheduler = sdcore.EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    other = OPEN(
        folder,
        torch_dtype=torch.float32,
        device_map="cpu",
        scheduler=scheduler,
        variant="fp16",
        safety_checker=None,
        requires_safety_checker=False,
        feature_extractor=None,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=True,
        cache_dir="/nowhere",
        add_watermarker=False,
    )
    assert other.scheduler is scheduler
    other.scheduler = pipe.scheduler
    assert np.array_equal(other("a cat", **ARGS).images, pipe("a cat", **ARGS).images)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"safety_checker": object()}, "safety_checker= is diffusers'; here sdcore has none"),
        ({"add_watermarker": True}, "marks no pictures"),
        ({"device_map": "balanced"}, 'here give device="cuda", or one for each part'),
        ({"custom_pipeline": "lpw"}, "runs no code of a model's"),
        ({"quantization_config": object()}, 'here give quantize="q8_0"'),
        ({"unet": object()}, "parts are opened with the model"),
        ({"text_encoder": None}, "cannot do without its text_encoder"),
        ({"torch_dtype": torch.float16}, "f16 is for GPUs: on the CPU use auto, bf16 or f32"),
    ],
)
def test_options_that_are_said_otherwise(folder: Path, options: Any, says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        OPEN(folder, **options)


def test_a_repository_is_not_downloaded(pipe: sdcore.DiffusionPipeline) -> None:
    for opens in (OPEN, pipe.load_lora_weights, pipe.load_ip_adapter):
        with pytest.raises(sdcore.FileError, match="hf download h94/IP-Adapter"):
            opens("h94/IP-Adapter")


# ---- methods and attributes ----------------------------------------------------------------------


def test_switches_that_change_no_picture(pipe: sdcore.DiffusionPipeline) -> None:
    before = pipe("a cat", **ARGS).images
    pipe.enable_attention_slicing("max")
    pipe.enable_xformers_memory_efficient_attention()
    pipe.enable_vae_slicing()
    pipe.vae.enable_slicing()
    pipe.set_progress_bar_config(disable=True)
    pipe.fuse_qkv_projections()
    pipe.disable_freeu()
    pipe.safety_checker = None
    pipe.safety_checker = lambda images, clip_input: (images, [False] * len(images))
    pipe.enable_model_cpu_offload(gpu_id=1)
    assert pipe.unload
    assert np.array_equal(pipe("a cat", **ARGS).images, before)
    for vae in (pipe, pipe.vae):
        for switch, tiling in (("enable", True), ("disable", None)):
            name = "tiling" if vae is pipe.vae else "vae_tiling"
            getattr(vae, f"{switch}_{name}")()
            assert pipe.vae_tiling is tiling


def test_what_is_read_off_a_pipeline(pipe: sdcore.DiffusionPipeline) -> None:
    parts = pipe.components
    assert parts["unet"] is pipe.unet
    assert parts["tokenizer"] is pipe.tokenizer
    assert parts["scheduler"] is pipe.scheduler
    assert torch.Generator(pipe.device).device.type == "cpu"
    assert pipe.vae_scale_factor == 2
    assert pipe.safety_checker is None


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda pipe: pipe.enable_freeu(s1=1, s2=1, b1=1, b2=1), "FreeU is not built"),
        (lambda pipe: pipe.save_pretrained("x"), r"sdcore\.convert\(model, folder\)"),
        (lambda pipe: pipe.guidance_scale, "it is a call's: give it there"),
        (lambda pipe: pipe.upcast_vae(), 'dtype={"vae": "f32"}'),
        (lambda pipe: setattr(pipe, "safety_checker", torch.nn.Linear(1, 1)), "sdcore has none"),
        (lambda pipe: pipe.image_processor.preprocess(0), "image= takes them as they are"),
    ],
)
def test_what_is_done_otherwise(pipe: sdcore.DiffusionPipeline, use: Any, says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        use(pipe)


def test_names_that_are_missing_are_seen_to_be(pipe: sdcore.DiffusionPipeline) -> None:
    for name in ("enable_freeu", "guidance_scale", "nothing"):
        assert not hasattr(pipe, name)
    with pytest.raises(AttributeError, match="'StableDiffusionPipeline' object has no attribute"):
        _ = pipe.nothing


@pytest.mark.parametrize(
    ("where", "options"),
    [
        (("cpu",), {}),
        ((torch.device("cpu"), torch.float32), {}),
        ((torch.float32,), {}),
        ((), {"device": "cpu", "dtype": "float32"}),
        ((), {"memory_format": torch.channels_last}),
    ],
)
def test_a_model_goes_where_it_is(pipe: Any, where: Any, options: Any) -> None:
    for one in (pipe, pipe.unet, pipe.vae, pipe.text_encoder):
        assert one.to(*where, **options) is one


@pytest.mark.parametrize(
    ("where", "options", "says"),
    [
        (("cuda",), {}, "the device of this is cpu: open it with device='cuda'"),
        ((torch.float16,), {}, "the dtype of this is f32: open it with dtype='f16'"),
        (("cpu", torch.bfloat16), {}, "open it with dtype='bf16'"),
        ((), {"place": "cpu"}, "to takes a device and a dtype, and no place"),
    ],
)
def test_a_model_stays_where_it_is(pipe: Any, where: Any, options: Any, says: str) -> None:
    for one in (pipe, pipe.unet, pipe.vae):
        with pytest.raises(sdcore.InvalidArgumentError, match=says):
            one.to(*where, **options)


# ---- a call --------------------------------------------------------------------------------------


def test_arguments_of_none_are_none(pipe: sdcore.DiffusionPipeline) -> None:
    nothing = dict.fromkeys(("callback", "padding_mask_crop", "masked_image_latents"))
    drawn = pipe("a cat", **ARGS, **nothing, callback_steps=1).images
    assert np.array_equal(drawn, pipe("a cat", **ARGS).images)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"callback": print}, "callback= is diffusers'; here give callback_on_step_end="),
        ({"padding_mask_crop": 32}, "cut the part to paint out yourself"),
    ],
)
def test_arguments_that_are_said_otherwise(pipe: Any, arguments: Any, says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        pipe("a cat", **ARGS, **arguments)


SIZED = {name: ARGS[name] for name in ("seed", "output_type")}


def test_what_follows_the_prompt(pipe: Any) -> None:
    drawn = pipe("a cat", 16, 24, 2, **SIZED).images
    assert drawn.shape == (1, 4, 8, 12)
    named = {"height": 16, "width": 24, "num_inference_steps": 2}
    assert np.array_equal(drawn, pipe("a cat", **named, **SIZED).images)
    against = pipe("a cat", negative_prompt="a dog", **ARGS).images
    assert np.array_equal(pipe("a cat", "a dog", **ARGS).images, against)
    assert np.array_equal(pipe(["a cat"], ["a dog"], **ARGS).images, against)
    wide = pipe("a cat", 16, 24, negative_prompt="a dog", num_inference_steps=2, **SIZED)
    assert wide.images.shape == drawn.shape
    assert not np.array_equal(wide.images, drawn)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((16, 16, 2, 5.0), "prompt, height, width, num_inference_steps may go without their names"),
        ((np.zeros((3, 16, 16)),), "height follows here, .* ndarray: give a picture as image="),
        (("a dog", 16), "height must be"),
        ((24,), "height is given twice"),
    ],
)
def test_what_cannot_follow_the_prompt(pipe: Any, values: Any, says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        pipe("a cat", *values, **ARGS if "twice" in says else SIZED)


def test_each_family_has_the_order_of_its_pipeline() -> None:
    """As far as it goes; sdcore's depth_map is a picture as well."""
    kinds = {
        **{"sd1": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3"},
        **{"pixart-sigma": "PixArtSigma", "sd1-edit": "StableDiffusionInstructPix2Pix"},
        "sdxl-edit": "StableDiffusionXLInstructPix2Pix",
        **{"sd1-inpaint": "StableDiffusionInpaint", "sdxl-inpaint": "StableDiffusionXLInpaint"},
        "sd2-depth": "StableDiffusionDepth2Img",
    }
    for family, name in kinds.items():
        theirs = inspect.signature(getattr(diffusers, f"{name}Pipeline").__call__).parameters
        order = sdcore.DiffusionPipeline.registry[family].call_order
        assert tuple(theirs)[2 : 2 + len(order)] == order


# ---- parts ---------------------------------------------------------------------------------------


def test_the_vae_may_be_exchanged(pipe: Any, folder: Path) -> None:
    other = OPEN(folder, dtype="f32", vae=folder / "vae")
    before = pipe("a cat", **{**ARGS, "output_type": "np"}).images
    pipe.vae = other.vae
    pipe.tokenizer = other.tokenizer
    pipe.unet = pipe.unet
    assert pipe.vae is other.vae
    assert np.array_equal(pipe("a cat", **{**ARGS, "output_type": "np"}).images, before)
    with pytest.raises(
        sdcore.CheckpointError, match="latents of 16 channels, and the denoiser giv"
    ):
        pipe.vae = sixteen_channels(other.vae)


def sixteen_channels(vae: Any) -> Any:
    other = copy.copy(vae)
    other.config = dataclasses.replace(vae.config, latent_channels=16)
    return other


def compiled(network: Any) -> Any:
    return torch.compile(lambda *inputs: network(*inputs))


@pytest.mark.parametrize(
    ("name", "made", "says"),
    [
        (
            "unet",
            compiled,
            "unet must be a part of .*, which compiles its graphs by itself, got fu",
        ),
        ("vae", compiled, "vae must be a part of a pipeline of sdcore's"),
        ("vae", lambda _: None, "vae must be a part .* got NoneType"),
        ("vae", lambda _: "vae.safetensors", "got str; paths are for opening"),
        ("unet", lambda unet: unet.with_network(unet.network), "unet stays the one .* adapters"),
        ("tokenizer", lambda _: None, "tokenizer must be a part"),
    ],
)
def test_other_parts_are_refused(pipe: Any, name: str, made: Any, says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        setattr(pipe, name, made(getattr(pipe, name)))
