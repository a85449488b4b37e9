"""ControlNets on a pipeline: `load_controlnet` and its kin, and how the UNet is asked with them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import checkpoint
from sdcore.checkpoint import FAMILIES
from sdcore.checkpoint.quantized import quantized
from sdcore.errors import CheckpointError, InvalidArgumentError, UnsupportedModelError
from sdcore.models.base import RunOptions
from sdcore.models.controlnet import ControlNetConfig, ControlNetModel
from sdcore.models.unet import UNet2DConditionModel
from sdcore.pipelines.conditioning import Conditioning
from sdcore.pipelines.control import (
    CONTROL_ARGUMENTS,
    Control,
    control_images,
    controls_negative,
    size_of,
)
from sdcore.pipelines.control_files import control_lora, with_base
from sdcore.pipelines.loading import PathLike
from sdcore.pipelines.memory import is_tight
from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Request
from sdcore.pipelines.stream import Stream

__all__ = ["ControlledPipeline"]

Array = NDArray[np.float32]

# What a file without a config does not show, and a copy of the UNet has from it.
_AS_THE_UNET = (
    *("attention_head_dim", "num_attention_heads", "only_cross_attention"),
    *("norm_num_groups", "norm_eps", "downsample_padding", "flip_sin_to_cos", "freq_shift"),
    "addition_time_embed_dim",
)
# A tensor by being there: weights are what is to be added to the UNet's (comfy/controlnet.py).
_DIFFERENCES = ("difference", "control_model.difference")


class ControlledPipeline(DiffusionPipeline):
    """A pipeline whose UNet ControlNets may steer. `controlnet` are those that it has, in their
    order."""

    beside: ClassVar[Mapping[str, str]] = {"controlnet": "unet"}

    unet: UNet2DConditionModel
    controlnet: tuple[ControlNetModel, ...] = ()
    # How they are opened; None: as the UNet runs, in the types that they are stored in.
    _control_options: RunOptions | None = None
    _control_type: str | None = None

    def load_controlnet(self, path: PathLike | Sequence[PathLike]) -> None:
        """Takes these ControlNets, one or more, in place of any that it has.

        A path is a diffusers folder or a file, in lllyasviel's names or diffusers', alone or with
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

    def _open_controlnet(self, path: PathLike) -> ControlNetModel:
        opened = checkpoint.open(path)
        kind = opened.kind
        if kind is None or not kind.family.startswith("control"):
            raise CheckpointError(f"[controlnet] '{path}' holds {opened.title}, and no ControlNet")
        unet: UNet2DConditionModel = self._adapters.base["unet"]  # without LoRAs
        if kind.family == "control-lora":
            part = control_lora(opened, unet)
        elif kind.about.components:
            part = opened.component("controlnet")
        else:
            raise UnsupportedModelError(
                f"[controlnet] '{path}' holds {kind.title}, {kind.about.hint} ({kind.why})"
            )
        if "controlnet" not in opened.configs:
            known = {key: getattr(unet.config, key) for key in _AS_THE_UNET}
            part = dataclasses.replace(part, config=part.config | known)
        config = ControlNetModel.read_config(part.config)
        if odd := _misfit(config, unet, self.vae):
            raise UnsupportedModelError(
                f"[controlnet] '{path}' holds {kind.title}, which does not go with "
                f"{FAMILIES[self.family].title}: {odd}"
            )
        if any(name in opened.tensors for name in _DIFFERENCES):
            part = with_base(part, unet)
        network = unet.network
        options = self._control_options or RunOptions(
            network.dtype, network.isa, network.threads, network.device
        )
        type = self._control_type
        return ControlNetModel.from_component(
            part if type is None else quantized(part, type), options
        )

    def _open_beside(
        self, options: Mapping[str, RunOptions], quantize: str | None, **paths: Any
    ) -> None:
        self._control_options, self._control_type = options["controlnet"], quantize
        if (path := paths.pop("controlnet")) is not None:
            self.load_controlnet(path)
        super()._open_beside(options, quantize, **paths)

    # -- what the model asks for ----------------------------------------

    @property
    def companions(self) -> Mapping[str, Any]:
        models = enumerate(dict.fromkeys(self.controlnet), 1)  # one may be there twice
        return {f"controlnet{f'_{i}' * (i > 1)}": model for i, model in models}

    @property
    @abstractmethod
    def face_tokens(self) -> str | None:
        """What the conditioning calls the tokens that InstantID's ControlNet reads; None: there are
        none."""

    def control(self, request: Request) -> Control | None:
        images = request.extra.get("control_image")
        given = [name for name in CONTROL_ARGUMENTS if request.extra.get(name) is not None]
        if not self.controlnet:
            if given:
                raise InvalidArgumentError(
                    f"[controlnet] {given[0]} is for a ControlNet, and there is none: open the "
                    "model with controlnet=, or load_controlnet first"
                )
            return None
        if images is None:
            raise InvalidArgumentError(
                "[controlnet] there is a ControlNet: give its picture as control_image, or "
                "unload_controlnet first"
            )
        return Control(self.controlnet, request, self.unet.network.device, self.face_tokens)

    def given_size(self, extra: Mapping[str, Any]) -> tuple[int, int] | None:
        """That of the first picture for a ControlNet."""
        images = extra.get("control_image")
        return size_of(images[0]) if images else None

    def stream(
        self, prompt: Texts | None = None, negative_prompt: Texts | None = None, **arguments: Any
    ) -> Stream:
        if arguments.get("control_image") is not None:
            arguments["control_image"] = control_images(arguments["control_image"])
        return super().stream(prompt, negative_prompt, **arguments)

    def guidance_options(self, request: Request) -> dict[str, Any]:
        """In turns where a ControlNet speaks of the prompt alone: its graph is another then."""
        options = super().guidance_options(request)
        guesses = bool(request.extra.get("guess_mode"))
        if not all(controls_negative(model, guesses) for model in self.controlnet):
            options["in_turns"] = True
        return options

    def ask(
        self,
        x: Array,
        timestep: float,
        conditioning: Conditioning,
        *,
        control: Control | None = None,
        **more: Any,
    ) -> Array:
        """The conditioning says of each row whether it is of a negative prompt."""
        if control is None:
            return super().ask(x, timestep, conditioning, **more)
        told = {name: rows for name, rows in conditioning.items() if name != "negative"}
        negative = bool(conditioning["negative"].all())
        return super().ask(
            x,
            timestep,
            told,
            residuals=lambda: control.residuals(x, timestep, told, negative),
            **more,
        )


def _misfit(config: ControlNetConfig, unet: UNet2DConditionModel, vae: Any) -> str | None:
    """What differs from the UNet whose way down a ControlNet copies."""
    names = ["block_out_channels", "layers_per_block"]
    if any("CrossAttn" in kind for kind in config.down_block_types):
        names.append("cross_attention_dim")
    if config.addition_embed_type is not None:
        names.append("projection_class_embeddings_input_dim")
    pairs = [(name, getattr(config, name), getattr(unet.config, name)) for name in names]
    pairs.append(("in_channels", config.in_channels, vae.config.latent_channels))
    pixels = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    pairs.append(("pixels a latent", pixels, vae.scale_factor))
    levels = len(unet.config.block_out_channels)
    for name, own, wanted in pairs:
        own, wanted = (list(v) if isinstance(v, Sequence) else [v] * levels for v in (own, wanted))
        if own != wanted:
            return f"{name} is {_short(own)} there and {_short(wanted)} here"
    return None


def _short(values: Sequence[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values
