"""A run of the sampler as a generator of steps: progress, preview and cancel live outside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdcore import _core

__all__ = ["PipelineOutput", "Step", "Stream"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class PipelineOutput:
    """`images` as `output_type` asked; `seeds`, one an image; `parameters`, the settings used.

    As in diffusers it is a tuple of `images` too, and a dict with them.
    """

    images: Any
    seeds: list[int]
    parameters: dict[str, Any]

    # Nothing looks for it, as in a pipeline of diffusers without a safety checker.
    nsfw_content_detected: ClassVar[None] = None

    def __getitem__(self, key: int | str) -> Any:
        return getattr(self, key) if isinstance(key, str) else (self.images,)[key]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.images,))


@dataclass
class Step:
    """The state after step `index` of `total` (from 0).

    `latents` [n, c, h, w] are what the next step begins with and may be replaced; `denoised` is
    what this step takes the clean latents to be. `guidance_scale` may be changed for those that
    follow in this stage, if the run began with guidance.
    """

    index: int
    total: int
    timestep: float
    latents: Array
    denoised: Array
    pipe: Any = field(repr=False)  # the pipeline that made it
    guidance_scale: float = 1.0

    def preview(self) -> Any:
        """Pictures of `denoised`, through the VAE: a list of PIL images."""
        return self.pipe.to_pil(self.denoised)


class Stream:
    """Iterate for the steps; stop when you like. `result()` runs what is left and decodes.

    `stages` are how many steps each stage makes: one, or more with a second pass or a refiner.
    `stop()`, which any thread may call, ends the step that is being made too: on the CPU whoever
    iterates, or waits for the result, gets CancelledError within the time of one op.
    """

    def __init__(
        self,
        steps: Iterator[Step],
        finish: Callable[[Array], PipelineOutput],
        stages: Sequence[int],
    ) -> None:
        self._steps = steps
        self._finish = finish
        self.stages = tuple(stages)
        self._last: Step | None = None
        self._output: PipelineOutput | None = None
        self._stopped = _core.StopFlag()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Step:
        with self._stopped:
            self._last = next(self._steps)
        return self._last

    def stop(self) -> None:
        """Ends it, for good."""
        self._stopped.set()

    def result(self, now: bool = False) -> PipelineOutput:
        """The pictures; `now`: as the last step left them, without those that would follow."""
        for _ in () if now and self._last else self:
            pass
        if self._output is None:
            assert self._last is not None  # there is no table without a step
            with self._stopped:
                self._output = self._finish(self._last.latents)
        return self._output
