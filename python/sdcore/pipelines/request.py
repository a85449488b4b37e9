"""What a call asks for: the arguments, and the same checked and with every default filled in."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sdcore.arguments import as_floats, finite, nearest, whole
from sdcore.errors import InvalidArgumentError
from sdcore.pictures.fit import RESIZE_MODES, fitted, fitted_mask, in_multiples
from sdcore.pictures.given import ImageLike, as_picture
from sdcore.pipelines.prompt import Prompt, Texts, make_prompts
from sdcore.prompts.lora_tags import LoraTag
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["Arguments", "Encoded", "Prompt", "Request", "finite", "make_request", "whole"]

log = logging.getLogger("sdcore")

Array = NDArray[np.float32]

# What text encoders made of prompts: a row of each argument of the denoiser.
Encoded = dict[Prompt, Mapping[str, Array]]

_OUTPUT_TYPES = ("pil", "np", "latent", "pt")
# What the web UI and diffusers call arguments.
_ALIASES = {"steps": "num_inference_steps", "cfg_scale": "guidance_scale", "generator": "seed"}
_MOST_ENLARGED = 8  # times a side, in a second pass
_TOO_LARGE = 4  # times the trained area, for a size that nobody asked for
_STRETCHED = 1.05  # times that one side grows more than the other: more than a side is rounded


class Arguments(TypedDict, total=False):
    """What a call may be given besides its prompts. None, as absence, is the model's default."""

    height: int | None  # pixels
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None  # 1 ignores the negative prompt
    guidance_rescale: float  # 0 to 1: how far guidance is kept from raising contrast
    guidance_start: float  # share of the steps before which there is none, 0 to 1
    guidance_end: float  # and after which there is none
    cache_threshold: (
        float  # change of the model's output below which it is not asked again, 0 (off)
    )
    num_images_per_prompt: int
    # The first image's; image i uses seed + i. None and -1 draw one. Or a list, one an image. A
    # torch.Generator is its initial_seed().
    seed: int | Sequence[int] | None
    subseed: int | None  # of noise to mix in: a variation of the picture. None draws one
    subseed_strength: float  # its share, 0 to 1
    rng: str  # whose numbers seeds stand for: torch's on the "cpu", or its "cuda" devices'
    latents: ArrayLike | None  # [n, c, h, w] in the latents' size: noise in place of the seed's
    output_type: str  # "pil", "np" ([n, h, w, 3] in [0, 1]), torch's "pt" of these, or "latent"
    eta: float | None  # noise that DDIM and TCD add, 0 to 1. None is the scheduler's own, 0 and 0.3
    image: ImageLike | Sequence[ImageLike] | None  # what to begin from: one, or one a prompt
    strength: float  # share of the steps that are made from it, above 0 and up to 1
    hires_scale: float  # draw so many times larger in a second pass, over the first one's picture
    hires_strength: float  # share of the steps that the second pass makes
    hires_steps: int | None  # of the second pass, before that share; None: as the first
    # Its size in place of its scale: one side in proportion, or both, and what sticks out is cut.
    hires_width: int | None
    hires_height: int | None
    hires_prompt: Texts | None  # what it is told, all text encoders alike; None: as the first
    hires_negative_prompt: Texts | None
    hires_guidance_scale: float | None  # None: as the first
    hires_scheduler: Scheduler | None  # None: as the first
    # SDXL's refiner, or another SDXL, that goes on with the last part of the steps, those of the
    # second pass if there is one; and how much of the schedule comes before it, 0.8.
    refiner: DiffusionPipeline | None
    refiner_switch: float | None
    image_guidance_scale: float  # of models for editing: how closely to keep to `image`
    mask_image: ImageLike | None  # white where `image` is to be painted over, black where kept
    # What becomes of pictures of another shape than width and height: "stretch", "crop", or "fill",
    # which goes on with their outermost pixels. None stretches them too, with a warning.
    resize_mode: str | None

    steps: int | None  # other names of num_inference_steps, guidance_scale and seed
    cfg_scale: float | None
    generator: Any

    # What only some families have; `extra_arguments` of a pipeline names them.
    pag_scale: float  # away from what perturbed self-attention gives, 0 (off)
    pag_applied_layers: str | Sequence[str]  # parts of the names of those attentions, "mid"
    cache_interval: int  # steps between those that run all of a UNet, 1 (off)
    cache_branch_id: int  # the skip connection below which the others run nothing, 0
    control_image: ImageLike | Sequence[ImageLike] | None  # what ControlNets see: one, or one each
    controlnet_conditioning_scale: float | Sequence[float]  # how strong, 1: for all, or one each
    control_guidance_start: float | Sequence[float]  # share of the steps before which they rest
    control_guidance_end: float | Sequence[float]  # and after which
    adapter_conditioning_scale: float | Sequence[float]  # diffusers' names of the scale and the end
    adapter_conditioning_factor: float | Sequence[float]  # for T2I-Adapters
    # Of a ControlNet-Union and of Stability's for 3.5 large: their picture's kind.
    control_mode: int | Sequence[int | None] | None
    # Of SD 3's for inpainting: white where to paint in control_image.
    control_mask: ImageLike | Sequence[ImageLike | None] | None
    # What they read: "text", or the "face" that InstantID's was trained on. None: the first reads
    # InstantID's, where its adapter is at work, and the others the text.
    control_context: str | Sequence[str | None] | None
    guess_mode: bool | Sequence[bool]  # ControlNets without a prompt: they guess what they see
    control_soft: bool | Sequence[bool]  # whether their upper layers count less, as in guess mode
    token_merging_ratio: float  # share of tokens that a UNet's attention merges, 0 to 0.75
    # What IP-Adapters look at: one picture or several, with several adapters a list with what is
    # for each; or what an image encoder made of them, an array for each adapter.
    ip_adapter_image: ImageLike | Sequence[ImageLike | Sequence[ImageLike]] | None
    ip_adapter_image_embeds: Sequence[ArrayLike] | None
    ip_adapter_start: float | Sequence[float]  # share of the steps before which they rest
    ip_adapter_end: float | Sequence[float]  # and after which: for all, or one each
    # PhotoMaker: pictures of a person, one or several; of version 2 insightface's embeddings of the
    # faces, [pictures, 512], None: those that the face model finds; and the last step that knows
    # the text alone, None a fifth of them.
    input_id_images: ImageLike | Sequence[ImageLike] | None
    id_embeds: ArrayLike | None
    start_merge_step: int | None
    clip_skip: int | None  # layers of CLIP to leave out, besides those that the model does
    prompt_embeds: ArrayLike | None  # [n, tokens, channels]: what takes the place of prompt
    negative_prompt_embeds: ArrayLike | None
    pooled_prompt_embeds: ArrayLike | None  # [n, channels], of SDXL and SD 3
    negative_pooled_prompt_embeds: ArrayLike | None
    prompt_attention_mask: ArrayLike | None  # [n, tokens], of PixArt
    negative_prompt_attention_mask: ArrayLike | None
    depth_map: ImageLike | None  # of models that draw by depth: white where near, any size
    clean_caption: bool  # PixArt: whether prompts are cleaned as captions were in training
    use_resolution_binning: bool  # PixArt: whether to draw at a size of the training, and cut it
    prompt_2: Texts | None  # for the second text encoder; None is the prompt
    prompt_3: Texts | None
    negative_prompt_2: Texts | None
    negative_prompt_3: Texts | None
    class_labels: int | Sequence[int]  # of consistency models, in place of a prompt
    original_size: tuple[int, int]  # SDXL: height and width of the picture before it was cropped
    crops_coords_top_left: tuple[int, int]
    target_size: tuple[int, int]
    negative_original_size: tuple[int, int]
    negative_crops_coords_top_left: tuple[int, int]
    negative_target_size: tuple[int, int]
    aesthetic_score: float  # SDXL's refiner
    negative_aesthetic_score: float
    denoising_end: float  # the part of the schedule, from 0 to 1, at which to stop
    denoising_start: float  # or to go on, with another pipeline's latents [n, c, h, w] as `image`


_DEFAULTS: Mapping[str, Any] = {
    "height": None,
    "width": None,
    "num_inference_steps": None,
    "guidance_scale": None,
    "guidance_rescale": 0.0,
    "guidance_start": 0.0,
    "guidance_end": 1.0,
    "cache_threshold": 0.0,
    "num_images_per_prompt": 1,
    "seed": None,
    "subseed": None,
    "subseed_strength": 0.0,
    "rng": "cpu",
    "latents": None,
    "output_type": "pil",
    "eta": None,
    "image": None,
    "strength": 0.75,
    "mask_image": None,
    "resize_mode": None,
    "hires_scale": 1.0,
    "hires_strength": 0.7,
    "hires_steps": None,
    "hires_width": None,
    "hires_height": None,
    "hires_prompt": None,
    "hires_negative_prompt": None,
    "hires_guidance_scale": None,
    "hires_scheduler": None,
}


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


@dataclass(frozen=True)
class Request:
    """One call; its lists have an entry an image."""

    prompts: list[Prompt]
    negative_prompts: list[Prompt]
    height: int
    width: int
    steps: int
    guidance_scale: float
    guidance_rescale: float
    guidance_start: float
    guidance_end: float
    cache_threshold: float
    seeds: list[int]
    subseeds: list[int]
    subseed_strength: float
    rng: str
    eta: float | None
    latents: Array | None
    output_type: str
    images: Array | None  # [n, 3, height, width] in [-1, 1]
    mask: Array | None  # [1, height, width], 1 where to paint
    strength: float
    resize_mode: str | None
    hires: Hires | None
    extra: Mapping[str, Any]  # arguments that only some families have, as given
    cut: tuple[int, int] | None = None  # what pictures are shrunk and cut to: width and height
    steps_before: int | None = None  # of a second pass: those that the first one made
    encoded: Encoded = field(default_factory=dict)  # filled by the first pass

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


def make_request(
    pipe: DiffusionPipeline,
    prompt: Texts | None,
    negative_prompt: Texts | None,
    arguments: Mapping[str, Any],
) -> Request:
    """Raises InvalidArgumentError naming the argument that is wrong."""
    arguments = _by_own_names(arguments)
    extra = _extra(pipe, arguments)
    given = {**_DEFAULTS, **arguments}
    per_prompt = whole(given["num_images_per_prompt"], "num_images_per_prompt", 1)
    prompts, negatives = make_prompts(prompt, negative_prompt, per_prompt, extra, pipe.embeds)
    image, latents = given["image"], given["latents"]
    if extra.get("denoising_start") is not None:
        image, latents = None, _left_by_another(image)
    pictures = _pictures(image, len(prompts), per_prompt)
    sizes = [picture.size for picture in pictures]
    if not sizes and (own := pipe.given_size(extra)):
        sizes = [own]
    latents = None if latents is None else as_floats(latents, "[pipeline] latents")
    if latents is not None and latents.ndim == 4:
        h, w = latents.shape[2:]
        sizes = [(w * pipe.vae.scale_factor, h * pipe.vae.scale_factor)]
    mode = _resize_mode(given["resize_mode"])
    asked = width, height = _size(pipe, given["width"], given["height"], sizes)
    hires_size = given["hires_width"], given["hires_height"]
    if latents is None and given["hires_scale"] == 1 and hires_size == (None, None):
        width, height = pipe.drawn_size(width, height, extra)
    steps = given["num_inference_steps"]
    steps = whole(pipe.default_steps if steps is None else steps, "num_inference_steps", 1)
    scale = given["guidance_scale"]
    begin, end = _interval(given)
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
        guidance_scale=finite(pipe.usual_guidance if scale is None else scale, "guidance_scale"),
        guidance_rescale=_share(given["guidance_rescale"], "guidance_rescale", 0),
        guidance_start=begin,
        guidance_end=end,
        cache_threshold=_share(given["cache_threshold"], "cache_threshold", 0),
        seeds=_seeds(given["seed"], "seed", len(prompts)),
        subseeds=_seeds(given["subseed"], "subseed", len(prompts)),
        subseed_strength=_share(given["subseed_strength"], "subseed_strength", 0),
        rng=given["rng"],
        eta=None if given["eta"] is None else finite(given["eta"], "eta"),
        latents=latents,
        output_type=_output_type(given["output_type"]),
        images=np.stack([fitted(one, width, height, mode) for one in pictures])
        if pictures
        else None,
        mask=_mask(given["mask_image"], pictures, width, height, mode),
        strength=_share(given["strength"], "strength"),
        resize_mode=given["resize_mode"],
        hires=hires,
        extra=extra,
        cut=None if asked == (width, height) else asked,
    )
    if latents is None and sizes:  # after what is wrong
        _tell_of_size(pipe, sizes[0], asked, given)
    return request


def _by_own_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in arguments.items():
        own = _ALIASES.get(name, name)
        if own in named:
            raise InvalidArgumentError(f"[pipeline] {name} says {own} once more: give one")
        named[own] = value
    device = getattr(named.get("seed"), "device", "")  # of a torch.Generator
    if str(device).startswith("cuda"):
        named.setdefault("rng", "cuda")
    return named


def _extra(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    extra = {name: value for name, value in arguments.items() if name not in _DEFAULTS}
    own = [
        *pipe.extra_arguments,
        *(side + name for name in pipe.embeds for side in ("", "negative_")),
    ]
    if unknown := sorted(set(extra) - set(own)):
        names = ["prompt", "negative_prompt", *_DEFAULTS, *_ALIASES, *own]
        raise InvalidArgumentError(
            f"[pipeline] {type(pipe).__name__} has no argument {unknown[0]!r}"
            + (nearest(unknown[0], names) or "; sdcore.pipelines.Arguments lists them")
        )
    return extra


def _pictures(images: Any, count: int, times: int) -> list[Image.Image]:
    """The picture that each image begins from; none for text alone."""
    if images is None:
        return []
    listed = list(images) if isinstance(images, list | tuple) else [images]
    pictures = [as_picture(one, "image") for one in listed for _ in range(times)]
    if len(pictures) == times:
        pictures = pictures * (count // times)
    if len(pictures) != count:
        raise InvalidArgumentError(
            f"[pipeline] there are {count // times} prompts and {len(listed)} images; give one "
            "image, or one a prompt"
        )
    return pictures


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
    sizes: Sequence[tuple[int, int]],
) -> tuple[int, int]:
    """As asked; else those of what is given, cut to what the model can draw; else the model's."""
    if sizes and width is None and height is None:
        width, height = in_multiples(sizes[0], pipe.size_multiple)
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
    return Hires(
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
    if callable(getattr(seed, "initial_seed", None)):
        seed = seed.initial_seed()
    drawn = seed is None or (type(seed) is int and seed == -1)
    first = int.from_bytes(os.urandom(4), "little") if drawn else whole(seed, name, 0)
    if first + images > 2**64:
        raise InvalidArgumentError(f"[pipeline] {name} has 64 bits, got {first}")
    return [first + i for i in range(images)]


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
