"""PhotoMaker against its networks in PyTorch, and pictures against diffusers told what they say."""

from __future__ import annotations

from collections.abc import Sequence
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
import tiny_photomaker
import tiny_xl
from reference.common import BF16_FACTOR, ISAS, SAMPLED_F32, error, in_bf16
from sdcore.adapters import photomaker
from sdcore.checkpoint.names import photomaker as names
from sdcore.models.base import RunOptions
from sdcore.models.photomaker import PhotoMakerIDEncoder
from sdcore.pipelines.memory import plan_memory

ENCODER_F32 = 1e-5
SIDE = tiny_photomaker.SIDE
PROMPT = "the red circle of a cat img, and the dog"
ARGS: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": "blurry dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "height": 16,
    "width": 24,
    "start_merge_step": 1,
}
FACES = np.random.default_rng(3).standard_normal((3, tiny_photomaker.FACE), np.float32)


def picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8)
    return Image.fromarray(values)


PEOPLE = [picture(1), picture(2), picture(3)]
ONE, TWO = PEOPLE[:1], PEOPLE[:2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdxl/, a model, and v1.bin, v1.safetensors, pmid.safetensors, v2.bin, v2.safetensors."""
    path = tmp_path_factory.mktemp("photomaker")
    tiny_xl.xl(path / "tokenizers").save_pretrained(path / "sdxl")
    for version in (1, 2):
        for suffix in ("bin", "safetensors"):
            tiny_photomaker.save(version, path / f"v{version}.{suffix}")
    tiny_photomaker.save(1, path / "pmid.safetensors", before="pmid.", encoder="")
    return path


def ours(files: Path, file: str | None = "v1.bin", **options: Any) -> Any:
    pipe = sdcore.DiffusionPipeline.open(
        files / "sdxl", **{"dtype": "f32", "threads": 1, **options}
    )
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    if file is not None:
        pipe.load_photomaker_adapter(files / file)
    return pipe


def draw(pipe: Any, **changes: Any) -> np.ndarray:
    arguments = {"input_id_images": ONE, **ARGS, **changes}
    return pipe(**arguments, seed=5, output_type="latent").images


def plain(files: Path, **changes: Any) -> np.ndarray:
    """What the model draws of the prompt without the trigger."""
    bare = {"prompt": PROMPT.replace(" img", ""), "input_id_images": None, "start_merge_step": None}
    return draw(ours(files, None), **{**bare, **changes})


# ---- as the authors' pipeline drives diffusers' --------------------------------------------------


@lru_cache
def _theirs(folder: Path, kind: type = diffusers.StableDiffusionXLPipeline) -> Any:
    pipe = kind.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        tokenizer.add_tokens(["img"], special_tokens=True)
    pipe.load_lora_weights(dict(tiny_photomaker.lora_weights()), adapter_name="photomaker")
    return pipe


def encode_prompt_with_trigger_word(pipe: Any, prompt: str, count: int) -> tuple[Any, Any, Any]:
    found, image_token_id = [], pipe.tokenizer_2.convert_tokens_to_ids("img")
    for tokenizer, encoder in (
        (pipe.tokenizer, pipe.text_encoder),
        (pipe.tokenizer_2, pipe.text_encoder_2),
    ):
        ids = tokenizer.encode(prompt)
        at = ids.index(image_token_id) - 1
        ids = ids[:at] + [ids[at]] * count + ids[at + 2 :]
        ids += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))
        out = encoder(torch.tensor([ids]), output_hidden_states=True)
        found.append(out.hidden_states[-2])
    mask = torch.zeros(1, len(ids), dtype=torch.bool)
    mask[:, at : at + count] = True
    return torch.cat(found, dim=-1), out[0], mask


def without_trigger(pipe: Any, prompt: str) -> str:
    ids = pipe.tokenizer.encode(prompt, add_special_tokens=False)
    ids.remove(pipe.tokenizer.convert_tokens_to_ids("img"))
    return pipe.tokenizer.decode(ids)


def theirs(
    files: Path,
    people: Sequence[Image.Image] = ONE,
    faces: np.ndarray | None = None,
    images: int = 1,
    strength: float | None = None,
    scale: float = 1.0,
    **changes: Any,
) -> np.ndarray:
    arguments = {**ARGS, **changes}
    prompt, merge = arguments.pop("prompt"), arguments.pop("start_merge_step")
    start = {} if strength is None else {"strength": strength, "image": picture(6).resize((24, 16))}
    kind = "StableDiffusionXLImg2ImgPipeline" if start else "StableDiffusionXLPipeline"
    pipe = _theirs(files / "sdxl", getattr(diffusers, kind))
    pipe.set_adapters("photomaker", scale)
    encoder = tiny_photomaker.id_encoder(1 if faces is None else 2)
    pixels = CLIPImageProcessor(size=SIDE, crop_size=SIDE)(list(people), return_tensors="pt")
    with torch.no_grad():
        text, negative, text_pooled, negative_pooled = pipe.encode_prompt(
            without_trigger(pipe, prompt),
            device="cpu",
            num_images_per_prompt=images,
            negative_prompt=arguments.pop("negative_prompt"),
        )
        states, pooled, mask = encode_prompt_with_trigger_word(
            pipe, prompt, len(people) * encoder.num_tokens
        )
        given = None if faces is None else torch.from_numpy(faces)
        states = encoder(pixels.pixel_values, states, mask, given)
    guided = arguments["guidance_scale"] > 1

    def merged(_: Any, i: int, __: Any, told: dict[str, Any]) -> dict[str, Any]:
        if i != merge:
            return {}
        rows = [states.repeat(images, 1, 1)], [pooled.repeat(images, 1)]
        if guided:
            rows[0].insert(0, negative)
            rows[1].insert(0, negative_pooled)
        return {"prompt_embeds": torch.cat(rows[0]), "add_text_embeds": torch.cat(rows[1])}

    generators = [torch.Generator().manual_seed(5 + i) for i in range(images)]
    if start:
        for name in ("height", "width"):
            arguments.pop(name)
    else:
        shape = (4, ARGS["height"] // 2, ARGS["width"] // 2)
        start = {"latents": torch.stack([torch.randn(shape, generator=g) for g in generators])}
    out = pipe(
        prompt_embeds=text[:1],
        pooled_prompt_embeds=text_pooled[:1],
        negative_prompt_embeds=negative[:1],
        negative_pooled_prompt_embeds=negative_pooled[:1],
        num_images_per_prompt=images,
        generator=generators,
        callback_on_step_end=merged,
        callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds"],
        output_type="latent",
        **arguments,
        **start,
    )
    return out.images.numpy()


# ---- the networks --------------------------------------------------------------------------------


def opened(files: Path, version: int, **options: Any) -> PhotoMakerIDEncoder:
    shapes = {"unet": {k: tuple(v.shape) for k, v in tiny_xl.base_unet().state_dict().items()}}
    file = photomaker.read(files / f"v{version}.bin", tiny_photomaker.BOTH, shapes, "a tiny model")
    return PhotoMakerIDEncoder.from_component(file.id_encoder, RunOptions(threads=1, **options))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("version", [1, 2])
def test_the_id_encoder_is_the_authors(files: Path, version: int, isa: str) -> None:
    module = tiny_photomaker.id_encoder(version)
    random = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=random)
    faces = torch.from_numpy(FACES) if version == 2 else None
    states = torch.randn(2, 3 * version, tiny_photomaker.BOTH, generator=random)

    def run(module: Any, *inputs: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            tokens = module.id_tokens(*inputs[:2])
            given = tokens.reshape(1, -1, tokens.shape[-1]).expand(2, -1, -1)
            fused = module.fuse_module.fuse_fn(inputs[2], given)
        return tokens.float().numpy(), fused.float().numpy()

    ref = run(module, pixels, faces, states)
    halves = [None if x is None else x.bfloat16() for x in (pixels, faces, states)]
    rounded = [error(a, b) for a, b in zip(run(in_bf16(module), *halves), ref, strict=True)]
    for dtype, allowed in (("f32", [ENCODER_F32] * 2),
                           ("bf16", [BF16_FACTOR * one for one in rounded])):  # fmt: skip
        mine = opened(files, version, dtype=dtype, isa=isa)
        tokens = mine(pixels, faces)
        given = np.stack([tokens.reshape(-1, tokens.shape[-1])] * 2)
        for out, wanted, most in zip((tokens, mine.fuse(states, given)), ref, allowed, strict=True):
            assert out.shape == wanted.shape and error(out, wanted) <= most
        assert np.array_equal(mine(pixels[1:2], None if faces is None else faces[1:2]), tokens[1:2])


PUBLISHED = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}


@pytest.mark.parametrize("version", [1, 2])
def test_published_files_have_its_tensors(version: int) -> None:
    """All that they have, but for the projections of which version 2 makes no use."""
    with torch.device("meta"):
        module = tiny_photomaker.PhotoMakerIDEncoder(version, PUBLISHED, (768, 1280), 512)
    shapes = {k: tuple(v.shape) for k, v in module.state_dict().items() if "position_ids" not in k}
    resampler = {"embed_dim": 1024, "hidden_dim": 2048, "cross_attention_dim": 2048, "depth": 4,
                 "num_tokens": 2, "heads": 16, "dim_head": 128, "ff_dim": 8192}  # fmt: skip
    second = {"id_embeddings_dim": 512, "token_dim": 2048, "resampler": resampler}
    config = PhotoMakerIDEncoder.read_config(
        {"vision": PUBLISHED, "embed_dim": 2048, **(second if version == 2 else {})}
    )
    table, asked = names.table(shapes), set()
    for name, shape in PhotoMakerIDEncoder.all_weights(config).items():
        old = table.to_original(name)
        pair = old.endswith("to_kv.weight")
        # A class embedding of one row is a vector in files.
        assert shapes[old] in (tuple(shape), (2 * shape[0], *shape[1:]) if pair else shape[1:]), old
        asked.add(old)
    left = shapes.keys() - asked
    unused = {"visual_projection.weight", "visual_projection_2.weight",
              "vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias"}  # fmt: skip
    assert left == (unused if version == 2 else set())


# ---- pictures ------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "several": {"people": PEOPLE},
    "unguided": {"guidance_scale": 1.0},
    "images": {"images": 2, "people": TWO},
    "at_once": {"start_merge_step": 0},
    "late": {"start_merge_step": 2, "num_inference_steps": 5},
    "a weaker lora": {"scale": 0.5},
    "v2": {"faces": FACES[:1]},
    "v2 several": {"faces": FACES[:2], "people": TWO},
}


@pytest.mark.parametrize("way", WAYS)
def test_latents_are_diffusers(files: Path, way: str) -> None:
    changes = WAYS[way]
    ref = theirs(files, **changes)
    given = dict(changes)
    people, images = given.pop("people", ONE), given.pop("images", 1)
    faces, scale = given.pop("faces", None), given.pop("scale", None)
    pipe = ours(files, "v1.bin" if faces is None else "v2.bin")
    assert pipe.get_active_adapters() == ["photomaker"]
    if scale is not None:
        pipe.set_adapters("photomaker", scale)
    more = {"input_id_images": people, "id_embeds": faces, "num_images_per_prompt": images}
    out = draw(pipe, **given, **more)
    assert error(out, ref) <= SAMPLED_F32
    for other in (
        draw(pipe, **{**given, **more, "input_id_images": [picture(9)] * len(people)}),
        plain(files, **{**given, "num_images_per_prompt": images, "start_merge_step": None}),
    ):
        assert error(other, ref) > 5 * SAMPLED_F32


def test_steps_that_a_picture_spares_count(files: Path) -> None:
    """Of 5 steps the last 4 are made, and step 2 of the schedule is the second of them."""
    ref = theirs(files, strength=0.8, num_inference_steps=5, start_merge_step=1)
    start = {"image": picture(6).resize((24, 16)), "strength": 0.8}
    pipe = ours(files)
    out = draw(pipe, **start, num_inference_steps=5, start_merge_step=2)
    assert error(out, ref) <= SAMPLED_F32
    assert error(draw(pipe, **start, num_inference_steps=5, start_merge_step=1), out) > SAMPLED_F32


def test_both_forms_of_file_are_the_same_bits(files: Path) -> None:
    drawn = draw(ours(files))
    for file in ("v1.safetensors", "pmid.safetensors"):
        assert np.array_equal(draw(ours(files, file)), drawn)
    face = {"id_embeds": FACES[:1]}
    second = draw(ours(files, "v2.bin"), **face)
    assert np.array_equal(draw(ours(files, "v2.safetensors"), **face), second)
    assert error(second, drawn) > SAMPLED_F32


def test_in_turns_and_in_a_batch(files: Path) -> None:
    pipe = ours(files)
    drawn = draw(pipe)
    pipe.guidance_in_turns = True
    assert np.array_equal(draw(pipe), drawn)
    assert np.array_equal(draw(pipe, num_images_per_prompt=2)[:1], drawn)
    two = draw(pipe, prompt=["a dog img", PROMPT], negative_prompt=["cat", ARGS["negative_prompt"]])
    other = pipe(**{**ARGS, "input_id_images": ONE}, seed=6, output_type="latent").images
    assert np.array_equal(two[1:], other)
    # One that is long goes its own way, and says what it says without PhotoMaker.
    long = draw(pipe, negative_prompt="the dog and " * 30)
    assert error(long, drawn) > SAMPLED_F32


def test_before_the_merge_the_person_is_not_there(files: Path) -> None:
    """All steps but the last are the text's, to the bit; the negative prompt is one all along."""
    pipe = ours(files)
    arguments = {**ARGS, "start_merge_step": 2, "seed": 5, "output_type": "latent"}
    steps = [[step.latents for step in pipe.stream(**arguments, input_id_images=[one])]
             for one in PEOPLE[:2]]  # fmt: skip
    same = [np.array_equal(a, b) for a, b in zip(*steps, strict=True)]
    assert same == [True, True, True, False]
    alone = ours(files)
    alone.id_encoder = None  # its LoRA is at work
    bare = {"prompt": PROMPT.replace(" img", ""), "start_merge_step": None}
    text = [step.latents for step in alone.stream(**{**arguments, **bare})]
    assert all(np.array_equal(a, b) for a, b in zip(text[:3], steps[0][:3], strict=True))
    # Nothing said is a fifth of the steps.
    assert np.array_equal(
        draw(pipe, num_inference_steps=10, start_merge_step=None),
        draw(pipe, num_inference_steps=10, start_merge_step=2),
    )
    assert draw(pipe, num_inference_steps=1, start_merge_step=None).shape == (1, 4, 8, 12)
    first = draw(pipe, start_merge_step=-1)
    assert error(first, draw(pipe, start_merge_step=0)) > SAMPLED_F32


def test_samplers_that_ask_twice_a_step(files: Path) -> None:
    """Step 2, the first that knows the person, is the fifth row."""
    pipe = ours(files)
    pipe.scheduler = sdcore.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    steps = [[step.latents for step in pipe.stream(**ARGS, seed=5, input_id_images=[one])]
             for one in TWO]  # fmt: skip
    same = [np.array_equal(a, b) for a, b in zip(*steps, strict=True)]
    assert same == [True] * 4 + [False] * 3


def test_an_ip_adapter_goes_with_it(files: Path, tmp_path: Path) -> None:
    state = tiny_ip_adapter.adapter(tiny_xl.base_unet(), "classic")
    adapter = tiny_ip_adapter.save(state, tmp_path / "ip.safetensors")
    tiny_ip_adapter.image_encoder().save_pretrained(tmp_path / "image_encoder")
    pipe = ours(files)
    drawn = draw(pipe)
    pipe.load_ip_adapter(adapter)
    both = draw(pipe, ip_adapter_image=PEOPLE[2])
    pipe.set_ip_adapter_scale(0)
    assert np.array_equal(draw(pipe, ip_adapter_image=PEOPLE[2]), drawn)
    assert error(both, drawn) > SAMPLED_F32
    pipe.unload_ip_adapter()
    assert np.array_equal(draw(pipe), drawn) and pipe.get_active_adapters() == ["photomaker"]


def test_what_is_kept_between_steps_begins_anew_at_the_merge(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would be asked about the person there."""
    pipe, asked = ours(files), []
    steps = {"num_inference_steps": 8, "start_merge_step": 4}
    people = [draw(pipe, **steps, cache_interval=9, input_id_images=[one]) for one in TWO]
    assert error(*people) > SAMPLED_F32
    ask = type(pipe).ask
    monkeypatch.setattr(
        type(pipe),
        "ask",
        lambda self, x, t, *a, **b: (asked.append(t), ask(self, x, t, *a, **b))[1],
    )
    draw(pipe, **steps, cache_threshold=1.0)
    assert len(asked) < 8 and 251 in asked  # the time of step 5; it would be spared


def test_prompts_change_before_and_after_the_merge(files: Path) -> None:
    """As if each were drawn from where the one before it had come."""
    pipe, latents = ours(files), np.zeros(0)
    for step, words in enumerate(("the red cat", "the dog cat", "the dog cat", "the dog circle")):
        images = {"input_id_images": ONE, "output_type": "latent", "seed": 5}
        for made in pipe.stream(**{**ARGS, **images, "prompt": f"{words} img"}):
            if made.index == step - 1:
                made.latents = latents
            if made.index == step:
                latents = made.latents
                break
    edited = draw(pipe, prompt="the [red:dog:1] [cat:circle:3] img")
    assert np.array_equal(edited, latents)
    with pytest.raises(sdcore.InvalidArgumentError, match="'the circle' has it nowhere"):
        draw(pipe, prompt="the [cat img:circle:3]")


@pytest.mark.parametrize("mode", ["merge", "side"])
def test_loras_go_with_it(files: Path, tmp_path: Path, mode: str) -> None:
    state = {name: value.flip(0) for name, value in tiny_photomaker.lora_weights().items()}
    torch.save(state, tmp_path / "style.bin")
    pipe, other = ours(files), ours(files, None)
    without = draw(pipe)
    pipe.load_lora_weights(tmp_path / "style.bin")
    pipe.set_adapters(["photomaker", "style"], [1.0, 0.5], mode)
    other.load_lora_weights(tmp_path / "style.bin", mode=mode)
    other.set_adapters("style", 0.5)
    other.load_photomaker_adapter(files / "v1.bin")
    assert other.get_active_adapters() == ["style", "photomaker"]
    drawn = draw(pipe)
    assert error(draw(other), drawn) <= SAMPLED_F32
    assert error(drawn, without) > 5 * SAMPLED_F32
    other.unload_photomaker_adapter()
    assert other.get_active_adapters() == ["style"]


def test_quantized_weights_go_with_it(files: Path) -> None:
    drawn = draw(ours(files))
    small = draw(ours(files, quantize="q8_0"))
    assert 0 < error(small, drawn) < 0.5 * error(plain(files), drawn)


def test_a_second_pass_knows_the_person(files: Path) -> None:
    """Which steps of it know the text alone, its own schedule tells."""
    pipe = ours(files)
    twice = {"hires_scale": 2, "hires_strength": 0.5, "start_merge_step": 2}
    first, second = (draw(pipe, **twice, input_id_images=[one]) for one in PEOPLE[:2])
    assert first.shape == (1, 4, 16, 24) and error(first, second) > SAMPLED_F32


def test_it_comes_and_goes_without_a_trace(files: Path) -> None:
    bare = {"input_id_images": None, "start_merge_step": None}
    pipe = ours(files, None)
    before = draw(pipe, **bare)
    pipe.load_photomaker_adapter(files / "v1.bin")
    drawn = draw(pipe)
    pipe.load_photomaker_adapter(files / "v2.bin")
    assert pipe.id_encoder.config.num_tokens == 2
    pipe.load_photomaker_adapter(files / "v1.safetensors")
    assert np.array_equal(draw(pipe), drawn)
    stream = pipe.stream(**ARGS, input_id_images=ONE, seed=5, output_type="latent")
    pipe.unload_photomaker_adapter()
    pipe.unload_photomaker_adapter()  # nothing to forget
    assert pipe.id_encoder is None and pipe.get_list_adapters() == {}
    assert np.array_equal(draw(pipe, **bare), before)
    for _ in stream:  # goes on with what it began with
        pass
    assert np.array_equal(stream.result().images, drawn)


def test_words_of_the_prompt(files: Path) -> None:
    """Case, place and weights of the class word; the trigger is a word by itself only."""
    pipe = ours(files)
    drawn = draw(pipe)
    assert np.array_equal(draw(pipe, prompt=PROMPT.replace("img", "IMG")), drawn)
    assert np.array_equal(draw(pipe, prompt_2=PROMPT), drawn)
    assert error(draw(pipe, prompt="an imgur cat img"), drawn) > SAMPLED_F32
    weighted = draw(pipe, prompt=PROMPT.replace("red", "(red:1.5)"))
    assert error(weighted, drawn) > SAMPLED_F32
    full = "a cat img " + "dog " * 73
    assert draw(pipe, prompt=full).shape == drawn.shape  # 75 tokens without the trigger


def test_the_id_encoder_is_a_part_like_others(files: Path) -> None:
    pipe = ours(files, dtype={"id_encoder": "bf16", "unet": "f32"})
    assert pipe.id_encoder.network.dtype == "bf16" and pipe.unet.network.dtype == "f32"
    order: list[str] = []
    pipe.unload = True
    for name in ("text_encoder", "id_encoder"):
        part = getattr(pipe, name)
        release = part.release
        part.release = lambda n=name, r=release: (order.append(n), r())
    assert np.array_equal(draw(pipe), draw(pipe))
    assert order[:2] == ["text_encoder", "text_encoder"] and order.count("id_encoder") > 1
    weights = plan_memory(pipe, 16, 24).weights
    assert list(weights)[2:4] == ["id_encoder", "unet"] and weights["id_encoder"] > 0
    pipe.unload_photomaker_adapter()
    assert "id_encoder" not in plan_memory(pipe, 16, 24).weights


def test_what_is_refused(files: Path, tmp_path: Path) -> None:
    pipe, bare, second = ours(files), ours(files, None), ours(files, "v2.bin")
    states = np.zeros((1, 77, tiny_photomaker.BOTH), np.float32)
    embeds = {"prompt_embeds": states, "pooled_prompt_embeds": states[:, 0, :1]}
    v2 = {"id_embeds": FACES[:1]}
    for of, wrong, message in (
        (pipe, {"prompt": "a cat"}, "needs the word 'img' once, .* 'a cat' has it nowhere"),
        (pipe, {"prompt": "a cat img or a dog img"}, "has it 2 times"),
        (pipe, {"prompt": "a cat img " + "dog " * 80 + "img"}, "has it 2 times"),
        (pipe, {"prompt": "img, a cat"}, "no word before 'img'"),
        (pipe, {"prompt": ["a cat img", "a dog"]}, "'a dog' has it nowhere"),
        (pipe, {"prompt": "a cat img " + "dog " * 74}, "may have 75 tokens in one chunk"),
        (pipe, {"prompt": "a cat img BREAK dog"}, "without BREAK"),
        (pipe, {"prompt": "a cat img " + "dog " * 72, "input_id_images": PEOPLE},
         "with 3 places for the person"),
        (pipe, {"prompt_2": "img"}, "no word before"),
        (pipe, {"prompt_2": "a cat img"}, "prompt_2 must have its class word at the place"),
        (pipe, {"input_id_images": None}, r"needs pictures of a person.*--pm-id-image"),
        (pipe, {"input_id_images": []}, "needs pictures of a person"),
        (pipe, {"start_merge_step": 3}, "leaves none of 4 steps .* at most 2, or -1 to leave all"),
        (pipe, {"start_merge_step": 2, "hires_scale": 2, "hires_steps": 3}, "none of 3 steps"),
        (pipe, {"start_merge_step": -2}, "start_merge_step must be a whole number >= -1"),
        (pipe, {"prompt": None, **embeds}, "reads the prompt itself"),
        (pipe, v2, "id_embeds are for version 2, and this is version 1"),
        (second, {}, r"give them as id_embeds, \[1, 40\] \(--pm-id-embed-path"),
        (second, {**v2, "input_id_images": TWO}, r"must be numbers \[2, 40\].* got \[1, 40\]"),
        (second, {"id_embeds": FACES[:1] * np.nan}, "must be numbers"),
        (bare, {}, r"input_id_images is for PhotoMaker, and there is none.*--photo-maker"),
        (bare, {"input_id_images": None, **v2}, "id_embeds is for PhotoMaker"),
    ):  # fmt: skip
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            of.stream(**{**ARGS, "input_id_images": ONE, **wrong})  # before the first step
    with pytest.raises(sdcore.FileError, match=r"cannot read input_id_images 'gone\.png'"):
        pipe.stream(**ARGS, input_id_images="gone.png")
    with pytest.raises(sdcore.UnsupportedModelError, match="does not know PhotoMaker"):
        pipe.export(tmp_path / "x.gguf")
    torch.save(tiny_photomaker.lora_weights(), tmp_path / "photomaker.bin")
    bare.load_lora_weights(tmp_path / "photomaker.bin")
    with pytest.raises(sdcore.InvalidArgumentError, match="there is a LoRA 'photomaker', which"):
        bare.load_photomaker_adapter(files / "v1.bin")


def test_files_and_models_that_do_not_fit(files: Path, tmp_path: Path) -> None:
    pipe = ours(files, None)
    state = tiny_photomaker.flat(1)

    def without(part: str) -> Path:
        path = tmp_path / f"without {part}.bin"
        torch.save({name: value for name, value in state.items() if part not in name}, path)
        return path

    for path, message in (
        (files / "sdxl", "holds Stable Diffusion XL, not PhotoMaker$"),
        (without("lora_weights"), "has no lora_weights: it is half of PhotoMaker"),
        (without("fuse_module"), "has no fuse_module: it is half"),
        (without("mlp1.fc1.bias"), r"1 tensor missing: id_encoder\.fuse_module\.mlp1\.fc1\.bias"),
    ):
        with pytest.raises(sdcore.CheckpointError, match=message):
            pipe.load_photomaker_adapter(path)
    assert pipe.id_encoder is None and pipe.get_active_adapters() == []
    tiny_xl.refiner(tmp_path / "tokenizers").save_pretrained(tmp_path / "refiner")
    refiner = sdcore.DiffusionPipeline.open(tmp_path / "refiner")
    with pytest.raises(sdcore.CheckpointError, match=r"of 192 channels together, .* have 128"):
        refiner.load_photomaker_adapter(files / "v1.bin")
    tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "sd1")
    first = sdcore.DiffusionPipeline.open(tmp_path / "sd1")
    with pytest.raises(
        sdcore.UnsupportedModelError, match=r"is for Stable Diffusion XL, and this is Stable Dif"
    ):
        first.load_photomaker_adapter(files / "v1.bin")
    with pytest.raises(sdcore.InvalidArgumentError, match="has no argument 'input_id_images'"):
        first("a cat img", input_id_images=ONE)
    with pytest.raises(sdcore.UnsupportedModelError, match="load it with load_photomaker_adapter"):
        sdcore.DiffusionPipeline.open(files / "v1.bin")
