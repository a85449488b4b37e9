"""What a call asks for: the arguments, and the same checked and with every default filled in."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["Arguments", "Prompt", "Request", "make_request"]

Array = NDArray[np.float32]

_OUTPUT_TYPES = ("pil", "np", "latent")
_MAX_SIDE = 8192  # pixels; beyond it a typo is likelier than a wish


class Arguments(TypedDict, total=False):
    """What a call may be given besides its prompts. None, as absence, is the model's default."""

    height: int | None  # pixels
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None  # 1 ignores the negative prompt
    num_images_per_prompt: int
    seed: int | None  # the first image's; image i uses seed + i. None draws one
    latents: ArrayLike | None  # [n, c, h, w] in the latents' size: noise in place of the seed's
    output_type: str  # "pil", "np" ([n, h, w, 3] in [0, 1]) or "latent"
    eta: float  # noise that DDIM adds, 0 to 1


_DEFAULTS: Mapping[str, Any] = {
    "height": None,
    "width": None,
    "num_inference_steps": None,
    "guidance_scale": None,
    "num_images_per_prompt": 1,
    "seed": None,
    "latents": None,
    "output_type": "pil",
    "eta": 0.0,
}


@dataclass(frozen=True)
class Prompt:
    """What an image is to be, or not to be: a text for each text encoder. Encoders beyond the last
    text take the first."""

    texts: tuple[str, ...]
    negative: bool = False

    def text(self, encoder: int = 0) -> str:
        return self.texts[encoder if encoder < len(self.texts) else 0]


@dataclass(frozen=True)
class Request:
    """One call; its lists have an entry an image."""

    prompts: list[Prompt]
    negative_prompts: list[Prompt]
    height: int
    width: int
    steps: int
    guidance_scale: float
    seeds: list[int]
    eta: float
    latents: Array | None
    output_type: str
    extra: Mapping[str, Any]  # arguments that only some families have, as given


def make_request(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str],
    arguments: Mapping[str, Any],
) -> Request:
    """Raises InvalidArgumentError naming the argument that is wrong."""
    extra = _extra(pipe, arguments)
    given = {**_DEFAULTS, **arguments}
    images = given["num_images_per_prompt"]
    prompts, negatives = _all_prompts(prompt, negative_prompt, images)
    steps = given["num_inference_steps"]
    scale = given["guidance_scale"]
    latents = given["latents"]
    return Request(
        prompts=[Prompt((text,)) for text in prompts],
        negative_prompts=[Prompt((text,), negative=True) for text in negatives],
        height=_side(pipe, given["height"], "height"),
        width=_side(pipe, given["width"], "width"),
        steps=whole(pipe.default_steps if steps is None else steps, "num_inference_steps", 1),
        guidance_scale=float(pipe.default_guidance if scale is None else scale),
        seeds=_seeds(given["seed"], len(prompts)),
        eta=float(given["eta"]),
        latents=None if latents is None else np.asarray(latents, dtype=np.float32),
        output_type=_output_type(given["output_type"]),
        extra=extra,
    )


def _extra(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    extra = {name: value for name, value in arguments.items() if name not in _DEFAULTS}
    if unknown := sorted(set(extra) - set(pipe.extra_arguments)):
        raise InvalidArgumentError(
            f"[pipeline] {type(pipe).__name__} has no argument {unknown[0]!r}; it has "
            f"{', '.join([*_DEFAULTS, *pipe.extra_arguments])}"
        )
    return extra


def _all_prompts(
    prompt: str | Sequence[str], negative: str | Sequence[str], images: int
) -> tuple[list[str], list[str]]:
    prompts = _repeat(prompt, images, "prompt")
    negatives = _repeat(negative, images, "negative_prompt")
    if len(negatives) == images:
        negatives = negatives * (len(prompts) // len(negatives))
    if len(negatives) != len(prompts):
        raise InvalidArgumentError(
            f"[pipeline] there are {len(prompts)} prompts and {len(negatives)} negative ones"
        )
    return prompts, negatives


def _repeat(texts: str | Sequence[str], times: int, name: str) -> list[str]:
    whole(times, "num_images_per_prompt", 1)
    listed = [texts] if isinstance(texts, str) else texts
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(isinstance(text, str) for text in listed)
    ):
        raise InvalidArgumentError(f"[pipeline] {name} must be a string or a list of strings")
    return [text for text in listed for _ in range(times)]


def _side(pipe: DiffusionPipeline, pixels: int | None, name: str) -> int:
    multiple = pipe.size_multiple
    value = pipe.default_size[name == "height"] if pixels is None else pixels
    value = whole(value, name, multiple)
    if value % multiple or value > _MAX_SIDE:
        low = min(value // multiple * multiple, _MAX_SIDE)
        raise InvalidArgumentError(
            f"[pipeline] {name} must be a multiple of {multiple} and at most {_MAX_SIDE}, "
            f"got {value}; try {low}"
        )
    return value


def _seeds(seed: int | None, images: int) -> list[int]:
    first = secrets.randbelow(2**32) if seed is None else whole(seed, "seed", 0)
    if first + images > 2**64:
        raise InvalidArgumentError(f"[pipeline] seeds have 64 bits, got {first}")
    return [first + i for i in range(images)]


def _output_type(value: str) -> str:
    if value not in _OUTPUT_TYPES:
        raise InvalidArgumentError(
            f"[pipeline] output_type must be pil, np or latent, got {value!r}"
        )
    return value


def whole(value: Any, name: str, low: int) -> int:
    """A whole number of at least `low`."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not fits or value < low:
        raise InvalidArgumentError(
            f"[pipeline] {name} must be a whole number >= {low}, got {value!r}"
        )
    return int(value)
