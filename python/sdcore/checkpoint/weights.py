"""Strict loading: every tensor that a network needs, in the shape that it needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from sdcore.checkpoint.tensor import FoldedTensor, Tensor, core_tensor, reshaped
from sdcore.errors import CheckpointError

log = logging.getLogger("sdcore")

SHOWN = 4


def check_weights(
    expected: Mapping[str, Sequence[int]],
    tensors: Mapping[str, Tensor],
    where: str = "model",
    source_name: Callable[[str], str] = lambda name: name,
) -> dict[str, Tensor]:
    """The expected tensors, each as a `_core.Tensor` of its expected shape.

    Sizes of one at either end of a shape may come and go: a 1x1 convolution and a linear layer are
    the same numbers, and GGUF drops leading ones. Anything else is an error that names the tensors,
    by `source_name` as in the file. Tensors that nobody asked for are passed over with a log line.
    """
    check_names(expected, tensors, where, source_name)
    if extra := [name for name in tensors if name not in expected]:
        log.info("[checkpoint] %s: passed over %s", where, counted(extra))
    return {name: _reshaped(tensors[name], tuple(shape)) for name, shape in expected.items()}


def check_names(
    expected: Mapping[str, Sequence[int]],
    tensors: Mapping[str, Tensor],
    where: str,
    source_name: Callable[[str], str],
) -> None:
    """Raises CheckpointError as `check_weights`, and makes nothing."""
    missing = [source_name(name) for name in expected if name not in tensors]
    odd = [
        f"{source_name(name)} is {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and _core_of(tensors[name].shape) != _core_of(shape)
    ]
    problems = []
    if missing:
        problems.append(f"{_tensors(len(missing))} missing: {listed(missing)}")
    if odd:
        problems.append(f"{_tensors(len(odd))} of another shape: {listed(odd, '; ')}")
    if problems:
        raise CheckpointError(f"[checkpoint] {where}: {'; '.join(problems)}")


def listed(names: Sequence[str], separator: str = ", ") -> str:
    return separator.join(names[:SHOWN]) + (f"{separator}…" if len(names) > SHOWN else "")


def counted(names: Sequence[str]) -> str:
    return f"{_tensors(len(names))} ({listed(names)})"


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _core_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Without the ones at either end."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if isinstance(tensor, FoldedTensor):
        return tensor.unfold(shape)
    tensor = core_tensor(tensor)
    if tuple(tensor.shape) == shape:
        return tensor
    return reshaped(tensor, shape)
