"""What is particular to a family of models in a run, and what is usual."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore.models.autoencoders import Autoencoder
from sdcore.pipelines.conditioning import Conditioning, Told, joined, picked
from sdcore.pipelines.guidance import Guidance, GuidancePlusPlus
from sdcore.pipelines.noise import Draws
from sdcore.pipelines.request import Prompt, Request
from sdcore.pipelines.start import Start, begin
from sdcore.prompts.editing import Span, at_step
from sdcore.prompts.lora_tags import split_tags
from sdcore.schedulers import Scheduler
from sdcore.schedulers.base import Row

__all__ = ["FamilyHooks"]

Array = NDArray[np.float32]


class FamilyHooks(ABC):
    """Asked by what draws (denoise.py, request.py, start.py, stages.py); docs/add-a-model.md tells
    when. Most of it has a usual answer."""

    # Whether the denoiser sees a mask, and the latents of a picture without what it covers.
    inpaints: ClassVar[bool] = False
    # Whether it takes latents in place of a picture to begin from.
    begins_from_latents: ClassVar[bool] = True
    # Whether it can be asked about several prompts for one picture, which AND joins.
    composes: ClassVar[bool] = True

    vae: Autoencoder
    default_steps = 20
    default_guidance = 7.0

    @property
    @abstractmethod
    def scheduler(self) -> Scheduler:
        """That of the next run."""

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The network that runs once a step."""

    def words_for_another(self, prompt: str) -> str:
        """A prompt as another model is told it, which has none of this one's adapters."""
        return split_tags(prompt)[0]

    @property
    def companions(self) -> Mapping[str, Any]:
        """Networks that run at each step before it, by name."""
        return {}

    @abstractmethod
    def condition(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        """What the denoiser is told about images of these prompts, a row each."""

    def described(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        """What text encoders make of prompts, a row each."""
        return self.condition(prompts, request)

    def conditions(self, prompts: Sequence[Prompt], request: Request) -> Mapping[int, Conditioning]:
        """The same where it changes on the way: by the step from which on it holds, the first one
        from 0. Steps are a whole schedule's, though a picture to begin from leaves out some."""
        said = self.said(prompts, request)
        if len(said) == 1:
            return {0: self.condition(said[0], request)}
        unique = dict.fromkeys(prompt for told in said.values() for prompt in told)
        rows = self.condition(list(unique), request)
        places = {prompt: i for i, prompt in enumerate(unique)}
        made = {told: picked(rows, [places[p] for p in told]) for told in said.values()}
        return {first: made[told] for first, told in said.items()}

    def said(self, prompts: Sequence[Prompt], request: Request) -> Mapping[int, tuple[Prompt, ...]]:
        """What prompts say that change on the way, by such steps."""
        span = self.span(request)
        timelines = {prompt: prompt.timeline(span) for prompt in dict.fromkeys(prompts)}
        firsts = sorted({first for one in timelines.values() for first in one})
        left_out = request.steps - span.steps
        return {
            first and left_out + first: tuple(at_step(timelines[one], first) for one in prompts)
            for first in firsts
        }

    def span(self, request: Request) -> Span:
        """The steps that prompts count: those that a run makes, or the whole schedule where it is
        shared with another pipeline."""
        left_out = 0 if request.shares_schedule else self.first_step(request)
        return Span(request.steps - left_out, request.steps_before)

    def predict(self, x: Array, timestep: float, told: Told, **more: Any) -> Array:
        """The denoiser's output at scaled latents x; `more` are arguments of its own."""
        return joined(
            (rows, self.ask(x[rows], timestep, part, **more)) for rows, part in told.by_length()
        )

    def ask(self, x: Array, timestep: float, told: Told, **more: Any) -> Array:
        """The same of rows that go into one batch."""
        denoiser = self.denoiser
        out: Array = denoiser(
            x, timestep, told.once(denoiser, lambda: denoiser.tell(**told)), **more
        )
        return out

    def control(self, request: Request) -> Any:
        """What `ask` takes as `control` at each step of a run; None: nothing."""
        return None

    def given_size(self, extra: Mapping[str, Any]) -> tuple[int, int] | None:
        """Width and height of what the family's own arguments bring, where they bring a picture."""
        return None

    def resized(
        self, extra: Mapping[str, Any], size: tuple[int, int], mode: str
    ) -> Mapping[str, Any]:
        """Those of the family's own arguments that are pictures of what is drawn, at this size;
        `mode` is one of RESIZE_MODES."""
        return {}

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height that the model was trained at."""
        side = (self.denoiser.config.sample_size or 64) * self.vae.scale_factor
        return side, side

    @property
    def max_side(self) -> int:
        """Pixels that width and height may have; beyond it a typo is likelier than a wish."""
        return 8192

    @property
    def size_multiple(self) -> int:
        """Pixels that width and height are multiples of."""
        return self.vae.scale_factor

    @property
    def trained_sizes(self) -> Mapping[float, tuple[int, int]]:
        """Widths and heights that pictures are drawn at, by their shape; none: at any."""
        return {}

    def drawn_size(self, width: int, height: int, extra: Mapping[str, Any]) -> tuple[int, int]:
        """Width and height at which a picture of this size is drawn, before it is cut to it;
        `extra` are the family's own arguments."""
        return width, height

    def latent_shape(self, request: Request) -> tuple[int, int, int]:
        f = self.vae.scale_factor
        return self.vae.config.latent_channels, request.height // f, request.width // f

    @property
    def usual_guidance(self) -> float:
        """The model's, for the scheduler that it has now: CFG++ takes a share (its paper's)."""
        return 0.6 if self.scheduler.renoises_negative else self.default_guidance

    def guidance(self, request: Request) -> Guidance:
        """How the model is asked at each step."""
        kind = GuidancePlusPlus if self.scheduler.renoises_negative else Guidance
        return kind(request.guidance_scale, **self.guidance_options(request))

    @abstractmethod
    def guidance_options(self, request: Request) -> dict[str, Any]:
        """What every kind of guidance takes."""

    def keeps_between_steps(self, request: Request) -> Any:
        """What the denoiser's argument `deep` keeps in a run; None: nothing."""
        return None

    def denoiser_options(self, request: Request) -> dict[str, Any]:
        """What the denoiser is told at every step alike, beside the conditioning."""
        return {}

    def step_options(self, request: Request, index: int, steps: int) -> dict[str, Any]:
        """What it is told at one of the steps."""
        return {}

    def first_step(self, request: Request) -> int:
        """How many steps a picture to begin from makes needless."""
        if request.images is None or self.spreads_steps:
            return 0
        return request.steps - self.steps_from_picture(request.steps, request.strength)

    def steps_from_picture(self, steps: int, strength: float) -> int:
        """How many steps, the last of a schedule, are made from a picture."""
        return max(int(steps * strength), 1)

    @property
    def spreads_steps(self) -> bool:
        """Whether all steps are made from a picture too, over a part of the schedule: the
        scheduler's tables then have a `strength`."""
        return False

    def table_options(self, request: Request) -> dict[str, Any]:
        """What the step table is made with, beside the steps and the first of them."""
        if request.images is None or not self.spreads_steps:
            return {}
        return {"strength": request.strength}

    def rows(self, scheduler: Scheduler, request: Request) -> Sequence[Row]:
        """Those of the step table that a call runs."""
        return scheduler.table.rows

    def start(self, request: Request, scheduler: Scheduler, noise: Draws) -> Start:
        """What the first step is given."""
        return begin(self, request, scheduler, noise)
