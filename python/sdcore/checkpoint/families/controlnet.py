"""ControlNets. Their files may hold a whole model too, and have blocks of one, so that they are
told from models first."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Config, Family, Naming, Place, Rules, Tensors
from sdcore.checkpoint.names import controlnet
from sdcore.checkpoint.sizes import count, size
from sdcore.errors import CheckpointError

RANK = -2
_SD1_TEXT = 768  # channels


def _config(tensors: Tensors) -> Config:
    levels = range(count(tensors, r"down_blocks\.(\d+)\."))
    if not levels:
        raise CheckpointError("[checkpoint] the ControlNet has no tensor of blocks of a UNet")
    # Every tensor of a resnet whose first size is the channels that come out of it.
    out = r"resnets\.\d+\.(conv1|conv2|norm2|time_emb_proj)\.(weight|bias)"
    channels = [size(tensors, rf"down_blocks\.{b}\.{out}", 0) for b in levels]
    blocks = (*(f"down_blocks.{b}" for b in levels), "mid_block")
    # Some of SDXL have attentions without blocks in them, others no attentions at all.
    *attends, middle = (any(n.startswith(f"{at}.attentions.") for n in tensors) for at in blocks)
    *depths, last = (
        count(tensors, rf"{at}\.attentions\.\d+\.transformer_blocks\.(\d+)\.") for at in blocks
    )
    texts = size(tensors, r".*\.attn2\.to_[kv]\.weight", 1)
    embedding = r"controlnet_cond_embedding\."
    picture = [size(tensors, rf"{embedding}conv_in\.(weight|bias)", 0)]
    picture += [
        size(tensors, rf"{embedding}blocks\.{i}\.(weight|bias)", 0)
        for i in range(1, count(tensors, rf"{embedding}blocks\.(\d+)\."), 2)
    ]
    config: Config = {
        "_class_name": "ControlNetModel",
        "in_channels": size(tensors, r"conv_in\.weight", 1, 4),
        "conditioning_channels": size(tensors, rf"{embedding}conv_in\.weight", 1, 3),
        "conditioning_embedding_out_channels": picture,
        "block_out_channels": channels,
        "layers_per_block": max(
            count(tensors, rf"down_blocks\.{b}\.resnets\.(\d+)\.") for b in levels
        ),
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        # The middle block's depth is the last level's.
        "transformer_layers_per_block": [*depths[:-1], last if middle else depths[-1]],
        "use_linear_projection": size(tensors, r".*\.proj_(in|out)\.weight", 2) == 0,
        # Despite its name this is the number of heads, which are 64 wide but in SD 1.x.
        "attention_head_dim": 8 if texts == _SD1_TEXT else [c // 64 for c in channels],
        "global_pool_conditions": False,
    }
    if texts:
        config["cross_attention_dim"] = texts
    if width := size(tensors, r"add_embedding\.linear_1\.weight", 1):
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
        config["projection_class_embeddings_input_dim"] = width
    if kinds := size(tensors, r"task_embedding", 0):
        config["_class_name"] = "ControlNetUnionModel"
        config["num_control_type"] = kinds
        config["num_trans_channel"] = size(tensors, r"task_embedding", 1)
        config["num_trans_layer"] = count(tensors, r"transformer_layes\.(\d+)\.")
        config["num_proj_channel"] = size(tensors, r"spatial_ch_projs\.(weight|bias)", 0)
    return config


_PLACE = Place(
    "controlnet",
    ("control_model.", "controlnet.", ""),
    (
        Naming("original", ("input_hint_block.", "zero_convs."), controlnet.original),
        Naming(
            "diffusers",
            ("controlnet_cond_embedding.", "controlnet_down_blocks."),
            controlnet.diffusers,
        ),
    ),
)

OPEN = "not a model by itself: open its model and pass this as controlnet= (--control-net)"

FAMILIES = {
    "controlnet": Family(
        "a ControlNet",
        ("controlnet",),
        hint=OPEN,
        infer={"controlnet": _config},
        places=(_PLACE,),
    ),
    # What lacks is the model's: it is no network until it is opened with one.
    "control-lora": Family("a ControlNet", hint=OPEN),
    "controlnet-other": Family(
        "a ControlNet", hint="not a model by itself, and of a kind that sdcore does not run yet"
    ),
}

RULES: Rules = (
    ("control-lora", (Clue(r"^lora_controlnet$"),)),
    # FLUX's.
    ("controlnet-other", (Clue(r"(^|\.)controlnet_blocks\."),)),
    ("controlnet", (Clue(r"^(control_model\.)?(input_hint_block|zero_convs)\.0\."),)),
    ("controlnet", (Clue(r"^(controlnet\.)?controlnet_(cond_embedding|down_blocks)\."),)),
)
