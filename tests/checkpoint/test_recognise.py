"""Which model it is, from names and shapes alone: published files without their data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

import tiny_models
from sdcore import _core
from sdcore.checkpoint.detect import FAMILIES, RULES, recognise
from sdcore.checkpoint.infer import infer_config, infer_scheduler
from sdcore.checkpoint.parts import find_parts
from tiny_models import BK_SDM_TINY, KOALA, REFINER, SD2, SD15, SDXL, SDXS, SSD_1B, on_meta


@dataclass(frozen=True)
class Shape:
    """A tensor without its data."""

    shape: tuple[int, ...]
    type: str = "f16"

    def rows(self, begin, end):
        return Shape((end - begin, *self.shape[1:]))

    def to_float(self):
        return np.zeros(self.shape, np.float32)


def shapes(sizes):
    return {name: Shape(tuple(size)) for name, size in sizes.items()}


def unet(config, prefix="model.diffusion_model."):
    state = tiny_models.original_unet(on_meta(config))
    return shapes({prefix + name: value.shape for name, value in state.items()})


def diffusers_unet(config, prefix=""):
    state = on_meta(config).state_dict()
    return shapes({prefix + name: value.shape for name, value in state.items()})


def open_clip(prefix, width, layers):
    sizes = {"token_embedding.weight": (49408, width), "positional_embedding": (77, width)}
    sizes |= {"ln_final.weight": (width,), "ln_final.bias": (width,), "logit_scale": ()}
    sizes["text_projection"] = (width, width)
    for n in range(layers):
        at = f"transformer.resblocks.{n}"
        sizes |= {f"{at}.attn.in_proj_weight": (3 * width, width)}
        sizes |= {f"{at}.attn.in_proj_bias": (3 * width,)}
        sizes |= {f"{at}.ln_1.weight": (width,)}
        sizes |= {f"{at}.mlp.c_fc.weight": (4 * width, width)}
    return shapes({prefix + name: size for name, size in sizes.items()})


def clip(prefix, width=768):
    sizes = {"text_model.embeddings.token_embedding.weight": (49408, width)}
    sizes["text_model.encoder.layers.0.self_attn.q_proj.weight"] = (width, width)
    sizes["text_model.encoder.layers.0.layer_norm1.weight"] = (width,)
    return shapes({prefix + name: size for name, size in sizes.items()})


def two_clips():
    first = clip("conditioner.embedders.0.transformer.")
    return first | open_clip("conditioner.embedders.1.model.", 1280, 32)


def vae(prefix="first_stage_model."):
    with torch.device("meta"):
        net = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    state = tiny_models.original_vae(net)
    return shapes({prefix + name: value.shape for name, value in state.items()})


LABEL = "model.diffusion_model.label_emb.0.0.weight"
SD1_CLIP = "cond_stage_model.transformer."
WHOLE = {
    "sd1": lambda: unet(SD15) | vae() | clip(SD1_CLIP),
    "sd1-inpaint": lambda: unet(SD15 | {"in_channels": 9}) | vae() | clip(SD1_CLIP),
    "sd1-edit": lambda: unet(SD15 | {"in_channels": 8}) | vae() | clip(SD1_CLIP),
    "sd2": lambda: unet(SD2) | vae() | open_clip("cond_stage_model.model.", 1024, 24),
    "sd2-inpaint": lambda: (
        unet(SD2 | {"in_channels": 9}) | vae() | open_clip("cond_stage_model.model.", 1024, 24)
    ),
    "sd2-depth": lambda: (
        unet(SD2 | {"in_channels": 5}) | vae() | open_clip("cond_stage_model.model.", 1024, 24)
    ),
    "sdxl": lambda: unet(SDXL) | vae() | two_clips(),
    "sdxl-inpaint": lambda: unet(SDXL | {"in_channels": 9}) | vae() | two_clips(),
    "sdxl-edit": lambda: unet(SDXL | {"in_channels": 8}) | vae() | two_clips(),
    "playground-v2.5": lambda: (
        unet(SDXL) | vae() | two_clips() | shapes({"edm_mean": (4,), "edm_std": (4,)})
    ),
    "sdxl-refiner": lambda: (
        unet(REFINER) | vae() | open_clip("conditioner.embedders.0.model.", 1280, 32)
    ),
}
OTHERS = {
    "sd2 by sgm tools": ("sd2", unet(SD2) | open_clip("conditioner.embedders.0.model.", 1024, 24)),
    "sdxl in diffusers' names": ("sdxl", diffusers_unet(SDXL)),
    "sd1 in diffusers' names": ("sd1", diffusers_unet(SD15, "unet.")),
    "sd1 without a prefix": ("sd1", unet(SD15, "")),
    "sd1 linear": ("sd1", unet(SD15 | {"use_linear_projection": True})),
    "upscaler": (
        "sd-upscaler",
        shapes(
            {
                "model.diffusion_model.input_blocks.0.0.weight": (256, 7, 3, 3),
                "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (
                    512,
                    1024,
                ),
            }
        ),
    ),
    "sd3": (
        "sd3",
        {
            "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.weight": (
                9216,
                1536,
            ),
            "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight": (
                9,
                768,
            ),
        },
    ),
    "sd3 folder": ("sd3", {"transformer.transformer_blocks.0.norm1_context.linear.weight": (9, 9)}),
    "flux": ("flux", {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9, 3)}),
    "pixart": ("pixart", {"t_block.1.weight": (6912, 1152), "pos_embed": (1, 256, 1152)}),
    "pixart of 300 tokens": (
        "pixart-sigma",
        {"t_block.1.weight": (6912, 1152), "y_embedder.y_embedding": (300, 4096)},
    ),
    "pixart of 120 tokens": (
        "pixart-alpha",
        {"t_block.1.weight": (6912, 1152), "y_embedder.y_embedding": (120, 4096)},
    ),
    "pixart that is told sizes": (
        "pixart-alpha",
        {"transformer.adaln_single.emb.resolution_embedder.linear_1.weight": (384, 256)},
    ),
    "pixart folder": (
        "pixart",
        {"transformer.adaln_single.emb.timestep_embedder.linear_1.weight": (1152, 256)},
    ),
    "clip": ("text-encoder", clip("")),
    "open clip": ("text-encoder", open_clip("", 1024, 2)),
    "clip vision": (
        "image-encoder",
        {"vision_model.embeddings.patch_embedding.weight": (9, 3, 14, 14)},
    ),
    "t5": ("t5", {"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}),
    "svd": (
        "video",
        unet(SD2)
        | shapes(
            {"model.diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_q.weight": (320, 320)}
        ),
    ),
    "distilled": ("sd1-small", unet(BK_SDM_TINY)),
    "distilled sd2": ("sd2-small", unet(SDXS)),
    "koala": ("sdxl-small", unet(KOALA)),
    "ssd-1b": ("sdxl-small", diffusers_unet(SSD_1B)),
    "sd1 of other trainers": ("sd1", unet(SD15, "model.model.")),
    "sd3 of other trainers": (
        "sd3",
        {"net.joint_blocks.0.context_block.adaLN_modulation.1.weight": (9216, 1536)},
    ),
    "unclip-l": ("sd2-unclip", unet(SD2) | shapes({LABEL: (1280, 1536)})),
    "unclip-h": ("sd2-unclip", unet(SD2) | shapes({LABEL: (1280, 2048)})),
    "diffusers' unclip": (
        "sd2-unclip",
        diffusers_unet(SD2) | shapes({"class_embedding.linear_1.weight": (1280, 2048)}),
    ),
}


@pytest.mark.parametrize(
    "depth, second, title",
    [(24, False, "medium"), (24, True, "3.5 medium"), (38, False, "3.5 large")],
)
@pytest.mark.parametrize("names", ["original", "diffusers"])
def test_which_stable_diffusion_3(depth, second, title, names):
    original = names == "original"
    block = (
        "joint_blocks.{}.context_block.adaLN_modulation.1"
        if original
        else ("transformer_blocks.{}.norm1_context.linear")
    )
    more = "joint_blocks.0.x_block.attn2.qkv" if original else "transformer_blocks.0.attn2.to_q"
    prefix = "model.diffusion_model." if original else "transformer."
    tensors = [block.format(i) for i in range(depth)] + [more] * second
    kind = recognise(shapes({f"{prefix}{name}.weight": (8, 8) for name in tensors}))
    assert (kind.family, kind.title) == ("sd3", f"Stable Diffusion 3, {title}")


@pytest.mark.parametrize("family", WHOLE)
def test_published_models(family):
    tensors = WHOLE[family]()
    kind = recognise(tensors)
    assert kind.family == family
    assert "conv_in" in kind.why or "input_blocks.0.0.weight" in kind.why or "label_emb" in kind.why
    parts, left = find_parts(tensors, FAMILIES[family].components)
    assert left == []
    assert set(parts) == set(FAMILIES[family].components)
    assert not any(part.unknown for part in parts.values())


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else(name):
    family, tensors = OTHERS[name]
    if not hasattr(next(iter(tensors.values())), "shape"):
        tensors = shapes(tensors)
    assert recognise(tensors).family == family


def test_rules_name_families_that_exist():
    assert {family for family, _ in RULES} == set(FAMILIES)


def test_nothing_known():
    assert recognise(shapes({"fc.weight": (3, 3), "conv_in.weight": (3, 3, 3, 3)})) is None
    assert recognise({}) is None


@pytest.mark.parametrize(
    "config, family",
    [
        (SD15, "sd1"),
        (SD2, "sd2"),
        (SDXL, "sdxl"),
        (REFINER, "sdxl-refiner"),
        (BK_SDM_TINY, "sd1-small"),
        (SDXS, "sd2-small"),
        (SSD_1B, "sdxl-small"),
        (KOALA, "sdxl-small"),
    ],
    ids=["sd15", "sd2", "sdxl", "refiner", "bk-sdm", "sdxs", "ssd-1b", "koala"],
)
def test_unet_configs(config, family):
    """The inferred config builds diffusers' own UNet with the same tensors."""
    parts, _ = find_parts(unet(config), ["unet"])
    inferred = infer_config("unet", parts["unet"].tensors, family, "original")
    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(inferred)
    want = {name: tuple(value.shape) for name, value in on_meta(config).state_dict().items()}
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == want
    heads = [config.get("attention_head_dim", 8)]
    only_text = config.get("only_cross_attention", ())
    assert inferred.get("only_cross_attention", []) == list(only_text)
    if family.startswith("sd1"):
        assert inferred["attention_head_dim"] == 8
    else:
        assert inferred["attention_head_dim"] == list(heads[0])


@pytest.mark.parametrize(
    "family, part, facts",
    [
        ("sd2", "text_encoder", (1024, 23, 16, "gelu", 49408)),
        ("sd2-inpaint", "text_encoder", (1024, 23, 16, "gelu", 49408)),
        ("sdxl-refiner", "text_encoder_2", (1280, 32, 20, "gelu", 49408)),
        ("sdxl", "text_encoder_2", (1280, 32, 20, "gelu", 49408)),
        ("sdxl", "text_encoder", (768, 1, 12, "quick_gelu", 49408)),
    ],
)
def test_text_encoder_configs(family, part, facts):
    """SD 2.x keeps a last layer that is never run, and its projection too; heads are 64 wide;
    OpenCLIP's gelu is exact."""
    tensors = WHOLE[family]()
    found = find_parts(tensors, FAMILIES[family].components)[0][part]
    config = infer_config(part, found.tensors, family, found.naming)
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "vocab_size")
    assert tuple(config[key] for key in keys) == facts
    pools = facts[0] == 1280
    assert config["architectures"] == ["CLIPTextModel" + "WithProjection" * pools]


def test_open_clip_without_the_layer_that_is_never_run():
    """As converters of diffusers folders write SD 2.x: 23 layers, no projection."""
    tensors = WHOLE["sd2"]()
    at = "cond_stage_model.model."
    dropped = (f"{at}transformer.resblocks.23.", f"{at}text_projection", f"{at}logit_scale")
    tensors = {name: t for name, t in tensors.items() if not name.startswith(dropped)}
    found = find_parts(tensors, ["text_encoder"])[0]["text_encoder"]
    config = infer_config("text_encoder", found.tensors, "sd2", found.naming)
    assert config["num_hidden_layers"] == 23


def test_vae_config():
    part = find_parts(vae(), ["vae"])[0]["vae"]
    config = infer_config("vae", part.tensors, "sd1", part.naming)
    assert config["block_out_channels"] == [128, 256, 512, 512]
    assert (config["layers_per_block"], config["latent_channels"]) == (2, 4)
    assert config["scaling_factor"] == 0.18215
    decoder = {k: v for k, v in vae().items() if ".encoder." not in k}
    part = find_parts(decoder, ["vae"])[0]["vae"]
    assert infer_config("vae", part.tensors, "sdxl", part.naming) == config | {
        "scaling_factor": 0.13025
    }


@pytest.mark.parametrize(
    "family, size, scaling, scheduler",
    [
        ("sd1", 64, 0.18215, "PNDMScheduler"),
        ("sd2", 64, 0.18215, "DDIMScheduler"),
        ("sdxl", 128, 0.13025, "EulerDiscreteScheduler"),
        ("sdxl-refiner", 128, 0.13025, "EulerDiscreteScheduler"),
        ("playground-v2.5", 128, 0.5, "EDMDPMSolverMultistepScheduler"),
    ],
)
def test_facts_that_no_shape_shows(family, size, scaling, scheduler):
    parts, _ = find_parts(WHOLE[family](), ["unet", "vae"])
    assert infer_config("unet", parts["unet"].tensors, family, "original")["sample_size"] == size
    config = infer_config("vae", parts["vae"].tensors, family, "original")
    assert config["scaling_factor"] == scaling
    assert ("latents_std" in config) == (family == "playground-v2.5")
    assert infer_scheduler(family, {}, {}, {})["_class_name"] == scheduler


def test_what_a_model_predicts():
    """Metadata is believed first, then trainers' markers; SD 2.x shows it by one of its biases."""
    bias = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
    spread = {k: _core.Tensor.from_array(np.float32([-k, k])) for k in (0.05, 0.2)}
    said = {"modelspec.prediction_type": "epsilon"}
    for family, tensors, metadata, unet_tensors, expected in (
        ("sd2", {}, {}, {bias: spread[0.05]}, "epsilon"),
        ("sd2", {}, {}, {bias: spread[0.2]}, "v_prediction"),
        ("sd2", {}, said, {bias: spread[0.2]}, "epsilon"),
        ("sd2-inpaint", {}, {}, {bias: spread[0.2]}, "epsilon"),
        ("sd2", {}, {"modelspec.prediction_type": "v"}, {}, "v_prediction"),
        ("sdxl", {"v_pred": None}, {}, {}, "v_prediction"),
        ("sdxl", {}, {}, {bias: spread[0.2]}, "epsilon"),
    ):
        config = infer_scheduler(family, tensors, metadata, unet_tensors)
        assert config["prediction_type"] == expected
    zero_snr = infer_scheduler("sdxl", {"v_pred": None, "ztsnr": None}, {}, {})
    assert (zero_snr["rescale_betas_zero_snr"], zero_snr["timestep_spacing"]) == (True, "trailing")


@pytest.mark.parametrize("spoil", ["drop", "bend"])
@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_no_single_tensor_changes_a_config(name, spoil):
    """So that a missing or odd tensor is named, not taken for another kind of network."""
    state = tiny_models.original_state(tiny_models.PLAIN)
    tensors = shapes({key: value.shape for key, value in state.items()})
    part = find_parts(tensors, [name])[0][name]
    config = infer_config(name, part.tensors, "sd1", part.naming)
    # The only witness of its size; the default is as good.
    alone = {
        "text_model.embeddings.token_embedding.weight": {"vocab_size", "eos_token_id"},
        "text_model.embeddings.position_embedding.weight": {"max_position_embeddings"},
        "conv_in.weight": {"in_channels"},
        "conv_out.weight": {"out_channels"},
        "encoder.conv_in.weight": {"in_channels"},
        "decoder.conv_out.weight": {"out_channels"},
        "decoder.conv_in.weight": {"latent_channels"},
    }
    for key, tensor in part.tensors.items():
        spoilt = dict(part.tensors)
        if spoil == "drop":
            del spoilt[key]
        else:
            spoilt[key] = Shape((7, *tensor.shape))
        changed = infer_config(name, spoilt, "sd1", part.naming)
        differ = {field for field in config if changed[field] != config[field]}
        assert differ <= alone.get(key, set()), key
