"""Pictures that follow ControlNets, against diffusers' pipelines for them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel as TorchControlNet
from PIL import Image

import sdcore
import tiny_models
import tiny_xl
from reference.common import SAMPLED_F32, error
from sdcore.models.controlnet import ControlNetModel
from sdcore.models.unet import UNet2DConditionModel
from tiny_control import controlnet, picture, union

ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 6,
    "guidance_scale": 5.0,
}
SIZE = {"width": 24, "height": 32}


def _sd1(tokenizers: Path) -> Any:
    """With DDIM: from a picture, PNDM of diffusers begins otherwise."""
    pipe = tiny_models.pipeline(tiny_models.PLAIN, tokenizers)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Of a family, diffusers' pipeline, its folder, and folders and modules of ControlNets."""
    root = tmp_path_factory.mktemp("models")
    known: dict[str, Any] = {}

    def make(family: str) -> Any:
        if family in known:
            return known[family]
        tokenizers = root / family / "tokenizers"
        pipes = {
            "sd1": lambda: _sd1(tokenizers),
            "sd2": lambda: tiny_xl.sd2(tokenizers),
            "sdxl": lambda: tiny_xl.xl(tokenizers),
        }
        pipe = pipes[family]()
        pipe.save_pretrained(root / family / "model")
        nets = [
            controlnet(pipe.unet, 900),
            controlnet(pipe.unet, 901),
            controlnet(pipe.unet, 902, global_pool_conditions=True),
        ]
        folders = [root / family / f"control-{i}" for i in range(len(nets))]
        for net, folder in zip(nets, folders, strict=True):
            net.save_pretrained(folder)
        known[family] = pipe, root / family / "model", nets, folders
        return known[family]

    return make


def _theirs(pipe: Any, kind: str, nets: list[TorchControlNet], **options: Any) -> np.ndarray:
    cls = getattr(diffusers, kind)
    parts = {k: v for k, v in pipe.components.items() if v is not None}
    parts |= {"controlnet": nets if len(nets) > 1 else nets[0]}
    if "XL" not in kind:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts |= {"requires_safety_checker": False}
    made = cls(**parts)
    made.set_progress_bar_config(disable=True)
    out = made(
        **ARGS | options,
        generator=[torch.Generator("cpu").manual_seed(5)],
        output_type="latent",
    )
    return out.images.float().numpy()


TWO = [0, 1]
CASES: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "one": ("sd1", [0], {}),
    "weaker": ("sd1", [0], {"controlnet_conditioning_scale": 0.4}),
    "a part of the steps": (
        "sd1",
        [0],
        {"control_guidance_start": 0.2, "control_guidance_end": 0.7},
    ),
    "guessing": ("sd1", [0], {"guess_mode": True}),
    "guessing without guidance": ("sd1", [0], {"guess_mode": True, "guidance_scale": 1.0}),
    "means": ("sd1", [2], {}),
    "two": ("sd1", TWO, {"controlnet_conditioning_scale": 0.7}),
    "two, each its own": (
        "sd1",
        TWO,
        {
            "controlnet_conditioning_scale": [0.4, 1.3],
            "control_guidance_start": [0.2, 0.0],
            "control_guidance_end": [1.0, 0.5],
            "guess_mode": True,
        },
    ),
    "sd2": ("sd2", [0], {}),
    "sdxl": ("sdxl", [0], {}),
    "two of sdxl, guessing": ("sdxl", TWO, {"guess_mode": True}),
}


def _kind(family: str, how: str = "") -> str:
    return f"StableDiffusion{'XL' * (family == 'sdxl')}ControlNet{how}Pipeline"


@pytest.mark.parametrize("name", CASES)
def test_text_to_image_is_diffusers(made: Any, name: str) -> None:
    family, which, options = CASES[name]
    theirs, folder, nets, folders = made(family)
    pictures = [picture(seed) for seed in which]
    given: Any = pictures if len(which) > 1 else pictures[0]
    ref = _theirs(theirs, _kind(family), [nets[i] for i in which], image=given, **SIZE, **options)
    paths = [folders[i] for i in which]
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=paths)
    run = {**ARGS, **SIZE, **options, "seed": 5, "output_type": "latent"}
    out = pipe(**run, control_image=given).images
    assert error(out, ref) <= SAMPLED_F32
    pipe.unload_controlnet()
    plain = {k: v for k, v in run.items() if not k.startswith("control") and k != "guess_mode"}
    assert error(pipe(**plain).images, ref) > 0.01


def test_softly_it_speaks_of_both_prompts(made: Any) -> None:
    """Guess mode's residuals, of the first of two, where diffusers' pipeline does not guess."""
    theirs, folder, nets, folders = made("sd1")
    first = copy.copy(nets[0])
    first.forward = functools.partial(_softly, first.forward)
    pictures: Any = [picture(3), picture(4)]
    ref = _theirs(theirs, _kind("sd1"), [first, nets[1]], image=pictures, **SIZE)
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=folders[:2])
    run = {**LATENTS, "control_image": pictures}
    assert error(pipe(**run, control_soft=[True, False]).images, ref) <= SAMPLED_F32
    for other in ({}, {"control_soft": True}, {"guess_mode": [True, False]}):
        assert error(pipe(**run, **other).images, ref) > 5 * SAMPLED_F32


def _softly(forward: Any, *args: Any, guess_mode: bool, **more: Any) -> Any:
    return forward(*args, guess_mode=True, **more)


def test_each_may_guess(made: Any) -> None:
    _, folder, _, folders = made("sd1")
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=folders[:2])
    run = {**LATENTS, "control_image": [picture(3), picture(4)]}
    both = pipe(**run, guess_mode=True).images
    assert np.array_equal(pipe(**run, guess_mode=[True, True]).images, both)
    alone = {"controlnet_conditioning_scale": [1.0, 0.0], "guess_mode": [True, False]}
    one = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=folders[0])
    ref = one(**run | {"control_image": picture(3)}, guess_mode=True).images
    assert np.array_equal(pipe(**run, **alone).images, ref)
    assert error(pipe(**run, guess_mode=[True, False]).images, both) > 1e-3
    with pytest.raises(sdcore.InvalidArgumentError, match="guess_mode must be one bool or 2"):
        pipe(**run, guess_mode=[True])


@pytest.mark.parametrize("options", [{}, {"control_guidance_end": 0.7}])
@pytest.mark.parametrize("mode", [0, 3])
def test_a_union_is_told_the_kind_of_its_picture(
    made: Any, tmp_path: Path, mode: int, options: dict[str, Any]
) -> None:
    theirs, folder, _, folders = made("sdxl")
    net = union(theirs.unet)
    net.save_pretrained(tmp_path / "union")
    run = {**SIZE, **options, "controlnet_conditioning_scale": 0.8, "control_mode": [mode]}
    kind = "StableDiffusionXLControlNetUnionPipeline"
    ref = _theirs(theirs, kind, [net], control_image=[picture()], **run)
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=tmp_path / "union")
    shared = {**ARGS, **run, "seed": 5, "output_type": "latent"}
    alone = pipe(**shared, control_image=picture()).images
    assert error(alone, ref) <= SAMPLED_F32
    # Beside another; the same file twice is one network, of two kinds of pictures.
    pipe.load_controlnet([tmp_path / "union", tmp_path / "union", folders[0]])
    assert len(pipe.companions) == 2
    shared |= {"control_image": [picture()] * 3, "control_mode": [mode, 1, None]}
    scales = [0.8, 0.0, 0.0]
    assert np.array_equal(pipe(**shared | {"controlnet_conditioning_scale": scales}).images, alone)
    assert error(pipe(**shared).images, alone) > 0.01
    for wrong in (None, 6, [mode, 1]):
        with pytest.raises(sdcore.InvalidArgumentError, match="control_mode"):
            pipe(**shared | {"control_mode": wrong})


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("how", ["Img2Img", "Inpaint"])
def test_from_a_picture_is_diffusers(made: Any, how: str, family: str) -> None:
    theirs, folder, nets, folders = made(family)
    begin, control = picture(7, **SIZE), picture(8)
    options: dict[str, Any] = {"image": begin, "strength": 0.6}
    options["controlnet_conditioning_scale"] = 0.9  # whose default is another in each of theirs
    if how == "Inpaint":
        mask = np.zeros((SIZE["height"], SIZE["width"]), np.uint8)
        mask[8:20, 6:18] = 255
        options["mask_image"] = Image.fromarray(mask)
    ref = _theirs(theirs, _kind(family, how), nets[:1], control_image=control, **options, **SIZE)
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=folders[0])
    run = {**ARGS, **SIZE, **options, "seed": 5, "output_type": "latent"}
    assert error(pipe(**run, control_image=control).images, ref) <= SAMPLED_F32


@pytest.fixture
def pipe(made: Any) -> sdcore.DiffusionPipeline:
    _, folder, _, folders = made("sd1")
    return sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=folders[0])


LATENTS = {**ARGS, **SIZE, "seed": 5, "output_type": "latent"}


def test_a_picture_of_a_batch_is_the_picture_made_alone(pipe: Any) -> None:
    """Of prompts of two lengths, both in one batch, one after the other and each by itself."""
    prompts = ["a cat", "the red circle " * 40]
    run = LATENTS | {"control_image": picture(), "negative_prompt": ""}
    batch = pipe(**run | {"prompt": prompts, "num_images_per_prompt": 2}).images
    pipe.guidance_in_turns = True
    turns = pipe(**run | {"prompt": prompts, "num_images_per_prompt": 2}).images
    assert np.array_equal(batch, turns)
    alone = pipe(**run | {"prompt": prompts[1], "seed": 7}).images
    assert np.array_equal(batch[2:3], alone)


def _counted(monkeypatch: Any) -> list[Any]:
    """A row for each run of a ControlNet: how many images it was asked about."""
    runs: list[Any] = []
    residuals = ControlNetModel.residuals

    def count(self: Any, sample: Any, *args: Any, **more: Any) -> Any:
        runs.append(len(sample))
        return residuals(self, sample, *args, **more)

    monkeypatch.setattr(ControlNetModel, "residuals", count)
    return runs


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({}, [2] * 10),
        ({"control_guidance_start": 0.3}, [2] * 7),
        ({"control_guidance_end": 0.3}, [2] * 3),
        ({"controlnet_conditioning_scale": 0.0}, []),
        ({"guess_mode": True}, [1] * 10),
        ({"guidance_end": 0.5}, [2] * 5 + [1] * 5),
        ({"cache_interval": 3}, [2] * 4),
        ({"cache_interval": 3, "guess_mode": True}, [1] * 4),
        # Where guidance sets in between two whole steps, all of the network runs, with control.
        ({"cache_interval": 3, "guidance_start": 0.4}, [1, 1, 2, 2, 2]),
    ],
)
def test_a_controlnet_runs_only_where_it_counts(
    pipe: Any, monkeypatch: Any, options: dict[str, Any], runs: list[int]
) -> None:
    found = _counted(monkeypatch)
    pipe(**LATENTS | {"num_inference_steps": 10} | options, control_image=picture())
    assert found == runs


def test_deep_features_are_controlled_between_whole_steps(pipe: Any) -> None:
    run = LATENTS | {"control_image": picture(), "num_inference_steps": 12}
    whole = pipe(**run).images
    cached = pipe(**run, cache_interval=2).images
    without = pipe(**run, controlnet_conditioning_scale=0.0).images
    assert error(cached, whole) < 0.5 * error(without, whole)


def test_perturbed_attention_is_controlled(made: Any) -> None:
    theirs, folder, nets, folders = made("sd1")
    parts = {k: v for k, v in theirs.components.items() if v is not None}
    pag = diffusers.StableDiffusionControlNetPAGPipeline(
        **parts,
        controlnet=nets[0],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        pag_applied_layers="mid",
    )
    pag.set_progress_bar_config(disable=True)
    options = {"pag_scale": 2.0, **SIZE}
    generator = torch.Generator("cpu").manual_seed(5)
    ref = pag(**ARGS, **options, image=picture(), generator=generator, output_type="latent")
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=folders[0])
    out = pipe(**LATENTS | options, control_image=picture()).images
    assert error(out, ref.images.numpy()) <= SAMPLED_F32


def test_it_goes_with_merged_tokens_and_a_second_pass(pipe: Any) -> None:
    run = LATENTS | {"control_image": picture(), "hires_scale": 2.0}
    plain = pipe(**run).images
    assert plain.shape[2:] == (32, 24)
    assert error(pipe(**run, token_merging_ratio=0.5).images, plain) > 1e-3
    assert error(pipe(**run | {"controlnet_conditioning_scale": 0.5}).images, plain) > 1e-3


def test_controlnets_come_and_go(made: Any, pipe: Any) -> None:
    """A run goes on with those that it began with."""
    _, folder, _, folders = made("sd1")
    run = LATENTS | {"control_image": picture()}
    first = pipe(**run).images
    stream = pipe.stream(**run)
    next(stream)
    pipe.load_controlnet(folders[1])
    second = pipe(**run).images
    assert error(second, first) > 0.01
    assert np.array_equal(stream.result().images, first)
    pipe.unload_controlnet()
    plain = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    assert np.array_equal(pipe(**LATENTS).images, plain(**LATENTS).images)
    plain.load_controlnet([folders[0]])
    assert np.array_equal(plain(**run).images, first)


def test_threads_share_a_controlled_pipeline(pipe: Any) -> None:
    runs = [LATENTS | {"control_image": picture(seed)} for seed in range(4)]
    alone = [pipe(**run).images for run in runs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda run: pipe(**run).images, runs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_what_a_controlnet_sees(pipe: Any, tmp_path: Path) -> None:
    """A file, an array of bytes and one of numbers say the same; numbers stay what they are."""
    image = picture(3, **SIZE)
    image.save(tmp_path / "edges.png")
    run = {k: v for k, v in LATENTS.items() if k not in SIZE}
    want = pipe(**run, control_image=image).images
    assert want.shape[2:] == (16, 12)  # the size is that of the picture
    pixels = np.asarray(image)
    for same in (str(tmp_path / "edges.png"), pixels, pixels.astype(np.float32) / 255):
        assert np.array_equal(pipe(**run, control_image=same).images, want)
    painted = pixels.astype(np.float32) / 255
    painted[:8] = 0
    zero = pipe(**run, control_image=painted).images
    painted[:8] = -1  # as ControlNets for inpainting were told where to paint
    assert error(pipe(**run, control_image=painted).images, zero) > 1e-3


def test_the_unet_runs_with_loras_and_the_controlnet_without(pipe: Any, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {
        f"{name}.lora_A.weight": rng.standard_normal((4, 32), np.float32),
        f"{name}.lora_B.weight": rng.standard_normal((32, 4), np.float32),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    run = LATENTS | {"control_image": picture()}
    plain = pipe(**run).images
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    changed = pipe(**run).images
    assert error(changed, plain) > 1e-3
    pipe.set_adapters(["lora"], mode="side")
    assert error(pipe(**run).images, changed) < 1e-4
    pipe.unload_lora_weights()
    assert np.array_equal(pipe(**run).images, plain)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "give its picture as control_image, or unload_controlnet"),
    ({"control_image": [picture(), picture()]}, "one picture for each ControlNet, got 2 for 1"),
    ({"control_image": np.full((4, 4), np.nan)}, "finite numbers"),
    ({"control_image": picture(), "control_guidance_start": 0.5, "control_guidance_end": 0.5},
     "must lie before control_guidance_end, both from 0 to 1, got 0.5 and 0.5"),
    ({"control_image": picture(), "controlnet_conditioning_scale": [1.0, 2.0]},
     "must be one number or 1, one a ControlNet, got 2"),
    ({"control_image": picture(), "controlnet_conditioning_scale": "strong"}, "finite number"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_is_wrong_is_said_before_the_first_step(
    pipe: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match=message):
        pipe.stream(**LATENTS, **options)


def test_what_does_not_go_together(made: Any, pipe: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    pipe.unload_controlnet()
    with pytest.raises(sdcore.InvalidArgumentError, match="open the model with controlnet="):
        pipe(**LATENTS, control_image=picture())
    misfit = r"does not go with Stable Diffusion 1\.x: block_out_channels is \[64, 128\] there and "
    for family in ("sd2", "sdxl"):
        *_, folders = made(family)
        with pytest.raises(sdcore.UnsupportedModelError, match=misfit):
            pipe.load_controlnet(folders[0])
    controlnet(tiny_models.unet(tiny_models.PLAIN), cross_attention_dim=80).save_pretrained(other)
    with pytest.raises(sdcore.UnsupportedModelError, match="_dim is 80 there and 64 here"):
        pipe.load_controlnet(other)
    _, folder, *_ = made("sd1")
    with pytest.raises(
        sdcore.CheckpointError, match=r"holds Stable Diffusion 1\.x, and no Control"
    ):
        pipe.load_controlnet(folder)
    assert pipe.controlnet == ()


def test_a_part_of_its_own(made: Any, pipe: Any) -> None:
    """Where and as the UNet runs, unless it is named."""
    _, folder, _, folders = made("sd1")
    opened = sdcore.DiffusionPipeline.open(
        folder, dtype={"unet": "bf16", "vae": "f32"}, controlnet=folders[0]
    )
    assert [n.dtype for n in opened.controlnet[0].networks] == ["bf16", "bf16"]
    opened = sdcore.DiffusionPipeline.open(
        folder, dtype={"unet": "bf16", "controlnet": "f32"}, controlnet=folders[0]
    )
    assert opened.unet.network.dtype == "bf16"
    assert opened.controlnet[0].network.dtype == "f32"
    with pytest.raises(sdcore.InvalidArgumentError, match="no part 'control'"):
        sdcore.DiffusionPipeline.open(folder, dtype={"control": "f32"})


def test_it_is_planned_and_held_beside_the_unet(made: Any, pipe: Any, monkeypatch: Any) -> None:
    from sdcore.pipelines.memory import plan_memory

    _, _, _, folders = made("sd1")
    pipe.load_controlnet(folders[:2])
    plan = plan_memory(pipe, 64, 64)
    assert {"unet", "controlnet", "controlnet_2"} <= plan.weights.keys()
    assert plan.weights["controlnet"] == plan.weights["controlnet_2"] > 0.3 * plan.weights["unet"]
    assert plan.step > plan.weights["unet"] + 2 * plan.weights["controlnet"]
    run = LATENTS | {"control_image": [picture(), picture(4)], "output_type": "np"}
    wanted = pipe(**run).images
    pipe.unload = True
    released: list[Any] = []
    for cls in (ControlNetModel, UNet2DConditionModel):
        release = cls.release
        monkeypatch.setattr(
            cls, "release", lambda self, release=release: (released.append(self), release(self))
        )
    assert np.array_equal(pipe(**run).images, wanted)
    assert released == [pipe.unet, *pipe.controlnet]  # for the VAE, and not for each other
