"""What goes with a model: which it is, in whose names, and for which model, from names and shapes
as published files have them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, ControlNetModel, SD3ControlNetModel, T2IAdapter
from safetensors.torch import save_file
from test_recognise import Shape, shapes, unet, vae
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from sdcore import UnsupportedModelError, _core, checkpoint, cli
from sdcore.checkpoint.detect import FAMILIES, recognise
from sdcore.checkpoint.infer import infer_scheduler
from tiny_models import SD15, SDXL

SD, XL = "Stable Diffusion 1.x", "Stable Diffusion XL"


@dataclass(frozen=True)
class Row:
    """`title` is all of it, and `sizes` those of the tensors."""

    name: str
    family: str
    title: str
    sizes: dict[str, tuple[int, ...]]


TO_K = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"
PEFT = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def lora(prefix, suffix, width, rank=4):
    up = {
        "lora_down": "lora_up",
        "lora_A": "lora_B",
        "lora.down": "lora.up",
        "_lora.down": "_lora.up",
    }
    names = {f"{prefix}{suffix}.weight": (rank, width)}
    for down, other in up.items():
        if suffix.endswith(down):
            names[f"{prefix}{suffix.removesuffix(down)}{other}.weight"] = (320, rank)
    return names


def named(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def on_meta(make):
    with torch.device("meta"):
        return named(make())


def under(prefix, sizes):
    return {prefix + name: size for name, size in sizes.items()}


def ip_adapter(width, **image_proj):
    sizes = {f"image_proj.{name.replace('__', '.')}": size for name, size in image_proj.items()}
    return sizes | {"ip_adapter.1.to_k_ip.weight": (320, width)}


def old_tiny(latents):
    decoder = {"1.weight": (64, latents, 3, 3), "3.conv.0.weight": (64, 64, 3, 3)}
    return decoder | {"19.weight": (3, 64, 3, 3)}


KOHYA = "in kohya's names"
ROWS = [
    Row("kohya", "lora", f"a LoRA for {SD}, {KOHYA}", lora(f"lora_unet_{TO_K}.", "lora_down", 768)),
    Row("kohya's SD 2", "lora", f"a LoRA for Stable Diffusion 2.x, {KOHYA}",
        lora(f"lora_unet_{TO_K}.", "lora_down", 1024)),
    Row("sdxl in kohya's names", "lora", f"a LoRA for {XL}, {KOHYA}",
        lora("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.", "lora_down", 2048)),
    Row("sdxl without attention to texts", "lora", f"a LoRA for {XL}, {KOHYA}",
        lora("lora_unet_output_blocks_0_1_transformer_blocks_9_attn1_to_q.", "lora_down", 1280)),
    Row("sdxl's second encoder", "lora", f"a LoRA for {XL}, {KOHYA}",
        lora(f"lora_te2_{TEXT}.", "lora_down", 1280)),
    Row("first encoder", "lora", f"a LoRA for {SD}, {KOHYA}",
        lora(f"lora_te_{TEXT}.", "lora_down", 768)),
    Row("encoder of SD 2", "lora", f"a LoRA for Stable Diffusion 2.x, {KOHYA}",
        lora(f"lora_te_{TEXT}.", "lora_down", 1024)),
    Row("sd3 in kohya's names", "lora", f"a LoRA for Stable Diffusion 3, {KOHYA}",
        lora("lora_unet_joint_blocks_0_x_block_attn_qkv.", "lora_down", 1536)),
    Row("sd3", "lora", "a LoRA for Stable Diffusion 3, in diffusers' names",
        lora("transformer.transformer_blocks.0.attn.add_q_proj.", "lora_A", 1536)),
    Row("pixart", "lora", "a LoRA for PixArt, in diffusers' names",
        lora("transformer.transformer_blocks.0.attn2.to_k.", "lora_A", 1152)),
    Row("flux", "lora", "a LoRA for FLUX, in diffusers' names",
        lora("transformer.single_transformer_blocks.0.attn.to_q.", "lora_A", 3072)),
    Row("flux of two streams", "lora", "a LoRA for FLUX, in diffusers' names",
        lora("transformer.transformer_blocks.0.attn.add_q_proj.", "lora_A", 3072)
        | lora("transformer.single_transformer_blocks.0.attn.to_q.", "lora_A", 3072)),
    Row("OneTrainer's sd3", "lora", f"a LoRA for Stable Diffusion 3, {KOHYA}",
        lora("lora_transformer_transformer_blocks_0_attn_add_q_proj.", "lora_down", 1536)),
    Row("SimpleTuner", "lora", f"a LoRA for {XL}, a LoKr, in LyCORIS's names",
        {"lycoris_down_blocks_2_attentions_0_transformer_blocks_4_attn1_to_q.lokr_w1": (8, 8)}),
    Row("with its own words", "lora", f"a LoRA for {SD}, {KOHYA}",
        lora(f"lora_unet_{TO_K}.", "lora_down", 768)
        | {"bundle_emb.cat.string_to_param.*": (2, 768)}),
    Row("diffusers", "lora", f"a LoRA for {SD}, in diffusers' names",
        lora(f"unet.{PEFT}.", "lora_A", 768)),
    Row("diffusers' first", "lora", f"a LoRA for {SD}, in names of attention processors",
        lora(f"unet.{PEFT.removesuffix('to_k')}processor.to_k", "_lora.down", 768)),
    Row("diffusers' text encoder", "lora", f"a LoRA for {SD}, in diffusers' names",
        {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight":
         (4, 768)}),
    Row("PEFT", "lora", f"a LoRA for {XL}, in PEFT's names",
        lora(f"base_model.model.{PEFT}.", "lora_A", 2048)),
    Row("ComfyUI", "lora", f"a LoRA for {XL}, in ComfyUI's names",
        lora("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.", "lora_down",
             2048)),
    Row("LoHa", "lora", f"a LoRA for {SD}, a LoHa, {KOHYA}",
        {f"lora_unet_{TO_K}.hada_w1_a": (320, 4), f"lora_unet_{TO_K}.hada_w1_b": (4, 768)}),
    Row("LoKr", "lora", "a LoRA, a LoKr, in LyCORIS's names",
        {"lycoris_mid_block_attentions_0_proj_in.lokr_w1": (8, 8),
         "lycoris_mid_block_attentions_0_proj_in.lokr_w2_a": (160, 4)}),
    Row("DoRA", "lora", f"a LoRA for {SD}, a DoRA, {KOHYA}",
        lora(f"lora_unet_{TO_K}.", "lora_down", 768)
        | {f"lora_unet_{TO_K}.dora_scale": (320, 1)}),
    Row("LoCon", "lora", f"a LoRA for {SD}, with convolutions (LoCon), {KOHYA}",
        lora(f"lora_unet_{TO_K}.", "lora_down", 768)
        | {"lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": (4, 320, 3, 3)}),
    Row("OFT", "lycoris", f"a LyCORIS adapter (OFT, BOFT, GLoRA or (IA)³), {KOHYA}",
        {f"lora_unet_{TO_K}.oft_blocks": (4, 80, 80)}),
    # ControlNets
    Row("a whole model with it", "controlnet",
        f"a ControlNet for {SD}, with a whole model beside it",
        {name: t.shape for name, t in (unet(SD15) | vae()).items()}
        | {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}),
    Row("pruned", "controlnet", f"a ControlNet for {SD}",
        {name: t.shape for name, t in unet(SD15, "").items()
         if name.startswith(("input_blocks", "middle_block", "time_embed"))}
        | {"zero_convs.0.0.weight": (320, 320, 1, 1)}),
    Row("differences", "controlnet", f"a ControlNet for {SD}, as differences from its model",
        {"control_model.zero_convs.0.0.weight": (320, 320, 1, 1), "difference": (),
         "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)}),
    Row("control-LoRA", "control-lora", f"a ControlNet for {XL}, as a LoRA (control-LoRA)",
        {"lora_controlnet": (), "input_blocks.1.0.emb_layers.1.up": (320, 128),
         "input_blocks.4.1.transformer_blocks.0.attn2.to_k.down": (128, 2048)}),
    Row("diffusers' controlnet", "controlnet", f"a ControlNet for {SD}",
        on_meta(lambda: ControlNetModel(cross_attention_dim=768))),
    Row("small sdxl", "controlnet", f"a ControlNet for {XL}",
        {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
         "add_embedding.linear_1.weight": (1280, 2816)}),
    Row("union", "controlnet",
        f"a ControlNet for {XL}, for several kinds of pictures (union)",
        {"controlnet_down_blocks.0.weight": (320, 320, 1, 1), "task_embedding": (6, 320),
         "add_embedding.linear_1.weight": (1280, 2816)}),
    Row("sd3 controlnet", "controlnet-sd3", "a ControlNet for Stable Diffusion 3",
        on_meta(lambda: SD3ControlNetModel(num_layers=1))),
    Row("sd3.5 controlnet", "controlnet-sd3", "a ControlNet for Stable Diffusion 3",
        {"controlnet_blocks.0.weight": (2432, 2432), "control_type": (1,),
         "pos_embed_input.proj.weight": (2432, 16, 2, 2),
         "transformer_blocks.0.attn.qkv.weight": (7296, 2432)}),
    Row("flux controlnet", "controlnet-other", "a ControlNet for FLUX",
        {"controlnet_blocks.0.weight": (3072, 3072), "controlnet_x_embedder.weight": (3072, 64)}),
    Row("t2i", "t2i-adapter", f"a T2I-Adapter for {SD}",
        under("adapter.", {name.removeprefix("adapter."): size for name, size in
                           on_meta(lambda: T2IAdapter(adapter_type="full_adapter")).items()})),
    Row("t2i xl", "t2i-adapter", f"a T2I-Adapter for {XL}",
        on_meta(lambda: T2IAdapter(adapter_type="full_adapter_xl", downscale_factor=16))),
    Row("t2i of before diffusers", "t2i-adapter", f"a T2I-Adapter for {SD}",
        {"body.0.block1.weight": (320, 320, 3, 3), "conv_in.weight": (320, 192, 3, 3)}),
    Row("t2i light", "t2i-adapter", f"a T2I-Adapter for {SD}",
        {"body.0.in_conv.weight": (80, 192, 1, 1), "body.0.body.0.block1.weight": (80, 80, 3, 3)}),
    # IP-Adapter and what is made like it
    Row("ip-adapter", "ip-adapter", f"an IP-Adapter for {SD}, of one image embedding",
        ip_adapter(768, proj__weight=(3072, 1024), norm__weight=(768,))),
    Row("ip-adapter plus", "ip-adapter", f"an IP-Adapter for {XL}, Plus",
        ip_adapter(2048, latents=(1, 16, 1280), proj_in__weight=(1280, 1280))),
    Row("ip-adapter full face", "ip-adapter", f"an IP-Adapter for {SD}, for whole faces",
        ip_adapter(768, proj__0__weight=(1280, 1280), proj__3__weight=(768,))),
    Row("faceid", "ip-adapter", f"an IP-Adapter for {SD}, FaceID",
        ip_adapter(768, proj__0__weight=(1024, 512), norm__weight=(768,))
        | {"ip_adapter.0.to_q_lora.down.weight": (128, 320)}),
    Row("faceid plus", "ip-adapter", f"an IP-Adapter for {SD}, FaceID Plus",
        ip_adapter(768, proj__0__weight=(1024, 512), norm__weight=(768,),
                   perceiver_resampler__proj_in__weight=(768, 1280))),
    Row("half an ip-adapter", "ip-adapter", "an IP-Adapter, of one image embedding",
        {"image_proj.proj.weight": (3072, 1024)}),
    Row("instantid", "instantid", f"InstantID's IP-Adapter for {XL}",
        ip_adapter(2048, latents=(1, 16, 1280), proj_in__weight=(1280, 512))),
    Row("photomaker", "photomaker", f"PhotoMaker's identity encoder for {XL}",
        {"id_encoder.visual_projection_2.weight": (1280, 1024),
         "lora_weights.unet.down_blocks.1.attentions.0.proj_in.lora_A.weight": (64, 640)}),
    Row("photomaker 2", "photomaker", f"PhotoMaker's identity encoder for {XL}, version 2",
        {"id_encoder.visual_projection_2.weight": (1280, 1024),
         "id_encoder.qformer_perceiver.token_norm.weight": (2048,)}),
    Row("photomaker of sd.cpp", "photomaker", f"PhotoMaker's identity encoder for {XL}",
        {"pmid.vision_model.embeddings.class_embedding": (1024,),
         "pmid.visual_projection.weight": (768, 1024),
         "pmid.visual_projection_2.weight": (1280, 1024),
         "pmid.lora_weights.unet.conv_in.lora.down.weight": (64, 4)}),
    Row("photomaker 2 of sd.cpp", "photomaker",
        f"PhotoMaker's identity encoder for {XL}, version 2",
        {"pmid.id_encoder.visual_projection_2.weight": (1280, 1024),
         "pmid.id_encoder.qformer_perceiver.token_norm.weight": (2048,)}),
    # embeddings
    Row("embedding", "embedding", f"a textual-inversion embedding for {SD}",
        {"emb_params": (4, 768)}),
    Row("embedding for both", "embedding",
        f"a textual-inversion embedding for {XL}, for both text encoders",
        {"clip_l": (4, 768), "clip_g": (4, 1280)}),
    Row("one token", "embedding", f"a textual-inversion embedding for {SD}",
        {"<cat-toy>": (768,)}),
    Row("several tokens", "embedding",
        "a textual-inversion embedding for Stable Diffusion 2.x", {"<style>": (8, 1024)}),
    # the rest
    Row("vae", "vae", "a VAE alone, of 4 latent channels",
        {name: t.shape for name, t in vae("").items()}),
    Row("vae of a trainer", "vae", "a VAE alone, of 4 latent channels",
        {name: t.shape for name, t in vae("").items()}
        | {"loss.logvar": (), "loss.discriminator.main.0.weight": (64, 3, 4, 4)}),
    Row("sd3 vae", "vae", "a VAE alone, of 16 latent channels",
        {"decoder.mid.block_1.norm1.weight": (512,), "decoder.conv_in.weight": (512, 16, 3, 3)}),
    Row("taesd", "taesd", "a tiny autoencoder (TAESD), of 4 latent channels", old_tiny(4)),
    Row("taesd3", "taesd", "a tiny autoencoder (TAESD), of 16 latent channels", old_tiny(16)),
    Row("taesd encoder", "taesd", "a tiny autoencoder (TAESD)",
        {"0.weight": (64, 3, 3, 3), "1.conv.0.weight": (64, 64, 3, 3)}),
    Row("taesd for ComfyUI", "taesd", "a tiny autoencoder (TAESD), of 4 latent channels",
        under("taesd_decoder.", old_tiny(4)) | {"vae_scale": ()}),
    Row("diffusers' taesd", "taesd", "a tiny autoencoder (TAESD), of 4 latent channels",
        on_meta(AutoencoderTiny)),
    Row("esrgan", "esrgan", "an ESRGAN upscaler", {"body.0.rdb1.conv1.weight": (32, 64, 3, 3)}),
    Row("real-esrgan", "esrgan", "an ESRGAN upscaler",
        {"params_ema.body.0.rdb1.conv1.weight": (32, 64, 3, 3)}),
    Row("old esrgan", "esrgan", "an ESRGAN upscaler",
        {"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}),
    Row("new esrgan", "esrgan", "an ESRGAN upscaler",
        {"RRDB_trunk.0.RDB1.conv1.weight": (32, 64, 3, 3)}),
    Row("small esrgan", "esrgan", "an ESRGAN upscaler, the small network (SRVGGNetCompact)",
        {"params.body.0.weight": (64, 3, 3, 3), "params.body.1.weight": (64,)}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_it_is(row):
    kind = recognise(shapes(row.sizes))
    assert (kind.family, kind.title) == (row.family, row.title)
    assert any(name in kind.why for name in row.sizes)  # what it is known by
    about = FAMILIES[kind.family]
    assert not about.runs
    assert "yet" in about.hint or "open its model" in about.hint or "sdcore" in about.hint


def test_models_say_their_variants():
    lcm = recognise(unet(SD15 | {"time_cond_proj_dim": 256}))
    assert lcm.title == f"{SD}, an LCM, distilled with guidance" and lcm.about.runs
    marked = unet(SDXL) | shapes({"v_pred": (0,), "ztsnr": (0,)})
    assert recognise(marked).title == f"{XL}, which predicts v, down to no signal (zero SNR)"


def test_cosxl_is_drawn_with_its_own_levels():
    """It has SDXL's tensors and shapes, and two numbers."""
    bounds = {f"edm_vpred.sigma_{name}": _core.Tensor.from_array(np.float32(value))
              for name, value in (("min", [0.002]), ("max", [120.0]))}  # fmt: skip
    kind = recognise(unet(SDXL) | {name: Shape(()) for name in bounds})
    assert kind.family == "sdxl" and "CosXL" in kind.title
    config = infer_scheduler("sdxl", bounds, {}, {})
    assert config["_class_name"] == "EDMEulerScheduler"
    assert config["prediction_type"] == "v_prediction"
    assert (config["sigma_max"], config["sigma_data"]) == (120.0, 1.0)
    assert config["sigma_min"] == pytest.approx(0.002)


def test_metadata_tells_what_tensors_do_not():
    sizes = {"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": (8, 8)}
    for metadata, target in (
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_base_model_version": "sd_v2"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"ss_base_model_version": "something"}, None),
    ):
        kind = recognise(shapes(sizes), metadata)
        assert kind.target == target
        assert target is None or next(iter(metadata.values())) in kind.why
    # What tensors say is believed first.
    kind = recognise(shapes(ROWS[0].sizes), {"ss_base_model_version": "sdxl_base_v1-0"})
    assert kind.target == "sd1"


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "name, title",
    [
        ("pytorch_lora_weights", f"a LoRA for {SD}, in diffusers' names"),
        ("adapter_model", f"a LoRA for {XL}, in PEFT's names"),
        ("learned_embeds", f"a textual-inversion embedding for {SD}"),
    ],
)
def test_folders_of_adapters(tmp_path, name, title, ending):
    (row,) = (row for row in ROWS if row.title == title and row.name in NAMED.values())
    tensors = {key: torch.zeros(size) for key, size in row.sizes.items()}
    if ending == "bin":
        torch.save(tensors, tmp_path / f"{name}.bin")
    else:
        save_file(tensors, tmp_path / f"{name}.safetensors")
    opened = checkpoint.open(tmp_path)
    assert opened.title == title and opened.tensors.keys() == tensors.keys()


NAMED = {
    "pytorch_lora_weights": "diffusers",
    "adapter_model": "PEFT",
    "learned_embeds": "one token",
}


@pytest.mark.parametrize(
    "make, title",
    [
        (lambda: ControlNetModel(cross_attention_dim=768, block_out_channels=(32, 32, 32, 32)),
         f"a ControlNet for {SD}"),
        (lambda: T2IAdapter(adapter_type="full_adapter", channels=(320, 320, 320, 320)),
         f"a T2I-Adapter for {SD}"),
        (AutoencoderTiny, "a tiny autoencoder (TAESD), of 4 latent channels"),
        (lambda: CLIPVisionModelWithProjection(
            CLIPVisionConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                             num_attention_heads=1, image_size=28, patch_size=14)),
         "a CLIP image encoder"),
    ],
)  # fmt: skip
def test_folders_of_one_network(tmp_path, make, title):
    """As diffusers and transformers save them."""
    make().save_pretrained(tmp_path)
    opened = checkpoint.open(tmp_path)
    assert opened.title == title and not opened.kind.about.runs
    with pytest.raises(UnsupportedModelError, match=r"holds a "):
        checkpoint.open_model(tmp_path)


UPSCALER = {"body.0.rdb1.conv1.weight": torch.ones(32, 64, 3, 3)}
ALONE = {"decoder.mid.block_1.norm1.weight": torch.ones(8)}
PIXART = {"t_block.1.weight": torch.ones(12, 2), "y_embedder.y_embedding": torch.ones(120, 4)}
NESTED = {
    "Real-ESRGAN": ({"params_ema": UPSCALER}, "esrgan"),
    "both of Real-ESRGAN": ({"params": {k: t * 2 for k, t in UPSCALER.items()},
                             "params_ema": UPSCALER}, "esrgan"),
    "some trainer": ({"model": ALONE}, "vae"),
    "another": ({"net": ALONE}, "vae"),
    "twice": ({"state_dict": {"state_dict": ALONE}, "epoch": 1}, "vae"),
    "PixArt": ({"state_dict": PIXART, "epoch": 3,
                "state_dict_ema": {k: t * 2 for k, t in PIXART.items()}}, "pixart-alpha"),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_what_lies_inside(tmp_path, name):
    """Of two sets of weights, the averages of an upscaler and the last ones of a model."""
    made, family = NESTED[name]
    torch.save(made, tmp_path / "x.pth")
    opened = checkpoint.open(tmp_path / "x.pth")
    assert opened.kind.family == family
    assert all((tensor.to_float() == 1).all() for tensor in opened.tensors.values())
    assert all("param" not in key and "state_dict" not in key for key in opened.tensors)


@pytest.mark.parametrize("form", ["dict", "parameters", "diffusers"])
def test_embeddings_of_torch(tmp_path, form):
    """As A1111's web UI saves them, old and new, and as diffusers' training script does."""
    values = torch.randn(3, 768)
    param = {"*": values}
    if form == "parameters":
        param = torch.nn.ParameterDict({"*": torch.nn.Parameter(values)})
    made = {"string_to_token": {"*": 265}, "string_to_param": param, "name": "cat", "step": 500,
            "sd_checkpoint": None, "sd_checkpoint_name": None}  # fmt: skip
    torch.save({"<cat-toy>": values} if form == "diffusers" else made, tmp_path / "x.pt")
    opened = checkpoint.open(tmp_path / "x.pt")
    assert opened.kind.family == "embedding" and opened.kind.target == "sd1"
    ((name, tensor),) = opened.tensors.items()
    assert np.array_equal(tensor.to_float(), values.numpy())
    assert ("A1111" in opened.title) == (form != "diffusers") == name.startswith("string_to_param")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdxl in kohya's names", r"a LoRA for Stable Diffusion XL.*, not a model by itself.*2048"),
        ("control-LoRA", r"a ControlNet for .*, not a model by itself: open its model"),
        ("esrgan", r"an ESRGAN upscaler, not a model by itself, and sdcore does not use it yet"),
    ],
)
def test_what_it_is_instead(tmp_path, name, message, capsys):
    """Given as a model; and what `sdcore info` says of it, for people and for programs."""
    (row,) = (row for row in ROWS if row.name == name)
    tensors = {k: torch.zeros(size, dtype=torch.int8) for k, size in row.sizes.items()}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        checkpoint.open_model(path)
    assert "\n" not in str(caught.value)
    assert checkpoint.open(path).components == {}
    assert cli.main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["title"], facts["runs"]) == (row.family, row.title, False)
    assert facts["hint"] == FAMILIES[row.family].hint
    assert facts["types"] == {"i8": len(tensors)}
    assert facts["target"] == (None if name == "esrgan" else "sdxl")
    assert cli.main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert row.title in text and "recognised by" in text and "i8 ×" in text
