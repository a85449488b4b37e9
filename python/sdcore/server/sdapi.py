"""`/sdapi/v1/txt2img` and `img2img`: what A1111's web UI draws, in its fields."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from sdcore import __version__
from sdcore.image_io import Infotext
from sdcore.pictures.fit import RESIZE_MODES, Size, fitted, in_multiples, resized
from sdcore.pictures.given import opaque
from sdcore.pictures.inpaint import masked
from sdcore.pictures.masks import binary
from sdcore.pictures.upscale import UPSCALERS, enlarged_latents, find_upscaler
from sdcore.pipelines.pictures import encoded_mean
from sdcore.server import options
from sdcore.server.answer import Answer
from sdcore.server.drawing import Drawn, Wanted
from sdcore.server.fields import FieldError, Fields
from sdcore.server.models import Model
from sdcore.server.pictures import MOST_SIDE, in_base64, picture_from_text
from sdcore.server.state import (
    Options,
    Plan,
    State,
    finished,
    json_fields,
    start_drawing,
    state_of,
)
from sdcore.server.units import Given, Scene, Unit, control_arguments, read_units
from sdcore.webui import samplers
from sdcore.webui.settings import RNG_NAMES, hires_steps

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = ["img2img", "txt2img"]

_MOST_PICTURES = 64  # of a request
_STRENGTH = 0.75  # the web UI's, of a picture and of a second pass
_MOST_BLUR = 256  # pixels
# What a masked part begins as, by the web UI's numbers: filled, the original, latent noise, latent
# nothing. The last two are filled first too, for what the VAE sees around the mask.
_CONTENTS, _ORIGINAL = ("original", "original", "noise", "nothing"), 1
_OF_LATENTS = len(RESIZE_MODES)  # the resize_mode that stretches latents in place of the picture

# What is not built, and the values that ask for none of it.
_NOT_BUILT: Mapping[str, tuple[Any, ...]] = {
    "restore_faces": (False,),
    "tiling": (False,),
    "disable_extra_networks": (False,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "s_churn": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "script_name": ("", "None"),
    "infotext": ("",),
}
_NOT_BUILT_HIRES: Mapping[str, tuple[Any, ...]] = {
    "hr_checkpoint_name": ("", "Use same checkpoint"),
}
_NOT_BUILT_IMG2IMG: Mapping[str, tuple[Any, ...]] = {
    "initial_noise_multiplier": (1,),
    "latent_mask": (),
    "mask_round": (True,),
}
# What changes nothing here, or nothing while the above asks for nothing.
_HARMLESS = (
    *("do_not_save_samples", "do_not_save_grid", "force_task_id", "session_hash"),
    *("s_tmin", "s_tmax", "script_args", "firstphase_width", "firstphase_height", "hr_force"),
    *("comments", "seed_enable_extras"),
)
_HIRES = (
    *(*_NOT_BUILT_HIRES, "hr_scale", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y"),
    *("hr_prompt", "hr_negative_prompt", "hr_sampler_name", "hr_scheduler", "hr_cfg"),
    "hr_upscaler",
)
# Settings that an answer has keys for.
_MAIN = ("Steps", "Sampler", "CFG scale", "Seed", "Size", "Model hash", "Model", "Version")
_SAME_SAMPLER, _SAME_SCHEDULER = "Use same sampler", "Use same scheduler"


@dataclass(frozen=True)
class _Asked:
    """A request that has been read."""

    model: Model
    plan: Plan
    options: Options
    restore: bool  # whether the options are for this request alone
    send_images: bool
    echo: dict[str, Any]
    comments: list[str]


async def txt2img(request: Request) -> Response:
    return await _answer(request, "txt2img")


async def img2img(request: Request) -> Response:
    return await _answer(request, "img2img")


async def _answer(request: Request, kind: str) -> Response:
    values = await json_fields(request)
    asked = await run_in_threadpool(_read, request, kind, values)
    state = state_of(request)
    drawn = await finished(request, start_drawing(state, kind, asked.model, asked.plan))
    if not asked.restore:  # only now: the model may be one that cannot be opened
        state.options = asked.options
    return Answer(await run_in_threadpool(_body, asked, drawn))


def _read(request: Request, kind: str, values: dict[str, Any]) -> _Asked:
    state, fields = state_of(request), Fields(values)
    chosen, unknown = options.changed(state, fields.mapping("override_settings"))
    restore = fields.flag("override_settings_restore_afterwards", True)
    fields.refuse(_NOT_BUILT)
    units, comments = read_units(fields, state.controls)
    plan_of = _text_plan if kind == "txt2img" else _picture_plan
    model = state.chosen(chosen)
    plan = _with_refiner(fields, state, model, plan_of(fields, chosen, units))
    comments += fields.notes
    comments += [f"override_settings.{name}: there is no such option here" for name in unknown]
    if fields.flag("save_images"):
        comments.append("save_images: pictures are sent, and never saved here")
    if fields.any("styles"):
        comments.append("styles: there are none here")
    send, keep = fields.flag("send_images", True), fields.flag("include_init_images")
    fields.ignore(*_HARMLESS, *_HIRES, "denoising_strength")
    comments += [f"{name}: there is no such field here" for name in fields.unasked()]
    large = () if keep else ("init_images", "mask", "alwayson_scripts")
    echo = {name: None if name in large else value for name, value in values.items()}
    return _Asked(model, plan, chosen, restore, send, echo, comments)


def _common(fields: Fields, chosen: Options) -> Wanted:
    """What both kinds say."""
    title, old = fields.text("scheduler"), fields.text("sampler_index")
    sampler, schedule = samplers.parted(fields.text("sampler_name") or old)
    if sampler:
        samplers.find(sampler)
    seed, subseed = fields.whole("seed", -1), fields.whole("subseed", -1)
    runs, batch = fields.whole("n_iter", 1) or 1, fields.whole("batch_size", 1) or 1
    if runs * batch > _MOST_PICTURES:
        raise FieldError("n_iter", f"times batch_size is at most {_MOST_PICTURES} pictures")
    layer = fields.whole("clip_skip", -1)  # stable-diffusion.cpp's: -1 and 0 are its default
    if layer is None or layer < 1:
        layer = chosen.CLIP_stop_at_last_layers
    arguments = {
        "width": fields.whole("width", 1, MOST_SIDE),
        "height": fields.whole("height", 1, MOST_SIDE),
        "num_inference_steps": fields.whole("steps", 1),
        "guidance_scale": fields.number("cfg_scale"),
        "eta": fields.number("eta"),
        "subseed_strength": fields.number("subseed_strength") or 0.0,
        "rng": RNG_NAMES[chosen.randn_source.lower()],
    }
    return Wanted(
        prompt=fields.text("prompt"),
        negative_prompt=fields.text("negative_prompt"),
        seed=None if seed == -1 else seed,
        subseed=None if subseed == -1 else subseed,
        runs=runs,
        batch=batch,
        sampler=sampler or None,
        schedule=schedule or title or None,  # a sampler's own name says it first, as in the web UI
        layer=layer,
        arguments=arguments,
    )


def _text_plan(fields: Fields, chosen: Options, units: Sequence[Unit]) -> Plan:
    wanted = _common(fields, chosen)
    if not fields.flag("enable_hr"):
        return lambda pipe: _controlled(pipe, wanted, units, Scene())
    fields.refuse(_NOT_BUILT_HIRES)
    strength = fields.number("denoising_strength")
    strength = _STRENGTH if strength is None else strength
    steps = fields.whole("hr_second_pass_steps", 0) or wanted.arguments["num_inference_steps"]
    sampler, schedule = _of_second_pass(fields)
    wanted = replace(wanted, hires_sampler=sampler, hires_schedule=schedule)
    hires: dict[str, Any] = {
        **_larger(fields),
        "hires_strength": strength,
        "hires_prompt": fields.text("hr_prompt") or None,
        "hires_negative_prompt": fields.text("hr_negative_prompt") or None,
        "hires_guidance_scale": fields.number("hr_cfg"),
        "hires_upscaler": _upscaler(fields),
    }

    def plan(pipe: DiffusionPipeline) -> Wanted:
        own = {}
        if strength > 0:  # the pipeline says what else is wrong with it
            own["hires_steps"] = hires_steps(steps or pipe.default_steps, strength)
        twice = replace(wanted, arguments={**wanted.arguments, **hires, **own})
        return _controlled(pipe, twice, units, Scene())

    return plan


def _upscaler(fields: Fields) -> str:
    """None is the filter that the web UI then resizes by."""
    asked = fields.text("hr_upscaler")
    return UPSCALERS[0] if asked in ("", "None") else fields.found("hr_upscaler", find_upscaler)


def _of_second_pass(fields: Fields) -> tuple[str | None, str | None]:
    """Its sampler and schedule, where they are its own."""
    named = fields.text("hr_sampler_name")
    sampler, schedule = samplers.parted("" if named == _SAME_SAMPLER else named)
    if sampler:
        samplers.find(sampler)
    title = fields.text("hr_scheduler")
    return sampler or None, schedule or (None if title in ("", _SAME_SCHEDULER) else title)


def _with_refiner(fields: Fields, state: State, model: Model, plan: Plan) -> Plan:
    """The same with a refiner, where one is asked for that is not the model itself, as in the web
    UI."""
    name, switch = fields.text("refiner_checkpoint"), fields.number("refiner_switch_at")
    if name in ("", "None") or switch == 1:  # which is never
        return plan
    refiner = state.models.find(name)
    if refiner.path == model.path:
        return plan
    if switch is not None and not 0 < switch < 1:
        raise FieldError("refiner_switch_at", f"must be above 0 and at most 1, got {switch:g}")

    def refined(pipe: DiffusionPipeline) -> Wanted:
        wanted = plan(pipe)
        arguments = {**wanted.arguments, "refiner_switch": switch}
        return replace(wanted, arguments=arguments, refiner=refiner)

    return refined


def _first_size(pipe: DiffusionPipeline, wanted: Wanted) -> Size:
    """As asked, else the model's own."""
    (width, height), given = pipe.default_size, wanted.arguments
    return given["width"] or width, given["height"] or height


def _controlled(
    pipe: DiffusionPipeline, wanted: Wanted, units: Sequence[Unit], scene: Scene
) -> Wanted:
    """The same with ControlNets and IP-Adapters."""
    if not units:
        return wanted
    width, height = _first_size(pipe, wanted)  # else a ControlNet's picture would say it
    takes = getattr(pipe, "control_arguments", ())  # of a family that has ControlNets
    more, seen = control_arguments(units, (width, height), scene, takes)
    arguments = {**wanted.arguments, "width": width, "height": height, **more}
    return replace(wanted, arguments=arguments, units=units, seen=seen)


def _larger(fields: Fields) -> dict[str, Any]:
    """The sides of the second pass, or its scale where none is given."""
    width, height = (fields.whole(f"hr_resize_{side}", 0, MOST_SIDE) or None for side in "xy")
    scale = fields.number("hr_scale") or 2.0
    sides = {"hires_width": width, "hires_height": height}
    return sides if width or height else {"hires_scale": scale}


def _picture_plan(fields: Fields, chosen: Options, units: Sequence[Unit]) -> Plan:
    fields.refuse(_NOT_BUILT_IMG2IMG)
    wanted = _common(fields, chosen)
    images = fields.any("init_images")
    if not isinstance(images, list) or len(images) != 1:
        raise FieldError("init_images", "must be a list of one picture")
    image = opaque(picture_from_text(images[0], "init_images"))
    strength = fields.number("denoising_strength")
    strength = _STRENGTH if strength is None else strength
    edit_scale = fields.number("image_cfg_scale")
    mode = fields.whole("resize_mode", 0, _OF_LATENTS) or 0
    mask, content, around = _mask(fields)
    of_latents, mode = mode == _OF_LATENTS, mode % _OF_LATENTS
    if of_latents and mask is not None and around["padding"] is None:
        raise FieldError("resize_mode", f"cannot be {_OF_LATENTS} with a mask: send 0, 1 or 2")
    resize_mode = RESIZE_MODES[mode]

    def plan(pipe: DiffusionPipeline) -> Wanted:
        size = _size(pipe, image, wanted.arguments)
        begin: dict[str, Any] = {"width": size[0], "height": size[1], "strength": strength}
        if edit_scale and "image_guidance_scale" in pipe.extra_arguments:
            begin["image_guidance_scale"] = edit_scale
        finish = cut = None
        if mask is None and of_latents:
            begin["image"] = _latents(pipe, image, size)
        elif mask is None:
            begin["image"] = resized(image, size, resize_mode)
        else:
            parts = masked(image, mask, size, resize_mode=resize_mode, **around)
            begin |= {"image": parts.image, "mask_image": parts.mask, "masked_content": content}
            finish = parts.restore
            cut = None if around["padding"] is None else parts.cut
        begun = replace(wanted, arguments={**wanted.arguments, **begin}, finish=finish)
        return _controlled(pipe, begun, units, Scene(Given(image, mask), mode, cut))

    return plan


def _latents(pipe: DiffusionPipeline, image: Image.Image, size: Size) -> NDArray[np.float32]:
    """A picture's latents [1, c, h, w], resized in place of it. Raises FieldError."""
    if not pipe.begins_from_latents:
        raise FieldError(
            "resize_mode", f"cannot be {_OF_LATENTS} for this model: send 0 to 2, got {_OF_LATENTS}"
        )
    own, f = in_multiples(image.size, pipe.size_multiple), pipe.vae.scale_factor
    pipe.needs_only(pipe.vae)
    latents = encoded_mean(pipe.vae, fitted(image, *own)[None])
    return enlarged_latents(latents, (size[0] // f, size[1] // f), "Latent")


def _size(pipe: DiffusionPipeline, image: Image.Image, given: Mapping[str, Any]) -> tuple[int, int]:
    """As asked, else the picture's, cut to what the model draws."""
    m = pipe.size_multiple
    width, height = (max(side // m * m, m) for side in image.size)
    return given["width"] or width, given["height"] or height


def _mask(fields: Fields) -> tuple[Image.Image | None, str, dict[str, Any]]:
    """The mask, what the latents begin as under it, and how to paint around it."""
    both = fields.number("mask_blur")
    own = [fields.number(f"mask_blur_{side}") for side in "xy"]
    across, down = (4.0 if one is None else one for one in own) if both is None else (both,) * 2
    fill = fields.whole("inpainting_fill", 0, len(_CONTENTS) - 1) or 0
    invert, whole = fields.flag("inpainting_mask_invert"), fields.flag("inpaint_full_res", True)
    padding = fields.whole("inpaint_full_res_padding", 0) or 0
    content = _CONTENTS[fill]
    sent = fields.any("mask")
    if sent is None or sent == "":
        return None, content, {}
    if not (0 <= across <= _MOST_BLUR and 0 <= down <= _MOST_BLUR):
        raise FieldError("mask_blur", f"must be from 0 to {_MOST_BLUR}")
    mask = binary(picture_from_text(sent, "mask"), invert=invert)
    if whole and mask.getbbox() is None:
        fields.note("mask", "is blank, so all of the picture is drawn over, as in the web UI")
        return None, content, {}
    around = {"blur": (across, down), "fill": fill != _ORIGINAL}
    return mask, content, {**around, "padding": padding if whole else None}


def _body(asked: _Asked, drawn: Drawn) -> dict[str, Any]:
    chosen, images = asked.options, []
    if asked.send_images:
        file_format = options.FORMATS[chosen.samples_format]
        images = [
            in_base64(one.image, one.text, file_format, chosen.jpeg_quality)
            for one in drawn.pictures
        ]
        if images:  # clients take the first for a picture that was drawn
            images += [in_base64(one, "", file_format, chosen.jpeg_quality) for one in drawn.seen]
    info = json.dumps(_info(asked, drawn))
    return {"images": images, "parameters": asked.echo, "info": info}


def _info(asked: _Asked, drawn: Drawn) -> dict[str, Any]:
    """The web UI's keys; `comments` is ours."""
    used, pictures, count = drawn.used, drawn.pictures, len(drawn.pictures)
    prompts = [str(asked.echo.get(name) or "") for name in ("prompt", "negative_prompt")]
    parsed = Infotext.parse(pictures[0].text).settings if pictures else {}
    settings = {key: str(value) for key, value in parsed.items()}
    return {
        "prompt": prompts[0],
        "all_prompts": prompts[:1] * count,
        "negative_prompt": prompts[1],
        "all_negative_prompts": prompts[1:] * count,
        "seed": drawn.first,
        "all_seeds": [one.seed for one in pictures],
        "subseed": drawn.subseed,
        "all_subseeds": [drawn.subseed + one.seed - drawn.first for one in pictures],
        "subseed_strength": used.get("subseed_strength") or 0,
        "width": pictures[0].image.width if pictures else asked.echo.get("width"),
        "height": pictures[0].image.height if pictures else asked.echo.get("height"),
        "sampler_name": drawn.sampler,
        "cfg_scale": used.get("guidance_scale"),
        "steps": used.get("steps"),
        "batch_size": asked.echo.get("batch_size") or 1,
        "restore_faces": False,
        "sd_model_name": drawn.model.name,
        "sd_model_hash": settings.get("Model hash"),
        "denoising_strength": used.get("hires_strength", used.get("strength")),
        "extra_generation_params": {k: v for k, v in settings.items() if k not in _MAIN},
        "index_of_first_image": 0,
        "infotexts": [one.text for one in pictures],
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": int(settings.get("Clip skip", 1)),
        "version": f"sdcore {__version__}",
        "comments": asked.comments + drawn.comments,
    }
