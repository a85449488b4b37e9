"""Where in a file each part of a model lies, and which names it goes by there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sdcore.checkpoint.families import FAMILIES
from sdcore.checkpoint.family import DENOISER, Naming, Place
from sdcore.checkpoint.names.table import NameTable
from sdcore.checkpoint.namings import CLIP, CLIP_VISION, OPEN_CLIP, OPEN_CLIP_VISION, T5, UNET, VAE
from sdcore.checkpoint.tensor import Tensor


@dataclass(frozen=True)
class Part:
    """A part as it lies in a file."""

    component: str
    prefix: str
    naming: str
    table: NameTable
    tensors: dict[str, Tensor]  # diffusers' names
    unknown: list[str]  # names that the table does not know, as in the file


PLACES = (
    *dict.fromkeys(place for family in FAMILIES.values() for place in family.places),
    Place("unet", (*DENOISER, "unet.", ""), UNET),
    Place("vae", ("first_stage_model.", "vae.", ""), VAE),
    Place(
        "text_encoder",
        (
            "cond_stage_model.transformer.",
            "conditioner.embedders.0.transformer.",
            "text_encoders.clip_l.transformer.",
            "text_encoder.",
            "",
        ),
        (CLIP,),
    ),
    Place(
        "text_encoder",
        ("cond_stage_model.model.", "conditioner.embedders.0.model.", "text_encoder.", ""),
        (OPEN_CLIP,),
    ),
    Place(
        "text_encoder_2",
        (
            "conditioner.embedders.1.model.",
            "text_encoders.clip_g.transformer.",
            "text_encoder_2.",
        ),
        (OPEN_CLIP, CLIP),
    ),
    # SDXL's refiner: what is the second text encoder of the base is its only one.
    Place(
        "text_encoder_2",
        ("conditioner.embedders.0.model.", "text_encoder."),
        (OPEN_CLIP, CLIP),
        alone="text_encoder",
    ),
    Place("text_encoder", ("text_encoder.", ""), T5),
    Place("image_encoder", ("image_encoder.", ""), (CLIP_VISION,)),
    Place("image_encoder", ("visual.",), (OPEN_CLIP_VISION,)),
)

# Schedules, counters and tied copies: they carry no weights, and every published file has some.
_WEIGHTLESS_ANYWHERE = ("position_ids", "logit_scale")
_WEIGHTLESS = re.compile(
    r"(betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|logvar)$"
    r"|(scale_factor|denoiser\.sigmas|v_pred|ztsnr|edm_mean|edm_std|edm_vpred\.sigma_(min|max))$"
)


def is_weightless(name: str) -> bool:
    return name.rpartition(".")[2] in _WEIGHTLESS_ANYWHERE or bool(_WEIGHTLESS.match(name))


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
