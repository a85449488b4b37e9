"""DiffusionPipeline: open a model, give it a prompt, get pictures."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore import _core, checkpoint
from sdcore.arguments import as_path, nearest
from sdcore.checkpoint import FAMILIES
from sdcore.errors import (
    FileError,
    InvalidArgumentError,
    UnsupportedModelError,
)
from sdcore.models.base import Loadable, RunOptions, require_place
from sdcore.pipelines.call import Arguments
from sdcore.pipelines.callback import CallbackMixin, StepCallback, run_with
from sdcore.pipelines.embeddings import EmbeddingsMixin
from sdcore.pipelines.encode_prompt import encode_prompts
from sdcore.pipelines.export import TextEncoding, check_target, export
from sdcore.pipelines.families import PIPELINES
from sdcore.pipelines.from_diffusers import DiffusersNames, by_position, open_options
from sdcore.pipelines.hires import second_pass
from sdcore.pipelines.hooks import FamilyHooks
from sdcore.pipelines.loading import (
    ForParts,
    Override,
    Parts,
    PathLike,
    Wanted,
    find_model,
    for_dtypes,
    for_parts,
    load_parts,
    run_options,
    shipped_loras,
)
from sdcore.pipelines.memory import is_tight, is_too_large, tell_memory
from sdcore.pipelines.parameters import parameters
from sdcore.pipelines.parts import check_latents, require_part
from sdcore.pipelines.pictures import cut_to, decode, to_pil, to_torch
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.refined import refined, take_refiner
from sdcore.pipelines.request import Request, make_request
from sdcore.pipelines.stages import Stage, in_turn
from sdcore.pipelines.stream import PipelineOutput, Stream
from sdcore.schedulers import Scheduler
from sdcore.schedulers.base import PROCESSES

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DiffusionPipeline"]

Array = NDArray[np.float32]
P = TypeVar("P", bound="DiffusionPipeline")
Shapes = Mapping[str, Sequence[int]]

_WITH_UNETS = "Stable Diffusion 1.x, 2.x and XL"


class DiffusionPipeline(FamilyHooks, EmbeddingsMixin, CallbackMixin, DiffusersNames):
    """Text to image; `open` gives the subclass of the model's family (`pipelines/families`).

    The parts are attributes, by diffusers' names; `vae` may be exchanged for another pipeline's. A
    pipeline may be called from several threads at
    once: what changes during a call belongs to the call. `scheduler` may be replaced; its `config`
    is read when a call begins.
    """

    registry: ClassVar[Mapping[str, type[DiffusionPipeline]]] = PIPELINES  # by family
    networks: ClassVar[Mapping[str, Loadable]] = {}  # by component, in the order they run in
    optional: ClassVar[Sequence[str]] = ()  # components that it can do without
    tokenizers: ClassVar[Sequence[str]] = ()
    tokenizer_classes: ClassVar[Mapping[str, Any]] = {}  # of those that are not CLIP's
    padding: ClassVar[Mapping[str, str]] = {}  # of tokenizers, where it is not the end of text
    extra_arguments: ClassVar[Sequence[str]] = ()  # that not every family has; see Arguments
    # Networks that may be opened beside the model, and the part that each runs where, unless asked.
    beside: ClassVar[Mapping[str, str]] = {}
    # Arguments that take the place of a prompt, and what the denoiser calls them.
    embeds: ClassVar[Mapping[str, str]] = {}

    def __init__(self, parts: Parts) -> None:
        self.family = parts.family
        self._trained_by = parts.scheduler.trained_by
        self.scheduler = parts.scheduler
        self.default_steps = parts.defaults.steps or self.default_steps
        if parts.defaults.guidance_scale is not None:
            self.default_guidance = parts.defaults.guidance_scale
        for name, part in {**parts.networks, **parts.tokenizers}.items():
            setattr(self, name, part)
        check_latents(self, self.vae)
        self._begin_adapters(FAMILIES[self.family].title, parts.networks)
        self._begin_words(FAMILIES[self.family].title)
        # Whether parts give back their memory as soon as the next one runs.
        self.unload = False
        self.unload = is_tight(self)

    def _best_with(self, parts: Parts, steps: int, guidance: float) -> None:
        """Defaults, where the file does not say its own."""
        if parts.defaults.steps is None:
            self.default_steps = steps
        if parts.defaults.guidance_scale is None:
            self.default_guidance = guidance

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ and name in (*self.networks, *self.tokenizers):
            require_part(self, name, value)
        super().__setattr__(name, value)

    # -- opening ----------------------------------------

    @classmethod
    def open(
        cls: type[P],
        path: PathLike,
        *,
        device: ForParts = "cpu",
        dtype: ForParts = "auto",
        threads: int | None = None,
        variant: str | None = None,
        vae: PathLike | None = None,
        text_encoder: Override = None,
        text_encoder_2: Override = None,
        text_encoder_3: Override = None,
        tokenizer: PathLike | None = None,
        tokenizer_2: PathLike | None = None,
        tokenizer_3: PathLike | None = None,
        controlnet: PathLike | Sequence[PathLike] | None = None,
        config: PathLike | None = None,
        scheduler: Scheduler | None = None,
        quantize: str | None = None,
        stream_weights: bool | None = None,
        torch_dtype: Any = None,
        **unknown: Any,
    ) -> P:
        """Opens a file or a folder, whatever it is called, or "pocket", the model inside sdcore.

        `device` is "cpu", "cuda" or "cuda:1", or one for each part, as {"unet": "cuda"}; what that
        does not name runs on the CPU (docs/cuda.md).
        `dtype` is "f32", "bf16", on a GPU "f16", or "auto" for the fastest good one of this
        machine, or one for each part, as {"unet": "f16"}; what that does not name is "auto".
        `torch_dtype` says it in PyTorch's names, which `dtype` takes too. `vae`, perhaps a tiny
        one (TAESD), and the text encoders are checkpoints that replace a part (False leaves out a
        text encoder that the family can do without), `tokenizer` and those after it folders with a
        vocabulary, `controlnet` what `load_controlnet` takes (docs/controlnet.md), `config` a
        diffusers folder whose configs are used in place of what the file implies, `scheduler` what
        takes the place of the model's own, of any kind.
        `quantize` is a storage type, such as "q8_0" or "q4_K", that the matrices of linear layers
        get on the way (docs/quantization.md): less memory, and less to read at every step.
        `stream_weights` sends weights through a GPU layer by layer; None: those that find no room.
        Raises FileError, CheckpointError, UnsupportedModelError, or InvalidArgumentError if there
        is no such type.
        """
        _refuse_unknown(unknown, inspect.signature(cls.open).parameters)
        device = _devices(device)
        dtype = for_dtypes(dtype if torch_dtype is None else torch_dtype)
        path = find_model(path)
        source = checkpoint.open_model(path, variant)
        family = cls._of(source)
        where = family.networks, device, dtype, family.beside
        options = run_options(*where, threads=threads, stream_weights=stream_weights)
        overrides = {
            "vae": vae,
            "text_encoder": text_encoder,
            "text_encoder_2": text_encoder_2,
            "text_encoder_3": text_encoder_3,
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer_2,
            "tokenizer_3": tokenizer_3,
        }
        parts = load_parts(source, family.wanted(), options, overrides, config, quantize)
        pipe = family(parts if scheduler is None else _with_scheduler(parts, scheduler))
        pipe.lora_dir = shipped_loras(path)
        pipe._open_beside(options, quantize, controlnet=controlnet)
        return pipe

    @classmethod
    def wanted(cls) -> Wanted:
        """What it is put together from."""
        return Wanted(
            cls.networks, cls.optional, cls.tokenizers, cls.padding, cls.tokenizer_classes
        )

    def _open_beside(
        self,
        options: Mapping[str, RunOptions],
        quantize: str | None,
        *,
        controlnet: PathLike | Sequence[PathLike] | None,
    ) -> None:
        """Opens what goes with the model and is no part of it."""
        if controlnet is not None:
            self.load_controlnet(controlnet)

    @classmethod
    def _of(cls: type[P], source: checkpoint.Checkpoint) -> type[P]:
        """The class of a checkpoint's family: a subclass opens its own models only."""
        kind = source.kind
        assert kind is not None  # open_model saw to it
        family = cls.registry.get(kind.family)
        if family is None or not issubclass(family, cls):
            raise UnsupportedModelError(
                f"[pipeline] '{source.path}' holds {kind.title}, which is not for "
                f"{cls.__name__} ({kind.why})"
            )
        return family

    @classmethod
    def from_pretrained(cls: type[P], folder: PathLike, **options: Any) -> P:
        """Opens a diffusers folder, or "pocket", the model in sdcore; `options` as for `open`, or
        diffusers' (docs/from-diffusers.md)."""
        if find_model(folder) == folder and Path(folder).is_file():
            raise FileError(
                f"[pipeline] '{folder}' is a file, not a folder: open it with from_single_file"
            )
        return cls.open(folder, **open_options(options))

    @classmethod
    def from_single_file(cls: type[P], path: PathLike, **options: Any) -> P:
        """Opens a .safetensors, .gguf, .ckpt, .pt, .pth or .bin file; `options` as for `open`, or
        diffusers' (docs/from-diffusers.md)."""
        if Path(as_path(path, "[pipeline] a model's file")).is_dir():
            raise InvalidArgumentError(
                f"[pipeline] '{path}' is a folder: open it with from_pretrained"
            )
        return cls.open(path, **open_options(options))

    def export(
        self,
        path: PathLike,
        steps: int | Iterable[int] = 20,
        dtype: str = "auto",
        *,
        overwrite: bool = False,
    ) -> None:
        """Writes one GGUF file that a C or C++ program draws with, bit for bit as here (sdcore.h).

        The program can draw in those numbers of steps that are named in `steps`, from a text, a
        picture or a part of one. LoRAs at work are merged into the weights, quantized ones too.
        Raises UnsupportedModelError for models that are given more than that, and for families that
        the C API does not draw with, and FileError where there is such a file already, unless
        `overwrite` is True.
        """
        check_target(path, overwrite=overwrite)
        merged = self._merged()
        export(merged, merged.text_encoding(), path, steps, dtype)

    def text_encoding(self) -> TextEncoding:
        """How a C program reads prompts for it; raises UnsupportedModelError where none can."""
        raise UnsupportedModelError(
            f"[export] the C API does not draw with {FAMILIES[self.family].title}: use it from "
            "Python, or 'sdcore convert' it"
        )

    # -- adapters, where the family takes none ----------------------------------------

    def load_controlnet(self, path: PathLike | Sequence[PathLike]) -> None:
        """Has a picture say where things lie; see `ControlledPipeline`."""
        raise self._no_adapter(
            "controlnet", "ControlNets are for Stable Diffusion 1.x, 2.x, XL and 3"
        )

    def load_ip_adapter(
        self,
        path: PathLike | Sequence[PathLike],
        image_encoder: PathLike | None = None,
        *,
        subfolder: str | Sequence[str] | None = None,
        weight_name: str | Sequence[str] | None = None,
        image_encoder_folder: PathLike | None = None,
    ) -> None:
        """Has the model read pictures beside the text; see `IPAdapterPipeline`."""
        raise self._no_adapter("ip-adapter", f"IP-Adapters are for {_WITH_UNETS}")

    def load_photomaker_adapter(self, path: PathLike) -> None:
        """Puts a person into prompts, where the family is told of them by SDXL's text encoders;
        see `PhotoMakerPipeline`."""
        raise self._no_adapter("photomaker", "PhotoMaker is for Stable Diffusion XL")

    def _no_adapter(self, place: str, what_for: str) -> UnsupportedModelError:
        title = FAMILIES[self.family].title
        return UnsupportedModelError(f"[{place}] {what_for}, and this is {title}")

    def at_work_beside(self) -> dict[str, str]:
        """What is no part of the model and at work, by its name: what takes it away again."""
        return {}

    # -- planning ----------------------------------------

    @classmethod
    def graphs(
        cls, configs: Mapping[str, Any], width: int, height: int
    ) -> dict[str, tuple[_core.Graph, Shapes]]:
        """What a guided picture of such latents runs before the VAE, by component, and the sizes of
        the inputs; `configs` are those of the networks."""
        raise UnsupportedModelError(f"[plan] {cls.__name__} cannot be planned")

    def needs_only(self, part: Any) -> None:
        """Gives back the memory of all other parts, where there is not enough for all of them: they
        are prepared again when they are wanted. Where there is, only that of their mapped files."""
        kept = [part, *(self.companions.values() if part is self.denoiser else ())]
        parts = (getattr(self, name) for name in self.networks)
        for other in (*parts, *self.companions.values()):
            if other is None or any(other is one for one in kept):
                continue
            if self.unload:
                other.release()
                continue
            for network in other.networks:
                network.release_mapped()

    def release(self) -> None:
        """Gives back the memory of all parts until they run again."""
        tagged = {} if self._last_tagged is None else self._last_tagged[1]
        parts = [getattr(self, name) for name in self.networks]
        for part in (*parts, *self.companions.values(), *tagged.values()):
            if part is not None:
                part.release()

    # Whether guidance asks the model about one prompt after the other: less memory, the same
    # picture. None: where one batch of both does not fit into memory.
    guidance_in_turns: bool | None = None

    def guidance_options(self, request: Request) -> dict[str, Any]:
        in_turns = self.guidance_in_turns
        if in_turns is None:
            images = len(request.prompts)
            in_turns = is_too_large(self, request.width, request.height, images)
        return {
            "rescale": request.guidance_rescale,
            "begin": request.guidance_start,
            "end": request.guidance_end,
            "in_turns": in_turns,
        }

    @property
    def vae_tiling(self) -> bool | None:
        """Whether the VAE does pictures a strip at a time (less memory, more time, no seams);
        None, to begin with: where a whole one does not fit into memory."""
        return self.vae.tiling

    @vae_tiling.setter
    def vae_tiling(self, wanted: bool | None) -> None:
        self.vae.tiling = wanted

    @property
    def scheduler(self) -> Scheduler:
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        _require_scheduler(scheduler)
        if scheduler.trained_by != self._trained_by:
            kinds = Scheduler.registry.values()
            fitting = [kind.__name__ for kind in kinds if kind.process == self._trained_by]
            theirs, own = PROCESSES[scheduler.trained_by], PROCESSES[self._trained_by]
            raise InvalidArgumentError(
                f"[pipeline] {type(scheduler).__name__} is for models of {theirs}, and this is one "
                f"of {own}, for which there is {', '.join(fitting)}; if its file is mistaken, open "
                "the model with scheduler="
            )
        self._scheduler = scheduler

    def to(self: P, *where: Any, **options: Any) -> P:
        """Itself, if it runs there and so: models stay where they are opened (`device=` of `open`)
        and as (`dtype=`)."""
        parts = [getattr(self, name) for name in self.networks]
        networks = [network for part in parts if part is not None for network in part.networks]
        require_place("pipeline", networks, *where, **options)
        return self

    # -- running ----------------------------------------

    def __call__(
        self,
        prompt: Texts | None = None,
        *values: Any,
        negative_prompt: Texts | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **arguments: Unpack[Arguments],
    ) -> PipelineOutput:
        """Draws `num_images_per_prompt` pictures of each prompt; `Arguments` lists what else there
        is to say. The negative prompt may follow the prompt without its name, and so may what
        follows it in diffusers (`call_order`).

        `callback_on_step_end(pipe, index, timestep, {"latents": …})` runs after each step; a dict
        with "latents" replaces them, and False stops the run with CancelledError. It may set
        `pipe._interrupt` to have what there is decoded, and `pipe.guidance_scale`, as in diffusers.
        """
        given: Any = {"negative_prompt": negative_prompt, **arguments}
        stream = self.stream(prompt, **by_position(self.call_order, values, given))
        if callback_on_step_end is None:
            return stream.result()
        inputs = callback_on_step_end_tensor_inputs
        return run_with(self, stream, callback_on_step_end, inputs)

    def encode_prompt(
        self, prompt: Texts | None = None, *values: Any, **arguments: Any
    ) -> tuple[Array | None, ...]:
        """What calls take in place of prompts, in diffusers' order (`encode_order`) and its: for
        one image each, `prompt_embeds` and `negative_prompt_embeds` [n, tokens, channels], then the
        pooled ones [n, channels] where the family has them. The negative ones are None without
        `do_classifier_free_guidance`. Raises InvalidArgumentError."""
        own, negative = encode_prompts(self, prompt, values, arguments)
        pairs = zip(own.values(), negative.values(), strict=True)
        return tuple(encoding for pair in pairs for encoding in pair)

    def stream(
        self,
        prompt: Texts | None = None,
        negative_prompt: Texts | None = None,
        **arguments: Unpack[Arguments],
    ) -> Stream:
        """The same as a generator of steps: `for step in pipe.stream(prompt): …`, then `result()`.

        Arguments are checked here, before the first step.
        """
        given, refiner = take_refiner(self, prompt, negative_prompt, arguments)
        request = make_request(self, prompt, negative_prompt, given)
        first = Stage.of(self, request)
        # Asked again at the first step; what is wrong is said now.
        first.pipe.denoiser_options(request)
        first.pipe.keeps_between_steps(request)
        first.pipe.control(request)
        stages = [first]
        if request.hires is not None:
            stages.append(second_pass(self, request, request.hires))
        if refiner is not None:  # of the last pass, as in A1111's web UI
            stages[-1:] = refined(stages[-1], refiner)
        steps = in_turn(stages, apart=refiner is not None and refiner.keeps_apart(self))
        largest = request.hires or request
        tell_memory(first.pipe, largest.width, largest.height, len(request.prompts))
        switch = None if refiner is None else refiner.switch

        def finish(latents: Array) -> PipelineOutput:
            own = stages if refiner is None else stages[:-1]
            loras = {name: path for one in own for name, path in one.pipe.lora_files.items()}
            more = {"refiner_switch": switch, "lora_files": loras}
            images = stages[-1].pipe._decoded(request, latents)
            return PipelineOutput(images, request.seeds, parameters(first.pipe, request) | more)

        return Stream(steps, finish, [stage.steps for stage in stages])

    def to_pil(self, latents: Array) -> list[Image.Image]:
        """Latents [n, c, h, w] through the VAE."""
        return to_pil(decode(self.vae, latents))

    def _decoded(self, request: Request, latents: Array) -> Any:
        """Latents as the `output_type` that is asked for."""
        if request.output_type == "latent":
            return latents
        self.needs_only(self.vae)
        images = decode(self.vae, latents)
        if request.cut is not None:
            images = cut_to(images, *request.cut)
        if request.output_type == "pil":
            return to_pil(images)
        return to_torch(images) if request.output_type == "pt" else images


def _refuse_unknown(unknown: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in unknown:
        raise InvalidArgumentError(
            f"[pipeline] open has no argument {name!r}{nearest(name, known)}"
        )


def _devices(given: ForParts) -> ForParts:
    """Those of the parts, if they are there."""
    devices = for_parts("device", given)
    for name in {devices} if isinstance(devices, str) else {*devices.values()}:
        _core.check_device(name)
    return devices


def _with_scheduler(parts: Parts, scheduler: Scheduler) -> Parts:
    _require_scheduler(scheduler)
    return dataclasses.replace(parts, scheduler=scheduler)


def _require_scheduler(given: Any) -> None:
    if not isinstance(given, Scheduler):
        raise InvalidArgumentError(
            "[pipeline] scheduler must be one of sdcore's, such as "
            f"sdcore.EulerDiscreteScheduler.from_config(pipe.scheduler.config), got {given!r:.80}"
        )
