"""ControlNets of Stable Diffusion 3 and 3.5, alone and in pictures, against diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import SD3ControlNetModel as TorchControlNet
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.controlnets.controlnet_sd3 import SD3MultiControlNetModel
from PIL import Image, ImageOps
from safetensors.torch import save_file

import sdcore
import tiny_transformers as tiny
from reference.common import (
    BF16_FACTOR,
    NETWORK_F32,
    SAMPLED_F32,
    TORCH_TYPES,
    TorchComponent,
    error,
    in_dtype,
)
from sdcore import checkpoint, convert
from sdcore.models.base import RunOptions
from sdcore.models.controlnet_sd3 import SD3ControlNetModel, build_control, build_embedding
from sdcore.models.mmdit import SD3Transformer2DModel
from sdcore.pipelines.memory import plan_memory
from tiny_control import picture
from tiny_control_sd3 import SINGLE, control_sd3, stability_state

NETS: dict[str, dict[str, Any]] = {
    "of joint blocks": {},
    "for inpainting": {"extra_conditioning_channels": 1},
    "of 3.5 medium": {
        "qk_norm": "rms_norm",
        "dual_attention_layers": (0,),
        "force_zeros_for_pooled_projection": False,
    },
    "of 3.5 large": SINGLE,
}


def _whole(name: str) -> tuple[TorchControlNet, dict[str, Any]]:
    """With the transformer's embedding, where it has none, and the config that goes with it."""
    module, base = control_sd3(tiny.sd3(), **NETS[name]), tiny.sd3()
    config = dict(module.config)
    if not module.config.use_pos_embed:
        module.pos_embed = module._get_pos_embed_from_transformer(base)
        config["pos_embed_max_size"] = base.config.pos_embed_max_size
    return module, config


def _flat(arrays: Any) -> np.ndarray:
    arrays = [np.asarray(a.float() if torch.is_tensor(a) else a) for a in arrays]
    return np.concatenate([a.ravel() / np.linalg.norm(a) for a in arrays])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_residuals_are_diffusers(name: str, dtype: str) -> None:
    module, config = _whole(name)
    generator = torch.Generator().manual_seed(2)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x, condition = (
        numbers(2, 16 + more, 10, 6) for more in (0, config["extra_conditioning_channels"])
    )
    texts, pooled, t = numbers(2, 9, 192), numbers(2, 192), torch.tensor([981.0, 3.0])

    def theirs(dtype: str) -> np.ndarray:
        kind, told = TORCH_TYPES[dtype], not config["force_zeros_for_pooled_projection"]
        with torch.no_grad():
            (found,) = in_dtype(module, dtype)(
                x.to(kind),
                condition.to(kind),
                0.7,
                texts.to(kind) if config["joint_attention_dim"] else None,
                (pooled * told).to(kind),
                t,
                return_dict=False,
            )
        return _flat(found)

    ref = theirs("f32")
    allowed = NETWORK_F32 if dtype == "f32" else BF16_FACTOR * error(theirs("bf16"), ref)
    net = SD3ControlNetModel.from_component(TorchComponent(config, module), RunOptions(dtype))
    out = net(x.numpy(), condition.numpy(), 0.7, texts.numpy(), pooled.numpy(), t.numpy())
    assert error(_flat(out), ref) <= allowed


@pytest.mark.parametrize("residuals", [1, 2, 3])
def test_each_speaks_to_as_many_blocks(residuals: int) -> None:
    """Of the transformer; also where skip-layer guidance leaves them out."""
    module, generator = tiny.sd3(), torch.Generator().manual_seed(3)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x, texts, pooled = numbers(2, 16, 8, 6), numbers(2, 9, 192), numbers(2, 192)
    t = torch.tensor([900.0, 100.0])
    added = [numbers(2, 8 * 6 // 4, 128) for _ in range(residuals)]
    net = SD3Transformer2DModel.from_component(
        TorchComponent(dict(module.config), module), RunOptions("f32")
    )
    ours = {f"{residuals}.{i}": one.numpy() for i, one in enumerate(added)}
    told = (x.numpy(), t.numpy(), texts.numpy(), pooled.numpy())
    for skips in ([], [1]):
        with torch.no_grad():
            ref = module(
                x, texts, pooled, t, block_controlnet_hidden_states=added, skip_layers=skips
            ).sample.numpy()
        out = net(*told, skip_layers=skips, residuals=lambda: ours)
        assert error(out, ref) <= NETWORK_F32
        assert error(net(*told, skip_layers=skips), ref) > 0.01


PUBLISHED: dict[str, dict[str, Any]] = {
    "InstantX's": {
        "num_layers": 6, "num_attention_heads": 24, "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    },
    "Stability's": SINGLE | {
        "num_layers": 19, "num_attention_heads": 38, "caption_projection_dim": 2048
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        state = TorchControlNet(**PUBLISHED[name]).state_dict()
    config = SD3ControlNetModel.read_config({**PUBLISHED[name], "pos_embed_max_size": 192})
    weights = build_control(config).weights | build_embedding(config).weights
    sizes = {key: int(np.prod(shape)) for key, shape in weights.items()}
    theirs = {key: tensor.numel() for key, tensor in state.items()}
    embedding = {key for key in sizes.keys() - theirs.keys() if key.startswith("pos_embed.")}
    assert len(embedding) == (0 if config.use_pos_embed else 3)  # those of the transformer
    assert {key: size for key, size in sizes.items() if key not in embedding} == theirs


# ---- pictures ------------------------------------------------------------------------------------

SIZE = {"height": 24, "width": 16}
ARGS: dict[str, Any] = {
    "prompt": "the red circle of a cat",
    "negative_prompt": "blurry dog",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "max_sequence_length": 20,
    **SIZE,
}


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("sd3")
    return tiny.sd3_pipeline(folder), folder


@pytest.fixture(autouse=True)
def _without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers draws the latents of a ControlNet's picture from numbers of no seed."""
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )


class _CannyProcessor(VaeImageProcessor):
    """As the page of stable-diffusion-3.5-large-controlnet-canny says."""

    def preprocess(self, image: Any, **options: Any) -> torch.Tensor:
        return super().preprocess(image, **options) * 255 * 0.5 + 0.5


def _theirs(
    pipe: Any, nets: list[TorchControlNet], kind: str = "", canny: bool = False, **options: Any
) -> np.ndarray:
    others = ("image_encoder", "feature_extractor")
    parts = {k: v for k, v in pipe.components.items() if k not in others}
    net = SD3MultiControlNetModel(nets) if len(nets) > 1 else nets[0]
    made = getattr(diffusers, f"StableDiffusion3ControlNet{kind}Pipeline")(**parts, controlnet=net)
    made.set_progress_bar_config(disable=True)
    if canny:
        made.image_processor = _CannyProcessor(made.vae_scale_factor, do_normalize=False)
    generator = torch.Generator("cpu").manual_seed(5)
    out = made(**ARGS | options, generator=generator, output_type="latent")
    return out.images.float().numpy()


def _net(name: str, folder: Path, seed: int = 960) -> tuple[TorchControlNet, Path]:
    net = control_sd3(tiny.sd3(), seed, **NETS[name])
    net.save_pretrained(folder)
    return net, folder


CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "one": (["of joint blocks"], {"controlnet_conditioning_scale": 0.7}),
    "told the pooled prompt": (["of 3.5 medium"], {"control_guidance_end": 0.5}),
    "without text": (["of 3.5 large"], {"guidance_scale": 1.0}),
    "two, each its own": (
        ["of joint blocks"] * 2,
        {
            "controlnet_conditioning_scale": [0.4, 1.3],
            "control_guidance_start": [0.25, 0.0],
            "control_guidance_end": [1.0, 0.5],
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text_to_image_is_diffusers(sd3: tuple[Any, Path], tmp_path: Path, name: str) -> None:
    theirs, folder = sd3
    which, options = CASES[name]
    made = [_net(kind, tmp_path / str(i), 960 + i) for i, kind in enumerate(which)]
    pictures = [picture(seed) for seed in range(len(which))]
    given: Any = pictures if len(which) > 1 else pictures[0]
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=[path for _, path in made])
    assert plan_memory(pipe, 24, 16).arenas["controlnet"] > 0
    run = {**ARGS, **options, "seed": 5, "output_type": "latent"}
    out = pipe(**run, control_image=given).images
    ref = _theirs(theirs, [net for net, _ in made], control_image=given, **options)
    assert error(out, ref) <= SAMPLED_F32
    pipe.unload_controlnet()
    plain = {k: v for k, v in run.items() if not k.startswith("control")}
    assert error(pipe(**plain).images, ref) > 0.01


def test_what_steps_have_in_common_is_told_once(
    sd3: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = sd3
    _, path = _net("of joint blocks", tmp_path / "control")
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=path)
    given: list[Any] = []
    tell, residuals = SD3ControlNetModel.tell, SD3ControlNetModel.residuals

    def noted(self: SD3ControlNetModel, *told: Any) -> Any:
        given.append(told)
        return tell(self, *told)

    def from_arrays(self: Any, x: Any, t: Any, _: Any, __: Any, *more: Any) -> Any:
        return residuals(self, x, t, *given[-1], *more)

    monkeypatch.setattr(SD3ControlNetModel, "tell", noted)
    run = {**ARGS, "seed": 5, "output_type": "latent", "control_image": picture(0)}
    out = pipe(**run).images
    assert len(given) == 1
    monkeypatch.setattr(SD3ControlNetModel, "residuals", from_arrays)
    np.testing.assert_array_equal(pipe(**run).images, out)


def test_inpainting_is_diffusers(sd3: tuple[Any, Path], tmp_path: Path) -> None:
    theirs, folder = sd3
    net, path = _net("for inpainting", tmp_path / "control")
    mask = np.zeros((SIZE["height"], SIZE["width"]), np.uint8)
    mask[5:16, 3:11] = 255
    given = {"control_image": picture(4, **SIZE), "control_mask": Image.fromarray(mask)}
    ref = _theirs(theirs, [net], "Inpainting", **given)
    config = json.loads((path / "config.json").read_text())
    del config["extra_conditioning_channels"]  # which diffusers' example for alimama's gives
    (path / "config.json").write_text(json.dumps(config))
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32", controlnet=path)
    run = {**ARGS, "seed": 5, "output_type": "latent"}
    out = pipe(**run, **given).images
    assert error(out, ref) <= SAMPLED_F32
    wide = {name: ImageOps.expand(one, (4, 0), "white") for name, one in given.items()}
    assert np.array_equal(pipe(**run, **wide, resize_mode="crop").images, out)
    with pytest.raises(sdcore.InvalidArgumentError, match="give control_mask, white where"):
        pipe(**run, control_image=given["control_image"])


def test_two_of_different_depths_are_both_there(sd3: tuple[Any, Path], tmp_path: Path) -> None:
    """Which diffusers cuts to the shorter one's; in either order it is the same picture."""
    one, two = tmp_path / "one", tmp_path / "two"
    control_sd3(tiny.sd3(), 970, layers=1).save_pretrained(one)
    control_sd3(tiny.sd3(), 971, layers=3).save_pretrained(two)
    pipe = sdcore.DiffusionPipeline.open(sd3[1], dtype="f32", controlnet=[one, two])
    run = {**ARGS, "seed": 5, "output_type": "latent", "control_image": [picture(1), picture(2)]}
    both = pipe(**run).images
    for scales in ([1.0, 0.0], [0.0, 1.0]):
        assert error(pipe(**run, controlnet_conditioning_scale=scales).images, both) > 0.01
    pipe.load_controlnet([two, one])
    again = pipe(**run | {"control_image": [picture(2), picture(1)]}).images
    assert error(again, both) < 1e-5


# ---- files ---------------------------------------------------------------------------------------


def test_stabilitys_files(sd3: tuple[Any, Path], tmp_path: Path) -> None:
    """Under Stability's names they say what their pictures are; else a folder's name does, or the
    call."""
    theirs, folder = sd3
    net, plain = _net("of 3.5 large", tmp_path / "plain")
    net.save_pretrained(tmp_path / "sd-3.5-large-controlnet-canny")
    types = {
        "blur": torch.tensor([0], dtype=torch.int32),
        "canny": torch.tensor([1], dtype=torch.int32),
        "depth": torch.tensor(2.0, dtype=torch.bfloat16),
        "nothing": torch.tensor([torch.nan]),
    }
    for name, control_type in types.items():
        save_file(stability_state(net, control_type), tmp_path / f"{name}.safetensors")
    as_gguf = convert(tmp_path / "canny.safetensors", tmp_path / "x.gguf")
    as_folder = convert(tmp_path / "canny.safetensors", tmp_path / "converted")
    back = convert(plain, tmp_path / "back.safetensors")
    names = stability_state(net, types["blur"]).keys() - {"control_type"}
    assert checkpoint.open(back).tensors.keys() == names
    state = TorchControlNet.from_pretrained(as_folder).state_dict()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())

    refs = {
        canny: _theirs(theirs, [net], canny=canny, control_image=picture(3))
        for canny in (False, True)
    }
    assert error(refs[True], refs[False]) > 0.01
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    run = {**ARGS, "seed": 5, "output_type": "latent", "control_image": picture(3)}
    for path, canny, options in (
        (tmp_path / "blur.safetensors", False, {}),
        (tmp_path / "canny.safetensors", True, {}),
        (tmp_path / "depth.safetensors", False, {}),
        (tmp_path / "depth.safetensors", True, {"control_mode": 1}),
        (tmp_path / "sd-3.5-large-controlnet-canny", True, {}),
        (plain, False, {}),
        (as_gguf, True, {}),
        (as_folder, True, {}),
        (back, False, {}),
    ):
        pipe.load_controlnet(path)
        assert error(pipe(**run, **options).images, refs[canny]) <= SAMPLED_F32, path
    with pytest.raises(sdcore.InvalidArgumentError, match="0 blurred, 1 canny edges, 2 depth"):
        pipe(**run, control_mode=3)
    with pytest.raises(sdcore.CheckpointError, match="control_type must be one number"):
        pipe.load_controlnet(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("name", ["of joint blocks", "for inpainting", "of 3.5 medium"])
def test_a_file_without_a_config(name: str, tmp_path: Path) -> None:
    """Whose config follows from its tensors, but for what it is told of the pooled prompt."""
    net, folder = _net(name, tmp_path / "folder")
    save_file(net.state_dict(), tmp_path / "x.safetensors")
    want, found = (
        SD3ControlNetModel.read_config(checkpoint.open(path).component("controlnet").config)
        for path in (folder, tmp_path / "x.safetensors")
    )
    for key in ("num_layers", "channels", "attention_head_dim", "joint_attention_dim",
                "pooled_projection_dim", "extra_conditioning_channels", "pos_embed_max_size",
                "pos_embed_type", "use_pos_embed", "qk_norm"):  # fmt: skip
        assert getattr(found, key) == getattr(want, key), key
    assert tuple(found.dual_attention_layers) == tuple(want.dual_attention_layers)
    assert found.force_zeros_for_pooled_projection


def test_quantized(tmp_path: Path) -> None:
    """But for the layers that hand out what is added."""
    _, folder = _net("of joint blocks", tmp_path / "folder")
    path = sdcore.quantize_model(folder, tmp_path / "x.gguf", "q8_0")
    part = checkpoint.open(path).component("controlnet")
    kept = {name for name, tensor in part.tensors.items() if tensor.type in ("f32", "f16")}
    assert {"controlnet_blocks.0.weight", "pos_embed_input.proj.weight"} <= kept
    assert part.tensors["transformer_blocks.0.attn.to_q.weight"].type == "q8_0"
    rng = np.random.default_rng(3)
    sizes = ((1, 16, 8, 6), (1, 16, 8, 6), (1, 9, 192), (1, 192))
    x, condition, *told = (rng.standard_normal(size, np.float32) for size in sizes)
    want, out = (
        _flat(
            SD3ControlNetModel.from_component(
                checkpoint.open(one).component("controlnet"), RunOptions("f32")
            )(x, condition, 1.0, *told, 500.0)
        )
        for one in (folder, path)
    )
    assert 0 < error(out, want) < 0.02


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "several channels more": ({"extra_conditioning_channels": 16}, "sdcore runs 0 or 1"),
    "positions of no size": ({"pos_embed_max_size": None}, "pos_embed_max_size is None"),
    "norms without text": (SINGLE | {"qk_norm": "rms_norm"}, "without either"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_built_is_refused(name: str) -> None:
    config, message = WRONG[name]
    with pytest.raises(sdcore.UnsupportedModelError, match=message):
        SD3ControlNetModel.read_config(config)


def test_what_is_wrong(sd3: tuple[Any, Path], tmp_path: Path) -> None:
    pipe = sdcore.DiffusionPipeline.open(sd3[1], dtype="f32")
    control_sd3(tiny.sd3(), joint_attention_dim=96).save_pretrained(tmp_path / "other")
    with pytest.raises(
        sdcore.UnsupportedModelError,
        match=r"does not go with Stable Diffusion 3: joint_attention_dim is 96 there and 192 here",
    ):
        pipe.load_controlnet(tmp_path / "other")
    pipe.load_controlnet(_net("of joint blocks", tmp_path / "control")[1])
    run = {**ARGS, "control_image": picture()}
    with pytest.raises(sdcore.InvalidArgumentError, match="this one takes none"):
        pipe(**run, control_mask=picture())
    with pytest.raises(sdcore.InvalidArgumentError, match="no argument 'guess_mode'"):
        pipe(**run, guess_mode=True)
    with pytest.raises(sdcore.InvalidArgumentError, match="give its picture as control_image"):
        pipe(**ARGS)
