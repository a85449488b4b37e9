"""Names: the tables against diffusers' and transformers' own modules, both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import tiny_models
from sdcore import _core
from sdcore.checkpoint.names import clip, unet, vae
from tiny_models import BK_SDM_TINY, KOALA, REFINER, SD15, SDXL, SDXS, SSD_1B, on_meta

UNEVEN = {"layers_per_block": (1, 2, 3, 1), "block_out_channels": (32, 32, 32, 32)}
LCM = {"block_out_channels": (32, 32, 32, 32), "time_cond_proj_dim": 256}


@pytest.mark.parametrize(
    "config, count",
    [(SD15, 686), (SDXL, 1680), (REFINER, 1220), (UNEVEN, None), (LCM, None), (SSD_1B, None)],
    ids=["sd15", "sdxl", "refiner", "uneven", "lcm", "ssd-1b"],
)
def test_unet_names_both_ways(config, count):
    net = on_meta(config)
    old, new = tiny_models.original_unet(net), net.state_dict()
    assert count is None or len(old) == count
    table = unet.original(old)
    renamed = {table.to_diffusers(name): value.shape for name, value in old.items()}
    assert renamed == {name: value.shape for name, value in new.items()}
    back = unet.to_original(new)
    for name in old:
        assert table.to_original(table.to_diffusers(name)) == name
        assert back.to_original(table.to_diffusers(name)) == name


@pytest.mark.parametrize("config", [BK_SDM_TINY, SDXS, KOALA], ids=["bk-sdm", "sdxs", "koala"])
@pytest.mark.parametrize("gaps", [False, True])
def test_distilled_unets_are_numbered_in_two_ways(config, gaps):
    """Both are read; the dense one is written."""
    net = on_meta(config)
    old, new = tiny_models.original_unet(net, gaps), net.state_dict()
    table = unet.original(old)
    renamed = {table.to_diffusers(name): value.shape for name, value in old.items()}
    assert renamed == {name: value.shape for name, value in new.items()}
    dense = tiny_models.original_unet(net)
    assert {unet.to_original(new).to_original(name) for name in new} == dense.keys()


@pytest.mark.parametrize("spec", tiny_models.SPECS, ids=lambda spec: spec.name)
def test_tiny_values_follow_their_names(spec):
    for table, old, net in (
        (unet, tiny_models.original_unet(tiny_models.unet(spec)), tiny_models.unet(spec)),
        (vae, tiny_models.original_vae(tiny_models.vae(spec)), tiny_models.vae(spec)),
    ):
        there = table.original(old)
        back = table.to_original(net.state_dict())
        new = {there.to_diffusers(name): value for name, value in old.items()}
        expected = net.state_dict()
        assert new.keys() == expected.keys()
        for name, value in new.items():
            assert torch.equal(value.reshape(expected[name].shape), expected[name]), name
            assert there.to_diffusers(back.to_original(name)) == name


@pytest.mark.parametrize(
    "config, positions",
    [
        (SD15, {"2.1": 0, "5.2": 1, "8.2": 2}),
        (SDXL, {"2.2": 0, "5.2": 1}),
        (REFINER, {"2.1": 0, "5.2": 1, "8.2": 2}),
    ],
    ids=["sd15", "sdxl", "refiner"],
)
def test_upsamplers_sit_after_the_attention(config, positions):
    table = unet.to_original(on_meta(config).state_dict())
    for position, block in positions.items():
        name = f"up_blocks.{block}.upsamplers.0.conv.bias"
        assert table.to_original(name) == f"output_blocks.{position}.conv.bias"


def test_published_names():
    """A few names of SD 1.5 as they stand in the file, written out."""
    old = tiny_models.original_unet(on_meta(SD15))
    table = unet.original(old)
    for there, here in {
        "time_embed.2.weight": "time_embedding.linear_2.weight",
        "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "input_blocks.4.0.skip_connection.bias": "down_blocks.1.resnets.0.conv_shortcut.bias",
        "input_blocks.10.0.in_layers.2.weight": "down_blocks.3.resnets.0.conv1.weight",
        "input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight": (
            "down_blocks.2.attentions.1.transformer_blocks.0.ff.net.0.proj.weight"
        ),
        "middle_block.2.emb_layers.1.weight": "mid_block.resnets.1.time_emb_proj.weight",
        "output_blocks.11.1.proj_out.weight": "up_blocks.3.attentions.2.proj_out.weight",
        "out.0.weight": "conv_norm_out.weight",
    }.items():
        assert there in old
        assert table.to_diffusers(there) == here
    assert table.to_diffusers("input_blocks.1.0.in_layers.7.weight") is None
    assert table.to_diffusers("input_blocks.12.0.in_layers.0.weight") is None
    assert table.to_diffusers("control_model.input_hint_block.0.weight") is None


def test_vae_decoder_levels_are_reversed():
    names = [f"decoder.up.{i}.block.{j}.conv1.weight" for i in range(4) for j in range(3)]
    table = vae.original([*names, "decoder.up.3.upsample.conv.weight"])
    for i in range(4):
        assert (
            table.to_diffusers(f"decoder.up.{i}.block.2.nin_shortcut.weight")
            == f"decoder.up_blocks.{3 - i}.resnets.2.conv_shortcut.weight"
        )
    assert (
        table.to_diffusers("decoder.up.3.upsample.conv.weight")
        == "decoder.up_blocks.0.upsamplers.0.conv.weight"
    )
    # `norm` becomes `group_norm` in the attention and nowhere else.
    assert table.to_diffusers("decoder.mid.attn_1.norm.bias") == (
        "decoder.mid_block.attentions.0.group_norm.bias"
    )
    assert table.to_diffusers("decoder.mid.block_1.norm1.bias") == (
        "decoder.mid_block.resnets.0.norm1.bias"
    )


def test_vae_old_attention_names():
    table = vae.diffusers([])
    for old, new in {
        "query": "to_q",
        "key": "to_k",
        "value": "to_v",
        "proj_attn": "to_out.0",
    }.items():
        at = "encoder.mid_block.attentions.0"
        assert table.to_diffusers(f"{at}.{old}.weight") == f"{at}.{new}.weight"
        assert table.to_diffusers(f"{at}.{new}.weight") == f"{at}.{new}.weight"


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_clip_with_and_without_text_model(prefix):
    table = clip.hugging_face([])
    for leaf in ("embeddings.token_embedding.weight", "final_layer_norm.bias"):
        assert table.to_diffusers(prefix + leaf) == "text_model." + leaf
        assert table.to_original("text_model." + leaf) == "text_model." + leaf
    assert table.to_diffusers("text_projection.weight") == "text_projection.weight"
    assert table.to_diffusers("vision_model.embeddings.class_embedding") is None


@pytest.mark.parametrize("store", [np.float32, np.float16, "q8_0"])
def test_open_clip(store):
    """Fused q, k, v are cut in thirds, the projection is turned, `in_proj_weight` has no dot."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=11,
        num_attention_heads=2, projection_dim=48, max_position_embeddings=77,
    )  # fmt: skip
    net = CLIPTextModelWithProjection(config)
    want = {name: value.numpy() for name, value in net.state_dict().items()}

    old = {
        "token_embedding.weight": want["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": want["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": want["text_model.final_layer_norm.weight"],
        "ln_final.bias": want["text_model.final_layer_norm.bias"],
        "text_projection": want["text_projection.weight"].T.copy(),
    }
    for n, layer in enumerate(net.text_model.encoder.layers):
        at = f"transformer.resblocks.{n}"
        a, m = layer.self_attn, layer.mlp
        for leaf in ("weight", "bias"):
            fused = [getattr(getattr(a, f"{x}_proj"), leaf).detach().numpy() for x in "qkv"]
            old[f"{at}.attn.in_proj_{leaf}"] = np.concatenate(fused)
            for there, module in (
                ("ln_1", layer.layer_norm1), ("ln_2", layer.layer_norm2),
                ("attn.out_proj", a.out_proj), ("mlp.c_fc", m.fc1), ("mlp.c_proj", m.fc2),
            ):  # fmt: skip
                old[f"{at}.{there}.{leaf}"] = getattr(module, leaf).detach().numpy()

    def stored(values):
        if store == "q8_0":
            divides = values.shape[-1] % 32 == 0
            return _core.quantize(values, store) if divides else _core.Tensor.from_array(values)
        return _core.Tensor.from_array(values.astype(store))

    table = clip.open_clip(old)
    got, unknown = table.apply({name: stored(values) for name, values in old.items()})
    assert not unknown
    assert got.keys() == want.keys()
    for name, values in want.items():
        assert got[name].shape == values.shape, name
        error = np.linalg.norm(got[name].to_float() - values) / max(np.linalg.norm(values), 1e-9)
        # Half of the last place of f16; q8_0's step is 1/127 of a block's largest value.
        assert error <= {np.float32: 0, np.float16: 2**-11, "q8_0": 0.5 / 127 * 2}[store], name
        assert table.to_original(name) in old
    back = clip.to_open_clip(want)
    assert {name: back.to_original(name) for name in want} == {
        name: table.to_original(name) for name in want
    }
