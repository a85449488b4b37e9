"""Pictures by IP-Adapters against diffusers with the same files, and what a pipeline promises."""

from __future__ import annotations

import copy
import dataclasses
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

import sdcore
import tiny_ip_adapter
import tiny_models
import tiny_xl
from adapters import test_lora
from reference.common import BF16_FACTOR, SAMPLED_F32, error
from sdcore.pipelines.clip_image import clip_pixels
from sdcore.pipelines.memory import plan_memory

SIDE = tiny_ip_adapter.SIDE
WIDTHS = {"classic": tiny_ip_adapter.PROJECTION, "plus": 64, "full": 64, "face": 40}
ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 3,
    "guidance_scale": 5.0,
    "height": 16,
    "width": 24,
}


def picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8)
    return Image.fromarray(values)


RED, BLUE = picture(1), picture(2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd1/ and sdxl/, models; in each adapters/, with the image encoder as h94 has it."""
    path = tmp_path_factory.mktemp("ip")
    tiny_models.save_folder(tiny_models.PLAIN, path / "sd1")
    tiny_xl.xl(path / "tokenizers").save_pretrained(path / "sdxl")
    for name, unet in (("sd1", tiny_models.unet(tiny_models.PLAIN)), ("sdxl", tiny_xl.base_unet())):
        folder = path / name / "adapters"
        folder.mkdir()
        for kind, reads in WIDTHS.items():
            for seed in (0, 1):
                state = tiny_ip_adapter.adapter(unet, kind, seed, reads)
                if kind == "face":
                    state = tiny_ip_adapter.with_face_lora(state, unet)
                tiny_ip_adapter.save(state, folder / f"{kind}{seed}.bin")
        tiny_ip_adapter.image_encoder().save_pretrained(folder / "image_encoder")
    return path


def ours(files: Path, family: str, kind: str | None = "classic0", **options: Any) -> Any:
    pipe = sdcore.DiffusionPipeline.open(
        files / family, **{"dtype": "f32", "threads": 1, **options}
    )
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    if kind is not None:
        pipe.load_ip_adapter(adapter(files, family, kind))
    return pipe


def plain(files: Path, family: str = "sd1", **changes: Any) -> np.ndarray:
    return draw(ours(files, family, None), ip_adapter_image=None, **changes)


def adapter(files: Path, family: str, kind: str) -> Path:
    return files / family / "adapters" / f"{kind}.bin"


def draw(pipe: Any, **changes: Any) -> np.ndarray:
    return pipe(**{"ip_adapter_image": RED, **ARGS, **changes}, seed=5, output_type="latent").images


@lru_cache
def _theirs(folder: Path, dtype: torch.dtype) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        folder,
        torch_dtype=dtype,
        image_encoder=tiny_ip_adapter.image_encoder().to(dtype),
        feature_extractor=CLIPImageProcessor(size=SIDE, crop_size=SIDE),
    )
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(
    files: Path,
    family: str,
    *kinds: str,
    scale: Any = 1.0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> np.ndarray:
    pipe = _theirs(files / family, dtype)
    states = [torch.load(adapter(files, family, kind)) for kind in kinds]
    names = [""] * len(states)
    pipe.load_ip_adapter(states, subfolder=names, weight_name=names, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(scale)
    images = changes.pop("num_images_per_prompt", 1)
    factor = pipe.vae_scale_factor
    shape = (4, ARGS["height"] // factor, ARGS["width"] // factor)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(5 + i))
             for i in range(images)]  # fmt: skip
    arguments = {"ip_adapter_image": RED, **ARGS, **changes}
    latents = torch.stack(noise).to(dtype)
    with torch.no_grad():
        out = pipe(**arguments, latents=latents, num_images_per_prompt=images, output_type="latent")
    if getattr(pipe.unet, "peft_config", None):
        pipe.unload_lora_weights()
    return out.images.float().numpy()


@pytest.mark.parametrize(
    ("family", "kind"),
    [("sd1", "classic"), ("sd1", "plus"), ("sd1", "full"), ("sdxl", "classic"), ("sdxl", "plus")],
)
def test_latents_are_diffusers(files: Path, family: str, kind: str) -> None:
    ref = theirs(files, family, f"{kind}0", scale=0.7)
    pipe = ours(files, family, f"{kind}0")
    pipe.set_ip_adapter_scale(0.7)
    assert error(draw(pipe), ref) <= SAMPLED_F32
    for other in (draw(pipe, ip_adapter_image=BLUE), plain(files, family)):
        assert error(other, ref) > 5 * SAMPLED_F32


def test_files_are_named_by_their_folders(files: Path) -> None:
    pipe = ours(files, "sd1")
    one, folder = draw(pipe), files / "sd1"
    names = {"subfolder": "adapters", "weight_name": "classic0.bin"}
    for encoder in ("image_encoder", "adapters/image_encoder", None):
        pipe.load_ip_adapter(folder, **names, image_encoder_folder=encoder)
        assert np.array_equal(draw(pipe), one)
    many = {"subfolder": "adapters", "weight_name": ["classic0.bin", "plus1.bin"]}
    pipe.load_ip_adapter(folder, **many)
    pictures = {"ip_adapter_image": [RED, RED]}
    both = draw(pipe, **pictures)
    pipe.load_ip_adapter([adapter(files, "sd1", name) for name in ("classic0", "plus1")])
    assert np.array_equal(draw(pipe, **pictures), both)
    with pytest.raises(sdcore.InvalidArgumentError, match="2 of subfolder and 1 of weight_name"):
        pipe.load_ip_adapter(folder, subfolder=["a", "b"], weight_name="c")
    with pytest.raises(sdcore.FileError, match=r"no such file or folder: .*nothing\.bin"):
        pipe.load_ip_adapter(folder, weight_name="nothing.bin")


def test_bf16_is_as_good_as_pytorch(files: Path) -> None:
    ref = theirs(files, "sd1", "plus0")
    tiny_ip_adapter.image_encoder.cache_clear()  # PyTorch turned it into bf16
    rounded = error(theirs(files, "sd1", "plus0", dtype=torch.bfloat16), ref)
    tiny_ip_adapter.image_encoder.cache_clear()
    assert error(draw(ours(files, "sd1", "plus0", dtype="bf16")), ref) <= BF16_FACTOR * rounded


def test_without_guidance_there_is_no_negative_picture(files: Path) -> None:
    ref = theirs(files, "sd1", "plus0", guidance_scale=1.0)
    assert error(draw(ours(files, "sd1", "plus0"), guidance_scale=1.0), ref) <= SAMPLED_F32


def test_several_pictures_and_images(files: Path) -> None:
    several = [RED, BLUE, picture(3)]
    ref = theirs(files, "sd1", "plus0", ip_adapter_image=[several], num_images_per_prompt=2)
    pipe = ours(files, "sd1", "plus0")
    for given in (several, [several], [np.asarray(one) for one in several]):
        out = draw(pipe, ip_adapter_image=given, num_images_per_prompt=2)
        assert error(out, ref) <= SAMPLED_F32


def test_several_adapters(files: Path) -> None:
    family = "sdxl"
    names, pictures = ("classic0", "plus1"), [[RED, BLUE], BLUE]
    ref = theirs(files, family, *names, scale=[0.7, 0.4], ip_adapter_image=pictures)
    pipe = ours(files, family, None)
    pipe.load_ip_adapter([adapter(files, family, name) for name in names])
    pipe.set_ip_adapter_scale([0.7, 0.4])
    assert error(draw(pipe, ip_adapter_image=pictures), ref) <= SAMPLED_F32
    with pytest.raises(sdcore.InvalidArgumentError, match=r"2 IP-Adapters and 1 of ip_adapter_im"):
        draw(pipe)
    with pytest.raises(sdcore.InvalidArgumentError, match="2 IP-Adapters and 3 scales"):
        pipe.set_ip_adapter_scale([1, 2, 3])


def test_adapters_work_at_a_part_of_the_steps(files: Path) -> None:
    """In diffusers by a callback that sets their scales."""
    names, options = ("classic0", "plus1"), {"num_inference_steps": 4}
    options |= {"ip_adapter_image": [RED, BLUE]}

    def after_step(pipe: Any, index: int, timestep: Any, more: Any) -> Any:
        if index == 1:
            pipe.set_ip_adapter_scale([0.0, 0.4])
        return more

    ref = theirs(files, "sd1", *names, scale=[0.7, 0.0], callback_on_step_end=after_step, **options)
    pipe = ours(files, "sd1", None)
    pipe.load_ip_adapter([adapter(files, "sd1", name) for name in names])
    pipe.set_ip_adapter_scale([0.7, 0.4])
    interval = {"ip_adapter_start": [0.0, 0.3], "ip_adapter_end": [0.5, 1.0]}
    assert error(draw(pipe, **options, **interval), ref) <= SAMPLED_F32
    assert error(draw(pipe, **options), ref) > 5 * SAMPLED_F32
    for wrong, message in (
        ({"ip_adapter_start": [0.1]}, "ip_adapter_start must be one number or 2, one an IP-"),
        ({"ip_adapter_end": 0.0}, "must lie before ip_adapter_end, both from 0 to 1, got 0 and 0"),
        ({"ip_adapter_end": "late"}, "ip_adapter_end must be a finite number"),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            pipe.stream(**ARGS, ip_adapter_image=[RED, BLUE], **wrong)
    pipe.unload_ip_adapter()
    with pytest.raises(sdcore.InvalidArgumentError, match="ip_adapter_end without an IP-Adapter"):
        pipe.stream(**ARGS, ip_adapter_end=0.5)


SCALES = {
    "sd1": {"down": {"block_0": 0.5}, "up": {"block_1": [0.0, 1.0]}},
    "sdxl": {"up": {"block_0": [0.3, 1.0]}, "mid": 0.2},
}


@pytest.mark.parametrize("family", SCALES)
def test_scales_of_blocks(files: Path, family: str) -> None:
    scale = SCALES[family]
    ref = theirs(files, family, "plus0", scale=scale)
    pipe = ours(files, family, "plus0")
    pipe.set_ip_adapter_scale(scale)
    assert error(draw(pipe), ref) <= SAMPLED_F32
    pipe.set_ip_adapter_scale(1.0)
    assert error(draw(pipe), ref) > 5 * SAMPLED_F32
    for wrong, message in {
        "side": "there is no 'side' to scale",
        "down": "there is no 'down.block_9' to scale in this UNet; there are: down.block_",
        "up": r"up.block_\d has 2 attentions, got 5 scales",
        "mid": "ip_adapter_scale must be a finite number",
    }.items():
        value = {"side": 1.0, "down": {"block_9": 1.0}, "up": [1.0] * 5, "mid": "much"}[wrong]
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            pipe.set_ip_adapter_scale({wrong: value})


def test_given_embeds_take_the_place_of_pictures(files: Path) -> None:
    encoder = ours(files, "sd1").image_encoder
    pixels = clip_pixels(RED, SIDE)[None]
    zeros = np.zeros_like(pixels)
    for kind, embeds, nothing in (
        ("classic0", encoder(pixels), 0 * encoder(pixels)),
        ("plus0", encoder.hidden_states(pixels), encoder.hidden_states(zeros)),
    ):
        pipe = ours(files, "sd1", kind)
        drawn = draw(pipe)
        for given in (embeds[None], np.stack([nothing, embeds])):
            out = draw(pipe, ip_adapter_image=None, ip_adapter_image_embeds=[given])
            assert np.array_equal(out, drawn)


def test_face_id_reads_embeddings_and_brings_a_lora(files: Path) -> None:
    random = torch.Generator().manual_seed(3)
    faces = torch.randn(1, 2, WIDTHS["face"], generator=random)
    both = torch.cat([torch.zeros_like(faces), faces])
    ref = theirs(
        files, "sd1", "face0", scale=0.6, ip_adapter_image=None, ip_adapter_image_embeds=[both]
    )
    pipe = ours(files, "sd1", "face0")
    pipe.set_ip_adapter_scale(0.6)
    for given in (faces, faces[0], both):
        out = draw(pipe, ip_adapter_image=None, ip_adapter_image_embeds=[given])
        assert error(out, ref) <= SAMPLED_F32
    assert pipe.get_active_adapters() == ["faceid_0"]
    with pytest.raises(sdcore.InvalidArgumentError, match="reads insightface's embedding of a fac"):
        draw(pipe)
    pipe.unload_ip_adapter()
    assert pipe.get_active_adapters() == []
    assert np.array_equal(draw(pipe, ip_adapter_image=None), plain(files))


WAYS: dict[str, dict[str, Any]] = {
    "batch": {"num_images_per_prompt": 2},
    "prompts": {"prompt": ["a cat", "the red " * 50 + "dog"], "negative_prompt": None},
    "in_turns": {},
    "deep_cache": {"cache_interval": 2},
    "perturbed": {"pag_scale": 2.0},
    "merged": {"token_merging_ratio": 0.5},
    "img2img": {"image": BLUE, "strength": 0.8},
    "inpainting": {"image": BLUE, "mask_image": picture(4).convert("L")},
    "hires": {"hires_scale": 2},
}


@pytest.mark.parametrize(
    ("family", "way"),
    [*(("sd1", way) for way in WAYS), ("sdxl", "prompts"), ("sdxl", "deep_cache")],
)
def test_every_way_to_draw(files: Path, family: str, way: str) -> None:
    """The adapter is at work, and at scale 0 it leaves each number as it is without it."""
    pipe = ours(files, family, "plus0")
    pipe.guidance_in_turns = way == "in_turns"
    drawn = draw(pipe, **WAYS[way])
    pipe.set_ip_adapter_scale(0)
    before = plain(files, family, **WAYS[way])
    assert np.array_equal(draw(pipe, **WAYS[way]), before)
    assert error(drawn, before) > 5 * SAMPLED_F32
    pipe.set_ip_adapter_scale(1)
    if way in ("in_turns", "batch"):
        assert np.array_equal(drawn[:1], draw(ours(files, family, "plus0")))


@pytest.mark.parametrize(
    ("kind", "channels"),
    [("StableDiffusionImg2ImgPipeline", 4), ("StableDiffusionInstructPix2PixPipeline", 8)],
)
def test_pictures_to_begin_from_go_with_it(tmp_path: Path, kind: str, channels: int) -> None:
    """In diffusers too; of the three parts of a guided edit, one is told of the picture."""
    spec = dataclasses.replace(tiny_models.PLAIN, name=kind, unet_inputs=channels)
    parts = {
        **tiny_models.pipeline(spec, tmp_path / "tokenizer").components,
        "unet": copy.deepcopy(tiny_models.unet(spec)),
        "scheduler": diffusers.DDIMScheduler.from_config(
            tiny_models.scheduler().config, clip_sample=False
        ),
        "image_encoder": tiny_ip_adapter.image_encoder(),
        "feature_extractor": CLIPImageProcessor(size=SIDE, crop_size=SIDE),
    }
    pipe = getattr(diffusers, kind)(**parts, requires_safety_checker=False)
    state = tiny_ip_adapter.adapter(parts["unet"], "plus", 0, WIDTHS["plus"])
    pipe.load_ip_adapter(
        tiny_ip_adapter.nested(state), subfolder="", weight_name="", image_encoder_folder=None
    )
    pipe.set_progress_bar_config(disable=True)
    start = picture(6).resize((24, 16))
    options = {name: ARGS[name] for name in ("prompt", "negative_prompt", "guidance_scale")}
    options |= {"image": start, "num_inference_steps": 4, "ip_adapter_image": RED}
    generator = torch.Generator("cpu").manual_seed(5)
    ref = pipe(**options, generator=generator, output_type="latent").images.numpy()
    tiny_models.save_folder(spec, tmp_path / "model")
    mine = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    mine.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config)
    file = tiny_ip_adapter.save(state, tmp_path / "ip.safetensors")
    tiny_ip_adapter.image_encoder().save_pretrained(tmp_path / "image_encoder")
    mine.load_ip_adapter(file)
    if channels == 4:
        options["strength"] = 0.8  # diffusers' default
    out = mine(**options, seed=5, output_type="latent").images
    assert error(out, ref) <= SAMPLED_F32


def test_it_comes_and_goes_without_a_trace(files: Path) -> None:
    pipe = ours(files, "sd1", None)
    before = draw(pipe, ip_adapter_image=None)
    pipe.load_ip_adapter(adapter(files, "sd1", "classic0"))
    first = draw(pipe)
    pipe.load_ip_adapter(adapter(files, "sd1", "plus1"))
    assert error(draw(pipe), theirs(files, "sd1", "plus1")) <= SAMPLED_F32
    pipe.load_ip_adapter(adapter(files, "sd1", "classic0"))
    assert np.array_equal(draw(pipe), first)
    pipe.unload_ip_adapter()
    assert pipe.image_encoder is None
    assert np.array_equal(draw(pipe, ip_adapter_image=None), before)


@pytest.mark.parametrize("mode", ["merge", "side"])
def test_loras_go_with_it(files: Path, tmp_path: Path, mode: str) -> None:
    test_lora.as_kohya(tmp_path)
    path, image = tmp_path / "kohya.safetensors", adapter(files, "sd1", "classic0")
    first, last = ours(files, "sd1", None), ours(files, "sd1", None)
    first.load_lora_weights(path, mode=mode)
    first.load_ip_adapter(image)
    last.load_ip_adapter(image)
    without = draw(last)
    last.load_lora_weights(path, mode=mode)
    drawn = draw(first)
    assert np.array_equal(drawn, draw(last))
    assert error(drawn, without) > 0.01
    first.unload_lora_weights()
    assert np.array_equal(draw(first), without)
    last.unload_ip_adapter()
    last.lora_dir = tmp_path
    last.load_ip_adapter(image)
    last.unload_lora_weights()
    last.set_adapters([], mode=mode)
    assert np.array_equal(draw(last, prompt=ARGS["prompt"] + "<lora:kohya>"), drawn)


def test_quantized_weights_go_with_it(files: Path) -> None:
    drawn = draw(ours(files, "sd1", "plus0"))
    small = ours(files, "sd1", "plus0", quantize="q8_0")
    assert error(draw(small), drawn) < 0.5 * error(plain(files), drawn)


def test_calls_of_several_threads(files: Path) -> None:
    """Each has its own picture, and the adapter and the scale that were set when it began."""
    pipe = ours(files, "sd1")
    wanted = {seed: draw(pipe, ip_adapter_image=picture(seed)) for seed in range(4)}
    found: dict[int, np.ndarray] = {}
    streams = {seed: pipe.stream(**ARGS, ip_adapter_image=picture(seed), seed=5,
                                 output_type="latent") for seed in wanted}  # fmt: skip

    def work(seed: int) -> None:
        for _ in streams[seed]:
            pass
        found[seed] = streams[seed].result().images

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    pipe.set_ip_adapter_scale(0.1)
    pipe.load_ip_adapter(adapter(files, "sd1", "plus0"))
    pipe.unload_ip_adapter()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[seed], wanted[seed]) for seed in wanted)


def test_the_image_encoder_is_a_part_like_others(files: Path) -> None:
    pipe = ours(files, "sd1", "plus0", dtype={"image_encoder": "bf16", "unet": "f32"})
    assert pipe.image_encoder.network.dtype == "bf16" and pipe.unet.network.dtype == "f32"
    released = []
    pipe.unload = True
    release = pipe.image_encoder.release
    pipe.image_encoder.release = lambda: (released.append(pipe.image_encoder), release())
    assert np.array_equal(draw(pipe), draw(pipe))
    assert len(released) == 2  # before the UNet, each time
    assert pipe.image_encoder._before_last is None
    weights = plan_memory(pipe, 16, 24).weights
    assert list(weights) == ["text_encoder", "image_encoder", "unet", "vae"]
    pairs = sum(t.nbytes for name, t in pipe.unet.network.tensors.items() if "_ip." in name)
    pipe.unload_ip_adapter()
    without = plan_memory(pipe, 16, 24).weights
    assert "image_encoder" not in without and weights["unet"] == without["unet"] + pairs > pairs


@pytest.mark.parametrize("where", ["given", "file", "model", "beside", "h94", "none"])
def test_where_image_encoders_lie(files: Path, tmp_path: Path, where: str) -> None:
    model = tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "model")
    folder = tmp_path / "sdxl_models"
    folder.mkdir()
    path = folder / "ip.safetensors"
    tiny_ip_adapter.save(tiny_ip_adapter.adapter(tiny_models.unet(tiny_models.PLAIN), "classic", 0,
                                                 tiny_ip_adapter.PROJECTION), path)  # fmt: skip
    places = {
        "given": tmp_path / "vision",
        "file": tmp_path / "vision",
        "model": model / "image_encoder",
        "beside": folder / "image_encoder",
        "h94": tmp_path / "models" / "image_encoder",
        "none": tmp_path / "vision",
    }
    tiny_ip_adapter.image_encoder().save_pretrained(places[where])
    given = {"given": places[where], "file": places[where] / "model.safetensors"}.get(where)
    if where == "h94":  # the nearer one is of other adapters
        wider = tiny_ip_adapter.image_encoder(128, projection=32)
        wider.save_pretrained(folder / "image_encoder")
    pipe = sdcore.DiffusionPipeline.open(model, dtype="f32")
    pipe.load_ip_adapter(path, image_encoder=given)
    if where == "none":
        with pytest.raises(sdcore.InvalidArgumentError, match=r"no image encoder.*--clip_vision"):
            draw(pipe)
    else:
        assert pipe.image_encoder.config.projection_dim == tiny_ip_adapter.PROJECTION
        draw(pipe)


def test_what_is_refused(files: Path, tmp_path: Path) -> None:
    pipe, bare = ours(files, "sd1", "plus0"), ours(files, "sd1", None)
    embeds = np.zeros((1, 1, WIDTHS["classic"]), np.float32)
    for wrong, message in (
        ({"ip_adapter_image": None}, "an IP-Adapter needs a picture: give ip_adapter_image"),
        ({"ip_adapter_image_embeds": [embeds]}, "or ip_adapter_image_embeds, not both"),
        ({"ip_adapter_image": []}, "ip_adapter_image is an empty list"),
        ({"ip_adapter_image": None, "ip_adapter_image_embeds": embeds}, "must be a list of 1"),
        (
            {"ip_adapter_image": None, "ip_adapter_image_embeds": [embeds]},
            r"must be \[1 or 2, pictures, tokens, 64\], got \[1, 1, 48\]",
        ),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            pipe.stream(**{**ARGS, "ip_adapter_image": RED, **wrong})  # before the first step
    with pytest.raises(sdcore.FileError, match=r"cannot read ip_adapter_image 'gone\.png'"):
        pipe.stream(**ARGS, ip_adapter_image="gone.png")
    with pytest.raises(sdcore.InvalidArgumentError, match=r"without an IP-Adapter.*--ip-adapter"):
        draw(bare)
    with pytest.raises(sdcore.InvalidArgumentError, match="there is no IP-Adapter: load one"):
        bare.set_ip_adapter_scale(1)
    with pytest.raises(sdcore.InvalidArgumentError, match="needs a file, got no path"):
        bare.load_ip_adapter([])
    pipe.image_encoder = None
    embeds = np.zeros((1, 1, 10, 64), np.float32)
    with pytest.raises(sdcore.InvalidArgumentError, match=r"need a second row for guidance"):
        draw(pipe, ip_adapter_image=None, ip_adapter_image_embeds=[embeds])
    draw(pipe, ip_adapter_image=None, ip_adapter_image_embeds=[embeds], guidance_scale=1.0)
    with pytest.raises(sdcore.UnsupportedModelError, match="does not know IP-Adapters"):
        pipe.export(tmp_path / "x.gguf")


def test_files_that_do_not_fit(files: Path, tmp_path: Path) -> None:
    pipe, unet = ours(files, "sd1", None), tiny_models.unet(tiny_models.PLAIN)
    wrong = adapter(files, "sdxl", "classic0")
    with pytest.raises(
        sdcore.CheckpointError,
        match=r"does not fit the model, Stable Diffusion 1.x: .* for \d attentions, and the UNet",
    ):
        pipe.load_ip_adapter(wrong)
    state = tiny_ip_adapter.adapter(unet, "classic")
    less = tiny_ip_adapter.save(
        {k: v for k, v in state.items() if k != "ip_adapter.3.to_v_ip.weight"}, tmp_path / "a.bin"
    )
    with pytest.raises(sdcore.CheckpointError, match=r"1 tensor missing: ip_adapter.3.to_v_ip"):
        pipe.load_ip_adapter(less)
    narrow = {k: v[:, :-1] if "_ip." in k else v for k, v in state.items()}
    with pytest.raises(sdcore.CheckpointError, match=r"ip_adapter.1.to_k_ip.weight is \[32, 63\]"):
        pipe.load_ip_adapter(tiny_ip_adapter.save(narrow, tmp_path / "b.bin"))
    with pytest.raises(
        sdcore.CheckpointError, match=r"holds Stable Diffusion 1\.x, not an IP-Adapter$"
    ):
        pipe.load_ip_adapter(files / "sd1")
    half = {k: v for k, v in state.items() if k.startswith("ip_adapter.")}
    with pytest.raises(sdcore.CheckpointError, match="no image projection that sdcore knows"):
        pipe.load_ip_adapter(tiny_ip_adapter.save(half, tmp_path / "c.safetensors"))
    plus = half | {
        "image_proj.perceiver_resampler.proj_in.weight": torch.zeros(8, 8),
        "image_proj.norm.weight": torch.zeros(8),
    }
    with pytest.raises(sdcore.UnsupportedModelError, match="FaceID Plus, which looks at a picture"):
        pipe.load_ip_adapter(tiny_ip_adapter.save(plus, tmp_path / "d.safetensors"))
    other = tmp_path / "vision"
    tiny_ip_adapter.image_encoder(64, projection=32).save_pretrained(other)
    with pytest.raises(
        sdcore.CheckpointError, match=r"is not the image encoder of .* takes image_"
    ):
        pipe.load_ip_adapter(adapter(files, "sd1", "classic0"), image_encoder=other)
    assert pipe.image_encoder is None
    assert np.array_equal(draw(pipe, ip_adapter_image=None), plain(files))
