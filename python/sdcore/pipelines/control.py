"""What ControlNets and T2I-Adapters add in one run of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.errors import InvalidArgumentError
from sdcore.pictures.fit import resized, resized_numbers
from sdcore.pictures.given import as_numbers, as_picture
from sdcore.pipelines.conditioning import Told
from sdcore.pipelines.request import Request, finite

__all__ = [
    "CONTROL_ARGUMENTS",
    "Additions",
    "Asked",
    "Control",
    "Controller",
    "asked_for",
    "control_images",
    "fitted_control",
    "listed",
    "resized_control",
    "size_of",
]

Array = NDArray[np.float32]
# What a denoiser takes as `residuals`: names are its own.
Additions = Mapping[str, Any]

# What arguments are, where they are no numbers.
_WHAT = {
    **{"control_context": "word", "control_mask": "picture"},
    **{"guess_mode": "bool", "control_soft": "bool"},
}

CONTROL_ARGUMENTS = (
    *("control_image", "controlnet_conditioning_scale"),
    *("control_guidance_start", "control_guidance_end", "control_mode"),
)


@dataclass(frozen=True)
class Asked:
    """What one ControlNet or T2I-Adapter is asked for in a run; `begin` and `end` are shares of the
    steps."""

    image: Image.Image | Array
    width: int  # pixels of what is drawn
    height: int
    scale: float
    begin: float
    end: float
    mode: Any = None  # control_mode, as given

    def works_at(self, index: int, steps: int) -> bool:
        """As diffusers counts."""
        inside = index / steps >= self.begin and (index + 1) / steps <= self.end
        return inside and self.scale != 0


class Controller(ABC):
    """One ControlNet or T2I-Adapter in a run."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    @property
    def speaks_of_negative(self) -> bool:
        """Whether it is asked about negative prompts too."""
        return True

    @abstractmethod
    def add(self, found: Additions | None, x: Array, timestep: float, told: Told) -> Additions:
        """What it adds, and what others before it do (`found`)."""


class Control:
    """What is added in one run. Outside its interval, a network is not run. Additions are where the
    first one's network runs, unless the denoiser's `device` is another."""

    def __init__(self, controllers: Sequence[Controller], from_device: str, device: str) -> None:
        self._controllers = controllers
        self._active: list[Controller] = []
        self._moves = from_device != device

    def begin_step(self, index: int, steps: int) -> None:
        self._active = [one for one in self._controllers if one.asked.works_at(index, steps)]

    def residuals(self, x: Array, timestep: float, told: Told, negative: bool) -> Additions | None:
        """The sum of those at work at this step; None: there are none. `negative`: of a negative
        prompt."""
        found: Additions | None = None
        for one in self._active:
            if not negative or one.speaks_of_negative:
                found = one.add(found, x, timestep, told)
        if found is None or not self._moves:
            return found
        return {name: np.asarray(array, np.float32) for name, array in found.items()}


def asked_for(request: Request, count: int, usual_scales: Sequence[float]) -> list[Asked]:
    """What each of so many is asked for, by the arguments of a call."""
    extra = request.extra
    images = extra["control_image"]
    if len(images) != count:
        raise InvalidArgumentError(
            "[controlnet] control_image must be one picture for each ControlNet, got "
            f"{len(images)} for {count}"
        )
    columns = (
        images,
        [request.width] * count,
        [request.height] * count,
        _each("controlnet_conditioning_scale", extra, usual_scales),
        _each("control_guidance_start", extra, [0.0] * count),
        _each("control_guidance_end", extra, [1.0] * count),
        listed("control_mode", extra, count),
    )
    found = [Asked(*values) for values in zip(*columns, strict=True)]
    for one in found:
        if not 0 <= one.begin < one.end <= 1:
            raise InvalidArgumentError(
                "[controlnet] control_guidance_start must lie before control_guidance_end, "
                f"both from 0 to 1, got {one.begin:g} and {one.end:g}"
            )
    return found


def listed(name: str, extra: Mapping[str, Any], count: int) -> list[Any]:
    """A value for each ControlNet, given as one for all or a list."""
    given = extra.get(name)
    values = list(given) if isinstance(given, list | tuple) else [given] * count
    if len(values) != count:
        raise InvalidArgumentError(
            f"[controlnet] {name} must be one {_WHAT.get(name, 'number')} or {count}, one a "
            f"ControlNet, got {len(values)}"
        )
    return values


def _each(name: str, extra: Mapping[str, Any], defaults: Sequence[float]) -> list[float]:
    """A number for each ControlNet."""
    if extra.get(name) is None:
        return list(defaults)
    return [finite(one, name) for one in listed(name, extra, len(defaults))]


def control_images(given: Any) -> list[Any]:
    """Pictures, one a ControlNet: images, or arrays of numbers as they are."""
    images = given if isinstance(given, list | tuple) else [given]
    return [_as_control(one) for one in images]


def size_of(image: Image.Image | Array) -> tuple[int, int]:
    """Width and height."""
    if isinstance(image, Image.Image):
        return image.size
    return image.shape[1], image.shape[0]


def resized_control(
    image: Image.Image | Array, size: tuple[int, int], mode: str
) -> Image.Image | Array:
    """As the picture that it goes with is; `mode` is one of RESIZE_MODES."""
    if isinstance(image, Image.Image):
        return resized(image, size, mode)
    return resized_numbers(image, size, mode)


def _as_control(image: Any) -> Image.Image | Array:
    if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        return as_picture(image, "control_image")
    array = as_numbers(image, "control_image")
    if not np.isfinite(array).all() or np.abs(array).max() * 255 >= 255.5:
        raise InvalidArgumentError(
            "[controlnet] control_image of floats must hold finite numbers from 0 to 1, or from "
            f"-1, got {array.min():g} to {array.max():g}: divide by 255 what has 8 bits"
        )
    return np.asarray(array if array.ndim == 2 else array[..., :3], np.float32)


def fitted_control(image: Image.Image | Array, width: int, height: int) -> Array:
    """[1, 3, height, width], resized as diffusers does. Pictures are in [0, 1]; numbers stay what
    they are, for ControlNets that know others: -1 is where one for inpainting is to paint."""
    size, filter = (width, height), Image.Resampling.LANCZOS
    if isinstance(image, Image.Image):
        pixels = np.asarray(image.convert("RGB").resize(size, filter), np.float32) / 255
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    planes = [image] * 3 if image.ndim == 2 else list(image.transpose(2, 0, 1))
    if image.shape[:2] != (height, width):
        planes = [np.asarray(Image.fromarray(plane).resize(size, filter)) for plane in planes]
    return np.stack(planes)[None]
