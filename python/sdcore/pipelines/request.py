"""What a call asks for: its arguments, checked and with every default filled in."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore.arguments import as_floats, finite, whole
from sdcore.errors import InvalidArgumentError
from sdcore.pictures.fit import RESIZE_MODES, fitted, fitted_mask, in_multiples
from sdcore.pictures.given import as_picture, is_latents, singly
from sdcore.pictures.upscale import LATENT_MODES, UPSCALERS, find_upscaler
from sdcore.pipelines.call import DEFAULTS, by_own_names, of_family
from sdcore.pipelines.noise import Draws, Noise, TorchNoise, is_generator
from sdcore.pipelines.prompt import Prompt, Texts, make_prompts
from sdcore.prompts.lora_tags import LoraTag
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["Encoded", "Prompt", "Request", "finite", "make_request", "whole"]

log = logging.getLogger("sdcore")

Array = NDArray[np.float32]

# What text encoders made of prompts: a row of each argument of the denoiser.
Encoded = dict[Prompt, Mapping[str, Array]]

_OUTPUT_TYPES = ("pil", "np", "latent", "pt")
_MOST_ENLARGED = 8  # times a side, in a second pass
_TOO_LARGE = 4  # times the trained area, for a size that nobody asked for
MASKED_CONTENTS = ("original", "noise", "nothing")
_STRETCHED = 1.05  # times that one side grows more than the other: more than a side is rounded


@dataclass(frozen=True)
class Hires:
    """A second pass over the first one's picture, enlarged by `scale` or to the size `asked` for,
    where 0 follows the other side. What is None or empty is the first pass's; `mode` is one of
    RESIZE_MODES."""

    scale: float | None
    asked: tuple[int, int] | None
    width: int
    height: int
    mode: str
    strength: float
    steps: int
    prompts: list[Prompt] = field(default_factory=list)
    negative_prompts: list[Prompt] = field(default_factory=list)
    guidance_scale: float | None = None
    scheduler: Scheduler | None = None
    upscaler: str = "Lanczos"


@dataclass(frozen=True)
class Request:
    """One call; its lists have an entry an image."""

    prompts: list[Prompt]
    negative_prompts: list[Prompt]
    height: int
    width: int
    steps: int
    placed: Mapping[str, list[float]]  # "timesteps" or "sigmas", where they are by hand
    guidance_scale: float
    guidance_rescale: float
    guidance_start: float
    guidance_end: float
    cache_threshold: float
    seeds: list[int]  # of generators, those that they began with
    generators: tuple[Any, ...]  # torch's, in place of seeds: one an image, or one for all
    subseeds: list[int]
    subseed_strength: float
    rng: str
    eta: float | None
    latents: Array | None
    output_type: str
    images: Array | None  # [n, 3, height, width] in [-1, 1], or the latents of them
    of_latents: bool  # the latter, [n, c, h, w]
    mask: Array | None  # [1, height, width], 1 where to paint
    strength: float
    resize_mode: str | None
    hires: Hires | None
    lora_scale: float  # of those that are at work without a tag
    extra: Mapping[str, Any]  # arguments that only some families have, as given
    cut: tuple[int, int] | None = None  # what pictures are shrunk and cut to: width and height
    steps_before: int | None = None  # of a second pass: those that the first one made
    encoded: Encoded = field(default_factory=dict)  # filled by the first pass
    masked_content: str = "original"  # one of MASKED_CONTENTS

    def noise(self) -> Draws:
        """The numbers of a run."""
        if self.generators:
            return TorchNoise(self.generators, len(self.prompts))
        return Noise(self.seeds, self.rng)

    def lora_tags(self) -> tuple[LoraTag, ...]:
        """Those of the prompts. One network draws all images, so they must agree."""
        tags = {prompt.tags for prompt in self.prompts}
        if len(tags) > 1:
            raise InvalidArgumentError(
                "[pipeline] the prompts of one call must have the same <lora:…> tags, got "
                + " and ".join(sorted(repr(prompt.written) for prompt in self.prompts)[:2])
            )
        return tags.pop()

    @property
    def goes_on(self) -> bool:
        """Whether `latents` are what another pipeline left, at the noise level of a step."""
        return self.extra.get("denoising_start") is not None

    @property
    def shares_schedule(self) -> bool:
        """Whether another pipeline draws a part of the steps."""
        return self.goes_on or self.extra.get("denoising_end") is not None


@dataclass(frozen=True)
class _Origin:
    """What pictures begin from, as given: the lists have an entry an image; for text alone, nothing
    is there."""

    pictures: list[Image.Image]
    begun: Array | None  # latents of pictures in their place, [n, c, h, w]
    latents: Array | None  # in place of the first noise, [n, c, h, w]
    size: tuple[int, int] | None  # width and height of the first of these, in pixels


def make_request(
    pipe: DiffusionPipeline,
    prompt: Texts | None,
    negative_prompt: Texts | None,
    arguments: Mapping[str, Any],
) -> Request:
    """Raises InvalidArgumentError naming the argument that is wrong."""
    arguments = by_own_names(arguments)
    extra = of_family(pipe, arguments)
    given = {**DEFAULTS, **arguments}
    per_prompt = whole(given["num_images_per_prompt"], "num_images_per_prompt", 1)
    prompts, negatives = make_prompts(prompt, negative_prompt, per_prompt, extra, pipe.embeds)
    origin = _origin(pipe, given, extra, len(prompts), per_prompt)
    mode = _resize_mode(given["resize_mode"])
    asked = _size(pipe, given["width"], given["height"], origin.size)
    width, height = _drawn_size(pipe, asked, given, extra, origin)
    placed = _placed(given, extra)
    steps = _steps(pipe, given, placed)
    hires = _hires(pipe, given, width, height, steps, len(prompts) // per_prompt)
    if mode != RESIZE_MODES[0]:
        largest = (width, height) if hires is None else (hires.width, hires.height)
        extra |= pipe.resized(extra, largest, mode)
    request = Request(
        prompts=prompts,
        negative_prompts=negatives,
        height=height,
        width=width,
        steps=steps,
        placed=placed,
        latents=origin.latents,
        images=_fitted(origin, width, height, mode),
        of_latents=origin.begun is not None,
        mask=_mask(given["mask_image"], origin.pictures, width, height, mode),
        hires=hires,
        extra=extra,
        cut=None if asked == (width, height) else asked,
        **_each_by_itself(pipe, given, len(prompts)),
    )
    if origin.latents is None and origin.size:  # after what is wrong
        _tell_of_size(pipe, origin.size, asked, given)
    return request


def _each_by_itself(
    pipe: DiffusionPipeline, given: Mapping[str, Any], images: int
) -> dict[str, Any]:
    """The fields of a request that no other argument has a say in."""
    scale, (begin, end) = given["guidance_scale"], _interval(given)
    return {
        "guidance_scale": finite(pipe.usual_guidance if scale is None else scale, "guidance_scale"),
        "guidance_rescale": _share(given["guidance_rescale"], "guidance_rescale", 0),
        "guidance_start": begin,
        "guidance_end": end,
        "cache_threshold": _share(given["cache_threshold"], "cache_threshold", 0),
        "generators": _generators(given["seed"]),
        "seeds": _seeds(given["seed"], "seed", images),
        "subseeds": _seeds(given["subseed"], "subseed", images),
        "subseed_strength": _share(given["subseed_strength"], "subseed_strength", 0),
        "rng": given["rng"],
        "eta": None if given["eta"] is None else finite(given["eta"], "eta"),
        "output_type": _output_type(given["output_type"]),
        "masked_content": _masked_content(given),
        "strength": _share(given["strength"], "strength", 0),
        "resize_mode": given["resize_mode"],
        "lora_scale": finite(given["lora_scale"], "lora_scale"),
    }


def _origin(
    pipe: DiffusionPipeline,
    given: Mapping[str, Any],
    extra: Mapping[str, Any],
    count: int,
    times: int,
) -> _Origin:
    """Of so many images, `times` of each prompt."""
    image, latents = given["image"], given["latents"]
    if extra.get("denoising_start") is not None:
        image, latents = None, _left_by_another(image)
    begun = _begun(pipe, image, given["mask_image"], count, times)
    pictures = _pictures(image if begun is None else None, count, times)
    size = pictures[0].size if pictures else pipe.given_size(extra)
    latents = None if latents is None else as_floats(latents, "[pipeline] latents")
    for known in (begun, latents):
        if known is not None and known.ndim == 4:
            h, w = known.shape[2:]
            size = w * pipe.vae.scale_factor, h * pipe.vae.scale_factor
    return _Origin(pictures, begun, latents, size)


def _fitted(origin: _Origin, width: int, height: int, mode: str) -> Array | None:
    """The `images` of a request."""
    if not origin.pictures:
        return origin.begun
    return np.stack([fitted(one, width, height, mode) for one in origin.pictures])


def _drawn_size(
    pipe: DiffusionPipeline,
    asked: tuple[int, int],
    given: Mapping[str, Any],
    extra: Mapping[str, Any],
    origin: _Origin,
) -> tuple[int, int]:
    """The size to draw at, which may be another one where nothing says the latents' own."""
    of_latents = origin.latents is not None or origin.begun is not None
    larger = given["hires_width"], given["hires_height"]
    twice = given["hires_scale"] != 1 or larger != (None, None)
    return asked if of_latents or twice else pipe.drawn_size(*asked, extra)


def _steps(pipe: DiffusionPipeline, given: Mapping[str, Any], placed: Mapping[str, Any]) -> int:
    steps = _count(placed) if placed else given["num_inference_steps"]
    return whole(pipe.default_steps if steps is None else steps, "num_inference_steps", 1)


def _placed(given: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, list[float]]:
    """Steps that are placed by hand."""
    placed = {
        name: as_floats(given[name], f"[pipeline] {name}").astype(float).ravel().tolist()
        for name in ("timesteps", "sigmas")
        if given[name] is not None
    }
    if placed and extra.get("denoising_start") is not None:
        raise InvalidArgumentError(
            f"[pipeline] {next(iter(placed))} does not go with denoising_start, which says where "
            "among even steps to go on"
        )
    return placed


def _count(placed: Mapping[str, list[float]]) -> int:
    """A 0 in the end is where the last step leads."""
    values = next(iter(placed.values()))
    return len(values) - ("sigmas" in placed and values[-1:] == [0.0])


def _pictures(images: Any, count: int, times: int) -> list[Image.Image]:
    """The picture that each image begins from; none for text alone."""
    if images is None:
        return []
    return [as_picture(one, "image") for one in _one_each(singly(images), count, times)]


def _one_each(listed: Sequence[Any], count: int, times: int) -> list[Any]:
    """As many as images, of one for all or one a prompt."""
    each = [one for one in listed for _ in range(times)]
    if len(each) == times:
        each = each * (count // times)
    if len(each) != count:
        raise InvalidArgumentError(
            f"[pipeline] there are {count // times} prompts and {len(listed)} images; give one "
            "image, or one a prompt"
        )
    return each


def _begun(pipe: DiffusionPipeline, image: Any, mask: Any, count: int, times: int) -> Array | None:
    """[n, c, h, w], where what to begin from was given as latents."""
    if not is_latents(image, pipe.vae.config.latent_channels):
        return None
    if mask is not None or not pipe.begins_from_latents:
        raise InvalidArgumentError(
            "[pipeline] image must be a picture here, and no latents: pipe.to_pil(latents) makes "
            "pictures of them"
        )
    return np.stack(_one_each(list(as_floats(image, "[pipeline] image")), count, times))


def _left_by_another(image: Any) -> Array:
    latents = None if image is None else as_floats(image, "[pipeline] image")
    if latents is None or latents.ndim != 4:
        raise InvalidArgumentError(
            "[pipeline] denoising_start goes on with the latents [n, c, h, w] of another pipeline: "
            "give them as image"
        )
    return latents


def _size(
    pipe: DiffusionPipeline,
    width: int | None,
    height: int | None,
    own: tuple[int, int] | None,
) -> tuple[int, int]:
    """As asked; else that of what is given, cut to what the model can draw; else the model's."""
    if own and width is None and height is None:
        width, height = in_multiples(own, pipe.size_multiple)
    return _side(pipe, width, "width"), _side(pipe, height, "height")


def _resize_mode(given: str | None) -> str:
    mode = RESIZE_MODES[0] if given is None else given
    if mode not in RESIZE_MODES:
        raise InvalidArgumentError(
            f"[pipeline] resize_mode must be one of {', '.join(RESIZE_MODES)}, got {given!r}"
        )
    return mode


def _tell_of_size(
    pipe: DiffusionPipeline,
    size: tuple[int, int],
    drawn: tuple[int, int],
    given: Mapping[str, Any],
) -> None:
    """Warns of a picture that is likely not to become what its owner wants."""
    (width, height), (trained_width, trained_height) = drawn, pipe.default_size
    times = width * height / (trained_width * trained_height)
    if given["width"] is None and given["height"] is None:
        if times > _TOO_LARGE:
            log.warning(
                "[pipeline] the picture is drawn at its own size, %dx%d: %.1f times the area that "
                "the model was trained at, %dx%d; give width and height",
                *(width, height, times, trained_width, trained_height),
            )
        return
    grown = width / size[0], height / size[1]
    if given["resize_mode"] is None and max(grown) > _STRETCHED * min(grown):
        log.warning(
            "[pipeline] the picture is stretched from %dx%d to %dx%d: resize_mode crop or fill "
            "(--resize-mode on the command line) keeps its shape",
            *(*size, width, height),
        )


def _mask(
    mask: Any, pictures: list[Image.Image], width: int, height: int, mode: str
) -> Array | None:
    if mask is None:
        return None
    if not pictures:
        raise InvalidArgumentError("[pipeline] mask_image without an image to keep the rest of")
    picture = as_picture(mask, "mask_image")
    if picture.size != pictures[0].size:
        raise InvalidArgumentError(
            f"[pipeline] mask_image must have the size of image, {pictures[0].size}, "
            f"got {picture.size}"
        )
    return fitted_mask(picture, width, height, mode)


def _masked_content(given: Mapping[str, Any]) -> str:
    content = given["masked_content"]
    if content not in MASKED_CONTENTS:
        raise InvalidArgumentError(
            f"[pipeline] masked_content must be one of {', '.join(MASKED_CONTENTS)}, got "
            f"{content!r:.80}"
        )
    if content != MASKED_CONTENTS[0] and given["mask_image"] is None:
        raise InvalidArgumentError("[pipeline] masked_content without a mask_image")
    return str(content)


def _hires(
    pipe: DiffusionPipeline,
    given: Mapping[str, Any],
    width: int,
    height: int,
    steps: int,
    count: int,
) -> Hires | None:
    scale: float | None = finite(given["hires_scale"], "hires_scale")
    asked = [given["hires_width"], given["hires_height"]]
    m = pipe.size_multiple
    if asked == [None, None]:
        if scale == 1:
            return None
        assert scale is not None
        if not 1 < scale <= _MOST_ENLARGED:
            raise InvalidArgumentError(
                f"[pipeline] hires_scale must be from 1, which is off, to {_MOST_ENLARGED}, "
                f"got {scale}"
            )
        larger = [round(side * scale / m) * m for side in (width, height)]
    else:
        if scale != 1:
            raise InvalidArgumentError(
                "[pipeline] hires_scale and hires_width or hires_height say the same: give one"
            )
        scale, larger = None, _hires_size(asked, (width, height), m)
    if {"denoising_start", "denoising_end"} & given.keys():
        raise InvalidArgumentError(
            "[pipeline] a second pass draws a whole picture: it cannot go with denoising_start or "
            "denoising_end"
        )
    own, guidance, scheduler = (
        given[f"hires_{name}"] for name in ("steps", "guidance_scale", "scheduler")
    )
    if scheduler is not None and not isinstance(scheduler, Scheduler):
        raise InvalidArgumentError(
            f"[pipeline] hires_scheduler must be one of sdcore's schedulers, got {scheduler!r:.80}"
        )
    upscaler = find_upscaler(given["hires_upscaler"])
    if upscaler in LATENT_MODES and not pipe.begins_from_latents:
        raise InvalidArgumentError(
            f"[pipeline] hires_upscaler {upscaler!r} is not for a model that begins from pictures: "
            f"use one of {', '.join(UPSCALERS)}"
        )
    return Hires(
        upscaler=upscaler,
        scale=scale,
        asked=None if scale else (asked[0] or 0, asked[1] or 0),
        width=_side(pipe, larger[0], "width of the second pass"),
        height=_side(pipe, larger[1], "height of the second pass"),
        mode="stretch" if None in asked else "crop",
        strength=_share(given["hires_strength"], "hires_strength"),
        steps=steps if own is None else whole(own, "hires_steps", 1),
        guidance_scale=None if guidance is None else finite(guidance, "hires_guidance_scale"),
        scheduler=scheduler,
        prompts=_hires_prompts(given, "prompt", count),
        negative_prompts=_hires_prompts(given, "negative_prompt", count),
    )


def _hires_size(asked: Sequence[Any], first: tuple[int, int], multiple: int) -> list[int]:
    """Both sides, where one may be None: the other in proportion."""
    names = ("hires_width", "hires_height")
    for side, before, name in zip(asked, first, names, strict=True):
        if side is not None and whole(side, name, multiple) > _MOST_ENLARGED * before:
            raise InvalidArgumentError(
                f"[pipeline] {name} must be at most {_MOST_ENLARGED} times the first pass's, "
                f"{before}, got {side}"
            )
    width, height = asked
    if width is None:
        width = round(height * first[0] / first[1] / multiple) * multiple
    if height is None:
        height = round(width * first[1] / first[0] / multiple) * multiple
    return [width, height]


def _hires_prompts(given: Mapping[str, Any], name: str, count: int) -> list[Prompt]:
    """Those that the second pass has of its own, for so many prompts."""
    texts, times = given[f"hires_{name}"], given["num_images_per_prompt"]
    if texts is None:
        return []
    if not isinstance(texts, str | Sequence):
        raise InvalidArgumentError(f"[pipeline] hires_{name} must be a string or a list of strings")
    listed = [texts] * count if isinstance(texts, str) else texts
    positive = name == "prompt"
    first, second = (listed, None) if positive else ([""] * count, listed)
    made = make_prompts(first, second, times, {}, {})[not positive]
    if len(made) != count * times:
        raise InvalidArgumentError(
            f"[pipeline] there are {count} prompts and {len(listed)} of hires_{name}"
        )
    return made


def _interval(given: Mapping[str, Any]) -> tuple[float, float]:
    """The shares of the steps between which there is guidance."""
    start, end = (_share(given[name], name, 0) for name in ("guidance_start", "guidance_end"))
    if start >= end:
        raise InvalidArgumentError(
            f"[pipeline] guidance_start must lie before guidance_end, got {start:g} and {end:g}; "
            "guidance_scale=1 is no guidance"
        )
    return start, end


def _share(value: float, name: str, low: float | None = None) -> float:
    """A number up to 1: from `low`, or above 0."""
    if not isinstance(value, Real) or not (0 < value <= 1 or value == low):
        least = "above 0" if low is None else f"from {low:g}"
        raise InvalidArgumentError(
            f"[pipeline] {name} must be {least} and at most 1, got {value!r}"
        )
    return float(value)


def _side(pipe: DiffusionPipeline, pixels: int | None, name: str) -> int:
    multiple = pipe.size_multiple
    value = pipe.default_size[name == "height"] if pixels is None else pixels
    value = whole(value, name, multiple)
    if value % multiple or value > pipe.max_side:
        low = min(value // multiple * multiple, pipe.max_side)
        raise InvalidArgumentError(
            f"[pipeline] {name} must be a multiple of {multiple} and at most {pipe.max_side}, "
            f"got {value}; try {low}"
        )
    return value


def _seeds(seed: Any, name: str, images: int) -> list[int]:
    if isinstance(seed, list | tuple):
        if len(seed) != images:
            raise InvalidArgumentError(
                f"[pipeline] there are {images} images and {len(seed)} of {name}"
            )
        return [_seeds(one, name, 1)[0] for one in seed]
    if is_generator(seed):
        return [seed.initial_seed()] * images
    drawn = seed is None or (type(seed) is int and seed == -1)
    first = int.from_bytes(os.urandom(4), "little") if drawn else whole(seed, name, 0)
    if first + images > 2**64:
        raise InvalidArgumentError(f"[pipeline] {name} has 64 bits, got {first}")
    return [first + i for i in range(images)]


def _generators(seed: Any) -> tuple[Any, ...]:
    listed = seed if isinstance(seed, list | tuple) else [seed]
    found = tuple(one for one in listed if is_generator(one))
    if found and len(found) < len(listed):
        raise InvalidArgumentError(
            "[pipeline] generator must be a torch.Generator, or a list of nothing else"
        )
    return found


def _output_type(value: str) -> str:
    if value not in _OUTPUT_TYPES:
        raise InvalidArgumentError(
            f"[pipeline] output_type must be pil, np, pt or latent, got {value!r}"
        )
    if value == "pt" and importlib.util.find_spec("torch") is None:
        raise InvalidArgumentError(
            "[pipeline] output_type pt needs PyTorch, which is not installed"
        )
    return value
