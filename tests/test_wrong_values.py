"""Values of a wrong kind are refused where they come in, and names of a neighbour's are taken."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler as TorchDDIM
from PIL import Image

import sdcore
import tiny_models

ARGS: dict[str, Any] = {"num_inference_steps": 2, "height": 16, "width": 16}
OPEN = sdcore.DiffusionPipeline.open


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> sdcore.DiffusionPipeline:
    return OPEN(folder)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("hires_scale", "two", "hires_scale must be a finite number, got 'two'"),
        ("latents", "abc", "latents must be an array of numbers, got a str"),
        ("latents", [[1, 2], [3]], "latents must be an array of numbers, got a list"),
        ("latents", np.zeros((1, 4, 8)), r"latents must be \[1, 4, 8, 8\], got"),
        ("image", np.array([["a"]]), "image must be .* an array of numbers"),
        ("image", 5, r"image must be .*\[h, w\]"),
        ("image", object(), r"image must be a path, .* got object"),
        ("prompt_embeds", "abc", "prompt_embeds must be an array of numbers"),
        ("seed", [1, 2], "there are 1 images and 2 of seed"),
        ("seed", [-2], "seed must be a whole number"),
        ("generator", [torch.Generator(), 3], "generator must be a torch.Generator, or a l"),
        ("generator", [torch.Generator()] * 2, "there are 1 images and 2 of seed"),
        ("output_type", "jpeg", "output_type must be pil, np, pt or latent"),
        ("steps", 3, "steps says num_inference_steps once more"),
        ("negative_promt", "x", "no argument 'negative_promt'; did you mean 'negative_prompt'"),
        ("wibble", 1, "no argument 'wibble'; sdcore.pipelines.Arguments lists them"),
        ("callback_on_step_end", lambda *_: {"latents": "z"}, "latents of a step must be an array"),
        (
            "callback_on_step_end",
            lambda *_: {"latents": np.zeros((1, 4, 4, 4))},
            r"latents of a step must be \[1, 4, 8, 8\], got \[1, 4, 4, 4\]",
        ),
    ],
)
def test_arguments_of_a_call(
    pipe: sdcore.DiffusionPipeline, name: str, value: Any, says: str
) -> None:
    prompt = {} if name == "prompt_embeds" else {"prompt": "a cat"}
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        pipe(**prompt, **ARGS, **{name: value})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": None}, "a model must be a path, got None"),
        ({"path": 5}, "a model must be a path, got 5"),
        ({"vae": 5}, "vae= must be a path, got 5"),
        ({"tokenizer": 5}, "tokenizer= must be a path, got 5"),
        ({"config": 5}, "config= must be a path, got 5"),
        ({"controlnet": 5}, "must be a path, got 5"),
        ({"dtype": None}, "dtype must be a name, or a name for each part, got None"),
        ({"dtype": "float8"}, "float8"),
        ({"torch_dtype": 7}, "dtype must be a name"),
        ({"device": 5}, "device must be a name"),
        ({"quantize": 5}, "there is no type '5'"),
        ({"safety_cheker": None}, "open has no argument 'safety_cheker'"),
        ({"stream_wights": True}, "did you mean 'stream_weights'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_options_of_opening(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=says):
        OPEN(**{"path": folder, **options})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pipe: setattr(pipe, "scheduler", "euler"),
        lambda pipe: setattr(pipe, "scheduler", TorchDDIM()),
        lambda pipe: pipe.to("cuda"),
        lambda pipe: pipe.export(5),
        lambda pipe: pipe.export("x.gguf", steps=None),
        lambda pipe: pipe.load_lora_weights(5),
        lambda pipe: pipe.load_textual_inversion(5),
        lambda pipe: pipe.load_ip_adapter(5),
        lambda pipe: (setattr(pipe, "lora_dir", 5), pipe("<lora:a:1>", **ARGS)),
        lambda pipe: (setattr(pipe, "embedding_dir", 5), pipe("a cat", **ARGS)),
        lambda _: sdcore.DiffusionPipeline.from_pretrained(None),
        lambda _: sdcore.DiffusionPipeline.from_single_file(5),
        lambda _: sdcore.EulerDiscreteScheduler(use_karras_sigma=True),
        lambda _: sdcore.EulerDiscreteScheduler.from_config(5),
    ],
)
def test_what_else_is_refused(pipe: sdcore.DiffusionPipeline, wrong: Any) -> None:
    with pytest.raises(sdcore.InvalidArgumentError):
        wrong(copy.copy(pipe))


def test_a_schedulers_field_is_spelled_out() -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match="did you mean 'use_karras_sigmas'"):
        sdcore.EulerDiscreteScheduler(use_karras_sigma=True)
    with pytest.raises(sdcore.InvalidArgumentError, match="did you mean 'use_karras_sigmas'"):
        sdcore.EulerDiscreteScheduler.from_config({}, use_karras_sigma=True)
    kept = sdcore.DDIMScheduler.from_config({"interpolation_type": "linear"})
    assert kept.config.interpolation_type == "linear"


def test_a_scheduler_is_read_and_set_in_diffusers_words(tmp_path: Path) -> None:
    theirs = TorchDDIM(steps_offset=2)
    theirs.save_pretrained(tmp_path / "scheduler")
    for given in ((tmp_path, "scheduler"), (tmp_path / "scheduler",)):
        ours = sdcore.DDIMScheduler.from_pretrained(*given, clip_sample=False)
        assert (ours.config.steps_offset, ours.config.clip_sample) == (2, False)
    ours.set_timesteps(7, device="cuda")
    theirs.set_timesteps(7, device="cpu")
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    with pytest.raises(sdcore.InvalidArgumentError, match=r"\[DDIMScheduler\] it takes no mu"):
        ours.set_timesteps(7, mu=1.0)


def test_a_scheduler_of_another_process_is_refused(folder: Path) -> None:
    pipe = OPEN(folder)
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    for other, says in (
        (sdcore.FlowMatchEulerDiscreteScheduler(), "FlowMatchEuler.* is for models of flow match"),
        (
            sdcore.DPMSolverMultistepScheduler(**flow),
            "DPMSolverMulti.* is for models of flow match",
        ),
        (sdcore.EDMEulerScheduler(), "is for models of EDM, and this is one of diffusion in discr"),
        (sdcore.CMStochasticIterativeScheduler(), "consistency training, and .* DDIMScheduler, "),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=says):
            pipe.scheduler = other
        with pytest.raises(sdcore.InvalidArgumentError, match=says):
            pipe("a cat", **ARGS, hires_scale=2, hires_scheduler=other)
    own = OPEN(folder, scheduler=sdcore.FlowMatchEulerDiscreteScheduler())
    own.scheduler = sdcore.DPMSolverMultistepScheduler(**flow)
    with pytest.raises(sdcore.InvalidArgumentError, match="one of flow matching, for which there"):
        own.scheduler = pipe.scheduler
    with pytest.raises(sdcore.InvalidArgumentError, match="scheduler must be one of sdcore's"):
        OPEN(folder, scheduler=TorchDDIM())


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("names", "same"),
    [
        ({"steps": 3, "cfg_scale": 2, "seed": 5}, {"seed": 5}),
        ({"generator": generator(5)}, {"seed": 5}),
        ({"generator": [generator(5)]}, {"seed": 5}),
        ({"seed": [5]}, {"seed": 5}),
        (
            {"latents": torch.ones(1, 4, 8, 8, dtype=torch.bfloat16), "seed": 1},
            {"latents": np.ones((1, 4, 8, 8)), "seed": 1},
        ),
    ],
)
def test_other_names_mean_the_same(
    pipe: sdcore.DiffusionPipeline, names: dict[str, Any], same: dict[str, Any]
) -> None:
    sizes = {"height": 16, "width": 16, "output_type": "latent"}
    usual = {"num_inference_steps": 3, "guidance_scale": 2}
    steps = {} if "steps" in names else usual
    assert np.array_equal(
        pipe("a cat", **sizes, **steps, **names).images,
        pipe("a cat", **sizes, **usual, **same).images,
    )


def test_seeds_of_a_list_and_drawn_ones(pipe: sdcore.DiffusionPipeline) -> None:
    args = {**ARGS, "num_inference_steps": 1, "output_type": "latent"}
    both = pipe(["a", "b"], seed=[9, 4], **args)
    assert both.seeds == [9, 4]
    assert np.array_equal(both.images[1], pipe("b", seed=4, **args).images[0])
    drawn = {pipe("a", seed=-1, **args).seeds[0] for _ in range(3)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_pictures_as_tensors(pipe: sdcore.DiffusionPipeline) -> None:
    tensor = pipe("a cat", seed=1, output_type="pt", **ARGS).images
    pixels = pipe("a cat", seed=1, output_type="np", **ARGS).images
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), pixels.transpose(0, 3, 1, 2))


def test_dtypes_in_torchs_names(folder: Path) -> None:
    def dtype(**options: Any) -> str:
        return OPEN(folder, **options).unet.network.dtype

    assert dtype(torch_dtype=torch.bfloat16) == dtype(dtype="bfloat16") == "bf16"
    assert dtype(dtype=torch.float32) == dtype(dtype={"unet": "float32"}) == "f32"


def test_a_model_stays_where_it_is(pipe: sdcore.DiffusionPipeline) -> None:
    assert pipe.to("cpu") is pipe
    with pytest.raises(sdcore.InvalidArgumentError, match="open it with device='cuda'"):
        pipe.to("cuda")


def test_images_may_be_torchs(pipe: sdcore.DiffusionPipeline) -> None:
    picture = torch.rand(16, 16, 3)
    as_array = (picture.numpy() * 255).round().astype(np.uint8)
    args = {**ARGS, "seed": 1, "output_type": "latent"}
    assert np.array_equal(
        pipe("a", image=picture, **args).images,
        pipe("a", image=Image.fromarray(as_array), **args).images,
    )
