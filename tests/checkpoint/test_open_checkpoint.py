"""One model in every form in which it is found: the same tensors and configs must come out."""

from __future__ import annotations

import json
import logging
import shutil

import gguf
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

import sdcore.gguf
import tiny_models
from sdcore import CheckpointError, _core, checkpoint
from sdcore.checkpoint import safetensors as st
from tiny_models import ODD, PLAIN, SINGLE, SPECS, QuantType

F16 = 2**-11  # half of float16's last place


def networks(spec):
    return {
        "unet": tiny_models.unet(spec),
        "vae": tiny_models.vae(spec),
        "text_encoder": tiny_models.text_encoder(spec),
    }


def expected(spec, name):
    """Tensors of a part as sdcore names them."""
    state = networks(spec)[name].state_dict()
    if name == "text_encoder":
        state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in state.items()}
    return {key: value.numpy() for key, value in state.items()}


def check(opened, spec, tolerance=0.0):
    """Every tensor that the network has, by the strict way, within the storage type's error."""
    for name in ("unet", "vae", "text_encoder"):
        want = expected(spec, name)
        got = opened.component(name).weights({k: v.shape for k, v in want.items()})
        assert got.keys() == want.keys()
        for key, values in want.items():
            assert got[key].shape == values.shape
            error = np.linalg.norm(got[key].to_float() - values)
            assert error <= tolerance * np.linalg.norm(values), (name, key)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "sdcore")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "sdcore"]


# ---- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shard_size": "200KB"},
        {"old_vae_names": True},
        {"text_model_prefix": False},
        {"old_vae_names": True, "text_model_prefix": False, "shard_size": "200KB"},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_folders(tmp_path, lines, options):
    path = tiny_models.save_folder(PLAIN, tmp_path / "model", **options)
    if "shard_size" in options:
        assert len(list((path / "unet").glob("*.safetensors"))) > 5
    opened = checkpoint.open_model(path)
    assert opened.format == "diffusers"
    assert opened.kind.family == "sd1"
    check(opened, PLAIN)
    assert opened.metadata["_class_name"] == "StableDiffusionPipeline"
    assert opened.component("unet").config["block_out_channels"] == [32, 64]
    assert opened.component("text_encoder").config["hidden_act"] == "quick_gelu"
    assert opened.scheduler_config["_class_name"] == "PNDMScheduler"
    assert opened.tokenizer_paths["tokenizer"] == path / "tokenizer"
    assert lines() == []


def halves(path, variant="fp16", shard_size=None):
    return tiny_models.save_folder(
        PLAIN, path, variant=variant, dtype=torch.float16, shard_size=shard_size
    )


@pytest.mark.parametrize("shard_size", [None, "200KB"])
def test_variants(tmp_path, lines, shard_size):
    path = halves(tmp_path / "model", shard_size=shard_size)
    whole = tiny_models.save_folder(PLAIN, tmp_path / "whole", shard_size=shard_size)
    shutil.copytree(whole, path, dirs_exist_ok=True)
    plain, half = checkpoint.open(path), checkpoint.open(path, variant="fp16")
    assert plain.component("unet").tensors["conv_in.weight"].type == "f32"
    assert half.component("unet").tensors["conv_in.weight"].type == "f16"
    check(plain, PLAIN)
    check(half, PLAIN, F16)
    assert lines() == []


def test_a_variant_that_one_part_lacks(tmp_path, lines):
    path = halves(tmp_path / "model")
    tiny_models.save_folder(PLAIN, path)
    (path / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    half = checkpoint.open(path, variant="fp16")
    assert half.component("vae").tensors["decoder.conv_in.weight"].type == "f32"
    assert half.component("unet").tensors["conv_in.weight"].type == "f16"
    assert len(lines()) == 1 and "no variant 'fp16'" in lines()[0] and "vae" in lines()[0]


@pytest.mark.parametrize("shard_size", [None, "200KB"])
def test_only_a_variant_there(tmp_path, lines, shard_size):
    path = halves(tmp_path / "model", shard_size=shard_size)
    check(checkpoint.open(path), PLAIN, F16)
    assert len(lines()) == 3 and all("taking 'fp16'" in line for line in lines())


def test_legacy_index_name(tmp_path):
    path = halves(tmp_path / "model", shard_size="200KB")
    for index in path.glob("*/*.safetensors.index.fp16.json"):
        index.rename(index.with_name(index.name.replace("index.fp16", "fp16.index")))
    check(checkpoint.open(path, variant="fp16"), PLAIN, F16)


def test_without_model_index(tmp_path):
    path = tiny_models.save_folder(PLAIN, tmp_path / "model")
    (path / "model_index.json").unlink()
    check(checkpoint.open_model(path), PLAIN)


def test_a_part_alone(tmp_path):
    path = tiny_models.save_folder(PLAIN, tmp_path / "model")
    for name in ("unet", "vae", "text_encoder"):
        part = checkpoint.open(path / name).component(name)
        want = expected(PLAIN, name)
        got = part.weights({key: value.shape for key, value in want.items()})
        assert all(np.array_equal(got[key].to_float(), want[key]) for key in want)
        assert part.config == json.loads((path / name / "config.json").read_text())
        file = next((path / name).glob("*.safetensors"))
        assert checkpoint.open(file).component(name).tensors.keys() == want.keys()


# ---- single files --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("prefix", [True, False], ids=["text_model", "bare"])
def test_original_file(tmp_path, lines, spec, prefix):
    path = tiny_models.save_original(spec, tmp_path / "any.name", text_model_prefix=prefix)
    opened = checkpoint.open_model(path)
    assert opened.format == "safetensors"
    check(opened, spec)
    assert lines() == []


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, F16), (torch.bfloat16, 2**-8)])
def test_half_files(tmp_path, dtype, tolerance):
    path = tiny_models.save_original(ODD, tmp_path / "x.safetensors", dtype)
    check(checkpoint.open_model(path), ODD, tolerance)


def test_float8_file(tmp_path):
    path = tiny_models.save_original(PLAIN, tmp_path / "x.safetensors", torch.float8_e4m3fn)
    check(checkpoint.open_model(path), PLAIN, 2**-4 + 0.05)  # values under 2^-6 lose more


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_configs_read_off_the_shapes(tmp_path, spec):
    opened = checkpoint.open(tiny_models.save_original(spec, tmp_path / "x"))
    for name, net in networks(spec).items():
        want = json.loads(
            net.to_json_string() if name != "text_encoder" else net.config.to_json_string()
        )
        for key, value in opened.component(name).config.items():
            # The size of a picture shows in no tensor; transformers adds the class when it saves.
            unknown = key in ("sample_size", "architectures")
            # Published configs say 2, by which transformers means the highest id.
            if key == "eos_token_id" and want[key] == 2:
                want[key] = want["vocab_size"] - 1
            assert unknown or value == want[key], (name, key)
        if name == "unet":  # what the network cannot do without
            assert {"attention_head_dim", "layers_per_block", "cross_attention_dim"} <= set(
                opened.component(name).config
            )


def test_what_no_shape_shows_comes_from_the_metadata(tmp_path):
    metadata = tiny_models.config_metadata(ODD)
    path = tiny_models.save_original(ODD, tmp_path / "x", metadata=metadata)
    opened = checkpoint.open(path)
    for name in ("unet", "vae", "text_encoder"):
        assert opened.component(name).config == json.loads(metadata[f"sdcore.config.{name}"])
    assert opened.component("unet").config["norm_num_groups"] == 8


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_spoilt_config_in_the_metadata(tmp_path, text):
    metadata = {"sdcore.config.unet": text}
    path = tiny_models.save_original(PLAIN, tmp_path / "x", metadata=metadata)
    with pytest.raises(
        CheckpointError, match=r"'sdcore\.config\.unet' is not JSON|not a JSON object"
    ):
        checkpoint.open(path)


def test_leftovers_are_passed_over_in_one_line(tmp_path, lines):
    extras = tiny_models.leftovers(PLAIN) | {"optimizer.state": torch.zeros(2)}
    path = tiny_models.save_original(PLAIN, tmp_path / "x", extras=extras)
    opened = checkpoint.open_model(path)
    check(opened, PLAIN)
    count = len([key for key in extras if key.startswith("model_ema.")]) + 1
    assert len(lines()) == 1 and f"passed over {count} tensors (model_ema." in lines()[0]
    assert opened.summary().passed_over == count


def test_implied_scheduler(tmp_path):
    path = tiny_models.save_original(PLAIN, tmp_path / "x")
    config = checkpoint.open(path).scheduler_config
    want = tiny_models.scheduler().config
    for key, value in config.items():
        # The pipeline's scheduler has set_alpha_to_one etc. as published; PNDM has no clip_sample.
        assert key in ("clip_sample", "_class_name") or want[key] == value, key
    assert config["clip_sample"] is False and config["_class_name"] == "PNDMScheduler"


@pytest.mark.parametrize(
    "extras, metadata, found",
    [
        ({"v_pred": torch.zeros(0)}, None, ("v_prediction", False)),
        ({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, None, ("v_prediction", True)),
        ({}, {"modelspec.prediction_type": "v"}, ("v_prediction", False)),
        ({}, {"modelspec.prediction_type": "epsilon"}, ("epsilon", False)),
    ],
)
def test_marks_of_the_prediction_type(tmp_path, extras, metadata, found):
    path = tiny_models.save_original(PLAIN, tmp_path / "x", extras=extras, metadata=metadata)
    config = checkpoint.open(path).scheduler_config
    assert (config["prediction_type"], config.get("rescale_betas_zero_snr", False)) == found


@pytest.mark.parametrize("linear", [True, False])
def test_projections_as_convolution_or_linear(tmp_path, linear):
    """proj_in and the VAE's attention are written both ways; either is taken for either."""
    state = tiny_models.original_state(PLAIN)
    for key, value in state.items():
        if linear and value.ndim == 4 and value.shape[2:] == (1, 1):
            state[key] = value[:, :, 0, 0]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "x")
    opened = checkpoint.open_model(tmp_path / "x")
    check(opened, PLAIN)
    assert opened.component("unet").config["use_linear_projection"] is linear
    shape = opened.component("vae").tensors["decoder.mid_block.attentions.0.to_q.weight"].shape
    assert len(shape) == 2


def test_unet_alone_without_prefix(tmp_path):
    state = tiny_models.original_unet(tiny_models.unet(PLAIN))
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "x")
    opened = checkpoint.open_model(tmp_path / "x")
    assert opened.component("unet").tensors.keys() == expected(PLAIN, "unet").keys()
    with pytest.raises(CheckpointError, match="has no vae: it has unet"):
        opened.component("vae")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_our_original_layout_is_what_diffusers_reads(tmp_path, spec):
    """The helper that makes these files is checked too, by another reader of them."""
    folder = tiny_models.save_folder(spec, tmp_path / "config")
    path = tiny_models.save_original(spec, tmp_path / "x.safetensors", text_model_prefix=True)
    pipe = StableDiffusionPipeline.from_single_file(
        str(path), config=str(folder), local_files_only=True, torch_dtype=torch.float32
    )
    for name, net in networks(spec).items():
        theirs = getattr(pipe, name).state_dict()
        for key, value in net.state_dict().items():
            assert torch.equal(theirs[key], value), (name, key)


# ---- GGUF ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("type", [QuantType.F16, QuantType.Q8_0, QuantType.Q4_0])
def test_gguf(tmp_path, names, type):
    path = tiny_models.save_gguf(ODD, tmp_path / "x", type, names=names)
    opened = checkpoint.open_model(path)
    assert opened.format == "gguf" and opened.metadata == {}
    types = opened.summary().parts[0].types
    assert type.name.lower() in types and set(types) <= {"f16", type.name.lower()}
    for name in ("unet", "vae", "text_encoder"):
        want = expected(ODD, name)
        got = opened.component(name).weights({k: v.shape for k, v in want.items()})
        for key, values in want.items():
            stored, kept = tiny_models._stored(
                "embed" if got[key].type == "f16" else key, values.squeeze(), type
            )
            plain = gguf.quants.dequantize(stored, kept).reshape(values.shape)
            assert np.array_equal(got[key].to_float(), plain), (name, key)


def test_gguf_with_configs(tmp_path):
    metadata = tiny_models.config_metadata(ODD)
    opened = checkpoint.open(tiny_models.save_gguf(ODD, tmp_path / "x", metadata=metadata))
    assert opened.component("unet").config["norm_num_groups"] == 8


def folded(tmp_path, shape=None):
    """ComfyUI-GGUF's: the UNet alone, without a prefix, convolutions quantized in rows of 256."""
    metadata = {"general.architecture": "sd1"}
    tensors = {}
    for name, value in tiny_models.original_unet(tiny_models.unet(PLAIN)).items():
        values = value.numpy()
        tensors[name] = values
        if values.ndim == 4 and values.size % 256 == 0 and name != "input_blocks.0.0.weight":
            metadata[f"comfy.gguf.orig_shape.{name}"] = list(shape or values.shape)
            tensors[name] = _core.quantize(values.reshape(-1, 256), "q4_K")
    sdcore.gguf.write(tmp_path / "x.gguf", metadata, tensors)
    return checkpoint.open_model(tmp_path / "x.gguf").component("unet")


def test_folded_convolutions(tmp_path):
    part = folded(tmp_path)
    want = expected(PLAIN, "unet")
    got = part.weights({key: value.shape for key, value in want.items()})
    count = 0
    for key, values in want.items():
        stored = part.tensors[key]
        assert stored.shape == values.shape
        if stored.type == "q4_K":
            plain = _core.quantize(values.reshape(-1, 256), "q4_K").to_float().reshape(values.shape)
            assert np.array_equal(stored.to_float(), plain)
            assert got[key].type == "q4_K"  # a network takes the blocks as they are
            assert np.array_equal(got[key].to_float(), plain)
            count += 1
        else:
            assert np.array_equal(got[key].to_float(), values)
    assert count > 20


def test_folded_into_another_size(tmp_path):
    with pytest.raises(CheckpointError, match=r"is \[\d+, 256\], and cannot be \[7, 7\] as"):
        folded(tmp_path, shape=(7, 7))


def test_quantized_norms(tmp_path):
    opened = checkpoint.open(tiny_models.save_gguf(PLAIN, tmp_path / "x"))
    norm = opened.component("text_encoder").tensors["text_model.final_layer_norm.weight"]
    assert norm.type == "q8_0" and norm.shape == (64,)


# ---- strictness ----------------------------------------------------------------------------------


def spoilt(tmp_path, change):
    state = {k: v.contiguous() for k, v in tiny_models.original_state(PLAIN).items()}
    change(state)
    save_file(state, tmp_path / "x.safetensors")
    opened = checkpoint.open_model(tmp_path / "x.safetensors")
    want = expected(PLAIN, "unet")
    opened.component("unet").weights({key: value.shape for key, value in want.items()})


AT = "model.diffusion_model."


def test_a_missing_tensor_is_named(tmp_path):
    gone = AT + "output_blocks.0.0.in_layers.2.weight"
    with pytest.raises(CheckpointError, match=f"1 tensor missing: {gone}$"):
        spoilt(tmp_path, lambda state: state.pop(gone))


def test_an_odd_shape_is_named(tmp_path):
    def change(state):
        state[AT + "input_blocks.0.0.bias"] = torch.zeros(7)

    message = r"1 tensor of another shape: \S+input_blocks.0.0.bias is \[7\], expected \[32\]"
    with pytest.raises(CheckpointError, match=message):
        spoilt(tmp_path, change)


def test_a_turned_tensor_is_odd(tmp_path):
    """The same number of elements is not enough."""

    def change(state):
        key = AT + "time_embed.0.weight"
        state[key] = state[key].T.contiguous()

    with pytest.raises(CheckpointError, match=r"is \[32, 128\], expected \[128, 32\]"):
        spoilt(tmp_path, change)


def test_many_missing_tensors_are_counted(tmp_path):
    def change(state):
        for key in [key for key in state if ".ff." in key]:
            del state[key]

    with pytest.raises(CheckpointError, match=r"16 tensors missing: (\S+, ){4}…$") as caught:
        spoilt(tmp_path, change)
    assert "\n" not in str(caught.value)


def test_extra_tensors_are_logged_once(lines):
    tensors = {f"t{i}": st.Tensor for i in range(6)}
    assert checkpoint.check_weights({}, tensors, "here") == {}
    assert lines() == ["[checkpoint] here: passed over 6 tensors (t0, t1, t2, t3, …)"]


# ---- summary -------------------------------------------------------------------------------------


def test_summary(tmp_path):
    path = tiny_models.save_original(SINGLE, tmp_path / "x", torch.float16)
    summary = checkpoint.open(path).summary()
    assert (summary.format, summary.family, summary.runs) == ("safetensors", "sd1", True)
    assert "input_blocks.0.0.weight is [64, 4, 3, 3]" in summary.why
    assert "attn2.to_k.weight takes 64" in summary.why
    for part in summary.parts:
        net = networks(SINGLE)[part.name]
        count = sum(value.numel() for value in net.state_dict().values())
        assert (part.parameters, part.bytes) == (count, 2 * count)
        assert part.types == {"f16": part.tensors} and part.tensors == len(net.state_dict())


def test_the_name_says_nothing(tmp_path):
    path = tiny_models.save_original(PLAIN, tmp_path / "model.safetensors")
    for name in ("model.ckpt", "model.gguf", "model"):
        check(checkpoint.open_model(shutil.copy(path, tmp_path / name)), PLAIN)
