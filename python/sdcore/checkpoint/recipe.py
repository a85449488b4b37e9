"""Which storage type each tensor of a quantized model gets.

Matrices get the type that was asked for. What does not: norms and biases, which are small and
become f32; convolutions, whose rows have 3 numbers where blocks have 32 or more, unless they are
folded; and what practice has shown to suffer, as stable-diffusion.cpp and ComfyUI-GGUF leave it out
too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from sdcore import _core
from sdcore.errors import InvalidArgumentError

__all__ = ["TypeRules", "checked_rules", "checked_type", "choose_type", "is_kept", "weighs"]

# Pairs of a regular expression and a type: the first that is found in a tensor's name counts.
TypeRules = Sequence[tuple[str, str]]

# What is not quantized, by network: found in a tensor's name, original or diffusers'.
KEPT: Mapping[str, str] = {
    "UNet, time": r"\b(time_embed|time_embedding|label_emb|add_embedding|class_embedding)\.",
    "UNet, first and last": r"\b(input_blocks\.0\.0|conv_in|out\.2|conv_out)\.",
    "MMDiT and PixArt, embeddings": r"_embedder\.|\bpos_embed|\btime_text_embed\.|\badaln_single\.",
    "MMDiT and PixArt, last": r"\b(final_layer|(?<!attn\.)proj_out|norm_out|caption_projection)\.",
    "MMDiT's ControlNets, what they add": r"\bcontrolnet_blocks\.",
    "text encoders": r"embedding|embed_tokens|\bshared\.|text_projection|relative_attention_bias"
    r"|\btoken_embd\.|\battn_rel_b\.",
    "VAE": r"^(first_stage_model|vae)\.",
}
_KEPT = re.compile("|".join(KEPT.values()))

# What takes the place of a type whose blocks do not divide a row, as llama.cpp has it.
FALLBACK = {
    **dict.fromkeys(
        ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"
    ),
    **dict.fromkeys(("q2_K", "q3_K"), "iq4_nl"),
    **dict.fromkeys(("tq1_0", "tq2_0", "q1_0", "q2_0"), "q4_0"),
    "q4_K": "q5_0",
    "q5_K": "q5_1",
    "q6_K": "q8_0",
    "nvfp4": "mxfp4",
}

# What a matrix that is not quantized becomes; any other type stays.
_PLAIN = {"f64": "f32", "f32": "f16"}


def checked_type(type: str) -> str:
    """A type that tensors can be made in, by its exact name; InvalidArgumentError if it is none."""
    made = [name for name, row in _types().items() if row["can_quantize"]]
    for name in made:
        if name.lower() == str(type).lower():
            return name
    raise InvalidArgumentError(
        f"[quantize] there is no type '{type}': it must be one of {', '.join(made)}"
    )


def checked_rules(rules: TypeRules) -> TypeRules:
    """With exact names of types; InvalidArgumentError for what is no regular expression."""
    checked = []
    for pattern, type in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InvalidArgumentError(
                f"[quantize] '{pattern}' is not a regular expression: {error}"
            ) from None
        checked.append((pattern, checked_type(type)))
    return checked


def choose_type(
    name: str, stored: str, shape: Sequence[int], type: str, rules: TypeRules = ()
) -> str:
    """The type for a tensor that is `stored` as something now; `type` and `rules` are checked."""
    for pattern, wanted in rules:
        if re.search(pattern, name):
            return _fitting(wanted, shape)
    if not _types().get(stored, {}).get("can_quantize"):
        return stored  # positions and counters
    if len(shape) < 2:
        return "f32"
    plain = _fitting(_PLAIN.get(stored, stored), shape)  # what was folded leaves its blocks
    if is_kept(name):
        return plain
    fitting = _fitting(type, shape)
    return plain if _block_size(type) > 1 == _block_size(fitting) else fitting


def is_kept(name: str) -> bool:
    """Whether a tensor is not quantized, for its place in a network."""
    return _KEPT.search(name) is not None


def weighs(type: str) -> bool:
    """Whether the type is made with an eye on importance."""
    return bool(_types()[type]["weighs"])


def _fitting(type: str, shape: Sequence[int]) -> str:
    """The type itself, or the nearest whose blocks divide the rows, at last f16."""
    row = shape[-1] if shape else 1
    while row % _block_size(type):
        type = FALLBACK.get(type, "f16")
    return type


def _block_size(type: str) -> int:
    return int(str(_types()[type]["block_size"]))


@cache
def _types() -> Mapping[str, Mapping[str, object]]:
    return {str(row["name"]): row for row in _core.types()}
