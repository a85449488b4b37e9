"""`encode_prompt`, as in diffusers: what a call makes of its prompts, to be given to calls in their
place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdcore.arguments import nearest
from sdcore.errors import InvalidArgumentError
from sdcore.pipelines.conditioning import stacked
from sdcore.pipelines.from_diffusers import in_order
from sdcore.pipelines.prompt import Prompt, Texts
from sdcore.pipelines.request import Request, make_request

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["Encodings", "encode_prompts"]

Array = NDArray[np.float32]

# By the arguments of a call, first those of the prompt; of the negative one None where there is
# none.
Encodings = tuple[Mapping[str, Array], Mapping[str, Array | None]]


def encode_prompts(
    pipe: DiffusionPipeline,
    prompt: Texts | None,
    values: Sequence[Any],
    arguments: Mapping[str, Any],
) -> Encodings:
    """`values` and `arguments` are those of diffusers' method, after the prompt. Raises
    InvalidArgumentError."""
    if not pipe.embeds:
        raise InvalidArgumentError(f"[pipeline] {type(pipe).__name__} has no text encoder")
    if unknown := sorted(arguments.keys() - {*pipe.encode_order}):
        raise InvalidArgumentError(
            f"[pipeline] encode_prompt has no argument {unknown[0]!r}"
            + nearest(unknown[0], pipe.encode_order)
        )
    named = in_order(pipe.encode_order, values, arguments)
    given = {name: value for name, value in named.items() if value is not None}
    given.pop("device", None)  # arrays have none
    guided = given.pop("do_classifier_free_guidance", True) or "negative_prompt_embeds" in given
    request = make_request(pipe, prompt, given.pop("negative_prompt", None), given)
    call = pipe._for_call(request.lora_tags(), request.lora_scale)
    _require_lasting(call, request)
    negatives = request.negative_prompts if guided else []
    told = call.described([*request.prompts, *negatives], request)
    count = len(request.prompts)
    return (
        {name: _even(told[of][:count]) for name, of in pipe.embeds.items()},
        {
            f"negative_{name}": _even(told[of][count:]) if guided else None
            for name, of in pipe.embeds.items()
        },
    )


def _require_lasting(pipe: DiffusionPipeline, request: Request) -> None:
    """What a prompt says must hold for all steps, in one piece."""
    prompts: list[Prompt] = [*request.prompts, *request.negative_prompts]
    joins = any(prompt.given is None and len(prompt.parts()) > 1 for prompt in prompts)
    if joins or len(pipe.said(prompts, request)) > 1:
        what = "is joined of parts by AND" if joins else "changes on the way"
        raise InvalidArgumentError(
            f"[pipeline] a prompt that {what} has no encoding of its own: give it to the call"
        )


def _even(rows: Array) -> Array:
    found = stacked(list(rows))
    if found.dtype == object:
        raise InvalidArgumentError(
            "[pipeline] these prompts are of several lengths, in multiples of 77 tokens: encode "
            "each by itself"
        )
    return found
