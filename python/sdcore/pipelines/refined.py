"""A second model for the last part of the steps, the expert of it: SDXL's refiner, or another SDXL
(Podell et al. 2023, section 2.5). Here it is one call of what diffusers spells as two pipelines,
`denoising_end` of the one and `denoising_start` of the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sdcore.arguments import finite
from sdcore.checkpoint import FAMILIES
from sdcore.errors import InvalidArgumentError, UnsupportedModelError
from sdcore.pipelines.memory import are_tight
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Request, make_request
from sdcore.pipelines.stages import Stage

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["SWITCH", "Refiner", "noise_seed", "refined", "require_pair", "take_refiner"]

Array = NDArray[np.float32]

SWITCH = 0.8  # Podell et al. 2023
# Arguments that are for both models; and those that are, where the refiner has them.
_FOR_BOTH = (
    *("guidance_rescale", "guidance_start", "guidance_end", "cache_threshold", "eta"),
    "num_images_per_prompt",
)
_FOR_BOTH_IF_KNOWN = (
    *("clip_skip", "pag_scale", "pag_applied_layers", "cache_interval", "cache_branch_id"),
    *("token_merging_ratio", "original_size", "crops_coords_top_left", "target_size"),
    *("negative_original_size", "negative_crops_coords_top_left", "negative_target_size"),
    *("prompt_2", "negative_prompt_2"),
)
_SCALES = ("guidance_scale", "cfg_scale", "hires_guidance_scale")
_NOT_WITH_IT = ("mask_image", "denoising_end", "denoising_start", "timesteps", "sigmas")


@dataclasses.dataclass(frozen=True)
class Refiner:
    """A model, the share of the schedule that comes before it, and what it is told."""

    pipe: DiffusionPipeline
    switch: float
    prompt: Texts
    negative_prompt: Texts | None
    arguments: Mapping[str, Any]
    guided: bool  # as the base is, else as is usual for it

    def keeps_apart(self, base: DiffusionPipeline) -> bool:
        """Whether there is no room for both models at once. It is found out once, and both give
        back their memory for it: what is prepared already would count twice."""
        known = _APART.setdefault(self.pipe, WeakKeyDictionary())
        if base not in known:
            base.release()
            self.pipe.release()
            known[base] = are_tight(base, self.pipe)
        return known[base]


_APART: WeakKeyDictionary[DiffusionPipeline, WeakKeyDictionary[DiffusionPipeline, bool]] = (
    WeakKeyDictionary()
)


def take_refiner(
    base: DiffusionPipeline,
    prompt: Texts | None,
    negative_prompt: Texts | None,
    arguments: Mapping[str, Any],
) -> tuple[dict[str, Any], Refiner | None]:
    """What is for the base alone, and the refiner with what is for it, where one is given.

    Raises InvalidArgumentError and UnsupportedModelError for what does not go together.
    """
    left = dict(arguments)
    pipe, given = left.pop("refiner", None), left.pop("refiner_switch", None)
    if pipe is None:
        return left, None
    switch = SWITCH if given is None else finite(given, "refiner_switch")
    if not 0 < switch < 1:
        raise InvalidArgumentError(
            f"[refiner] refiner_switch must lie between 0 and 1, got {switch:g}"
        )
    require_pair(base, pipe)
    for name in _NOT_WITH_IT:
        if left.get(name) is not None:
            raise InvalidArgumentError(f"[refiner] a refiner does not go with {name}")
    if prompt is None:
        raise InvalidArgumentError(
            "[refiner] a refiner reads the prompt itself: give prompt, and no prompt_embeds"
        )
    known = set(pipe.extra_arguments)
    both = [*_FOR_BOTH, *(name for name in _FOR_BOTH_IF_KNOWN if name in known)]
    told = {name: left[name] for name in both if name in left}
    told |= {name: left.pop(name) for name in known.difference(base.extra_arguments) & left.keys()}
    if told.get("prompt_2") is not None:
        told["prompt_2"] = _plain(base, told["prompt_2"])
    guided = any(left.get(name) is not None for name in _SCALES)
    return left, Refiner(pipe, switch, _plain(base, prompt), negative_prompt, told, guided)


def require_pair(base: DiffusionPipeline, refiner: DiffusionPipeline) -> None:
    """Raises UnsupportedModelError where one cannot go on where the other stops."""
    for one, argument in ((base, "denoising_end"), (refiner, "denoising_start")):
        if argument not in getattr(one, "extra_arguments", ()):
            family = FAMILIES.get(getattr(one, "family", ""))
            title = repr(one) if family is None else family.title
            raise UnsupportedModelError(f"[refiner] a refiner is for SDXL, and this is {title:.80}")


def refined(stage: Stage, refiner: Refiner) -> list[Stage]:
    """The stage up to the switch, and the refiner's from there."""
    request, pipe = stage.request, refiner.pipe
    until = {**request.extra, "denoising_end": refiner.switch}
    first = dataclasses.replace(stage, request=dataclasses.replace(request, extra=until))
    if request.images is not None:
        try:
            _ = first.steps
        except InvalidArgumentError:
            raise InvalidArgumentError(
                "[refiner] the picture to begin from leaves no step before refiner_switch "
                f"{refiner.switch:g}: raise strength (of a second pass hires_strength), or the "
                "switch"
            ) from None
    shape = stage.pipe.latent_shape(request)
    asked = make_request(
        pipe,
        refiner.prompt,
        refiner.negative_prompt,
        {
            **refiner.arguments,
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.steps,
            "rng": request.rng,
            "guidance_scale": request.guidance_scale if refiner.guided else None,
            "seed": _seed_after(request),
            "image": np.zeros((len(request.seeds), *shape), np.float32),
            "denoising_start": refiner.switch,
        },
    )
    second = dataclasses.replace(Stage.of(pipe, asked), goes_on=_with_latents)
    return [first, second]


def _with_latents(request: Request, latents: Array) -> Request:
    return dataclasses.replace(request, latents=latents)


def _seed_after(request: Request) -> Any:
    """Generators have gone on by themselves."""
    if len(request.generators) == 1:
        return request.generators[0]
    return list(request.generators) or [noise_seed(seed) for seed in request.seeds]


def noise_seed(seed: int) -> int:
    """Samplers that add noise must not add what the picture began from once more."""
    return (seed + 2**32) % 2**64


def _plain(base: DiffusionPipeline, prompt: Texts) -> Texts:
    """Without the base's LoRAs, which do not fit the refiner, and whom it was shown."""
    if isinstance(prompt, str):
        return base.words_for_another(prompt)
    return [base.words_for_another(one) if isinstance(one, str) else one for one in prompt]
