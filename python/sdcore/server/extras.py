"""`/sdapi/v1/extra-single-image` and `extra-batch-images`: pictures enlarged by filters, which need
no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from sdcore.image_io import parameters_of
from sdcore.pictures.fit import Size
from sdcore.pictures.given import opaque
from sdcore.pictures.upscale import UPSCALERS, enlarged, find_upscaler
from sdcore.server import options
from sdcore.server.answer import Answer
from sdcore.server.fields import FieldError, Fields
from sdcore.server.pictures import MOST_SIDE, in_base64, seen, stored_picture
from sdcore.server.state import Options, json_fields, state_of

__all__ = ["extra_batch_images", "extra_single_image"]

_NONE = "None"  # which leaves a picture as it is
_MOST_PICTURES = 64  # of a request
_BY_SCALE, _TO_SIZE = 0, 1
_SIZE = 512  # a side, unless given
_NOT_BUILT: Mapping[str, tuple[Any, ...]] = {
    "gfpgan_visibility": (0,),
    "codeformer_visibility": (0,),
}


async def extra_single_image(request: Request) -> Response:
    values = await json_fields(request)
    return Answer(await run_in_threadpool(_single, values, state_of(request).options))


async def extra_batch_images(request: Request) -> Response:
    values = await json_fields(request)
    return Answer(await run_in_threadpool(_batch, values, state_of(request).options))


def _single(values: dict[str, Any], chosen: Options) -> dict[str, Any]:
    fields = Fields(values)
    made, about = _made(fields, fields.any("image"), "image", chosen)
    return {"html_info": f"<p>{about}</p>", "image": made}


def _batch(values: dict[str, Any], chosen: Options) -> dict[str, Any]:
    """Pictures are objects with a name beside their data, or the data alone."""
    fields, name = Fields(values), "imageList"
    sent = fields.any(name)
    if not isinstance(sent, list) or not 1 <= len(sent) <= _MOST_PICTURES:
        raise FieldError(name, f"must be a list of 1 to {_MOST_PICTURES} pictures")
    pictures = [one.get("data") if isinstance(one, dict) else one for one in sent]
    made = [_made(fields, one, name, chosen) for one in pictures]
    return {"html_info": f"<p>{made[-1][1]}</p>", "images": [image for image, _ in made]}


def _made(fields: Fields, sent: Any, name: str, chosen: Options) -> tuple[str, str]:
    """A picture in base64, with the settings that it came with, and what was done to it."""
    fields.refuse(_NOT_BUILT)
    stored = stored_picture(sent, name)
    image = opaque(seen(stored, name))
    first, second = (_upscaler(fields, f"upscaler_{i}") for i in (1, 2))
    share = fields.number("extras_upscaler_2_visibility") or 0.0
    if not 0 <= share <= 1:
        raise FieldError("extras_upscaler_2_visibility", f"must be from 0 to 1, got {share:g}")
    about: dict[str, Any] = {}
    if first != _NONE:
        size, mode, about = _wanted(fields, image.size)
        made = enlarged(image, size, first, mode)
        about["Postprocess upscaler"] = first
        if second != _NONE and share:
            made = Image.blend(made, enlarged(image, size, second, mode), share)
            about["Postprocess upscaler 2"] = second
        image = made
    text, file_format = parameters_of(stored) or "", options.FORMATS[chosen.samples_format]
    info = ", ".join(f"{key}: {value}" for key, value in about.items())
    return in_base64(image, text, file_format, chosen.jpeg_quality), info


def _upscaler(fields: Fields, name: str) -> str:
    return fields.found(name, lambda asked: find_upscaler(asked, (_NONE, *UPSCALERS)), _NONE)


def _wanted(fields: Fields, size: Size) -> tuple[Size, str, dict[str, Any]]:
    """The size, how the picture gets it, and how the web UI says so."""
    if fields.whole("resize_mode", _BY_SCALE, _TO_SIZE) == _TO_SIZE:
        width = fields.whole("upscaling_resize_w", 1, MOST_SIDE) or _SIZE
        height = fields.whole("upscaling_resize_h", 1, MOST_SIDE) or _SIZE
        times = max(width / size[0], height / size[1])
        about: dict[str, Any] = {"Postprocess upscale to": f"{width}x{height}"}
        if fields.flag("upscaling_crop", True):
            return (width, height), "crop", about | {"Postprocess crop to": f"{width}x{height}"}
    else:
        asked = fields.number("upscaling_resize")
        times = 2.0 if asked is None else asked
        about = {"Postprocess upscale by": f"{times:g}"}
    larger = [max(round(side * times), 1) for side in size]
    if times <= 0 or max(larger) > MOST_SIDE:
        raise FieldError(
            "upscaling_resize", f"must give sides of 1 to {MOST_SIDE} pixels, got {times:g}"
        )
    return (larger[0], larger[1]), "stretch", about
