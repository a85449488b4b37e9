"""Pictures by InstantID against diffusers' parts, put together as its published pipelines are: the
UNet reads the text and the face's tokens, and InstantID's ControlNet the face's tokens alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import sdcore
import tiny_ip_adapter
import tiny_models
import tiny_xl
from reference.common import SAMPLED_F32, error
from tiny_control import controlnet, picture

ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "width": 24,
    "height": 32,
}
SEEN = [picture(3), picture(4)]
FACES = np.random.default_rng(8).standard_normal((2, 512)).astype(np.float32)
FACE = FACES[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, ip-adapter.bin, ControlNetModel/, another/, a ControlNet, and style.bin, an
    IP-Adapter."""
    path = tmp_path_factory.mktemp("instantid")
    unet = tiny_xl.base_unet()
    tiny_xl.xl(path / "tokenizers").save_pretrained(path / "model")
    for name, seed in (("ControlNetModel", 900), ("another", 901)):
        controlnet(unet, seed).save_pretrained(path / name)
    tiny_ip_adapter.save(instantid(unet), path / "ip-adapter.bin")
    tiny_ip_adapter.save(tiny_ip_adapter.adapter(unet, "classic", 1), path / "style.bin")
    return path


def instantid(unet: Any) -> tiny_models.State:
    return tiny_ip_adapter.adapter(unet, "plus", 0, 512)


def ours(files: Path, *nets: str, adapter: Any = "ip-adapter.bin", **options: Any) -> Any:
    pipe = sdcore.DiffusionPipeline.open(
        files / "model",
        **{"dtype": "f32", "threads": 1, **options},
        controlnet=[files / net for net in nets] or None,
    )
    if adapter is not None:
        pipe.load_ip_adapter(files / adapter)
    return pipe


def draw(pipe: Any, **changes: Any) -> np.ndarray:
    given: dict[str, Any] = {"ip_adapter_image_embeds": [FACE]}
    if pipe.controlnet:
        given["control_image"] = SEEN[: len(pipe.controlnet)]
    return pipe(**ARGS | given | changes, seed=5, output_type="latent").images


def theirs(
    files: Path,
    *nets: str,
    faces: np.ndarray = FACES[:1],
    reads_face: int | None = 0,
    scale: float = 0.8,
    control: Any = 0.8,
    images: int = 1,
    **changes: Any,
) -> np.ndarray:
    """diffusers' pipeline, the ControlNet `reads_face` of which is given other states."""
    parts = {k: v for k, v in tiny_xl.xl(files / "tokenizers").components.items() if v is not None}
    parts["unet"] = copy.deepcopy(parts["unet"])  # which the adapter is put into
    kind = "StableDiffusionXL"
    if nets:
        kind += "ControlNet"
        opened = [diffusers.ControlNetModel.from_pretrained(files / net) for net in nets]
        parts["controlnet"] = opened if len(opened) > 1 else opened[0]
        seen = SEEN[: len(nets)]
        changes |= {"image": seen if len(nets) > 1 else seen[0]}
        changes |= {"controlnet_conditioning_scale": control}
    made = getattr(diffusers, f"{kind}Pipeline")(**parts)
    made.set_progress_bar_config(disable=True)
    state = torch.load(files / "ip-adapter.bin")
    made.load_ip_adapter([state], subfolder=[""], weight_name=[""], image_encoder_folder=None)
    made.set_ip_adapter_scale(scale)
    embeds = torch.from_numpy(faces)[None, None]  # all are tokens of one image
    if changes.get("guidance_scale", 5.0) > 1:
        embeds = torch.cat([torch.zeros_like(embeds), embeds])
    with torch.no_grad():
        projection = made.unet.encoder_hid_proj.image_projection_layers[0]
        tokens = projection(embeds[:, 0]).repeat_interleave(images, 0)
        if nets and reads_face is not None:
            _give_tokens(opened[reads_face], tokens)
        out = made(
            **ARGS | changes,
            ip_adapter_image_embeds=[embeds],
            num_images_per_prompt=images,
            generator=[torch.Generator("cpu").manual_seed(5 + i) for i in range(images)],
            output_type="latent",
        )
    latents: np.ndarray = out.images.numpy()
    return latents


def _give_tokens(net: Any, tokens: torch.Tensor) -> None:
    forward = net.forward

    def instead(sample: Any, timestep: Any, encoder_hidden_states: Any, *args: Any, **more: Any):
        # In guess mode it is asked about the prompt alone.
        return forward(sample, timestep, tokens[-len(sample) :], *args, **more)

    net.forward = instead


IDENTITY = "ControlNetModel"
CASES: dict[str, dict[str, Any]] = {
    "one face": {},
    "without guidance": {"guidance_scale": 1.0},
    "a part of the steps": {"control_guidance_start": 0.2, "control_guidance_end": 0.8},
    "guessing": {"guess_mode": True},
}


@pytest.mark.parametrize("name", CASES)
def test_latents_are_diffusers(files: Path, name: str) -> None:
    options = CASES[name]
    ref = theirs(files, IDENTITY, **options)
    pipe = ours(files, IDENTITY)
    out = draw(pipe, **options)  # 0.8 of each is what it begins with
    assert error(out, ref) <= SAMPLED_F32
    for wrong in (
        {"control_context": "text"},
        {"controlnet_conditioning_scale": 1.0},
        {"ip_adapter_image_embeds": [FACES[1]]},
    ):
        assert error(draw(pipe, **options | wrong), ref) > 5 * SAMPLED_F32
    said = {"controlnet_conditioning_scale": 0.8, "control_context": "face"}
    assert np.array_equal(draw(pipe, **options | said), out)


def test_scales_are_as_they_are_set(files: Path) -> None:
    ref = theirs(files, IDENTITY, scale=0.5, control=1.1)
    pipe = ours(files, IDENTITY)
    pipe.set_ip_adapter_scale(0.5)
    assert error(draw(pipe, controlnet_conditioning_scale=1.1), ref) <= SAMPLED_F32


def test_several_faces_are_seen_together(files: Path) -> None:
    ref = theirs(files, IDENTITY, faces=FACES)
    pipe = ours(files, IDENTITY)
    nothing_first = np.stack([np.zeros_like(FACES), FACES])
    for given in (FACES, FACES[None], torch.from_numpy(FACES), nothing_first):
        assert error(draw(pipe, ip_adapter_image_embeds=[given]), ref) <= SAMPLED_F32


@pytest.mark.parametrize("first", [0, 1])
def test_of_several_controlnets_one_reads_the_face(files: Path, first: int) -> None:
    """The first, unless another is named."""
    nets = [IDENTITY, "another"] if first == 0 else ["another", IDENTITY]
    ref = theirs(files, *nets, reads_face=first, control=[0.8, 0.6])
    pipe = ours(files, *nets)
    context = {} if first == 0 else {"control_context": ["text", "face"]}
    scale = {"controlnet_conditioning_scale": [0.8, 0.6]}
    assert error(draw(pipe, **scale, **context), ref) <= SAMPLED_F32
    for other in ("text", "face", ["face", "text"] if first else ["text", "face"]):
        assert error(draw(pipe, **scale, control_context=other), ref) > 5 * SAMPLED_F32
    if first == 0:  # what is usual is each one's own
        scale = {"controlnet_conditioning_scale": [0.8, 1.0]}
        assert np.array_equal(draw(pipe), draw(pipe, **scale))


def test_without_a_controlnet_the_face_is_in_the_unet_alone(files: Path) -> None:
    ref = theirs(files)
    pipe = ours(files)
    out = draw(pipe)
    assert error(out, ref) <= SAMPLED_F32
    pipe.load_controlnet(files / IDENTITY)
    assert np.array_equal(draw(pipe, controlnet_conditioning_scale=0.0), out)


def test_the_face_goes_with_another_ip_adapter(files: Path) -> None:
    """Whichever is first, the ControlNet reads the face, and a style of scale 0 says nothing."""
    style = np.random.default_rng(9).standard_normal((1, 1, tiny_ip_adapter.PROJECTION))
    alone = draw(ours(files, IDENTITY))
    for names, embeds in (
        (["style.bin", "ip-adapter.bin"], [style, FACE]),
        (["ip-adapter.bin", "style.bin"], [FACE, style]),
    ):
        pipe = ours(files, IDENTITY, adapter=None)
        pipe.load_ip_adapter([files / name for name in names])
        both = draw(pipe, ip_adapter_image_embeds=embeds)
        assert error(both, alone) > 5 * SAMPLED_F32
        pipe.set_ip_adapter_scale([0.8 * (name == "ip-adapter.bin") for name in names])
        assert np.array_equal(draw(pipe, ip_adapter_image_embeds=embeds), alone)


WAYS: dict[str, dict[str, Any]] = {
    "in turns": {},
    "deep cache": {"cache_interval": 2},
    "long prompts": {"prompt": ["a cat", "the red " * 50 + "dog"]},
    "img2img": {"image": picture(6), "strength": 0.8},
    "hires": {"hires_scale": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_draw(files: Path, way: str) -> None:
    pipe = ours(files, IDENTITY)
    pipe.guidance_in_turns = way == "in turns"
    out = draw(pipe, **WAYS[way])
    if way == "in turns":
        assert np.array_equal(out, draw(ours(files, IDENTITY)))
    for wrong in ({"ip_adapter_image_embeds": [FACES[1]]}, {"control_context": "text"}):
        assert error(draw(pipe, **WAYS[way] | wrong), out) > 5 * SAMPLED_F32
    if way == "long prompts":
        pipe.guidance_in_turns = True
        assert np.array_equal(draw(pipe, **WAYS[way]), out)


def test_images_of_a_batch(files: Path) -> None:
    ref = theirs(files, IDENTITY, images=2)
    pipe = ours(files, IDENTITY)
    out = draw(pipe, num_images_per_prompt=2)
    assert error(out, ref) <= SAMPLED_F32
    assert np.array_equal(out[:1], draw(pipe))


def test_a_float16_file_and_safetensors(files: Path, tmp_path: Path) -> None:
    state = {k: v.half() for k, v in instantid(tiny_xl.base_unet()).items()}
    path = tiny_ip_adapter.save(state, tmp_path / "instantid.safetensors")
    pipe = ours(files, IDENTITY, adapter=path)
    assert 0 < error(draw(pipe), draw(ours(files, IDENTITY))) < 5e-3


def test_it_comes_and_goes_without_a_trace(files: Path) -> None:
    """Its ControlNet reads the text again, as others do."""
    pipe = ours(files, IDENTITY)
    assert pipe.face_tokens == "ip_hidden_states_0"
    pipe.unload_ip_adapter()
    assert pipe.face_tokens is None
    plain = draw(ours(files, IDENTITY, adapter=None), ip_adapter_image_embeds=None)
    assert np.array_equal(draw(pipe, ip_adapter_image_embeds=None), plain)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"ip_adapter_image_embeds": None},
        r"InstantID reads insightface's .* \(antelopev2's, not normed\): load_face_model makes it",
    ),
    (
        {"ip_adapter_image_embeds": None, "ip_adapter_image": picture()},
        r"give it as ip_adapter_image_embeds, a list with \[512\] or \[faces, 512\] numbers \(--ip",
    ),
    ({"ip_adapter_image": picture()}, "or ip_adapter_image_embeds, not both"),
    (
        {"ip_adapter_image_embeds": [FACE / np.linalg.norm(FACE)]},
        r"this one is normed: give insightface's face\['embedding'\]",
    ),
    (
        {"ip_adapter_image_embeds": [FACE[:-1]]},
        r"must be \[1 or 2, faces, 512\], got \[511\]",
    ),
    ({"control_context": "picture"}, "control_context must be 'face' or 'text', got 'picture'"),
    ({"control_context": ["face"] * 2}, "control_context must be one word or 1, one a ControlNet"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_is_wrong_is_said_before_the_first_step(
    files: Path, options: dict[str, Any], message: str
) -> None:
    given = {"ip_adapter_image_embeds": [FACE], "control_image": SEEN[0]}
    with pytest.raises(sdcore.InvalidArgumentError, match=message):
        ours(files, IDENTITY).stream(**ARGS | given | options)


def test_what_does_not_go_together(files: Path, tmp_path: Path) -> None:
    pipe = ours(files, IDENTITY, adapter="style.bin")
    style = np.zeros((1, 1, tiny_ip_adapter.PROJECTION), np.float32)
    with pytest.raises(sdcore.InvalidArgumentError, match="InstantID's adapter is not there"):
        draw(pipe, ip_adapter_image_embeds=[style], control_context="face")
    sd1 = sdcore.DiffusionPipeline.open(
        tiny_models.save_folder(tiny_models.PLAIN, tmp_path / "sd1"), dtype="f32"
    )
    with pytest.raises(
        sdcore.CheckpointError,
        match=r"does not fit the model, Stable Diffusion 1.x: it holds InstantID's IP-Adapter for",
    ):
        sd1.load_ip_adapter(files / "ip-adapter.bin")
