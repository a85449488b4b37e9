"""Which model a set of tensors is: a table of clues in names and shapes, first match wins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
class Clue:
    """A tensor whose name matches and whose shape has these sizes (None: any size)."""

    pattern: str
    shape: tuple[int | None, ...] | None = None

    def find(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        search = re.compile(self.pattern).search
        for name, shape in shapes.items():
            if search(name) and self._fits(shape):
                return name
        return None

    def _fits(self, shape: tuple[int, ...]) -> bool:
        # Trailing ones come and go between writers, so only the sizes that are named must exist.
        if self.shape is None:
            return True
        padded = shape + (1,) * (len(self.shape) - len(shape))
        return all(want in (None, got) for want, got in zip(self.shape, padded, strict=False))


@dataclass(frozen=True)
class Kind:
    family: str
    why: str  # the tensors that gave it away

    @property
    def about(self) -> Family:
        return FAMILIES[self.family]


_ONE_CLIP = ("unet", "vae", "text_encoder")
_TWO_CLIPS = (*_ONE_CLIP, "text_encoder_2")
_SECOND_CLIP_ALONE = ("unet", "vae", "text_encoder_2")
_SD3 = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_LATER = "which sdcore does not run yet"
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
    "controlnet": Family("a ControlNet", hint="not a model by itself"),
    "lora-sd1": Family("a LoRA for Stable Diffusion 1.x", hint=_LOAD_LORA),
    "lora-sd2": Family("a LoRA for Stable Diffusion 2.x", hint=_LOAD_LORA),
    "lora-sdxl": Family("a LoRA for Stable Diffusion XL", hint=_LOAD_LORA),
    "lora": Family("a LoRA", hint=_LOAD_LORA),
    "ip-adapter": Family("an IP-Adapter", hint="not a model by itself"),
    "photomaker": Family("PhotoMaker's identity encoder", hint="not a model by itself"),
    "instantid": Family("InstantID's image projection", hint="not a model by itself"),
    "t2i-adapter": Family("a T2I-Adapter", hint="not a model by itself"),
    "embedding": Family("a textual-inversion embedding", hint="not a model by itself"),
    "taesd": Family("a tiny autoencoder (TAESD)", hint="not a whole model: it has no UNet"),
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
    "image-encoder": Family("a CLIP image encoder", hint="not a model by itself"),
    "esrgan": Family("an ESRGAN upscaler", hint="not a diffusion model"),
}

_CONV_IN = r"((^|\.)input_blocks\.0\.0|^(unet\.)?conv_in)\.weight$"
_LABEL = r"(^|\.)(label_emb\.0\.0|(add|class)_embedding\.linear_1)\.weight$"
_CONTEXT = r"\.attn2\.to_k\.weight$"
_MIDDLE = r"(^|\.)mid(dle_block\.1|_block\.attentions\.0)\.transformer_blocks\."
_SECOND_CLIP = r"^(conditioner\.embedders\.1|text_encoder_2)\."
_OPEN_CLIP = r"^(cond_stage_model|conditioner\.embedders\.0)\.model\.transformer\.resblocks\."
_LORA = r"^lora_(unet|te\d?|transformer)_|[._]lora(_[AB]|_up|_down|\.up|\.down)\b|\.(hada|lokr)_w"
_LORA_CONTEXT = r"attn2[._](processor\.)?to_[kv][._]lora(_down|_A|_A\.\w+|\.down)\.weight$"

RULES: tuple[tuple[str, tuple[Clue, ...]], ...] = (
    ("sd3", (Clue(r"(^|\.)joint_blocks\.0\.context_block\.adaLN_modulation\.1\.weight$"),)),
    ("flux", (Clue(r"(^|\.)(double_blocks\.0\.img_attn|single_transformer_blocks\.0)\."),)),
    ("sd3", (Clue(r"^(transformer\.)?transformer_blocks\.0\.norm1_context\.linear\.weight$"),)),
    ("pixart", (Clue(r"(^|\.)t_block\.1\.weight$"),)),
    ("pixart", (Clue(r"(^|\.)adaln_single\.emb\.timestep_embedder\.linear_1\.weight$"),)),
    # A ControlNet's file may hold a whole model too, so it comes before them.
    ("controlnet", (Clue(r"^control_model\."),)),
    ("controlnet", (Clue(r"(^|\.)controlnet_(cond_embedding|blocks|down_blocks)\."),)),
    ("controlnet", (Clue(r"^lora_controlnet$"),)),
    ("photomaker", (Clue(r"^id_encoder\.(vision_model|visual_projection)"),)),
    # InstantID's is an IP-Adapter whose resampler takes a face's 512 numbers.
    ("instantid", (Clue(r"^image_proj\.latents$"),
                   Clue(r"^image_proj\.proj_in\.weight$", (None, 512)))),
    ("t2i-adapter", (Clue(r"^(adapter\.)?body\.\d+\.(resnets\.\d+\.)?block1\.weight$"),)),
    ("ip-adapter", (Clue(r"^ip_adapter\."), Clue(r"^image_proj\."))),
    ("lora-sdxl", (Clue(_LORA_CONTEXT, (None, 2048)),)),
    ("lora-sdxl", (Clue(r"^lora_te2_"),)),
    ("lora-sd2", (Clue(_LORA_CONTEXT, (None, 1024)),)),
    ("lora-sd1", (Clue(_LORA_CONTEXT, (None, 768)),)),
    ("lora", (Clue(_LORA),)),
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
    ("taesd", (Clue(r"(^|\.)(taesd_)?decoder\.(layers\.)?1\.weight$"),)),
    ("vae", (Clue(r"(^|\.)decoder\.mid(\.block_1|_block\.resnets\.0)\.norm1\.weight$"),)),
    ("vae", (Clue(r"(^|\.)encoder\.mid(\.block_1|_block\.resnets\.0)\.norm1\.weight$"),)),
    ("text-encoder", (Clue(r"(^|\.)encoder\.layers\.0\.self_attn\.q_proj\.weight$"),
                      Clue(r"(^|\.)embeddings\.token_embedding\.weight$"))),
    ("image-encoder", (Clue(r"(^|\.)vision_model\.|(^|\.)visual\.transformer\."),)),
    ("text-encoder", (Clue(r"(^|\.)transformer\.resblocks\.0\.attn\.in_proj_weight$"),)),
    ("t5", (Clue(r"(^|\.)(encoder\.block\.0\.layer\.0\.SelfAttention\.q|enc\.blk\.0\.attn_q)\."),)),
    ("embedding", (Clue(r"^(emb_params|string_to_param\..*|clip_[lg])$"),)),
    ("esrgan", (Clue(r"(^|\.)(body\.0\.rdb1|RRDB_trunk\.0|model\.1\.sub\.0\.RDB1)\."),)),
)  # fmt: skip


def recognise(tensors: Mapping[str, Tensor]) -> Kind | None:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for family, clues in RULES:
        found = [clue.find(shapes) for clue in clues]
        if all(found):
            return Kind(family, " and ".join(_evidence(clues, found, shapes)))
    return None


def _evidence(
    clues: tuple[Clue, ...], found: list[str | None], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    for clue, name in zip(clues, found, strict=True):
        if name is None:
            continue
        if clue.pattern == _CONTEXT and shapes[name]:
            yield f"{name} takes {shapes[name][-1]}"
        else:
            yield f"{name} is {list(shapes[name])}"
