"""ControlNets and IP-Adapters that are open beside a model, for the next request too."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sdcore.errors import CheckpointError, UnsupportedModelError
from sdcore.pipelines.memory import is_tight
from sdcore.server.fields import FieldError

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.server.control_models import ControlModel
    from sdcore.server.units import Unit

__all__ = ["Beside"]


class Beside:
    """What goes with one pipeline, which itself stays as it is. The drawing thread alone calls it.

    ControlNets are kept as long as all of them fit into memory beside the model, else those of the
    last request, whose memory is given back after it. Of IP-Adapters it keeps those of the last
    request that had any, in a copy of the pipeline that shares the model's weights.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._pipe = pipe
        self._nets: dict[ControlModel, Any] = {}
        self._tight = False  # whether those do not fit beside the model
        self._adapted: tuple[Sequence[ControlModel], Any] | None = None

    @contextlib.contextmanager
    def at_work(self, units: Sequence[Unit]) -> Iterator[DiffusionPipeline]:
        """The pipeline with these. Raises FieldError for one that is not for this model."""
        nets = [unit for unit in units if not unit.model.is_ip_adapter]
        pipe = self._with_adapters([unit for unit in units if unit.model.is_ip_adapter])
        if not nets:
            yield pipe
            return
        opened, unload = self._opened(pipe, nets), pipe.unload
        pipe.controlnet, pipe.unload = opened, unload or self._tight
        try:
            yield pipe
        finally:
            pipe.controlnet, pipe.unload = (), unload
            if self._tight:
                _give_back(opened)

    def _opened(self, pipe: DiffusionPipeline, units: Sequence[Unit]) -> tuple[Any, ...]:
        """The ControlNets, one a unit."""
        wanted = dict.fromkeys(unit.model for unit in units)
        if not wanted.keys() <= self._nets.keys():
            opened = {one: self._nets.get(one) or self._open(one) for one in wanted}
            self._make_room(pipe)  # what is prepared already would count twice
            together = {**self._nets, **opened}
            if _is_tight(pipe, together):
                self._nets, self._tight = opened, _is_tight(pipe, opened)
            else:
                self._nets, self._tight = together, False
        for unit in units:
            kinds = getattr(self._nets[unit.model].config, "num_control_type", None)
            if kinds is not None and unit.kind is None:
                raise FieldError(
                    "union_control_type",
                    f"must say what '{unit.model.name}' sees, which knows several kinds of picture",
                )
        return tuple(self._nets[unit.model] for unit in units)

    def _open(self, model: ControlModel) -> Any:
        alone: Any = copy.copy(self._pipe)
        with _for_this_model(model):
            alone.load_controlnet(model.path)
        return alone.controlnet[0]

    def _with_adapters(self, units: Sequence[Unit]) -> Any:
        """The pipeline with these IP-Adapters."""
        if not units:
            return self._pipe
        models = [unit.model for unit in units]
        if self._adapted is None or self._adapted[0] != models:
            self._adapted = None
            self._make_room(self._pipe)
            adapted: Any = copy.copy(self._pipe)
            with _for_this_model(*models):
                adapted.load_ip_adapter([model.path for model in models])
            self._adapted = models, adapted
            self._nets = {}  # whether there is room for them is another question now
        pipe = self._adapted[1]
        pipe.set_ip_adapter_scale([unit.weight for unit in units])
        return pipe

    def _make_room(self, pipe: DiffusionPipeline) -> None:
        """Gives back what is prepared, so that memory can be counted; it is prepared again."""
        _give_back([getattr(pipe, name) for name in pipe.networks])
        _give_back(self._nets.values())


def _is_tight(pipe: DiffusionPipeline, nets: dict[ControlModel, Any]) -> bool:
    probe: Any = copy.copy(pipe)
    probe.controlnet = tuple(nets.values())
    return is_tight(probe)


def _give_back(parts: Any) -> None:
    for part in parts:
        if part is not None:
            part.release()


@contextlib.contextmanager
def _for_this_model(*models: ControlModel) -> Iterator[None]:
    """What a client chose wrongly is an error of his."""
    try:
        yield
    except (CheckpointError, UnsupportedModelError) as error:
        names = " and ".join(f"'{model.name}'" for model in models)
        raise FieldError("model", f"{names} cannot be used here: {error}") from error
