"""Which model a set of tensors is: a table of clues in names and shapes, first match wins."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sdcore.checkpoint.clue import Clue, Shapes
from sdcore.checkpoint.detect_marks import said, shown
from sdcore.checkpoint.tensor import Tensor


@dataclass(frozen=True)
class Family:
    """`components` are the parts that sdcore can take out of such a file; `hint` is what to say to
    somebody who gave it as a model."""

    title: str
    components: tuple[str, ...] = ()
    runs: bool = False
    hint: str = "which sdcore does not run"


@dataclass(frozen=True)
class Kind:
    """`target` is the family of the model that an adapter is for; `details` say which of its kind
    it is."""

    family: str
    why: str  # the tensors that gave it away
    target: str | None = None
    details: tuple[str, ...] = ()

    @property
    def about(self) -> Family:
        return FAMILIES[self.family]

    @property
    def title(self) -> str:
        target = f" for {FAMILIES[self.target].title}" if self.target else ""
        return ", ".join([self.about.title + target, *self.details])


_ONE_CLIP = ("unet", "vae", "text_encoder")
_TWO_CLIPS = (*_ONE_CLIP, "text_encoder_2")
_SECOND_CLIP_ALONE = ("unet", "vae", "text_encoder_2")
_SD3 = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_LATER = "which sdcore does not run yet"
_BESIDE = "not a model by itself, and sdcore does not use it yet"
_LOAD_LORA = "not a model by itself: open its model and load it with load_lora_weights"

FAMILIES: dict[str, Family] = {
    "sd1": Family("Stable Diffusion 1.x", _ONE_CLIP, runs=True),
    "sd1-inpaint": Family("Stable Diffusion 1.x for inpainting", _ONE_CLIP, runs=True),
    "sd1-edit": Family("Stable Diffusion 1.x for editing (InstructPix2Pix)", _ONE_CLIP, runs=True),
    "sd1-small": Family("a distilled Stable Diffusion without a middle block", hint=_LATER),
    "sd2": Family("Stable Diffusion 2.x", _ONE_CLIP, runs=True),
    "sd2-inpaint": Family("Stable Diffusion 2.x for inpainting", _ONE_CLIP, runs=True),
    "sd2-depth": Family("Stable Diffusion 2.x with depth", _ONE_CLIP, hint=_LATER),
    "sd2-unclip": Family("Stable Diffusion 2.1 unCLIP"),
    "sd-upscaler": Family("Stable Diffusion x4 upscaler"),
    "sdxl": Family("Stable Diffusion XL", _TWO_CLIPS, runs=True),
    "sdxl-refiner": Family("Stable Diffusion XL refiner", _SECOND_CLIP_ALONE, runs=True),
    "sdxl-inpaint": Family("Stable Diffusion XL for inpainting", _TWO_CLIPS, runs=True),
    "sdxl-edit": Family("Stable Diffusion XL for editing", _TWO_CLIPS, hint=_LATER),
    "playground-v2.5": Family("Playground v2.5", _TWO_CLIPS, runs=True),
    "sd3": Family("Stable Diffusion 3", _SD3, runs=True),
    "flux": Family("FLUX"),
    "pixart": Family("PixArt", ("transformer", "vae", "text_encoder"), runs=True),
    "video": Family("a video model"),
    "controlnet": Family("a ControlNet", hint=_BESIDE),
    "lora": Family("a LoRA", hint=_LOAD_LORA),
    "lycoris": Family("a LyCORIS adapter (OFT, BOFT, GLoRA or (IA)³)", hint=_LATER),
    "ip-adapter": Family("an IP-Adapter", hint=_BESIDE),
    "photomaker": Family("PhotoMaker's identity encoder", hint=_BESIDE),
    "instantid": Family("InstantID's image projection", hint=_BESIDE),
    "t2i-adapter": Family("a T2I-Adapter", hint=_BESIDE),
    "embedding": Family("a textual-inversion embedding", hint=_BESIDE),
    "taesd": Family("a tiny autoencoder (TAESD)", hint=_BESIDE),
    "vae": Family(
        "a VAE alone", ("vae",), hint="not a whole model: open its model and pass this as vae="
    ),
    "text-encoder": Family(
        "a CLIP text encoder alone",
        ("text_encoder",),
        hint="not a whole model: open its model and pass this as text_encoder=",
    ),
    "t5": Family(
        "a T5 text encoder alone",
        ("text_encoder",),
        hint="not a whole model: open its model and pass this as text_encoder= (PixArt) or "
        "text_encoder_3= (Stable Diffusion 3)",
    ),
    "image-encoder": Family("a CLIP image encoder", hint=_BESIDE),
    "esrgan": Family("an ESRGAN upscaler", hint=_BESIDE),
}

_CONV_IN = r"((^|\.)input_blocks\.0\.0|^(unet\.)?conv_in)\.weight$"
_LABEL = r"(^|\.)(label_emb\.0\.0|(add|class)_embedding\.linear_1)\.weight$"
_CONTEXT = r"\.attn2\.to_k\.weight$"
_MIDDLE = r"(^|\.)mid(dle_block\.1|_block\.attentions\.0)\.transformer_blocks\."
_SECOND_CLIP = r"^(conditioner\.embedders\.1|text_encoder_2)\."
_OPEN_CLIP = r"^(cond_stage_model|conditioner\.embedders\.0)\.model\.transformer\.resblocks\."
_LORA = (
    r"^lora_(unet|te\d?|transformer)_|^lycoris_|\.(hada|lokr)_w|\.(diff|diff_b|w_norm|b_norm)$"
    r"|[._]lora(_[AB]|_up|_down|_linear_layer|\.up|\.down)\b"
)

RULES: tuple[tuple[str, tuple[Clue, ...]], ...] = (
    # A ControlNet's file may hold a whole model too, and has blocks of one, so it comes first.
    ("controlnet", (Clue(r"^(control_model\.)?(input_hint_block|zero_convs)\.0\."),)),
    ("controlnet", (Clue(r"(^|\.)controlnet_(cond_embedding|blocks|down_blocks)\."),)),
    ("controlnet", (Clue(r"^lora_controlnet$"),)),
    # An adapter has the names of what it changes, too.
    ("lycoris", (Clue(r"\.(oft_blocks|oft_diag|a1\.weight|b1\.weight|on_input)$"),)),
    ("photomaker", (Clue(r"^id_encoder\.(vision_model|visual_projection)"),)),
    # InstantID's is an IP-Adapter whose resampler takes a face's 512 numbers.
    ("instantid", (Clue(r"^image_proj\.latents$"),
                   Clue(r"^image_proj\.proj_in\.weight$", (None, 512)))),
    ("ip-adapter", (Clue(r"^ip_adapter\.\d+\.to_[kv]_ip\."),)),
    ("ip-adapter", (Clue(r"^image_proj\.(proj|latents|norm|perceiver_resampler)\b"),)),
    ("lora", (Clue(_LORA),)),
    ("sd3", (Clue(r"(^|\.)joint_blocks\.0\.context_block\.adaLN_modulation\.1\.weight$"),)),
    ("flux", (Clue(r"(^|\.)(double_blocks\.0\.img_attn|single_transformer_blocks\.0)\."),)),
    ("sd3", (Clue(r"^(transformer\.)?transformer_blocks\.0\.norm1_context\.linear\.weight$"),)),
    ("pixart", (Clue(r"(^|\.)t_block\.1\.weight$"),)),
    ("pixart", (Clue(r"(^|\.)adaln_single\.emb\.timestep_embedder\.linear_1\.weight$"),)),
    ("t2i-adapter", (Clue(r"^(adapter\.)?body\.\d+\.(resnets\.\d+\.)?block1\.weight$"),)),
    ("video", (Clue(r"\.(time_stack|temporal_transformer_blocks|motion_modules)\."),)),
    ("sdxl-refiner", (Clue(_LABEL, (None, 2560)),)),
    ("playground-v2.5", (Clue(_LABEL, (None, 2816)), Clue(r"^edm_mean$"), Clue(r"^edm_std$"))),
    ("sdxl-inpaint", (Clue(_LABEL, (None, 2816)), Clue(_CONV_IN, (None, 9)))),
    ("sdxl-edit", (Clue(_LABEL, (None, 2816)), Clue(_CONV_IN, (None, 8)))),
    ("sdxl", (Clue(_LABEL, (None, 2816)),)),
    ("sd2-unclip", (Clue(_LABEL, (None, 1536)), Clue(_CONTEXT, (None, 1024)))),
    ("sd2-unclip", (Clue(_LABEL, (None, 2048)), Clue(_CONTEXT, (None, 1024)))),
    ("sdxl", (Clue(_LABEL), Clue(_SECOND_CLIP))),
    ("sd-upscaler", (Clue(_CONV_IN, (None, 7)), Clue(_CONTEXT))),
    ("sd2-inpaint", (Clue(_CONV_IN, (None, 9)), Clue(_CONTEXT, (None, 1024)))),
    ("sd2-depth", (Clue(_CONV_IN, (None, 5)), Clue(_CONTEXT, (None, 1024)))),
    ("sd2", (Clue(_CONV_IN), Clue(_CONTEXT, (None, 1024)))),
    ("sd2", (Clue(_CONV_IN), Clue(_OPEN_CLIP))),
    ("sd1-inpaint", (Clue(_CONV_IN, (None, 9)), Clue(_CONTEXT))),
    ("sd1-edit", (Clue(_CONV_IN, (None, 8)), Clue(_CONTEXT))),
    ("sd1", (Clue(_CONV_IN), Clue(_CONTEXT), Clue(_MIDDLE))),
    ("sd1-small", (Clue(_CONV_IN), Clue(_CONTEXT))),
    ("taesd", (Clue(r"^((taesd_)?(de|en)coder\.)?(layers\.)?[01]\.weight$", (64, None, 3, 3)),
               Clue(r"^((taesd_)?(de|en)coder\.)?(layers\.)?\d+\.conv\.0\.weight$"))),
    ("vae", (Clue(r"(^|\.)decoder\.mid(\.block_1|_block\.resnets\.0)\.norm1\.weight$"),)),
    ("vae", (Clue(r"(^|\.)encoder\.mid(\.block_1|_block\.resnets\.0)\.norm1\.weight$"),)),
    ("text-encoder", (Clue(r"(^|\.)encoder\.layers\.0\.self_attn\.q_proj\.weight$"),
                      Clue(r"(^|\.)embeddings\.token_embedding\.weight$"))),
    ("image-encoder", (Clue(r"(^|\.)vision_model\.|(^|\.)visual\.transformer\."),)),
    ("text-encoder", (Clue(r"(^|\.)transformer\.resblocks\.0\.attn\.in_proj_weight$"),)),
    ("t5", (Clue(r"(^|\.)(encoder\.block\.0\.layer\.0\.SelfAttention\.q|enc\.blk\.0\.attn_q)\."),)),
    ("embedding", (Clue(r"^(emb_params|string_to_param\..*|clip_[lg])$"),)),
    *(("embedding", (Clue(r"(?<!\.weight)(?<!\.bias)$", shape, only=True),))
      for width in (768, 1024, 1280) for shape in ((None, width), (width, 1))),
    ("esrgan", (Clue(r"(^|\.)(body\.0\.rdb1|RRDB_trunk\.0|model\.1\.sub\.0)\."),)),
    ("esrgan", (Clue(r"(^|\.)body\.0\.weight$", (64, None, 3, 3)),
                Clue(r"(^|\.)body\.1\.weight$", (64,)))),
)  # fmt: skip


def recognise(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None
) -> Kind | None:
    """The kind of the model or adapter; `metadata` is asked for what an adapter's tensors do not
    show."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    find = functools.cache(lambda clue: clue.find(shapes))  # families share clues
    for family, clues in RULES:
        found = [find(clue) for clue in clues]
        if all(found):
            return _kind(family, list(_evidence(clues, found, shapes)), shapes, metadata or {})
    return None


def _kind(family: str, why: list[str], shapes: Shapes, metadata: Mapping[str, object]) -> Kind:
    more = shown(family, shapes)
    target = more.target
    if more.why is not None:
        why.append(f"{more.why} is {list(shapes[more.why])}")
    elif family in ("lora", "lycoris") and (named := said(metadata)):
        target, evidence = named
        why.append(evidence)
    return Kind(family, " and ".join(dict.fromkeys(why)), target, more.details)


def _evidence(clues: tuple[Clue, ...], found: list[str | None], shapes: Shapes) -> Iterator[str]:
    for clue, name in zip(clues, found, strict=True):
        if name is None:
            continue
        if clue.pattern == _CONTEXT and shapes[name]:
            yield f"{name} takes {shapes[name][-1]}"
        else:
            yield f"{name} is {list(shapes[name])}"
