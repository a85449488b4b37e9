"""What callback_on_step_end may do to the run that calls it, in diffusers' words."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdcore.errors import CancelledError, InvalidArgumentError, MissingAttributeError
from sdcore.pipelines.stream import PipelineOutput, Step, Stream

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["CallbackMixin", "StepCallback", "run_with"]

StepCallback = Callable[["DiffusionPipeline", int, float, dict[str, Any]], Any]


@dataclass
class _Moment:
    """The step of a run whose callback is at work."""

    pipe: Any
    step: Step
    interrupted: bool = False


# A callback's own, so that calls of one pipeline from several threads do not meet.
_moment: ContextVar[_Moment | None] = ContextVar("sdcore_step", default=None)


def run_with(
    pipe: DiffusionPipeline, stream: Stream, callback: StepCallback, inputs: Any
) -> PipelineOutput:
    """Runs all steps, with the callback after each; `inputs` are the names of what it asks for."""
    asked = getattr(callback, "tensor_inputs", inputs)  # of diffusers' PipelineCallback
    if others := [name for name in asked or () if name != "latents"]:
        raise InvalidArgumentError(
            f"[pipeline] a callback is given latents, and no {others[0]}: guidance_start and "
            "guidance_end switch guidance, and [a:b:0.5] in a prompt changes it on the way"
        )
    for step in stream:
        moment = _Moment(pipe, step)
        token = _moment.set(moment)
        try:
            answer = callback(pipe, step.index, step.timestep, {"latents": step.latents})
        finally:
            _moment.reset(token)
        if answer is False:
            raise CancelledError(f"[pipeline] stopped by the caller after step {step.index + 1}")
        if isinstance(answer, dict):
            _take(step, answer)
        if moment.interrupted:
            return stream.result(now=True)
    return stream.result()


def _take(step: Step, answer: dict[str, Any]) -> None:
    if others := sorted(set(answer) - {"latents"}):
        raise InvalidArgumentError(
            f"[pipeline] a callback may give back latents, and gave {others[0]!r}"
        )
    step.latents = answer.get("latents", step.latents)


class CallbackMixin:
    """What a callback finds and changes on the pipeline, of its own call alone."""

    def _moment(self) -> _Moment | None:
        moment = _moment.get()
        return moment if moment is not None and moment.pipe is self else None

    def _within(self, what: str, instead: str) -> _Moment:
        moment = self._moment()
        if moment is None:
            raise MissingAttributeError(
                f"[pipeline] {what} is a call's, and set in its callback_on_step_end; elsewhere "
                f"{instead}"
            )
        return moment

    @property
    def interrupt(self) -> bool:
        """Whether `_interrupt` was set: the run stops after this step, and what it has is decoded.
        False given back by the callback ends it with CancelledError."""
        moment = self._moment()
        return moment is not None and moment.interrupted

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        if value or self._moment() is not None:
            instead = "use stream = pipe.stream(…) and stream.stop()"
            self._within("_interrupt", instead).interrupted = bool(value)

    @property
    def guidance_scale(self) -> float:
        """That of the next step, in a callback; it may be changed."""
        return self._within("guidance_scale", "give it to the call").step.guidance_scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        self._within("guidance_scale", "give it to the call").step.guidance_scale = value

    _guidance_scale = guidance_scale

    @property
    def num_timesteps(self) -> int:
        """How many steps the run makes, in a callback."""
        return self._within("num_timesteps", "a step of pipe.stream(…) knows its total").step.total
