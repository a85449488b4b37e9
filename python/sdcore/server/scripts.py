"""Which of a request's `alwayson_scripts` are switched on: clients send all that a web UI of theirs
has, with most of it off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["is_off"]

# The web UI's own, which repeat fields for its page: its API takes no notice of them.
_OF_THE_PAGE = ("sampler", "seed")
# Where the switch of a script is, which otherwise is its first argument.
_SWITCHES = {"reactor": 1, "roop": 1}
_OFF = ("", "false", "none", "off")  # of a switch that is a text, in small letters
_FLAGS = ("enabled", "enable", "is_enabled", "active", "ad_tab_enable")  # of an object
_ADETAILER, _DETECTOR = "adetailer", "ad_model"


def is_off(name: str, script: Any) -> bool:
    """Whether a script that is called so does nothing with what it is sent, `{"args": [...]}` or
    the arguments themselves. Without any, a script is as its page begins: off."""
    name = name.lower()
    args = script.get("args") if isinstance(script, dict) and "args" in script else script
    listed = args if isinstance(args, list) else [args]
    if name in _OF_THE_PAGE or not any(one not in (None, {}) for one in listed):
        return True
    place = _SWITCHES.get(name, 0)
    if place < len(listed) and _says_no(listed[place]):
        return True
    objects = [one for one in listed if isinstance(one, dict)]
    if name == _ADETAILER:  # it needs a model that finds faces
        return all(_names_no_detector(one) for one in objects)
    return bool(objects) and all(
        any(_says_no(one.get(flag, 1)) for flag in _FLAGS) for one in objects
    )


def _says_no(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.strip().lower() in _OFF)


def _names_no_detector(one: Mapping[str, Any]) -> bool:
    return _says_no(one.get(_DETECTOR) or "") or any(_says_no(one.get(flag, 1)) for flag in _FLAGS)
