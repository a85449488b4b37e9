"""Numbers in the storage types of ggml: `quantize` makes them, `dequantize` gives floats back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sdcore import _core

__all__ = ["Tensor", "dequantize", "quantize", "types"]

Tensor = _core.Tensor


def quantize(
    array: npt.ArrayLike | Tensor, type: str, importance: npt.ArrayLike | None = None
) -> Tensor:
    """The same numbers in another storage type, for example `quantize(weight, "q4_K")`.

    `array` is anything that NumPy makes floats of, or a `Tensor`; `type` is a name from
    `types()`, in upper or lower case. The last axis must divide by the block size of the type. The
    block types refuse NaN and infinity.

    `importance` has a weight for each place along the last axis, such as the mean of the squared
    inputs of a linear layer: the K and IQ types then leave the least error weighed by it, and the
    other types do not look at it. Raises `InvalidArgumentError` if a weight is negative or not
    finite, or if their number is another.
    """
    if not isinstance(array, Tensor):
        array = Tensor.from_array(np.asarray(array))
    weights = None if importance is None else np.asarray(importance, np.float32)
    return _core.quantize(array, type, weights)


def dequantize(tensor: Tensor) -> npt.NDArray[np.float32]:
    """The numbers of a tensor as float32, bit for bit as ggml's own `gguf` package gives them."""
    return tensor.to_float()


def types() -> list[dict[str, object]]:
    """Every storage type: name, ggml's number, block size and bytes, whether it can be made
    here, whether its quantizer weighs errors by importance."""
    return _core.types()
