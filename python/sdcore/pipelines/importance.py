"""Importance matrices from running prompts: `collect_importance`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from sdcore import _core
from sdcore.checkpoint.imatrix import ImportanceMatrix
from sdcore.models.base import Model
from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["collect_importance"]

# What a weight is called in the matrix, from its component and its name there.
Naming = Callable[[str, str], str]


def collect_importance(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    naming: Naming = "{}.{}".format,
    components: Collection[str] | None = None,
    on_prompt: Callable[[int], Any] = lambda index: None,
    **arguments: Any,
) -> ImportanceMatrix:
    """Runs the prompts, up to their latents, and sums the squares of what comes into every linear
    layer of the text encoders and the denoiser, or of these `components`; `arguments` are as for a
    call of the pipeline.

    Every layer's input is read once more, so a step takes longer than otherwise. The pipeline must
    not be in use by others meanwhile.
    """
    matrix = ImportanceMatrix()
    with contextlib.ExitStack() as watches:
        for component in pipe.networks if components is None else components:
            if isinstance(getattr(pipe, component), Model):
                watches.enter_context(_watched(pipe, component, naming, matrix))
        for index, prompt in enumerate(prompts):
            pipe(prompt, output_type="latent", **arguments)
            matrix.prompts.append(prompt)
            on_prompt(index)
    return matrix


@contextlib.contextmanager
def _watched(
    pipe: DiffusionPipeline, component: str, naming: Naming, matrix: ImportanceMatrix
) -> Iterator[None]:
    model = getattr(pipe, component)
    watch: Any = _Watched(model.network, component, naming, matrix)
    parts = vars(pipe)  # adapters are not asked: it is the same model
    parts[component] = model.with_network(watch)
    try:
        yield
    finally:
        parts[component] = model


class _Watched:
    """Stands in for a network and adds up what it runs on."""

    def __init__(
        self, network: _core.Network, component: str, naming: Naming, matrix: ImportanceMatrix
    ) -> None:
        self._network = network
        self._component = component
        self._naming = naming
        self._matrix = matrix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def with_graph(self, graph: _core.Graph) -> _Watched:
        network = self._network.with_graph(graph)
        return _Watched(network, self._component, self._naming, self._matrix)

    def run(
        self,
        inputs: Mapping[str, ArrayLike],
        stay: Sequence[str] = (),
        steady: _core.Steady | None = None,
    ) -> dict[str, Any]:
        outputs, squares = self._network.run_with_squares(inputs, steady)
        for name, (sums, count) in squares.items():
            self._matrix.add(self._naming(self._component, name), sums, count)
        return outputs
