"""Where in a file each part of a model lies, and which names it goes by there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    found = find_prefixes(tensors, wanted)
    parts = {name: _part(name, *place, tensors) for name, place in found.items()}
    taken: set[str] = set()
    for part in parts.values():
        inside = {name for name in tensors if name.startswith(part.prefix)}
        taken |= inside.difference(part.unknown)
    left = [name for name in tensors if name not in taken and not is_weightless(name)]
    return parts, left


def find_prefixes(tensors: Iterable[str], wanted: Iterable[str]) -> dict[str, tuple[str, Naming]]:
    """By component, what stands before its names, and whose names these are."""
    wanted = set(wanted)
    found = listed_prefixes(tensors, wanted)
    if absent := wanted.difference(found):
        found |= _other_prefixes(tensors, absent, found)
    return found


def _places(wanted: Collection[str]) -> Iterator[Place]:
    return (p for p in PLACES if p.component in wanted and p.alone not in wanted)


def listed_prefixes(
    tensors: Iterable[str], wanted: Collection[str]
) -> dict[str, tuple[str, Naming]]:
    """By component, the prefix of its names where it is one that files are known to have."""
    found: dict[str, tuple[str, Naming]] = {}
    for place in _places(wanted):
        if place.component not in found and (at := _listed(place, tensors)):
            found[place.component] = at
    return found


def _listed(place: Place, tensors: Iterable[str]) -> tuple[str, Naming] | None:
    for prefix in place.prefixes:
        for naming in place.namings:
            roots = tuple(prefix + root for root in naming.roots)
            if any(name.startswith(roots) for name in tensors):
                return prefix, naming
    return None


_LISTED = tuple({
    prefix + root
    for place in PLACES for prefix in place.prefixes
    for naming in place.namings for root in naming.roots
})  # fmt: skip


def is_listed(name: str) -> bool:
    """Whether it is that of a part, behind a prefix that files are known to have."""
    return name.startswith(_LISTED)


# What begins a part's names, behind any prefix. Roots such as `0.weight` are at the end of others.
_ROOTS = {
    root for place in PLACES for naming in place.namings for root in naming.roots
    if not root[0].isdigit()
}  # fmt: skip
_BEGINNING = re.compile(rf"((?:[^.]+\.)*?)({'|'.join(map(re.escape, sorted(_ROOTS)))})")


def _other_prefixes(
    tensors: Iterable[str], absent: Collection[str], found: Mapping[str, tuple[str, Naming]]
) -> dict[str, tuple[str, Naming]]:
    """Likewise of parts that no listed prefix has, whatever stands before their names: one that is
    listed with more or less before it (`diffusion_model.`, `module.first_stage_model.`); or any,
    where it is the only one and a file of the part alone needs none."""
    taken = tuple(prefix for prefix, _ in found.values() if prefix)
    beginnings: dict[str, set[str]] = defaultdict(set)
    for name in tensors:
        if (match := _BEGINNING.match(name)) and not (taken and match[1].startswith(taken)):
            beginnings[match[2]].add(match[1])
    others: dict[str, tuple[str, Naming]] = {}
    for place in _places(absent):
        used = {prefix for prefix, _ in others.values()}
        for naming in place.namings if place.component not in others else ():
            prefixes = set().union(*(beginnings[root] for root in naming.roots)) - used
            if (prefix := _likeliest(place, prefixes, absent)) is not None:
                others[place.component] = prefix, naming
                break
    return others


def _likeliest(place: Place, prefixes: Collection[str], absent: Collection[str]) -> str | None:
    for listed in place.prefixes:
        if own := [prefix for prefix in prefixes if _is_tail(prefix, listed)]:
            return own[0] if len(own) == 1 else None
    free = [prefix for prefix in prefixes if not _is_anothers(prefix, place, absent)]
    return free[0] if len(free) == 1 and "" in place.prefixes else None


def _is_anothers(prefix: str, place: Place, absent: Collection[str]) -> bool:
    """Whether it is listed for a part that is called alike: of another kind, or looked for too."""
    roots = {root for naming in place.namings for root in naming.roots}
    for other in PLACES:
        too = other.component in absent
        if other.component == place.component or (not too and _kind(other) == _kind(place)):
            continue
        alike = any(roots.intersection(naming.roots) for naming in other.namings)
        if alike and any(_is_tail(prefix, listed) for listed in other.prefixes):
            return True
    return False


def _kind(place: Place) -> str:
    return "text encoder" if place.component.startswith("text_encoder") else place.component


def _is_tail(one: str, other: str) -> bool:
    """Whether either ends with the other, at a dot."""
    longer, shorter = sorted((f".{one}", f".{other}"), key=len, reverse=True)
    return bool(one and other) and longer.endswith(shorter)


def _part(component: str, prefix: str, naming: Naming, tensors: Mapping[str, Tensor]) -> Part:
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not is_weightless(name)
    }
    table = naming.table(inner)
    known, unknown = table.apply(inner)
    return Part(component, prefix, naming.name, table, known, [prefix + name for name in unknown])
