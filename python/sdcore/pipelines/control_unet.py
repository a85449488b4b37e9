"""How a ControlNet and a T2I-Adapter of a UNet are asked in a run of a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.models.controlnet import ControlNetModel
from sdcore.models.t2i_adapter import T2IAdapter
from sdcore.models.unet_graph import Features
from sdcore.pipelines.conditioning import Told
from sdcore.pipelines.control import Additions, Asked, Controller, fitted_control, listed
from sdcore.pipelines.request import whole

__all__ = [
    "AdapterController",
    "Steering",
    "UNetController",
    "contexts",
    "controls_negative",
    "switches",
    "usual_scales",
]

Array = NDArray[np.float32]
Steering = ControlNetModel | T2IAdapter

_KINDS = (
    "0 pose, 1 depth, 2 soft edges or scribble, 3 canny or lines, 4 normals, 5 segments, 6 tile, "
    "7 repaint"
)
_TEXT = "encoder_hidden_states"  # what the conditioning calls its tokens
_IDENTITY_SCALE = 0.8  # of InstantID's published examples
# What a ControlNet is told beside the text, if its config asks for it.
_CONDITIONS = ("text_embeds", "time_ids")


class UNetController(Controller):
    """A ControlNet; `context` are the tokens that it reads, by their name in the conditioning, and
    `soft` whether its upper layers count less, as they do where it guesses."""

    def __init__(
        self, asked: Asked, model: ControlNetModel, guess_mode: bool, soft: bool, context: str
    ) -> None:
        super().__init__(asked)
        self._model = model
        self._guess_mode = guess_mode
        self._soft = soft
        self._context = context
        self._mode = _mode(model, asked.mode)

    @cached_property
    def _features(self) -> Features:
        asked = self.asked
        picture = fitted_control(asked.image, asked.width, asked.height)
        return self._model.embed(picture, self._mode)

    @property
    def speaks_of_negative(self) -> bool:
        return controls_negative(self._model, self._guess_mode)

    def add(self, found: Additions | None, x: Array, timestep: float, told: Told) -> Additions:
        others = {name: told[name] for name in _CONDITIONS if name in told}
        return self._model.residuals(
            x[:, : self._model.config.in_channels],
            timestep,
            told.once(
                (self._model, self._context),
                lambda: self._model.tell(told[self._context], **others),
            ),
            self._features,
            self.asked.scale,
            self._guess_mode or self._soft,
            found,
            self._mode,
        )


class AdapterController(Controller):
    """A T2I-Adapter, which sees its picture once: what it adds is the same at every step."""

    def __init__(self, asked: Asked, model: T2IAdapter) -> None:
        super().__init__(asked)
        self._model = model

    @cached_property
    def _features(self) -> dict[str, Array]:
        asked, config = self.asked, self._model.config
        # To whole squares of what becomes channels: the UNet rounds its sizes up, too.
        width, height = (
            -(-side // config.downscale_factor) * config.downscale_factor
            for side in (asked.width, asked.height)
        )
        found = self._model.features(_seen(asked, config.in_channels, width, height))
        return {f"level.{i}": np.float32(asked.scale) * x for i, x in enumerate(found)}

    def add(self, found: Additions | None, x: Array, timestep: float, told: Told) -> Additions:
        found = found or {}
        own = {
            name: found[name] + features if name in found else features
            for name, features in self._features.items()
        }
        return {**found, **own}


def _seen(asked: Asked, channels: int, width: int, height: int) -> Array:
    """In colours, or in grey as those for edges and sketches see."""
    image = asked.image
    if channels == 3:
        return fitted_control(image, width, height)
    if not isinstance(image, np.ndarray):
        return fitted_control(image.convert("L"), width, height)[:, :1]
    grey = image if image.ndim == 2 else image.mean(axis=2)
    return fitted_control(grey, width, height)[:, :1]


def switches(name: str, extra: Mapping[str, Any], models: Sequence[Steering]) -> list[bool]:
    """`guess_mode` or `control_soft` of each, which T2I-Adapters pass over where others are."""
    found = [bool(one) for one in listed(name, extra, len(models))]
    if any(found) and all(isinstance(model, T2IAdapter) for model in models):
        raise InvalidArgumentError(
            f"[controlnet] {name} is for ControlNets, and there are T2I-Adapters alone"
        )
    return found


def usual_scales(contexts: Sequence[str], usual: float = 1.0) -> list[float]:
    """Of ControlNets that read these, where no scale is given."""
    return [usual if context == _TEXT else _IDENTITY_SCALE for context in contexts]


def contexts(extra: Mapping[str, Any], models: Sequence[Any], face_tokens: str | None) -> list[str]:
    """What each ControlNet reads, by its name in the conditioning. Unless it is said, the first one
    reads InstantID's tokens, as in its published pipelines: nothing in a ControlNet's file tells
    that it was trained on them. T2I-Adapters read nothing."""
    given = listed("control_context", extra, len(models))
    readers = [i for i, model in enumerate(models) if isinstance(model, ControlNetModel)]
    found = []
    for i, word in enumerate(given):
        word = word or ("face" if face_tokens and i in readers[:1] else "text")
        if word not in ("face", "text"):
            raise InvalidArgumentError(
                f"[controlnet] control_context must be 'face' or 'text', got {word!r}"
            )
        context = _TEXT if word == "text" or i not in readers else face_tokens
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


def controls_negative(model: Steering, guess_mode: bool) -> bool:
    """Whether it speaks of the negative prompt too. What guesses, and what was trained on means,
    speaks of the prompt alone, so that guidance is toward it."""
    if isinstance(model, T2IAdapter):
        return True
    return not (guess_mode or model.config.global_pool_conditions)
