"""What goes with a model, and has the names of its parts: it is told from models first."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Family, Rules

RANK = -1
_LATER = "which sdcore does not run yet"
_LOAD_LORA = "not a model by itself: open its model and load it with load_lora_weights"
_LOAD_PHOTOMAKER = "not a model by itself: open its model and load it with load_photomaker_adapter"
_LOAD_IP_ADAPTER = "not a model by itself: open its model and load it with load_ip_adapter"
_LOAD_INSTANTID = (
    "not a model by itself: open its model with InstantID's ControlNet and load this with "
    "load_ip_adapter"
)

FAMILIES = {
    "lora": Family("a LoRA", hint=_LOAD_LORA),
    "lycoris": Family("a LyCORIS adapter (OFT, BOFT, GLoRA or (IA)³)", hint=_LATER),
    "ip-adapter": Family("an IP-Adapter", hint=_LOAD_IP_ADAPTER),
    "photomaker": Family("PhotoMaker's identity encoder", hint=_LOAD_PHOTOMAKER),
    "instantid": Family("InstantID's IP-Adapter", hint=_LOAD_INSTANTID),
}

_LORA = (
    r"^lora_(unet|te\d?|transformer)_|^lycoris_|\.(hada|lokr)_w|\.(diff|diff_b|w_norm|b_norm)$"
    r"|[._]lora(_[AB]|_up|_down|_linear_layer|\.up|\.down)\b"
)

RULES: Rules = (
    # An adapter has the names of what it changes, too.
    ("lycoris", (Clue(r"\.(oft_blocks|oft_diag|a1\.weight|b1\.weight|on_input)$"),)),
    ("photomaker", (Clue(r"^(pmid\.)?id_encoder\.(vision_model|visual_projection)"),)),
    ("photomaker", (Clue(r"^(pmid\.)?visual_projection_2\.weight$"),)),
    # InstantID's is an IP-Adapter whose resampler takes a face's 512 numbers. So is FaceID Portrait
    # of faces that are not normed, which nothing in the file tells from it.
    ("instantid", (Clue(r"^image_proj\.latents$"),
                   Clue(r"^image_proj\.proj_in\.weight$", (None, 512)))),
    ("ip-adapter", (Clue(r"^ip_adapter\.\d+\.to_[kv]_ip\."),)),
    ("ip-adapter", (Clue(r"^image_proj\.(proj|latents|norm|perceiver_resampler)\b"),)),
    ("lora", (Clue(_LORA),)),
)  # fmt: skip
