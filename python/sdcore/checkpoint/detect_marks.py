"""What else tensors show of what they are: the model that an adapter is for, the naming and the
variant. In each group the first row that fits counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdcore.checkpoint.clue import Clue, Shapes

Row = tuple[str, Clue]


@dataclass(frozen=True)
class Marks:
    """`targets` are families; `details` groups of words that end a title."""

    targets: tuple[Row, ...] = ()
    details: tuple[tuple[Row, ...], ...] = ()


@dataclass(frozen=True)
class Shown:
    """`why` is the tensor by which the target is known."""

    target: str | None
    why: str | None
    details: tuple[str, ...]


def shown(family: str, shapes: Shapes) -> Shown:
    marks = MARKS.get(family, MODEL)
    target, why = _first(marks.targets, shapes)
    details = [words for group in marks.details if (words := _first(group, shapes)[0])]
    return Shown(target, why, tuple(details))


def _first(rows: tuple[Row, ...], shapes: Shapes) -> tuple[str | None, str | None]:
    for words, clue in rows:
        if name := clue.find(shapes):
            return words, name
    return None, None


# ---- LoRA ----------------------------------------------------------------------------------------

# What reads the prompt's states is as wide as they are.
_READS_TEXT = (
    r"attn2[._](processor\.)?to_[kv]([._]lora(_down|_A|_A\.\w+|\.down)\.weight|\.hada_w1_b)$"
)
_DEEP = r"(attentions[._]\d+|put_blocks_\d+_1|middle_block_1)[._]transformer_blocks[._][1-9]"
_TEXT_LAYER = (
    r"^(lora_te1?_|text_encoder\.)text_model.*(self_attn[._][qkv]_proj|mlp[._]fc1)"
    r"[._]lora(_down|_A|\.down|_linear_layer\.down)\.weight$"
)
_LORA = Marks(
    targets=(
        # FLUX has blocks of SD 3's names, too.
        ("flux", Clue(r"double_blocks[._]\d|single_transformer_blocks[._]\d")),
        ("sd3", Clue(r"joint_blocks[._]\d+[._](x|context)_block|[._]attn[._]add_[qkv]_proj")),
        ("pixart", Clue(_READS_TEXT, (None, 1152))),
        ("pixart", Clue(r"[._]adaln_single[._]|cross_attn[._]kv_linear")),
        ("sdxl", Clue(_READS_TEXT, (None, 2048))),
        ("sd2", Clue(_READS_TEXT, (None, 1024))),
        ("sd1", Clue(_READS_TEXT, (None, 768))),
        ("sdxl", Clue(_DEEP)),
        ("sdxl", Clue(r"^(lora_te2_|text_encoder_2\.)")),
        ("sd2", Clue(_TEXT_LAYER, (None, 1024))),
        ("sd1", Clue(_TEXT_LAYER, (None, 768))),
    ),
    details=(
        (
            ("a LoHa", Clue(r"\.hada_w1")),
            ("a LoKr", Clue(r"\.lokr_w1")),
            ("a DoRA", Clue(r"\.dora_scale$|lora_magnitude_vector")),
            ("with convolutions (LoCon)", Clue(r"lora_mid\.|lora_down\.weight$", (None, None, 3))),
        ),
        (
            ("in names of attention processors", Clue(r"\.processor\.")),
            ("in kohya's names", Clue(r"^lora_(unet|te\d?|transformer)_")),
            ("in LyCORIS's names", Clue(r"^lycoris_")),
            ("in PEFT's names", Clue(r"^base_model\.model\.")),
            ("in ComfyUI's names", Clue(r"^(diffusion_model|text_encoders)\.")),
            ("in diffusers' names", Clue(r"^(unet|text_encoder(_\d)?|transformer)\.")),
        ),
    ),
)
# Of the metadata that trainers write, where tensors do not tell.
_BASE_MODELS = (("sdxl", "sdxl"), ("stable-diffusion-xl", "sdxl"), ("sd3", "sd3"),
                ("stable-diffusion-3", "sd3"), ("sd_v2", "sd2"), ("stable-diffusion-v2", "sd2"),
                ("sd_v1", "sd1"), ("stable-diffusion-v1", "sd1"))  # fmt: skip


def said(metadata: Mapping[str, object]) -> tuple[str, str] | None:
    """The family that kohya's or Stability's metadata names, and what it says."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        value = str(metadata.get(key, ""))
        for start, family in _BASE_MODELS:
            if value.startswith(start):
                return family, f"{key} is '{value:.60}'"
    return None


# ---- what is used beside a model -----------------------------------------------------------------

_CONTEXT = r"\.attn2\.to_k\.(weight|down)$"
_SIZES = r"(^|\.)(label_emb\.0\.0|add_embedding\.linear_1)\.weight$"
_CONTROLNET = Marks(
    targets=(
        ("sd3", Clue(r"^(controlnet\.)?pos_embed_input\.proj\.weight$")),
        ("flux", Clue(r"(^|\.)(double_blocks|single_transformer_blocks|controlnet_x_embedder)\.")),
        ("sdxl", Clue(_CONTEXT, (None, 2048))),
        ("sdxl", Clue(_SIZES, (None, 2816))),
        ("sd2", Clue(_CONTEXT, (None, 1024))),
        ("sd1", Clue(_CONTEXT, (None, 768))),
    ),
    details=(
        (
            ("as a LoRA (control-LoRA)", Clue(r"^lora_controlnet$")),
            (
                "for several kinds of pictures (union)",
                Clue(r"^(controlnet\.)?(task_embedding$|control_add_emb)"),
            ),
            ("as differences from its model", Clue(r"^(control_model\.)?difference$")),
            ("with a whole model beside it", Clue(r"^model\.diffusion_model\.")),
        ),
    ),
)
_IP_ADAPTER = Marks(
    targets=(
        ("sdxl", Clue(r"\.to_k_ip\.weight$", (None, 2048))),
        ("sd1", Clue(r"\.to_k_ip\.weight$", (None, 768))),
    ),
    details=(
        (
            ("of one image embedding", Clue(r"^image_proj\.proj\.weight$")),
            ("for whole faces", Clue(r"^image_proj\.proj\.3\.weight$")),
            ("FaceID Plus", Clue(r"^image_proj\.perceiver_resampler\.")),
            ("FaceID", Clue(r"^image_proj\.norm\.weight$")),
            ("Plus", Clue(r"^image_proj\.latents$")),
        ),
    ),
)
_ADAPTER = r"^(t2i_adapter\.)?(adapter\.)?"
_T2I_ADAPTER = Marks(
    targets=(
        ("sdxl", Clue(rf"{_ADAPTER}conv_in\.weight$", (None, 768))),
        ("sdxl", Clue(rf"{_ADAPTER}conv_in\.weight$", (None, 256))),
        ("sd1", Clue(rf"{_ADAPTER}(conv_in|body\.0\.in_conv)\.weight$")),
    )
)
_EMBEDDING = Marks(
    targets=(
        ("sdxl", Clue(r"^clip_g$")),
        ("sdxl", Clue(r"", (None, 1280))),
        ("sd2", Clue(r"", (None, 1024))),
        ("sd1", Clue(r"", (None, 768))),
        ("sdxl", Clue(r"", (1280, 1))),
        ("sd2", Clue(r"", (1024, 1))),
        ("sd1", Clue(r"", (768, 1))),
    ),
    details=(
        (
            ("as A1111's web UI writes it", Clue(r"^string_to_param\.")),
            ("for both text encoders", Clue(r"^clip_g$")),
        ),
    ),
)
_LATENTS = tuple(
    (f"of {channels} latent channels", clue)
    for channels in (4, 16, 32)
    for clue in (
        Clue(r"(^|\.)decoder\.conv_in\.weight$", (None, channels)),
        Clue(r"^((taesd_|vae\.)?decoder\.)?(layers\.)?[01]\.weight$", (64, channels, 3, 3)),
        Clue(r"(^|\.)encoder\.conv_out\.weight$", (2 * channels,)),
    )
)
# A model itself.
MODEL = Marks(
    details=(
        (("an LCM, distilled with guidance", Clue(r"time_embed(ding)?\.cond_proj\.weight$")),),
        (
            ("which predicts v", Clue(r"^v_pred$")),
            ("which predicts v of EDM (CosXL)", Clue(r"^edm_vpred\.sigma_max$")),
        ),
        (("down to no signal (zero SNR)", Clue(r"^ztsnr$")),),
        (("in scaled float8", Clue(r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale)$")),),
    )
)
_SD3 = (
    ("3.5 large", Clue(r"(^|\.)(joint|transformer)_blocks\.37\.")),
    ("3.5 medium", Clue(r"(^|\.)(joint_blocks\.\d+\.x_block|transformer_blocks\.\d+)\.attn2\.")),
    ("medium", Clue(r"(^|\.)(joint|transformer)_blocks\.23\.")),
)

MARKS: Mapping[str, Marks] = {
    "lora": _LORA,
    "lycoris": _LORA,
    **dict.fromkeys(
        ("controlnet", "control-lora", "controlnet-sd3", "controlnet-other"), _CONTROLNET
    ),
    "ip-adapter": _IP_ADAPTER,
    "t2i-adapter": _T2I_ADAPTER,
    "instantid": Marks(targets=(("sdxl", Clue(r"^image_proj\.latents$")),)),
    "photomaker": Marks(
        targets=(("sdxl", Clue(r"(^|\.)visual_projection")),),
        details=((("version 2", Clue(r"(^|\.)qformer_perceiver\.")),),),
    ),
    "embedding": _EMBEDDING,
    "vae": Marks(details=(_LATENTS,)),
    "taesd": Marks(details=(_LATENTS,)),
    "sd3": Marks(details=(_SD3, *MODEL.details)),
    "esrgan": Marks(
        details=(
            (("the small network (SRVGGNetCompact)", Clue(r"(^|\.)body\.1\.weight$", (64,))),),
        )
    ),
}
