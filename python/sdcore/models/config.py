"""Configs: dataclasses that read the JSON of diffusers and transformers, with their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from sdcore.errors import UnsupportedModelError

__all__ = ["from_json", "per_block", "require_value"]

T = TypeVar("T")


def from_json(cls: type[T], values: Mapping[str, Any]) -> T:
    """A config from a JSON object: fields it does not know are passed over, missing ones take the
    default of the class that wrote the file."""
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{key: value for key, value in values.items() if key in known})


def require_value(model: str, config: Mapping[str, Any], key: str, *allowed: object) -> None:
    """Refuses a config field whose value asks for something that is not built."""
    if key in config and config[key] not in allowed:
        raise UnsupportedModelError(
            f"[{model}] config field {key} is {config[key]!r}; sdcore runs "
            + " or ".join(repr(value) for value in allowed)
        )


def per_block(value: Any, blocks: int, model: str, key: str) -> list[Any]:
    """A field that is one value for all blocks or a list with one a block."""
    if not isinstance(value, (list, tuple)):
        return [value] * blocks
    if len(value) != blocks:
        raise UnsupportedModelError(
            f"[{model}] config field {key} must have {blocks} values, got {len(value)}"
        )
    return list(value)
