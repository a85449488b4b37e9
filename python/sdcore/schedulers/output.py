"""What a step of a scheduler gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepOutput"]

Array = NDArray[np.float32]


class StepOutput(np.ndarray[Any, np.dtype[np.float32]]):
    """The next sample, an array that scripts for diffusers also find under its names: `prev_sample`
    is the same one, `pred_original_sample` what the step took the clean sample to be. What is
    computed with it is a plain array."""

    pred_original_sample: Array | None

    @classmethod
    def of(cls, sample: Array, denoised: Array) -> StepOutput:
        made = sample.view(cls)
        made.pred_original_sample = denoised
        return made

    def __array_finalize__(self, obj: Any) -> None:
        self.pred_original_sample = None

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else np.asarray(array)

    @property
    def prev_sample(self) -> Array:
        return self.view(np.ndarray)
