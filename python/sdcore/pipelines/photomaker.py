"""PhotoMaker on a pipeline (Li et al. 2024): `load_photomaker_adapter`, as in its authors'
pipeline (TencentARC/PhotoMaker, photomaker/pipeline.py)."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.adapters import photomaker
from sdcore.errors import InvalidArgumentError
from sdcore.models.photomaker import PhotoMakerIDEncoder
from sdcore.pictures.given import as_picture
from sdcore.pipelines.clip_image import clip_pixels
from sdcore.pipelines.clip_text import Encoder, beside, clip_skip, encode_rows
from sdcore.pipelines.conditioning import Conditioning, stacked
from sdcore.pipelines.faces import surest
from sdcore.pipelines.loading import Parts, PathLike
from sdcore.pipelines.memory import is_tight
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Prompt, Request, whole
from sdcore.pipelines.stream import Stream
from sdcore.pipelines.unet import UNetPipeline
from sdcore.prompts.chunks import Row, chunks
from sdcore.prompts.editing import at_step
from sdcore.prompts.words import Vector, Word, Words

__all__ = ["PHOTOMAKER_ARGUMENTS", "PhotoMakerPipeline"]

Array = NDArray[np.float32]

PHOTOMAKER_ARGUMENTS = ("input_id_images", "id_embeds", "start_merge_step")
TRIGGER = "img"  # the word of a prompt after the one that is the person
ADAPTER = "photomaker"  # what its LoRA is called
# Share of the steps that know the text alone, unless a call says otherwise: 10 of its authors' 50.
_TEXT_ALONE = 0.2
# Only where white space begins: a long run of it would be read again from each place within.
_TRIGGER_AND_SPACE = re.compile(rf"(?i)(?<!\s)\s*(?<!\w){TRIGGER}(?!\w)")
_HERE = Vector(np.zeros(0, np.float32))  # where the trigger stood, until the row is made


@dataclass(frozen=True)
class _ClassWords:
    """The states `[77, d]` and the pooled state of a prompt whose class word is there once for each
    ID token, `at` these places."""

    states: Array
    pooled: Array
    at: slice


class PhotoMakerPipeline(UNetPipeline):
    """A pipeline of two text encoders whose prompts may hold a person. `id_encoder` is None where
    there is no PhotoMaker."""

    id_encoder: PhotoMakerIDEncoder | None = None

    @property
    @abstractmethod
    def encoders(self) -> Sequence[Encoder]:
        """In the order of their channels; the last one pools."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._load_id_encoder = parts.load

    def load_photomaker_adapter(self, path: PathLike) -> None:
        """Takes a PhotoMaker, version 1 or 2, in place of any that it has: prompts then say who is
        on `input_id_images` by the word `img` after a class word, "a photo of a man img".

        `path` is a .bin or .safetensors file. The LoRA in it goes to work beside others as
        "photomaker", at strength 1, which `set_adapters` changes.
        Raises FileError and CheckpointError (also for another family's model).
        """
        before = self._adapters
        if ADAPTER in before.loaded and self.id_encoder is None:
            raise InvalidArgumentError(
                f"[photomaker] there is a LoRA '{ADAPTER}', which is the name of PhotoMaker's: "
                "load yours with another adapter_name, or delete_adapters first"
            )
        shapes = {name: model.network.graph.weights for name, model in before.base.items()}
        file = photomaker.read(path, self.text_channels, shapes, before.title)
        encoder = self._load_id_encoder("id_encoder", PhotoMakerIDEncoder, file.id_encoder)
        adapters = replace(
            before,
            loaded={**before.loaded, ADAPTER: file.lora},
            strengths={**before.strengths, ADAPTER: 1.0},
        )
        models = adapters.models()
        with self._adapters_lock:
            self._set(adapters, models)
            self.id_encoder = encoder
        if is_tight(self):  # as when a pipeline is opened
            self.unload = True

    def unload_photomaker_adapter(self) -> None:
        """Forgets PhotoMaker and its LoRA."""
        if self.id_encoder is None:
            return
        now = self._adapters

        def others(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name != ADAPTER}

        adapters = replace(now, loaded=others(now.loaded), strengths=others(now.strengths))
        models = adapters.models()
        with self._adapters_lock:
            self._set(adapters, models)
            self.id_encoder = None

    def at_work_beside(self) -> dict[str, str]:
        own = {} if self.id_encoder is None else {"PhotoMaker": "unload_photomaker_adapter"}
        return super().at_work_beside() | own

    @property
    def lora_files(self) -> dict[str, Path]:
        files = super().lora_files
        return files if self.id_encoder is None else {k: files[k] for k in files if k != ADAPTER}

    @property
    def words(self) -> Words:
        """The trigger is no word of the text alone."""
        words = super().words
        return words if self.id_encoder is None else {**words, TRIGGER: self._trigger}

    def words_for_another(self, prompt: str) -> str:
        """Another model knows no person."""
        plain = super().words_for_another(prompt)
        return plain if self.id_encoder is None else _TRIGGER_AND_SPACE.sub("", plain)

    def _trigger(self, *vectors: Vector) -> Word:
        return Word(TRIGGER, dict.fromkeys(self._widths(), vectors))

    # -- in a call ----------------------------------------

    def stream(
        self, prompt: Texts | None = None, negative_prompt: Texts | None = None, **arguments: Any
    ) -> Stream:
        """With a face model, version 2 is given the faces of the pictures."""
        images, encoder = arguments.get("input_id_images"), self.id_encoder
        dim = 0 if encoder is None else encoder.config.id_embeddings_dim
        finds = self.face_model is not None and arguments.get("id_embeds") is None
        if finds and dim and images is not None and _listed(images):
            faces = self._faces(_listed(images), surest, dim)
            arguments["id_embeds"] = np.stack([face.embedding for face in faces])
        return super().stream(prompt, negative_prompt, **arguments)

    def denoiser_options(self, request: Request) -> dict[str, Any]:
        self._check_person(request)
        return super().denoiser_options(request)

    def conditions(self, prompts: Sequence[Prompt], request: Request) -> Mapping[int, Conditioning]:
        """Up to `start_merge_step` that of the text alone, which decides what is drawn; then that
        of the person (Li et al. 2024, delayed subject conditioning)."""
        if self.id_encoder is None:
            return super().conditions(prompts, request)
        said, begin = self.said(prompts, request), _text_steps(request)
        people = self._people(prompts, request)
        # Both encodings of the prompts first: text encoders may be given back then.
        made = self._class_words(people, request)
        told = super().conditions(prompts, request)
        states = self._with_person(made, request)
        rows: dict[str, dict[Prompt, Array]] = {
            "encoder_hidden_states": dict(zip(people, states, strict=True)),
            "text_embeds": {p: one.pooled for p, one in zip(people, made, strict=True)},
        }

        def merged(step: int) -> Conditioning:
            alone, here = at_step(told, step), at_step(said, step)
            return {
                **alone,
                **{
                    name: stacked([of.get(p, alone[name][i]) for i, p in enumerate(here)])
                    for name, of in rows.items()
                },
            }

        later = {first: merged(first) for first in {begin, *told} if first >= begin}
        return {**{first: one for first, one in told.items() if first < begin}, **later}

    def _people(self, prompts: Sequence[Prompt], request: Request) -> list[Prompt]:
        """What prompts say, but negative ones, from where the person is known."""
        said, begin = self.said(prompts, request), _text_steps(request)
        here = [at_step(said, begin), *(told for first, told in said.items() if first > begin)]
        return list(dict.fromkeys(p for told in here for p in told if not p.negative))

    def _class_words(self, prompts: Sequence[Prompt], request: Request) -> list[_ClassWords]:
        rows = [self._rows(prompt, request) for prompt in prompts]
        found = encode_rows(
            [[[row] for row, _ in of_prompt] for of_prompt in rows],
            self.encoders,
            skip=clip_skip(request) + 1,
            final_norm=False,
        )
        made = []
        for one, of_prompt in zip(found, rows, strict=True):
            pooled = one[-1].pooled
            assert pooled is not None
            made.append(_ClassWords(beside(one), pooled, of_prompt[-1][1]))
        return made

    def _with_person(self, made: Sequence[_ClassWords], request: Request) -> list[Array]:
        """The states of the prompts, their class words fused with the pictures."""
        encoder = self.id_encoder
        assert encoder is not None
        self.needs_only(encoder)
        side = encoder.config.vision.image_size
        pictures = [as_picture(one, "input_id_images") for one in _given(request)]
        pixels = np.stack([clip_pixels(one, side) for one in pictures])
        tokens = encoder(pixels, request.extra.get("id_embeds"))
        tokens = tokens.reshape(-1, tokens.shape[-1])
        fused = encoder.fuse(
            np.stack([one.states[one.at] for one in made]), np.stack([tokens] * len(made))
        )
        states = [one.states.copy() for one in made]
        for one, words, of_prompt in zip(made, fused, states, strict=True):
            of_prompt[one.at] = words
        return states

    def _rows(self, prompt: Prompt, request: Request) -> list[tuple[Row, slice]]:
        """The one row for each text encoder, and the places of the class word in it."""
        encoder = self.id_encoder
        assert encoder is not None
        times = len(_given(request)) * encoder.config.num_tokens
        rows = [
            _row(one, prompt.text(i), {**one.words, TRIGGER: lambda: self._trigger(_HERE)}, times)
            for i, one in enumerate(self.encoders)
        ]
        if len({at.start for _, at in rows}) > 1:
            raise InvalidArgumentError(
                f"[photomaker] prompt_2 must have its class word at the place of the prompt's, "
                f"before '{TRIGGER}': leave prompt_2 out, or say the same up to there"
            )
        return rows

    def _check_person(self, request: Request) -> None:
        given = [name for name in PHOTOMAKER_ARGUMENTS if request.extra.get(name) is not None]
        encoder = self.id_encoder
        if encoder is None:
            if given:
                raise InvalidArgumentError(
                    f"[photomaker] {given[0]} is for PhotoMaker, and there is none: load it with "
                    "load_photomaker_adapter (--photo-maker on the command line)"
                )
            return
        if "input_id_images" not in given or not _given(request):
            raise InvalidArgumentError(
                "[photomaker] PhotoMaker needs pictures of a person: give input_id_images "
                "(--pm-id-image or --pm-id-images-dir on the command line), or "
                "unload_photomaker_adapter first"
            )
        for one in _given(request):
            as_picture(one, "input_id_images")
        _check_faces(request, encoder.config.id_embeddings_dim)
        _check_steps(request)
        parts = [part for prompt in request.prompts for part, _ in prompt.parts()]
        for prompt in self._people(parts, request):
            if prompt.given is not None:
                raise InvalidArgumentError(
                    "[photomaker] PhotoMaker reads the prompt itself: give prompt in place of "
                    "prompt_embeds"
                )
            self._rows(prompt, request)


def _row(encoder: Encoder, text: str, words: Words, times: int) -> tuple[Row, slice]:
    """The tokens of a text without the trigger, the one before it so many times, and its places."""
    config, tokenizer = encoder.model.config, encoder.tokenizer
    length = config.max_position_embeddings
    # One longer, for the trigger: what begins another row is too long without it as well.
    rows = chunks(text, tokenizer, length + 1, words, config.hidden_size)
    most = (
        f"[photomaker] with {times} places for the person a prompt may have {length - 2} tokens in "
        f"one chunk, without BREAK: make it shorter, or give fewer pictures: {text!r}"
    )
    found = sum(token is _HERE for row in rows for token in row.ids)
    if found != 1:
        raise InvalidArgumentError(
            f"[photomaker] a prompt needs the word '{TRIGGER}' once, after the word that is the "
            f"person, as in 'a photo of a man {TRIGGER}'; {text!r} has it "
            + (f"{found} times" if found else "nowhere")
        )
    if len(rows) > 1:
        raise InvalidArgumentError(most)
    end = rows[0].ids.index(tokenizer.eos_token_id)
    ids, weights = list(rows[0].ids[:end]), list(rows[0].weights[:end])
    at = ids.index(_HERE) - 1
    if at == 0:  # that of the beginning
        raise InvalidArgumentError(
            f"[photomaker] there is no word before '{TRIGGER}' in {text!r}: say what the person "
            f"is, as in 'a photo of a man {TRIGGER}'"
        )
    ids[at : at + 2] = [ids[at]] * times
    weights[at : at + 2] = [weights[at]] * times
    room = length - len(ids) - 1
    if room < 0:
        raise InvalidArgumentError(most)
    row = Row(
        (*ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * room),
        (*weights, *[1.0] * (room + 1)),
    )
    return row, slice(at, at + times)


def _given(request: Request) -> list[Any]:
    """The pictures as they are given."""
    return _listed(request.extra.get("input_id_images"))


def _listed(images: Any) -> list[Any]:
    return list(images) if isinstance(images, list | tuple) else [images]


def _text_steps(request: Request) -> int:
    """How many steps of the schedule know the text alone. As in the authors' pipeline, the one of
    number `start_merge_step` is the last of them, counted from 0."""
    given = request.extra.get("start_merge_step")
    if given is None:
        return min(int(_TEXT_ALONE * request.steps) + 1, request.steps - 1)
    return whole(given, "start_merge_step", -1) + 1


def _check_steps(request: Request) -> None:
    """Both passes are to have a step that knows the person."""
    steps = min(request.steps, request.hires.steps if request.hires else request.steps)
    if request.extra.get("start_merge_step") is not None and _text_steps(request) >= steps:
        raise InvalidArgumentError(
            f"[photomaker] start_merge_step leaves none of {steps} steps to the person: give at "
            f"most {steps - 2}, or -1 to leave all (--pm-style-strength on the command line)"
        )


def _check_faces(request: Request, dim: int) -> None:
    """`dim` is 0 for version 1, which takes no embeddings."""
    given = request.extra.get("id_embeds")
    if not dim:
        if given is not None:
            raise InvalidArgumentError(
                "[photomaker] id_embeds are for version 2, and this is version 1: leave them out"
            )
        return
    count = len(_given(request))
    if given is None:
        raise InvalidArgumentError(
            "[photomaker] version 2 reads insightface's embeddings of the faces too: "
            "load_face_model makes them (--face-model), or give them as id_embeds, "
            f"[{count}, {dim}] (--pm-id-embed-path on the command line)"
        )
    if np.shape(given) != (count, dim) or not np.isfinite(np.asarray(given, np.float32)).all():
        raise InvalidArgumentError(
            f"[photomaker] id_embeds must be numbers [{count}, {dim}], a row a picture, got "
            f"{list(np.shape(given))}"
        )
