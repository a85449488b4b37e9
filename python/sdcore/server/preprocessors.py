"""Modules: what becomes of a unit's picture before a ControlNet or an IP-Adapter sees it.

Names, labels and sliders are those of Mikubill/sd-webui-controlnet
(scripts/preprocessor/model_free_preprocessors.py and legacy/preprocessor_compiled.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sdcore.pictures.canny import canny
from sdcore.pictures.fit import Size
from sdcore.server.fields import FieldError, Fields
from sdcore.server.pictures import MOST_SIDE

__all__ = [
    "FILL",
    "MODULES",
    "SIDE",
    "Module",
    "find_module",
    "painted",
    "pixel_perfect_side",
    "shaped",
]

Values = Mapping[str, float]

SIDE = "processor_res"  # the field that says how many pixels the shorter side has meanwhile
CUT, FILL = 1, 2  # resize modes; 0 stretches


@dataclass(frozen=True)
class Slider:
    """What a field may be; other values mean `value`, as in the web UI."""

    name: str
    low: int
    high: int
    step: int
    value: int

    def read(self, given: float | None) -> float:
        inside = given is not None and self.low <= given <= self.high
        return given if given is not None and inside else float(self.value)

    def listed(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "min": self.low,
            "max": self.high,
            "step": self.step,
        }


@dataclass(frozen=True)
class Module:
    """`sliders` are by the fields of a unit that set them. What `paints` has the ControlNet know
    where a mask is white."""

    name: str
    label: str
    tags: tuple[str, ...] = ()
    of_ip_adapters: bool = False
    paints: bool = False
    sliders: Mapping[str, Slider] = field(default_factory=dict)
    make: Callable[[Image.Image, Values], Image.Image] = lambda picture, values: picture

    def values(self, fields: Fields) -> dict[str, float]:
        """What its sliders are set to."""
        return {name: slider.read(fields.number(name)) for name, slider in self.sliders.items()}


def _canny(picture: Image.Image, values: Values) -> Image.Image:
    low, high = sorted((int(values["threshold_a"]), int(values["threshold_b"])))
    return canny(_with_side(picture, values[SIDE]), low, high)


def _inverted(picture: Image.Image, values: Values) -> Image.Image:
    return ImageOps.invert(picture)


_LINES = ("Canny", "Lineart", "Scribble", "MLSD")
_MODULES = (
    Module("none", "none"),
    Module(
        "canny",
        "canny",
        ("Canny",),
        sliders={
            SIDE: Slider("Resolution", 64, 2048, 8, 512),
            "threshold_a": Slider("Low Threshold", 1, 255, 1, 100),
            "threshold_b": Slider("High Threshold", 1, 255, 1, 200),
        },
        make=_canny,
    ),
    Module("invert", "invert (from white bg & black line)", _LINES, make=_inverted),
    Module("inpaint", "inpaint_global_harmonious", ("Inpaint",), paints=True),
    # Which encoder an IP-Adapter reads its picture with is known from its file: all mean the same.
    *(
        Module(name, label, ("IP-Adapter",), of_ip_adapters=True)
        for name, label in {
            "ip-adapter-auto": "ip-adapter-auto",
            "ip-adapter_clip_sd15": "ip-adapter_clip_h",
            "ip-adapter_clip_sdxl": "ip-adapter_clip_g",
            "ip-adapter_clip_sdxl_plus_vith": "ip-adapter_clip_sdxl_plus_vith",
        }.items()
    ),
)
MODULES: Mapping[str, Module] = {module.name: module for module in _MODULES}


def find_module(name: str, field: str = "module") -> Module:
    """By name or label. Raises FieldError."""
    for module in MODULES.values():
        if name.lower() in (module.name.lower(), module.label.lower()):
            return module
    raise FieldError(field, f"'{name:.80}' is not built here; there are: {', '.join(MODULES)}")


def _with_side(picture: Image.Image, side: float) -> Image.Image:
    """With so many pixels on the shorter side."""
    times = min(side / min(picture.size), MOST_SIDE / max(picture.size))
    width, height = (max(round(length * times), 1) for length in picture.size)
    smooth = Image.Resampling.BICUBIC if times > 1 else Image.Resampling.BOX
    return picture.resize((width, height), smooth)


def pixel_perfect_side(picture: Image.Image, size: Size, resize_mode: int) -> int:
    """The shorter side with which a pixel of the picture is one of what is drawn."""
    times = [new / old for new, old in zip(size, picture.size, strict=True)]
    return round((min if resize_mode == FILL else max)(times) * min(picture.size))


def shaped(
    picture: Image.Image, size: Size, resize_mode: int, border: int | None = None
) -> Image.Image:
    """In the proportions of `size`, to which it is resized later, as large as each pass wants it:
    cut about the middle, or whole with a border in the usual colour of its edges. 0: as it is."""
    times = [new / old for new, old in zip(size, picture.size, strict=True)]
    if resize_mode not in (CUT, FILL) or times[0] == times[1]:
        return picture
    if resize_mode == CUT:
        width, height = (round(length / max(times)) for length in size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + max(width, 1), top + max(height, 1)))
    most = max(min(times), max(size) / MOST_SIDE)
    width, height = (max(round(length / most), 1) for length in size)
    if most > min(times):  # the border would be larger than any picture may be
        shorter = [max(int(length * min(times) / most), 1) for length in picture.size]
        picture = picture.resize((shorter[0], shorter[1]), Image.Resampling.BOX)
    colour = _of_edges(picture) if border is None else border
    canvas = Image.new(picture.mode, (width, height), colour)
    canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return canvas


def _of_edges(picture: Image.Image) -> tuple[int, ...]:
    """The median of each channel."""
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(map(int, np.median(edges, axis=0)))


def painted(picture: Image.Image, mask: Image.Image, size: Size) -> NDArray[np.float32]:
    """[h, w, 3]: the picture in [0, 1], and -1 where the mask is white, as ControlNets for
    inpainting were trained to be told where to paint (`hook.py` there)."""
    pixels, white = (
        np.asarray(one.resize(size, Image.Resampling.LANCZOS)) for one in (picture, mask)
    )
    told: NDArray[np.float32] = pixels / np.float32(255)
    told[white > 127] = -1
    return told
