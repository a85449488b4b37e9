"""What clients set for later requests, or override in one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sdcore.server.fields import FieldError, Fields
from sdcore.server.state import Options, State

__all__ = ["FORMATS", "changed"]

# The web UI's names of formats, and those of image_io.
FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
_NOISES = ("CPU", "GPU", "NV")


def changed(state: State, values: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """The options with these values, and the names that are no options here."""
    fields, now = Fields(values), state.options
    model = fields.text("sd_model_checkpoint")
    vae = fields.text("sd_vae") or now.sd_vae  # SillyTavern sends none as an empty text
    options = replace(
        now,
        sd_model_checkpoint=state.models.find(model).title if model else now.sd_model_checkpoint,
        sd_vae=state.vaes.find(vae)[0],
        CLIP_stop_at_last_layers=fields.whole("CLIP_stop_at_last_layers", 1, 12)
        or now.CLIP_stop_at_last_layers,
        samples_format=_one_of(fields, "samples_format", FORMATS, now.samples_format),
        jpeg_quality=fields.whole("jpeg_quality", 1, 100) or now.jpeg_quality,
        randn_source=_one_of(fields, "randn_source", _NOISES, now.randn_source),
    )
    return options, fields.unasked()


def _one_of(fields: Fields, name: str, known: Collection[str], default: str) -> str:
    value = fields.text(name, default)
    if value not in known:
        raise FieldError(name, f"must be one of {', '.join(known)}, got {value!r:.80}")
    return value
