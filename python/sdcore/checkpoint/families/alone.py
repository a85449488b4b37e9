"""Parts of models alone, and small things: what is left when no model is found."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Family, Rules

RANK = 9
_BESIDE = "not a model by itself, and sdcore does not use it yet"

FAMILIES = {
    "embedding": Family(
        "a textual-inversion embedding",
        hint="not a model by itself: open its model and load it with load_textual_inversion, or "
        "name its folder with --embd-dir",
    ),
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
    "image-encoder": Family(
        "a CLIP image encoder",
        ("image_encoder",),
        hint="not a whole model: open its model and pass this as image_encoder= to load_ip_adapter",
    ),
    "esrgan": Family("an ESRGAN upscaler", hint=_BESIDE),
}

RULES: Rules = (
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
