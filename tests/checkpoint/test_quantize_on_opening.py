"""Quantizing on the way in: which tensors change, what importance is, and what is drawn."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import sdcore
import tiny_models
from sdcore import CheckpointError, InvalidArgumentError, checkpoint
from sdcore.checkpoint.imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from sdcore.checkpoint.recipe import choose_type
from sdcore.pipelines.importance import collect_importance
from sdcore.quantization import quantize
from tiny_models import PLAIN

UNET = "model.diffusion_model."
TO_Q = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder") / "model"
    tiny_models.save_folder(PLAIN, folder)
    return folder


# Shapes of Stable Diffusion, with what llama.cpp and stable-diffusion.cpp do with such.
@pytest.mark.parametrize(
    ("name", "shape", "stored", "type", "chosen"),
    [
        (TO_Q, (1280, 1280), "f16", "q4_K", "q4_K"),
        (TO_Q, (320, 320), "f16", "q4_K", "q5_0"),
        (TO_Q, (320, 320), "f16", "q6_K", "q8_0"),
        (TO_Q, (320, 320), "f16", "iq2_xxs", "iq4_nl"),
        (TO_Q, (320, 320), "f16", "tq2_0", "q4_0"),
        (TO_Q, (320, 40), "f32", "q4_K", "f16"),
        (TO_Q, (320, 40), "bf16", "q4_K", "bf16"),
        (TO_Q, (320, 320), "bf16", "f16", "f16"),
        (TO_Q, (1280, 1280), "q8_0", "q4_K", "q4_K"),
        (TO_Q.replace("weight", "bias"), (1280,), "f16", "q4_K", "f32"),
        (f"{UNET}input_blocks.1.0.in_layers.2.weight", (320, 320, 3, 3), "f32", "q8_0", "f16"),
        (f"{UNET}time_embed.0.weight", (1280, 320), "f16", "q8_0", "f16"),
        ("unet.time_embedding.linear_1.weight", (1280, 320), "f16", "q8_0", "f16"),
        (f"{UNET}label_emb.0.0.weight", (1280, 2816), "f16", "q8_0", "f16"),
        (f"{UNET}input_blocks.1.0.emb_layers.1.weight", (320, 1280), "f16", "q8_0", "q8_0"),
        (f"{UNET}input_blocks.10.0.emb_layers.1.weight", (320, 1280), "f16", "q8_0", "q8_0"),
        ("unet.conv_out.weight", (4, 320), "f16", "q8_0", "f16"),
        (f"{UNET}joint_blocks.0.x_block.attn.proj.weight", (1536, 1536), "f16", "q8_0", "q8_0"),
        (f"{UNET}x_embedder.proj.weight", (1536, 64), "f16", "q8_0", "f16"),
        (f"{UNET}final_layer.linear.weight", (64, 1536), "f16", "q8_0", "f16"),
        ("first_stage_model.decoder.mid.attn_1.q.weight", (512, 512), "f16", "q8_0", "f16"),
        ("text_model.embeddings.token_embedding.weight", (49408, 768), "f16", "q8_0", "f16"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", (3072, 768), "f16", "q8_0", "q8_0"),
        ("token_embd.weight", (32128, 4096), "f16", "q8_0", "f16"),
        ("enc.blk.0.attn_rel_b.weight", (32, 64), "f16", "q8_0", "f16"),
        ("enc.blk.0.attn_q.weight", (4096, 4096), "f16", "q8_0", "q8_0"),
        ("text_model.embeddings.position_ids", (1, 77), "i64", "q8_0", "i64"),
    ],
)
def test_recipe(name, shape, stored, type, chosen):
    assert choose_type(name, stored, shape, type) == chosen


def test_quantize_on_opening_takes_the_recipe(folder):
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, quantize="Q5_1")
    stored = checkpoint.open(folder).component("unet").tensors
    tensors = pipe.unet.network.tensors
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert tensors[name].type == "q5_1"
    np.testing.assert_array_equal(tensors[name].data, quantize(stored[name], "q5_1").data)
    for name in ("conv_in.weight", "conv_norm_out.weight", "time_embedding.linear_1.weight"):
        assert tensors[name].type == stored[name].type
    with pytest.raises(InvalidArgumentError, match=r"no type 'q9_9': it must be one of f32, f16"):
        sdcore.DiffusionPipeline.from_pretrained(folder, quantize="q9_9")


def test_a_model_quantized_on_opening_draws_nearly_the_same(folder):
    arguments = {"num_inference_steps": 2, "seed": 1, "output_type": "latent"}
    plain, small = (
        sdcore.DiffusionPipeline.from_pretrained(folder, quantize=type, dtype="f32")(
            "a cat", **arguments
        ).images
        for type in (None, "q8_0")
    )
    assert 0 < np.linalg.norm(small - plain) / np.linalg.norm(plain) < 0.02


def test_importance_is_what_diffusers_layers_read(folder):
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    layer = theirs.unet.down_blocks[0].attentions[0].transformer_blocks[0].ff.net[2]
    rows = []
    layer.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].flatten(0, -2)))
    pipe = sdcore.DiffusionPipeline.from_pretrained(folder, dtype="f32")
    unet = pipe.unet
    latents = np.random.default_rng(0).standard_normal((1, 4, 16, 16)).astype(np.float32)
    size = {"width": 16 * pipe.vae.scale_factor, "height": 16 * pipe.vae.scale_factor}
    arguments = {"num_inference_steps": 2, "guidance_scale": 5.0, **size}
    matrix = collect_importance(pipe, ["a cat"], latents=latents, **arguments)
    assert pipe.unet is unet  # nobody watches any more
    theirs.scheduler = type(theirs.scheduler).from_config(dict(pipe.scheduler.config))
    with torch.no_grad():
        theirs("a cat", latents=torch.from_numpy(latents), output_type="latent", **arguments)
    want = (torch.cat(rows).double() ** 2).mean(0).numpy()
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.weight"
    got = matrix.weights(name, len(want))
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-3
    assert matrix.prompts == ["a cat"]
    parts = {name.partition(".")[0] for name in matrix.sums}
    assert parts == {"unet", "text_encoder"}


def test_importance_files_are_llama_cpps(tmp_path):
    matrix = ImportanceMatrix()
    matrix.add("a.weight", np.array([1.0, 4.0, 0.0]), 2)
    matrix.add("a.weight", np.array([1.0, 0.0, 0.0]), 2)
    matrix.add("b.weight", np.zeros(5), 3)
    matrix.prompts = ["a cat"]
    write_imatrix(tmp_path / "m.gguf", matrix)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["a cat"]
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors["a.weight.in_sum2"].shape) == [3, 1]
    np.testing.assert_array_equal(tensors["a.weight.in_sum2"].data.reshape(-1), [2, 4, 0])
    np.testing.assert_array_equal(tensors["a.weight.counts"].data.reshape(-1), [4])
    back = read_imatrix(tmp_path / "m.gguf")
    np.testing.assert_array_equal(back.weights("a.weight", 3), np.float32([0.5, 1, 1e-6]))
    assert back.weights("b.weight", 5) is None
    assert back.weights("c.weight", 5) is None
    assert back.prompts == ["a cat"]
    with pytest.raises(CheckpointError, match="4 inputs in the model, but 3"):
        back.weights("a.weight", 4)
