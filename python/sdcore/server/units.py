"""ControlNets and IP-Adapters in a request: the units of Mikubill/sd-webui-controlnet.

Fields are those of its `ControlNetUnit` (internal_controlnet/args.py), older names among them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.pictures.fit import RESIZE_MODES, Size
from sdcore.pictures.given import opaque
from sdcore.pictures.masks import binary
from sdcore.pipelines.pictures import to_pil
from sdcore.server.control_models import ControlModel, ControlModels
from sdcore.server.fields import FieldError, Fields
from sdcore.server.pictures import picture_from_text
from sdcore.server.preprocessors import (
    SIDE,
    Module,
    find_module,
    painted,
    pixel_perfect_side,
    shaped,
)
from sdcore.server.scripts import is_off

__all__ = [
    "MOST_UNITS",
    "SCRIPT",
    "Given",
    "Scene",
    "Unit",
    "control_arguments",
    "read_units",
    "settings_of",
]

# What a ControlNet is shown: a picture, or numbers [h, w, 3].
Seen = Image.Image | NDArray[np.float32]

SCRIPT = "controlnet"  # as the web UI lists it
MOST_UNITS = 5  # of a request
_MOST_PICTURES = 8  # of a unit
_MOST_WEIGHT = 2.0
_CONTROL_MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
_BALANCED, _SOFT, _GUESSES = 0, 1, 2
_RESIZE_MODES = ("Just Resize", "Crop and Resize", "Resize and Fill")
_OLD_RESIZE_MODES = {
    "Inner Fit (Scale to Fit)": 1,
    "Scale to Fit (Inner Fit)": 1,
    "Outer Fit (Shrink to Fit)": 2,
    "Envelope (Outer Fit)": 2,
}
# What a ControlNet-Union sees, in the order of its kinds (scripts/enums.py).
_KINDS = ("OpenPose", "Depth", "Soft Edge", "Hard Edge", "Normal Map", "Segmentation")
_HARD_EDGE = 3
_NOT_BUILT: Mapping[str, tuple[Any, ...]] = {
    "hr_option": ("Both",),
    "advanced_weighting": ([],),
    "effective_region_mask": ("",),
    "ipadapter_input": ([],),
    "input_mode": ("simple",),
    "loopback": (False,),
}
_HARMLESS = ("is_ui", "batch_images", "output_dir", "low_vram", "lowvram", "pulid_mode")


@dataclass(frozen=True)
class Given:
    """A picture, and its mask."""

    image: Image.Image
    mask: Image.Image | None = None


@dataclass(frozen=True)
class Unit:
    """One that is enabled; without pictures it sees what an img2img begins from."""

    model: ControlModel
    module: Module
    pictures: Sequence[Given]
    weight: float
    begin: float  # the share of the steps before which it rests
    end: float  # and after which
    control_mode: int
    resize_mode: int
    kind: int | None  # of a ControlNet-Union's picture
    pixel_perfect: bool
    values: Mapping[str, float]  # of the module's sliders
    crops: bool  # whether it sees what is drawn under a mask, and not all of the picture
    shows: bool  # whether the answer has what it saw

    def __str__(self) -> str:
        """As the web UI writes it into a picture."""
        sliders = {name: int(v) if name == SIDE else v for name, v in self.values.items()}
        fields = {
            "module": self.module.name,
            "model": self.model.name,
            "weight": self.weight,
            "resize_mode": _RESIZE_MODES[self.resize_mode],
            **sliders,
            "guidance_start": self.begin,
            "guidance_end": self.end,
            "pixel_perfect": self.pixel_perfect,
            "control_mode": _CONTROL_MODES[self.control_mode],
        }
        words = {name.replace("_", " ").title(): value for name, value in fields.items()}
        return ", ".join(f"{name}: {value}" for name, value in words.items())


@dataclass(frozen=True)
class Scene:
    """What an img2img begins from, and how it is fitted to the size that is drawn. `cut` gives what
    is drawn of another picture in its place, where that is only a part."""

    picture: Given | None = None
    resize_mode: int = 0
    cut: Callable[[Image.Image], Image.Image] | None = None


# -- reading ----------------------------------------


def read_units(fields: Fields, models: ControlModels) -> tuple[list[Unit], list[str]]:
    """The enabled ones of `alwayson_scripts`, and what was ignored of them. Raises FieldError, for
    other scripts too unless they are off."""
    scripts, units, comments = fields.mapping("alwayson_scripts"), [], []
    for name, script in scripts.items():
        if name.lower() != SCRIPT:
            if is_off(name, script):
                continue
            raise FieldError("alwayson_scripts", f"has no '{name:.80}' here: leave it out")
        with _within(f"alwayson_scripts.{name}"):
            args = Fields(script if isinstance(script, dict) else {"args": script}).any("args", [])
            if not isinstance(args, list) or len(args) > MOST_UNITS:
                raise FieldError("args", f"must be a list of at most {MOST_UNITS} units")
            for i, values in enumerate(args):
                if values is None:
                    continue
                if not isinstance(values, dict):
                    raise FieldError(f"args[{i}]", f"must be an object, got {values!r:.80}")
                with _within(f"args[{i}]"):
                    unit, unknown = _unit(values, models)
                if unit is not None:
                    units.append(unit)
                    where = f"{name}.args[{i}]"
                    comments += [f"{where}.{one}: there is no such field here" for one in unknown]
    return units, comments


@contextlib.contextmanager
def _within(place: str) -> Iterator[None]:
    """Errors name the place of the field too."""
    try:
        yield
    except FieldError as error:
        raise error.within(place) from None


def _unit(values: Mapping[str, Any], models: ControlModels) -> tuple[Unit | None, list[str]]:
    """None for one that is not enabled, and the names of unknown fields. Old clients do not say
    that theirs is enabled."""
    fields = Fields(values)
    if not values or not fields.flag("enabled", True):
        return None, []
    fields.refuse(_NOT_BUILT)
    model = models.find(fields.text("model", "None"))
    module = find_module(fields.text("module", "none"))
    _check_pair(model, module)
    begin, end = _interval(fields)
    pictures = _pictures(fields, module)
    if len(pictures) > 1 and not model.is_ip_adapter:
        raise FieldError("image", f"must be one picture for a ControlNet, got {len(pictures)}")
    kind = _choice(fields, "union_control_type", ("Unknown", *_KINDS), 0) - 1
    if kind < 0 and module.name == "canny":
        kind = _HARD_EDGE
    unit = Unit(
        model=model,
        module=module,
        pictures=pictures,
        weight=_number(fields, "weight", 1.0, _MOST_WEIGHT),
        begin=begin,
        end=end,
        control_mode=_choice(fields, "control_mode", _CONTROL_MODES, 0),
        resize_mode=_choice(fields, "resize_mode", _RESIZE_MODES, 1, _OLD_RESIZE_MODES),
        kind=None if kind < 0 else kind,
        pixel_perfect=fields.flag("pixel_perfect"),
        values=module.values(fields),
        crops=fields.flag("inpaint_crop_input_image", True),
        shows=fields.flag("save_detected_map", True),
    )
    fields.ignore(*_HARMLESS, SIDE, "threshold_a", "threshold_b")
    return unit, fields.unasked()


def _check_pair(model: ControlModel, module: Module) -> None:
    if module.of_ip_adapters and not model.is_ip_adapter:
        raise FieldError(
            "module", f"'{module.name}' is for IP-Adapters, and '{model.name}' is a ControlNet"
        )
    if model.is_ip_adapter and module.name != "none" and not module.of_ip_adapters:
        raise FieldError(
            "module",
            f"'{module.name}' is for ControlNets, and '{model.name}' is an IP-Adapter: use "
            "ip-adapter-auto",
        )


def _interval(fields: Fields) -> tuple[float, float]:
    begin = _number(fields, "guidance_start", 0.0, 1.0)
    end = _number(fields, "guidance_end", _number(fields, "guidance", 1.0, 1.0), 1.0)
    if begin >= end:
        raise FieldError("guidance_start", f"must be below guidance_end, {end:g}, got {begin:g}")
    return begin, end


def _number(fields: Fields, name: str, default: float, most: float) -> float:
    value = fields.number(name)
    value = default if value is None else value
    if not 0 <= value <= most:
        raise FieldError(name, f"must be from 0 to {most:g}, got {value:g}")
    return value


def _choice(
    fields: Fields,
    name: str,
    words: Sequence[str],
    default: int,
    others: Mapping[str, int] | None = None,
) -> int:
    """The place of a word among `words`, or of one that meant the same; a number is a place."""
    value = fields.any(name, default)
    if isinstance(value, list) and len(value) == 1:  # so sdwebuiapi says that it is Balanced
        (value,) = value
    places = {word: i for i, word in enumerate(words)} | dict(others or {})
    if isinstance(value, str) and value in places:
        return places[value]
    if isinstance(value, int) and 0 <= value < len(words):
        return int(value)
    raise FieldError(name, f"must be one of {', '.join(words)}, got {value!r:.80}")


def _pictures(fields: Fields, module: Module) -> list[Given]:
    """Of `image`: a picture, one with its mask, or a list of those."""
    sent = fields.any("image", fields.any("input_image"))
    mask = fields.any("mask", fields.any("mask_image"))
    if isinstance(sent, list) and len(sent) == 2 and not isinstance(sent[0], dict):
        sent = {"image": sent[0], "mask": sent[1]}
    listed = sent if isinstance(sent, list) else [{"mask": mask, **_pair(sent)}]
    if len(listed) > _MOST_PICTURES:
        raise FieldError("image", f"must be at most {_MOST_PICTURES} pictures, got {len(listed)}")
    return [_given(one, module) for one in map(_pair, listed) if one.get("image")]


def _pair(sent: Any) -> Mapping[str, Any]:
    return sent if isinstance(sent, dict) else {"image": sent}


def _given(sent: Mapping[str, Any], module: Module) -> Given:
    image = opaque(picture_from_text(sent["image"], "image"))
    if not sent.get("mask"):
        return Given(image)
    mask = picture_from_text(sent["mask"], "mask")
    values = np.asarray(mask.convert("L"))
    # One that is empty, or covers all, is none in the web UI.
    if not module.paints and values.max() > 5 and values.min() < 250:
        raise FieldError("mask", f"is not read by the module '{module.name}': leave it out")
    return Given(image, binary(mask))


# -- for the pipeline ----------------------------------------


def control_arguments(
    units: Sequence[Unit], size: Size, scene: Scene, takes: Collection[str]
) -> tuple[dict[str, Any], list[Image.Image]]:
    """What a pipeline that draws at `size` is called with, and what the answer shows beside its
    pictures. `takes` are its arguments of ControlNets. Raises FieldError where there is no picture,
    or a ControlNet of the family cannot do what a unit says."""
    seen = [_seen(unit, size, scene) for unit in units]
    both = list(zip(units, seen, strict=True))
    nets = [(unit, one[0]) for unit, one in both if not unit.model.is_ip_adapter]
    adapters = [(unit, one) for unit, one in both if unit.model.is_ip_adapter]
    arguments: dict[str, Any] = {}
    if adapters:
        arguments |= {
            "ip_adapter_image": [pictures for _, pictures in adapters],
            "ip_adapter_start": [unit.begin for unit, _ in adapters],
            "ip_adapter_end": [unit.end for unit, _ in adapters],
        }
    if nets:
        arguments |= {
            "resize_mode": RESIZE_MODES[0],  # of units, whose pictures are shaped already
            "controlnet_conditioning_scale": [unit.weight for unit, _ in nets],
            "control_guidance_start": [unit.begin for unit, _ in nets],
            "control_guidance_end": [unit.end for unit, _ in nets],
            **(_of_unets if "guess_mode" in takes else _of_sd3)(nets),
        }
    return arguments, [_shown(picture) for unit, one in both if unit.shows for picture in one]


def _of_unets(nets: Sequence[tuple[Unit, Seen]]) -> dict[str, Any]:
    return {
        "control_image": [picture for _, picture in nets],
        "control_mode": [unit.kind for unit, _ in nets],
        "control_soft": [unit.control_mode == _SOFT for unit, _ in nets],
        "guess_mode": [unit.control_mode == _GUESSES for unit, _ in nets],
    }


def _of_sd3(nets: Sequence[tuple[Unit, Seen]]) -> dict[str, Any]:
    """Their files say what they see, and where to paint is a mask beside the picture."""
    for unit, _ in nets:
        if unit.control_mode != _BALANCED:
            raise FieldError(
                "control_mode",
                f"must be {_CONTROL_MODES[_BALANCED]} for '{unit.model.name}': the others are for "
                "ControlNets of Stable Diffusion 1.x, 2.x and XL",
            )
    masks = [_painted_of(picture) if unit.module.paints else None for unit, picture in nets]
    return {"control_image": [picture for _, picture in nets], "control_mask": masks}


def _painted_of(seen: Seen) -> Image.Image:
    """Where it is told to paint."""
    return Image.fromarray((np.asarray(seen) < 0).any(axis=2))


def _seen(unit: Unit, size: Size, scene: Scene) -> list[Seen]:
    """The pictures as the ControlNet or the IP-Adapter sees them."""
    pictures, mode = list(unit.pictures), unit.resize_mode
    if not pictures:
        if scene.picture is None:
            raise FieldError("image", f"is missing of the unit of '{unit.model.name}'")
        pictures, mode = [scene.picture], scene.resize_mode
    if unit.model.is_ip_adapter:
        return [one.image for one in pictures]
    (given,) = pictures
    module, values = unit.module, dict(unit.values)
    image = _part(given.image, unit, scene, mode)
    if unit.pixel_perfect and SIDE in values:
        values[SIDE] = pixel_perfect_side(image, size, mode)
    image = shaped(module.make(image, values), size, mode)
    if not module.paints:
        return [image]
    if given.mask is None:
        raise FieldError("mask", f"is missing: the module '{module.name}' paints where it is white")
    mask = _part(given.mask.resize(given.image.size), unit, scene, mode, border=255)
    return [painted(image, shaped(mask, size, mode, border=255), size)]


def _part(
    image: Image.Image, unit: Unit, scene: Scene, mode: int, border: int | None = None
) -> Image.Image:
    """What is drawn of it."""
    if scene.picture is None or scene.cut is None or not unit.crops:
        return image
    return scene.cut(shaped(image, scene.picture.image.size, mode, border))


def _shown(seen: Seen) -> Image.Image:
    return seen if isinstance(seen, Image.Image) else to_pil(np.clip(seen[None], 0, 1))[0]


def settings_of(units: Sequence[Unit]) -> dict[str, str]:
    """What a picture is given to carry."""
    return {f"ControlNet {i}": str(unit) for i, unit in enumerate(units)}
