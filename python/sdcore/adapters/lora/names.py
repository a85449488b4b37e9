"""Names in LoRA files: what a key says of which module of the model.

Underscores cannot be told apart from dots again ("to_out_0", "proj_in"), so all spellings of the
model's own modules are made, and a file's are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sdcore.checkpoint.names import unet

__all__ = ["COMPONENTS", "Names", "Role", "split"]


@dataclass(frozen=True)
class Role:
    """A key as the module it speaks of, in the file's spelling, and what it is to that module."""

    module: str
    name: str


# Ends of keys, and roles; None where the end says the role itself.
SUFFIXES: tuple[tuple[str, str | None], ...] = (
    (r"[._]lora_up\.weight", "up"),  # kohya
    (r"[._]lora_down\.weight", "down"),
    (r"[._]lora_mid\.weight", "mid"),
    (r"\.lora_B(?:\.\w+)?\.weight", "up"),  # PEFT, with or without an adapter's name
    (r"\.lora_A(?:\.\w+)?\.weight", "down"),
    (r"\.lora_B(?:\.\w+)?\.bias", "up_bias"),
    (r"[._]lora\.up\.weight", "up"),  # diffusers
    (r"[._]lora\.down\.weight", "down"),
    (r"\.lora_linear_layer\.up\.weight", "up"),
    (r"\.lora_linear_layer\.down\.weight", "down"),
    (r"[._]lora_magnitude_vector(?:\.\w+)*", "magnitude"),
    (r"\.(?P<role>dora_scale)", None),
    (r"(?:[._]lora)?\.alpha", "alpha"),
    (r"\.(?P<role>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2)(?:\.weight)?", None),
    (r"\.(?:diff|w_norm)", "diff"),
    (r"\.(?:diff_b|b_norm)", "bias_diff"),
)  # fmt: skip
_SUFFIX = [(re.compile(f"(?P<module>.+?){end}$"), role) for end, role in SUFFIXES]


def split(key: str) -> Role | None:
    """None for a key that no row knows."""
    for pattern, role in _SUFFIX:
        if match := pattern.match(key):
            return Role(match["module"], role or match["role"])
    return None


@dataclass(frozen=True)
class Spelling:
    """Where a component's modules are found: `dotted` paths after a prefix, and `flat` ones, with
    underscores."""

    dotted: tuple[str, ...]
    flat: tuple[str, ...] = ()


COMPONENTS: Mapping[str, Spelling] = {
    "unet": Spelling(
        ("unet.", "base_model.model.", "unet.base_model.model.", "diffusion_model.",
         "model.diffusion_model.", ""),
        ("lora_unet_", "lycoris_"),
    ),
    "transformer": Spelling(
        ("transformer.", "base_model.model.", "transformer.base_model.model.", "diffusion_model.",
         ""),
        ("lora_transformer_", "lora_unet_", "lycoris_"),
    ),
    "text_encoder": Spelling(
        ("text_encoder.", "base_model.model.", "text_encoders.clip_l.transformer.", ""),
        ("lora_te_", "lora_te1_"),
    ),
    "text_encoder_2": Spelling(
        ("text_encoder_2.", "text_encoders.clip_g.transformer."), ("lora_te2_",)
    ),
    "text_encoder_3": Spelling(("text_encoder_3.", "text_encoders.t5xxl.transformer."),
                               ("lora_te3_",)),
}  # fmt: skip

# diffusers before 0.17 kept LoRA in attention processors, and text encoders' under UNet's words.
_PROCESSOR = re.compile(r"\.(to_q|to_k|to_v|to_out)(?:\.0)?$")
_TEXT_ATTENTION = re.compile(r"\.self_attn\.(q|k|v|out)_proj$")


class Names:
    """The modules of a model's components, under every spelling that files use."""

    def __init__(self, weights: Mapping[str, Iterable[str]]) -> None:
        """`weights`: the names of the tensors of each component."""
        self._modules: dict[str, tuple[str, str]] = {}
        for component, names in weights.items():
            spelling = COMPONENTS.get(component)
            if spelling is None:
                continue
            paths = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
            for path, said in _said(component, paths):
                for prefix in spelling.dotted:
                    self._modules.setdefault(prefix + said, (component, path))
                for prefix in spelling.flat:
                    self._modules.setdefault(prefix + said.replace(".", "_"), (component, path))

    def find(self, module: str) -> tuple[str, str] | None:
        """The component and the path within it of a module as a file spells it."""
        return self._modules.get(module)


def _said(component: str, paths: list[str]) -> Iterator[tuple[str, str]]:
    """Each module's path, and each path that files give it."""
    table = unet.to_original([f"{path}.weight" for path in paths]) if component == "unet" else None
    for path in paths:
        yield path, path
        if table and (old := table.to_original(path)):
            yield path, old
        if component in ("unet", "transformer"):
            if match := _PROCESSOR.search(path):
                start = path[: match.start()]
                yield path, f"{start}.processor.{match[1]}"
                yield path, f"{start}.{match[1]}"
        elif match := _TEXT_ATTENTION.search(path):
            yield path, f"{path[: match.start()]}.self_attn.to_{match[1]}"
    for path in paths:
        if path.startswith("text_model."):
            yield path, path.removeprefix("text_model.")
