"""`/controlnet`: lists of Mikubill/sd-webui-controlnet, and its modules alone (scripts/api.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from sdcore.pictures.given import opaque
from sdcore.server.answer import Answer
from sdcore.server.fields import FieldError, Fields
from sdcore.server.pictures import in_base64, picture_from_text
from sdcore.server.preprocessors import MODULES, Module, find_module
from sdcore.server.state import json_fields, state_of
from sdcore.server.units import MOST_UNITS

__all__ = ["control_types", "detect", "model_list", "module_list", "settings", "version"]

_VERSION = 3  # of the fields of units
_MOST_PICTURES = 16  # of a request
_NONE = "None"
# What clients sort modules and models by, and further words for it in the names of models.
_TYPES = {
    **dict.fromkeys(("Canny", "Depth", "InstructP2P", "Inpaint", "Lineart", "MLSD"), ()),
    **dict.fromkeys(("OpenPose", "Recolor", "Shuffle", "SoftEdge"), ()),
    "IP-Adapter": ("ip_adapter", "ipadapter"),
    "NormalMap": ("normal",),
    "Scribble": ("sketch",),
    "Segmentation": ("seg",),
    "Tile": ("blur",),
}


async def version(request: Request) -> Response:
    return Answer({"version": _VERSION})


async def settings(request: Request) -> Response:
    return Answer({"control_net_unit_count": MOST_UNITS})


async def model_list(request: Request) -> Response:
    controls = state_of(request).controls
    if request.query_params.get("update", "true").lower() not in ("false", "0"):
        await run_in_threadpool(controls.refresh)
    return Answer({"model_list": [model.name for model in controls.all]})


async def module_list(request: Request) -> Response:
    alias = request.query_params.get("alias_names", "false").lower() in ("true", "1")
    modules = {one.label if alias else one.name: one for one in MODULES.values()}
    details = {
        name: {"model_free": False, "sliders": [one.listed() for one in module.sliders.values()]}
        for name, module in modules.items()
    }
    return Answer({"module_list": list(modules), "module_detail": details})


async def control_types(request: Request) -> Response:
    models = [model.name for model in state_of(request).controls.all]
    every = _type(list(MODULES.values()), models)
    every |= {"default_option": "none", "default_model": _NONE}
    found = {name: _type(list(_modules(name)), _models(name, models)) for name in _TYPES}
    return Answer({"control_types": {"All": every, **found}})


def _type(modules: list[Module], models: list[str]) -> dict[str, Any]:
    """What is usual comes after the choice of none, if there is any."""
    labels, names = [module.label for module in modules], [_NONE, *models]
    return {
        "module_list": labels,
        "model_list": names,
        "default_option": labels[:2][-1],
        "default_model": names[:2][-1],
    }


def _modules(kind: str) -> Iterator[Module]:
    return (one for one in MODULES.values() if one.name == "none" or kind in one.tags)


def _models(kind: str, models: list[str]) -> list[str]:
    words = (kind.lower(), *_TYPES[kind])
    return [name for name in models if any(word in name.lower() for word in words)]


async def detect(request: Request) -> Response:
    values = await json_fields(request)
    return Answer(await run_in_threadpool(_detect, values))


def _detect(values: dict[str, Any]) -> dict[str, Any]:
    """What a module makes of pictures."""
    fields, field = Fields(values), "controlnet_input_images"
    module = find_module(fields.text("controlnet_module", "none"), "controlnet_module")
    if module.of_ip_adapters or module.paints:
        raise FieldError("controlnet_module", f"'{module.name}' makes no picture")
    prefix = "controlnet_"
    own = Fields({name.removeprefix(prefix): value for name, value in values.items()})
    sent = fields.any(field, [])
    if not isinstance(sent, list) or not 1 <= len(sent) <= _MOST_PICTURES:
        raise FieldError(field, f"must be a list of 1 to {_MOST_PICTURES} pictures")
    set_to = module.values(own)
    pictures = (opaque(picture_from_text(one, field)) for one in sent)
    made = [in_base64(module.make(one, set_to)) for one in pictures]
    return {"images": made, "info": "Success"}
