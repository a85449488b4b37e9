"""What ControlNets add in one run of a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.errors import InvalidArgumentError
from sdcore.models.controlnet import ControlNetModel
from sdcore.models.unet import Features, Residuals
from sdcore.pipelines.conditioning import Conditioning
from sdcore.pipelines.pictures import as_picture
from sdcore.pipelines.request import Request, finite, whole

__all__ = [
    "CONTROL_ARGUMENTS",
    "Control",
    "contexts",
    "control_images",
    "controls_negative",
    "size_of",
    "usual_scales",
]

Array = NDArray[np.float32]

CONTROL_ARGUMENTS = (
    *("control_image", "controlnet_conditioning_scale"),
    *("control_guidance_start", "control_guidance_end", "guess_mode", "control_mode"),
    "control_context",
)
_KINDS = (
    "0 pose, 1 depth, 2 soft edges or scribble, 3 canny or lines, 4 normals, 5 segments, 6 tile, "
    "7 repaint"
)
_TEXT = "encoder_hidden_states"  # what the conditioning calls its tokens
_IDENTITY_SCALE = 0.8  # of InstantID's published examples
# What a ControlNet is told beside the text, if its config asks for it.
_CONDITIONS = ("text_embeds", "time_ids")


@dataclass(frozen=True)
class _Net:
    """One ControlNet in a run; `begin` and `end` are shares of the steps."""

    model: ControlNetModel
    picture: Array  # [1, 3, height, width] in [0, 1]
    scale: float
    begin: float
    end: float
    guess_mode: bool
    mode: int | None  # of a ControlNet-Union: the kind of its picture
    context: str  # the tokens that it reads, by their name in the conditioning

    @cached_property
    def features(self) -> Features:
        return self.model.embed(self.picture, self.mode)

    def works_at(self, index: int, steps: int) -> bool:
        """As diffusers counts."""
        inside = index / steps >= self.begin and (index + 1) / steps <= self.end
        return inside and self.scale != 0

    def controls_negative(self) -> bool:
        return controls_negative(self.model, self.guess_mode)


class Control:
    """What ControlNets add in one run of a sampler. Outside its interval, one is not run.
    `face_tokens` is what the conditioning calls those of InstantID, where it is at work."""

    def __init__(
        self,
        models: Sequence[ControlNetModel],
        request: Request,
        device: str,
        face_tokens: str | None = None,
    ) -> None:
        extra, n = request.extra, len(models)
        images = extra["control_image"]
        if len(images) != n:
            raise InvalidArgumentError(
                "[controlnet] control_image must be one picture for each ControlNet, got "
                f"{len(images)} for {n}"
            )
        read = contexts(extra, n, face_tokens)
        columns = (
            models,
            [_fitted(image, request.width, request.height) for image in images],
            _each("controlnet_conditioning_scale", extra, usual_scales(read)),
            _each("control_guidance_start", extra, [0.0] * n),
            _each("control_guidance_end", extra, [1.0] * n),
            [bool(extra.get("guess_mode"))] * n,
            [_mode(*pair) for pair in zip(models, _listed("control_mode", extra, n), strict=True)],
            read,
        )
        self._nets = [_Net(*values) for values in zip(*columns, strict=True)]
        for net in self._nets:
            if not 0 <= net.begin < net.end <= 1:
                raise InvalidArgumentError(
                    "[controlnet] control_guidance_start must lie before control_guidance_end, "
                    f"both from 0 to 1, got {net.begin:g} and {net.end:g}"
                )
        self._active: list[_Net] = []
        self._device = device

    def begin_step(self, index: int, steps: int) -> None:
        self._active = [net for net in self._nets if net.works_at(index, steps)]

    def residuals(
        self, x: Array, timestep: float, conditioning: Conditioning, negative: bool
    ) -> Residuals | None:
        """The sum of those at work at this step; None: there are none. `negative`: of a negative
        prompt."""
        found: Residuals | None = None
        for net in self._active:
            if negative and not net.controls_negative():
                continue
            told = {name: conditioning[name] for name in _CONDITIONS if name in conditioning}
            found = net.model.residuals(
                x[:, : net.model.config.in_channels],
                timestep,
                conditioning[net.context],
                net.features,
                net.scale,
                net.guess_mode,
                found,
                net.mode,
                **told,
            )
        if found is None or self._nets[0].model.network.device == self._device:
            return found
        return {name: np.asarray(array, np.float32) for name, array in found.items()}


def _listed(name: str, extra: Mapping[str, Any], count: int) -> list[Any]:
    """A value for each ControlNet, given as one for all or a list."""
    given = extra.get(name)
    listed = list(given) if isinstance(given, list | tuple) else [given] * count
    if len(listed) != count:
        kind = "word" if name == "control_context" else "number"
        raise InvalidArgumentError(
            f"[controlnet] {name} must be one {kind} or {count}, one a ControlNet, got "
            f"{len(listed)}"
        )
    return listed


def usual_scales(contexts: Sequence[str], usual: float = 1.0) -> list[float]:
    """Of ControlNets that read these, where no scale is given."""
    return [usual if context == _TEXT else _IDENTITY_SCALE for context in contexts]


def contexts(extra: Mapping[str, Any], count: int, face_tokens: str | None) -> list[str]:
    """What each ControlNet reads, by its name in the conditioning. Unless it is said, the first one
    reads InstantID's tokens, as in its published pipelines: nothing in a ControlNet's file tells
    that it was trained on them."""
    given = _listed("control_context", extra, count)
    found = []
    for i, word in enumerate(given):
        word = word or ("face" if face_tokens and i == 0 else "text")
        if word not in ("face", "text"):
            raise InvalidArgumentError(
                f"[controlnet] control_context must be 'face' or 'text', got {word!r}"
            )
        context = _TEXT if word == "text" else face_tokens
        if context is None:
            raise InvalidArgumentError(
                "[controlnet] control_context is 'face', and InstantID's adapter is not there: "
                "load_ip_adapter first"
            )
        found.append(context)
    return found


def _mode(model: ControlNetModel, given: Any) -> int | None:
    """The kind of a picture; what is no ControlNet-Union passes it over."""
    kinds = model.config.num_control_type
    if kinds is None:
        return None
    if given is None or whole(given, "control_mode", 0) >= kinds:
        raise InvalidArgumentError(
            f"[controlnet] give a ControlNet-Union the kind of its picture as control_mode, from 0 "
            f"to {kinds - 1} ({_KINDS}), got {given!r}"
        )
    return int(given)


def controls_negative(model: ControlNetModel, guess_mode: bool) -> bool:
    """Whether it speaks of the negative prompt too. What guesses, and what was trained on means,
    speaks of the prompt alone, so that guidance is toward it."""
    return not (guess_mode or model.config.global_pool_conditions)


def control_images(given: Any) -> list[Any]:
    """Pictures, one a ControlNet: images, or arrays of numbers as they are."""
    listed = given if isinstance(given, list | tuple) else [given]
    return [_as_control(one) for one in listed]


def size_of(image: Image.Image | Array) -> tuple[int, int]:
    """Width and height."""
    if isinstance(image, Image.Image):
        return image.size
    return image.shape[1], image.shape[0]


def _as_control(image: Any) -> Image.Image | Array:
    if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        return as_picture(image, "control_image")
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if not fits or 0 in image.shape or not np.isfinite(image).all():
        raise InvalidArgumentError(
            "[controlnet] control_image must be [h, w] or [h, w, 3] finite numbers, "
            f"got {list(image.shape)}"
        )
    return np.asarray(image, np.float32)


def _fitted(image: Image.Image | Array, width: int, height: int) -> Array:
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


def _each(name: str, extra: Mapping[str, Any], defaults: Sequence[float]) -> list[float]:
    """A number for each ControlNet."""
    if extra.get(name) is None:
        return list(defaults)
    return [finite(one, name) for one in _listed(name, extra, len(defaults))]
