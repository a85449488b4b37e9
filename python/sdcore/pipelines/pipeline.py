"""DiffusionPipeline: open a model, give it a prompt, get pictures."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sdcore import _core, checkpoint
from sdcore.errors import CancelledError, FileError, InvalidArgumentError
from sdcore.models.base import RunOptions
from sdcore.pipelines.export import export
from sdcore.pipelines.loading import Parts, PathLike, check_device, load_parts
from sdcore.pipelines.stream import PipelineOutput, Step, Stream
from sdcore.schedulers import Scheduler

__all__ = ["DiffusionPipeline"]

Array = NDArray[np.float32]
StepCallback = Callable[["DiffusionPipeline", int, float, dict[str, Any]], Any]

_OUTPUT_TYPES = ("pil", "np", "latent")
_MAX_SIDE = 8192  # pixels; beyond it a typo is likelier than a wish


@dataclass(frozen=True)
class _Request:
    """One call, checked and with every default filled in."""

    prompts: list[str]  # one an image
    negative_prompts: list[str]
    height: int
    width: int
    steps: int
    guidance_scale: float
    seeds: list[int]
    eta: float
    latents: Array | None
    output_type: str


class DiffusionPipeline:
    """Text to image with a Stable Diffusion model.

    A pipeline may be called from several threads at once: what changes during a call belongs to the
    call. `scheduler` may be replaced; its `config` is read when a call begins.
    """

    def __init__(self, parts: Parts) -> None:
        self.family = parts.family
        self.unet = parts.unet
        self.vae = parts.vae
        self.text_encoder = parts.text_encoder
        self.tokenizer = parts.tokenizer
        self.scheduler: Scheduler = parts.scheduler

    # -- opening ----------------------------------------

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        threads: int | None = None,
        variant: str | None = None,
        vae: PathLike | None = None,
        text_encoder: PathLike | None = None,
        tokenizer: PathLike | None = None,
        config: PathLike | None = None,
    ) -> DiffusionPipeline:
        """Opens a file or a folder, whatever it is called.

        `dtype` is "f32", "bf16", or "auto" for the fastest good one of this machine. `vae` and
        `text_encoder` are checkpoints that replace a part, `tokenizer` a folder with a vocabulary,
        `config` a diffusers folder whose configs are used in place of what the file implies.
        Raises FileError, CheckpointError or UnsupportedModelError.
        """
        check_device(device)
        source = checkpoint.open_model(path, variant)
        options = RunOptions(dtype=dtype, threads=threads)
        parts = load_parts(
            source,
            options,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            config=config,
        )
        return cls(parts)

    @classmethod
    def from_pretrained(cls, folder: PathLike, **options: Any) -> DiffusionPipeline:
        """Opens a diffusers folder; `options` as for `open`."""
        if not Path(folder).is_dir():
            raise FileError(f"[pipeline] no such folder: '{folder}'")
        return cls.open(folder, **options)

    @classmethod
    def from_single_file(cls, path: PathLike, **options: Any) -> DiffusionPipeline:
        """Opens a .safetensors, .gguf, .ckpt, .pt, .pth or .bin file; `options` as for `open`."""
        if Path(path).is_dir():
            raise InvalidArgumentError(
                f"[pipeline] '{path}' is a folder: open it with from_pretrained"
            )
        return cls.open(path, **options)

    # -- what the model asks for ----------------------------------------

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height that the model was trained at."""
        side = (self.unet.config.sample_size or 64) * self.vae.scale_factor
        return side, side

    default_steps = 20
    default_guidance = 7.0

    # -- running ----------------------------------------

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        eta: float = 0.0,
    ) -> PipelineOutput:
        """Draws `num_images_per_prompt` pictures of each prompt.

        `height` and `width` are in pixels. `seed` is the first image's, image i uses seed + i;
        None draws one, reported in `seeds`. `latents` [n, c, height / 8, width / 8] are noise to
        begin with in place of the seed's. `output_type` is "pil", "np" ([n, h, w, 3] in [0, 1]) or
        "latent". `eta` is DDIM's.

        `callback_on_step_end(pipe, index, timestep, {"latents": …})` runs after each step; a dict
        with "latents" replaces them, and False stops the run with CancelledError.
        """
        stream = self.stream(
            prompt,
            negative_prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            seed=seed,
            latents=latents,
            output_type=output_type,
            eta=eta,
        )
        for step in stream:
            if callback_on_step_end is None:
                continue
            answer = callback_on_step_end(
                self, step.index, step.timestep, {"latents": step.latents}
            )
            if answer is False:
                raise CancelledError(
                    f"[pipeline] stopped by the caller after step {step.index + 1}"
                )
            if isinstance(answer, dict) and "latents" in answer:
                step.latents = np.asarray(answer["latents"], dtype=np.float32)
        return stream.result()

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        output_type: str = "pil",
        eta: float = 0.0,
    ) -> Stream:
        """The same as a generator of steps: `for step in pipe.stream(prompt): …`, then `result()`.

        Arguments are checked here, before the first step.
        """
        prompts = _repeat(prompt, num_images_per_prompt, "prompt")
        negatives = _repeat(negative_prompt, num_images_per_prompt, "negative_prompt")
        if len(negatives) == num_images_per_prompt:
            negatives = negatives * (len(prompts) // len(negatives))
        if len(negatives) != len(prompts):
            raise InvalidArgumentError(
                f"[pipeline] there are {len(prompts)} prompts and {len(negatives)} negative ones"
            )
        first = secrets.randbelow(2**32) if seed is None else _whole(seed, "seed", 0)
        if first + len(prompts) > 2**64:
            raise InvalidArgumentError(f"[pipeline] seeds have 64 bits, got {first}")
        request = _Request(
            prompts=prompts,
            negative_prompts=negatives,
            height=self._side(height, "height"),
            width=self._side(width, "width"),
            steps=_whole(
                self.default_steps if num_inference_steps is None else num_inference_steps,
                "num_inference_steps",
                1,
            ),
            guidance_scale=float(
                self.default_guidance if guidance_scale is None else guidance_scale
            ),
            seeds=[first + i for i in range(len(prompts))],
            eta=float(eta),
            latents=None if latents is None else np.asarray(latents, dtype=np.float32),
            output_type=output_type,
        )
        if output_type not in _OUTPUT_TYPES:
            raise InvalidArgumentError(
                f"[pipeline] output_type must be pil, np or latent, got {output_type!r}"
            )
        scheduler = self._new_scheduler(request)
        noise = [_core.TorchRandom(s) for s in request.seeds]
        start = self._first_latents(request, noise) * np.float32(scheduler.init_noise_sigma)
        return Stream(
            self._steps(request, scheduler, noise, start), lambda x: self._finish(request, x)
        )

    def export(self, path: PathLike, steps: int | Iterable[int] = 20, dtype: str = "auto") -> None:
        """Writes one GGUF file that a C or C++ program draws with, bit for bit as here (sdcore.h).

        The program can draw in those numbers of steps that are named in `steps`.
        """
        export(self, path, steps, dtype)

    def encode_prompt(self, prompts: Sequence[str]) -> Array:
        """Hidden states `[n, 77, d]` of prompts."""
        return self.text_encoder(self.tokenizer(list(prompts)))

    # -- inside ----------------------------------------

    def _side(self, pixels: int | None, name: str) -> int:
        multiple = self.vae.scale_factor
        value = self.default_size[name == "height"] if pixels is None else pixels
        value = _whole(value, name, multiple)
        if value % multiple or value > _MAX_SIDE:
            low = min(value // multiple * multiple, _MAX_SIDE)
            raise InvalidArgumentError(
                f"[pipeline] {name} must be a multiple of {multiple} and at most {_MAX_SIDE}, "
                f"got {value}; try {low}"
            )
        return value

    def _new_scheduler(self, request: _Request) -> Scheduler:
        """A scheduler of this call's own: two calls never meet."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        options = {"eta": request.eta} if request.eta else {}
        if options and "eta" not in inspect.signature(scheduler.make_table).parameters:
            raise InvalidArgumentError(f"[pipeline] {type(scheduler).__name__} has no eta")
        scheduler.set_timesteps(request.steps, **options)
        return scheduler

    def _latent_shape(self, request: _Request) -> tuple[int, int, int]:
        f = self.vae.scale_factor
        return self.unet.config.in_channels, request.height // f, request.width // f

    def _first_latents(self, request: _Request, noise: Sequence[_core.TorchRandom]) -> Array:
        shape = self._latent_shape(request)
        if request.latents is None:
            return _draw(noise, shape)
        wanted = (len(request.prompts), *shape)
        if request.latents.shape != wanted:
            raise InvalidArgumentError(
                f"[pipeline] latents must be {list(wanted)}, got {list(request.latents.shape)}"
            )
        return request.latents

    def _steps(
        self,
        request: _Request,
        scheduler: Scheduler,
        noise: Sequence[_core.TorchRandom],
        latents: Array,
    ) -> Iterator[Step]:
        guided = request.guidance_scale > 1.0
        prompts = request.negative_prompts + request.prompts if guided else request.prompts
        context = self._encode_unique(prompts)
        rows = scheduler.table.rows
        for index, row in enumerate(rows):
            x = scheduler.scale_model_input(latents, row.timestep)
            out = self.unet(np.concatenate([x, x]) if guided else x, row.timestep, context)
            if guided:
                uncond, cond = np.split(out, 2)
                out = _core.guide(uncond, cond, request.guidance_scale)
            z = _draw(noise, latents.shape[1:]) if row.noise else None
            latents = scheduler.step(out, row.timestep, latents, z)
            step = Step(index, len(rows), row.timestep, latents, scheduler.denoised, self._to_pil)
            yield step
            latents = step.latents

    def _encode_unique(self, prompts: Sequence[str]) -> Array:
        """Each text once, however many images share it."""
        unique = list(dict.fromkeys(prompts))
        states = self.encode_prompt(unique)
        return states[[unique.index(prompt) for prompt in prompts]]

    def _decode(self, latents: Array) -> Array:
        """Latents to pictures [n, h, w, 3] in [0, 1], one at a time to keep memory low."""
        config = self.vae.config
        unscaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
        images = np.concatenate([self.vae.decode(one[None]) for one in unscaled])
        pixels: Array = np.clip(images.transpose(0, 2, 3, 1) / 2 + 0.5, 0.0, 1.0)
        return pixels.astype(np.float32)

    def _to_pil(self, latents: Array) -> list[Image.Image]:
        pixels = np.round(self._decode(latents) * 255).astype(np.uint8)
        return [Image.fromarray(image) for image in pixels]

    def _finish(self, request: _Request, latents: Array) -> PipelineOutput:
        images: Any = latents
        if request.output_type == "np":
            images = self._decode(latents)
        elif request.output_type == "pil":
            images = self._to_pil(latents)
        parameters = {
            "prompt": request.prompts[0],
            "negative_prompt": request.negative_prompts[0],
            "steps": request.steps,
            "sampler": type(self.scheduler).__name__,
            "guidance_scale": request.guidance_scale,
            "width": request.width,
            "height": request.height,
            "eta": request.eta,
        }
        return PipelineOutput(images, request.seeds, parameters)


def _draw(noise: Sequence[_core.TorchRandom], shape: Sequence[int]) -> Array:
    """Each image's next numbers from its own generator, as diffusers does with a list of them."""
    return np.stack([generator.randn(list(shape)) for generator in noise])


def _whole(value: Any, name: str, low: int) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low:
        raise InvalidArgumentError(
            f"[pipeline] {name} must be a whole number >= {low}, got {value!r}"
        )
    return int(value)


def _repeat(texts: str | Sequence[str], times: int, name: str) -> list[str]:
    _whole(times, "num_images_per_prompt", 1)
    listed = [texts] if isinstance(texts, str) else texts
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(isinstance(text, str) for text in listed)
    ):
        raise InvalidArgumentError(f"[pipeline] {name} must be a string or a list of strings")
    return [text for text in listed for _ in range(times)]
