"""ControlNets on a pipeline: `load_controlnet` and its kin, and how the denoiser is asked with
them. What they are and how they are asked is the family's: controlled_unet.py, controlled_sd3.py.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import checkpoint
from sdcore.checkpoint import FAMILIES, Checkpoint, Component
from sdcore.checkpoint.quantized import quantized
from sdcore.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from sdcore.models.base import Loadable, RunOptions
from sdcore.pipelines.conditioning import Told
from sdcore.pipelines.control import (
    Control,
    Controller,
    control_images,
    resized_control,
    size_of,
)
from sdcore.pipelines.loading import PathLike
from sdcore.pipelines.memory import is_tight
from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Request
from sdcore.pipelines.stream import Stream

__all__ = ["ControlledPipeline", "Opener", "misfit_of"]

Array = NDArray[np.float32]

_NEVER = "controlnet-other"  # the family of files that no model goes with yet


@dataclasses.dataclass(frozen=True)
class Opener:
    """How a family's files become models. `part` finds in a checkpoint what lies there or is made
    with the model's own weights; `misfit` tells what in a config differs from the model, if
    anything does."""

    model: Loadable
    part: Callable[[Checkpoint], Component]
    misfit: Callable[[Any], str | None]


class ControlledPipeline(DiffusionPipeline):
    """A pipeline whose denoiser ControlNets may steer. `controlnet` are those that it has, in their
    order."""

    # Arguments of a call that ControlNets alone take.
    control_arguments: ClassVar[Sequence[str]] = ()

    controlnet: tuple[Any, ...] = ()
    # How they are opened; None: as the denoiser runs, in the types that they are stored in.
    _control_options: RunOptions | None = None
    _control_type: str | None = None

    def load_controlnet(self, path: PathLike | Sequence[PathLike]) -> None:
        """Takes these ControlNets or T2I-Adapters, one or more, in place of any that it has.

        A path is a diffusers folder or a file, in its makers' names or diffusers', alone or with
        the model that it was trained with. Calls that run go on with those that they began with.
        Raises FileError, CheckpointError, UnsupportedModelError (also for another family's).
        """
        paths: list[Any] = list(path) if isinstance(path, list | tuple) else [path]
        opened = {one: self._open_controlnet(one) for one in dict.fromkeys(paths)}
        self.controlnet = tuple(opened[one] for one in paths)
        self.unload = self.unload or is_tight(self)

    def unload_controlnet(self) -> None:
        """Draws without ControlNets again."""
        self.controlnet = ()

    def at_work_beside(self) -> dict[str, str]:
        own = {"ControlNets": "unload_controlnet"} if self.controlnet else {}
        return super().at_work_beside() | own

    def _open_controlnet(self, path: PathLike) -> Any:
        opened = checkpoint.open(path)
        kind = opened.kind
        if kind is None or not kind.family.startswith(("control", "t2i-adapter")):
            raise CheckpointError(f"[controlnet] '{path}' holds {opened.title}, and no ControlNet")
        opener = self.control_openers().get(kind.family)
        if opener is None:
            elsewhere = f"which does not go with {FAMILIES[self.family].title}"
            why = kind.about.hint if kind.family == _NEVER else elsewhere
            raise UnsupportedModelError(
                f"[controlnet] '{path}' holds {kind.title}, {why} ({kind.why})"
            )
        part = opener.part(opened)
        if odd := opener.misfit(opener.model.read_config(part.config)):
            raise UnsupportedModelError(
                f"[controlnet] '{path}' holds {kind.title}, which does not go with "
                f"{FAMILIES[self.family].title}: {odd}"
            )
        network = self.denoiser.network
        options = self._control_options or RunOptions(
            network.dtype, network.isa, network.threads, network.device
        )
        type = self._control_type
        return opener.model.from_component(part if type is None else quantized(part, type), options)

    @abstractmethod
    def control_openers(self) -> Mapping[str, Opener]:
        """By the families of files that go with this one (`checkpoint/families`)."""

    def _open_beside(
        self, options: Mapping[str, RunOptions], quantize: str | None, **paths: Any
    ) -> None:
        self._control_options, self._control_type = options["controlnet"], quantize
        super()._open_beside(options, quantize, **paths)

    # -- what the model asks for ----------------------------------------

    @property
    def companions(self) -> Mapping[str, Any]:
        models = enumerate(dict.fromkeys(self.controlnet), 1)  # one may be there twice
        return {f"controlnet{f'_{i}' * (i > 1)}": model for i, model in models}

    def usual_control_scales(self, extra: Mapping[str, Any], usual: float) -> list[float]:
        """How strong each ControlNet is where a call, of these arguments, does not say it: as
        `usual`, but for those that were published with another strength."""
        return [usual] * len(self.controlnet)

    @abstractmethod
    def controllers(self, request: Request) -> Sequence[Controller]:
        """The ControlNets as a run asks them."""

    def control(self, request: Request) -> Control | None:
        given = [name for name in self.control_arguments if request.extra.get(name) is not None]
        if not self.controlnet:
            if given:
                raise InvalidArgumentError(
                    f"[controlnet] {given[0]} is for a ControlNet, and there is none: open the "
                    "model with controlnet=, or load_controlnet first"
                )
            return None
        if request.extra.get("control_image") is None:
            raise InvalidArgumentError(
                "[controlnet] there is a ControlNet: give its picture as control_image, or "
                "unload_controlnet first"
            )
        device = self.controlnet[0].network.device
        return Control(self.controllers(request), device, self.denoiser.network.device)

    def given_size(self, extra: Mapping[str, Any]) -> tuple[int, int] | None:
        """That of the first picture for a ControlNet."""
        images = extra.get("control_image")
        return size_of(images[0]) if images else None

    def resized(
        self, extra: Mapping[str, Any], size: tuple[int, int], mode: str
    ) -> Mapping[str, Any]:
        images = extra.get("control_image")
        more = {"control_image": [resized_control(one, size, mode) for one in images or ()]}
        return {**super().resized(extra, size, mode), **(more if images else {})}

    def stream(
        self, prompt: Texts | None = None, negative_prompt: Texts | None = None, **arguments: Any
    ) -> Stream:
        if arguments.get("control_image") is not None:
            arguments["control_image"] = control_images(arguments["control_image"])
        return super().stream(prompt, negative_prompt, **arguments)

    def ask(
        self,
        x: Array,
        timestep: float,
        told: Told,
        *,
        control: Control | None = None,
        **more: Any,
    ) -> Array:
        """The conditioning may say of each row whether it is of a negative prompt."""
        if control is None:
            return super().ask(x, timestep, told, **more)
        negative = "negative" in told and bool(told["negative"].all())
        rest = told.without("negative")
        return super().ask(
            x,
            timestep,
            rest,
            residuals=lambda: control.residuals(x, timestep, rest, negative),
            **more,
        )


def misfit_of(pairs: Sequence[tuple[str, Any, Any]]) -> str | None:
    """What differs, of names, values of a ControlNet, and values of the model."""
    for name, own, wanted in pairs:
        own, wanted = (list(v) if isinstance(v, list | tuple) else [v] for v in (own, wanted))
        if own != wanted:
            return f"{name} is {_short(own)} there and {_short(wanted)} here"
    return None


def _short(values: Sequence[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values
