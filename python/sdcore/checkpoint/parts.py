"""Where in a file each part of a model lies, and which names it goes by there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sdcore.checkpoint.names import clip, mmdit, pixart, t5, unet, vae
from sdcore.checkpoint.names.table import NameTable
from sdcore.checkpoint.tensor import Tensor


@dataclass(frozen=True)
class Naming:
    """`roots` are beginnings of names that no other naming has."""

    name: str
    roots: tuple[str, ...]
    table: Callable[[Iterable[str]], NameTable]


@dataclass(frozen=True)
class Place:
    """`alone`: only in models that have no part of this name."""

    component: str
    prefixes: tuple[str, ...]
    namings: tuple[Naming, ...]
    alone: str | None = None


@dataclass(frozen=True)
class Part:
    """A part as it lies in a file."""

    component: str
    prefix: str
    naming: str
    table: NameTable
    tensors: dict[str, Tensor]  # diffusers' names
    unknown: list[str]  # names that the table does not know, as in the file


_UNET = (
    Naming("original", ("input_blocks.", "middle_block."), unet.original),
    Naming("diffusers", ("down_blocks.", "mid_block."), unet.diffusers),
)
_VAE = (
    Naming("original", ("decoder.mid.", "encoder.mid."), vae.original),
    Naming("diffusers", ("decoder.mid_block.", "encoder.mid_block."), vae.diffusers),
)
_CLIP = Naming("diffusers", ("text_model.encoder.", "encoder.layers."), clip.hugging_face)
_OPEN_CLIP = Naming("openclip", ("transformer.resblocks.",), clip.open_clip)
_T5 = (
    Naming("diffusers", ("encoder.block.",), t5.hugging_face),
    Naming("llama.cpp", ("enc.blk.",), t5.llama_cpp),
)
_TRANSFORMER = (
    Naming("original", ("joint_blocks.",), mmdit.original),
    Naming("original", ("t_block.",), pixart.original),
    Naming("diffusers", ("time_text_embed.",), mmdit.diffusers),
    Naming("diffusers", ("adaln_single.",), pixart.diffusers),
)

PLACES = (
    Place("unet", ("model.diffusion_model.", "model.model.", "net.", "unet.", ""), _UNET),
    Place(
        "transformer",
        ("model.diffusion_model.", "model.model.", "net.", "transformer.", ""),
        _TRANSFORMER,
    ),
    Place("vae", ("first_stage_model.", "vae.", ""), _VAE),
    Place(
        "text_encoder",
        (
            "cond_stage_model.transformer.",
            "conditioner.embedders.0.transformer.",
            "text_encoders.clip_l.transformer.",
            "text_encoder.",
            "",
        ),
        (_CLIP,),
    ),
    Place(
        "text_encoder",
        ("cond_stage_model.model.", "conditioner.embedders.0.model.", "text_encoder.", ""),
        (_OPEN_CLIP,),
    ),
    Place(
        "text_encoder_2",
        (
            "conditioner.embedders.1.model.",
            "text_encoders.clip_g.transformer.",
            "text_encoder_2.",
        ),
        (_OPEN_CLIP, _CLIP),
    ),
    # SDXL's refiner: what is the second text encoder of the base is its only one.
    Place(
        "text_encoder_2",
        ("conditioner.embedders.0.model.", "text_encoder."),
        (_OPEN_CLIP, _CLIP),
        alone="text_encoder",
    ),
    Place("text_encoder", ("text_encoder.", ""), _T5),
    Place("text_encoder_3", ("text_encoders.t5xxl.transformer.", "text_encoder_3."), _T5),
)

# Schedules, counters and tied copies: they carry no weights, and every published file has some.
_WEIGHTLESS = re.compile(
    r"(^|\.)(position_ids|logit_scale)$"
    r"|^(betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|logvar)$"
    r"|^(scale_factor|denoiser\.sigmas|v_pred|ztsnr|edm_mean|edm_std|edm_vpred\.sigma_(min|max))$"
)


def is_weightless(name: str) -> bool:
    return bool(_WEIGHTLESS.search(name))


def find_parts(
    tensors: Mapping[str, Tensor], wanted: Iterable[str]
) -> tuple[dict[str, Part], list[str]]:
    """The parts, and the names of all tensors that belong to none."""
    parts: dict[str, Part] = {}
    taken: set[str] = set()
    wanted = set(wanted)
    for place in PLACES:
        if place.alone in wanted:
            continue
        absent = place.component in wanted and place.component not in parts
        if absent and (part := _part_at(place, tensors)):
            parts[place.component] = part
    for part in parts.values():
        inside = {name for name in tensors if name.startswith(part.prefix)}
        taken |= inside.difference(part.unknown)
    left = [name for name in tensors if name not in taken and not is_weightless(name)]
    return parts, left


def _part_at(place: Place, tensors: Mapping[str, Tensor]) -> Part | None:
    for prefix in place.prefixes:
        for naming in place.namings:
            roots = tuple(prefix + root for root in naming.roots)
            if any(name.startswith(roots) for name in tensors):
                return _part(place.component, prefix, naming, tensors)
    return None


def _part(component: str, prefix: str, naming: Naming, tensors: Mapping[str, Tensor]) -> Part:
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not is_weightless(name)
    }
    table = naming.table(inner)
    known, unknown = table.apply(inner)
    return Part(component, prefix, naming.name, table, known, [prefix + name for name in unknown])
