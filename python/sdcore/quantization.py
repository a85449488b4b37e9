"""Numbers in the storage types of ggml: `quantize` makes them, `dequantize` gives floats back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sdcore import _core

__all__ = ["Tensor", "dequantize", "quantize", "types"]

Tensor = _core.Tensor


def quantize(array: npt.ArrayLike | Tensor, type: str) -> Tensor:
    """The same numbers in another storage type, for example `quantize(weight, "q4_K")`.

    `array` is anything that NumPy makes floats of, or a `Tensor`; `type` is a name from
    `types()`, in upper or lower case. The last axis must divide by the block size of the type. The
    block types refuse NaN and infinity.
    """
    if not isinstance(array, Tensor):
        array = Tensor.from_array(np.asarray(array))
    return _core.quantize(array, type)


def dequantize(tensor: Tensor) -> npt.NDArray[np.float32]:
    """The numbers of a tensor as float32, bit for bit as ggml's own `gguf` package gives them."""
    return tensor.to_float()


def types() -> list[dict[str, object]]:
    """Every storage type: name, ggml's number, block size and bytes, whether it can be made."""
    return _core.types()
