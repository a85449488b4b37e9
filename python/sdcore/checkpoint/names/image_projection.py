"""Names of IP-Adapter's image projections: its files', after `image_proj.`, and diffusers'.

Files name modules by their places in a list; which kind of projection it is, a tensor tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from sdcore.checkpoint.names.table import NameTable, Row

__all__ = ["KINDS", "resampler_layers", "table"]

_LAYER = re.compile(r"layers\.(\d+)\.")
_MLP: tuple[Row, ...] = (("proj.0", "ff.net.0.proj"), ("proj.2", "ff.net.2"))
# Tensors that only one kind has, the first that is there counts; and diffusers' class.
KINDS: tuple[Row, ...] = (
    ("proj.weight", "ImageProjection"),
    ("proj.3.weight", "IPAdapterFullImageProjection"),
    ("perceiver_resampler.proj_in.weight", "IPAdapterFaceIDPlusImageProjection"),
    ("norm.weight", "IPAdapterFaceIDImageProjection"),
    ("latents", "IPAdapterPlusImageProjection"),
)


def table(kind: str, names: Iterable[str]) -> NameTable:
    """That of a class of diffusers', for a file of these names."""
    return _TABLES[kind](names)


def _resampler(names: Iterable[str]) -> NameTable:
    outer = ("latents", "proj_in", "proj_out", "norm_out")
    rows, fused = resampler_layers(names)
    return NameTable([*((name, name) for name in outer), *rows], fused=fused)


def resampler_layers(
    names: Iterable[str], at: str = ""
) -> tuple[list[Row], list[tuple[str, tuple[str, ...]]]]:
    """Rows and fused tensors of the layers of a resampler, whose names all begin with `at`."""
    inner = (name.removeprefix(at) for name in names if name.startswith(at))
    layers = sorted({match[1] for name in inner if (match := _LAYER.match(name))})
    return (
        [(at + old, at + new) for n in layers for old, new in _layer(n)],
        [
            (
                f"{at}layers.{n}.0.to_kv.weight",
                tuple(f"{at}layers.{n}.attn.to_{x}.weight" for x in "kv"),
            )
            for n in layers
        ],
    )


def _layer(n: str) -> Iterator[Row]:
    for old, new in (
        ("0.norm1", "ln0"),
        ("0.norm2", "ln1"),
        ("0.to_q", "attn.to_q"),
        ("0.to_out", "attn.to_out.0"),
        ("1.0", "ff.0"),
        ("1.1", "ff.1.net.0.proj"),
        ("1.3", "ff.1.net.2"),
    ):
        yield f"layers.{n}.{old}", f"layers.{n}.{new}"


_TABLES: dict[str, Callable[[Iterable[str]], NameTable]] = {
    "ImageProjection": lambda _: NameTable([("proj", "image_embeds"), ("norm", "norm")]),
    "IPAdapterFullImageProjection": lambda _: NameTable([*_MLP, ("proj.3", "norm")]),
    "IPAdapterFaceIDImageProjection": lambda _: NameTable([*_MLP, ("norm", "norm")]),
    "IPAdapterPlusImageProjection": _resampler,
}
