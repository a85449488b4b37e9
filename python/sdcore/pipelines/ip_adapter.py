"""IP-Adapters on a pipeline (Ye et al. 2023): `load_ip_adapter` and its kin, as in diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore import checkpoint
from sdcore.adapters import ip_adapter
from sdcore.adapters.lora import LoraFile
from sdcore.arguments import as_path
from sdcore.errors import CheckpointError, InvalidArgumentError
from sdcore.models.clip_vision import CLIPVisionConfig, CLIPVisionModelWithProjection
from sdcore.models.image_projection import PROJECTIONS, InstantIDImageProjection, Projection
from sdcore.models.unet import UNet2DConditionModel
from sdcore.models.unet_graph import text_attentions
from sdcore.pictures.given import as_picture
from sdcore.pipelines.adapters import Adapters
from sdcore.pipelines.clip_image import clip_pixels
from sdcore.pipelines.conditioning import Conditioning
from sdcore.pipelines.faces import FacesPipeline, largest, surest
from sdcore.pipelines.loading import Parts, PathLike, within
from sdcore.pipelines.memory import is_tight
from sdcore.pipelines.prompt import Texts
from sdcore.pipelines.request import Prompt, Request, finite
from sdcore.pipelines.stream import Stream

__all__ = ["IP_ADAPTER_ARGUMENTS", "IPAdapterPipeline", "Scale"]

Array = NDArray[np.float32]
# One for all attentions; or by "down", "mid" and "up", each a number, or by "block_0" and on, each
# a number or one an attention. What is not named has 0.
Scale = float | Mapping[str, Any]

_TOKENS = "ip_hidden_states_{}"  # of an adapter, among what the UNet is told
_PICTURES = ("ip_adapter_image", "ip_adapter_image_embeds")
_INTERVAL = ("ip_adapter_start", "ip_adapter_end")
IP_ADAPTER_ARGUMENTS = (*_PICTURES, *_INTERVAL)


@dataclass(frozen=True)
class ImageAdapters:
    """Those that a pipeline has: a value, which a call keeps however the pipeline changes."""

    unet: UNet2DConditionModel  # without them
    attentions: Sequence[str]
    projections: tuple[Projection, ...] = ()
    scales: tuple[tuple[float, ...], ...] = ()  # of each, one an attention
    loras: tuple[str, ...] = ()  # the names of those that FaceID brings


class IPAdapterPipeline(FacesPipeline):
    """A pipeline whose UNet may read pictures beside the text."""

    unet: UNet2DConditionModel
    image_encoder: CLIPVisionModelWithProjection | None

    def _begin_ip_adapters(self, parts: Parts) -> None:
        attentions = text_attentions(self.unet.network.graph.weights)
        self._images = ImageAdapters(self.unet, attentions)
        self._load_part, self._model_path = parts.load, parts.path

    def load_ip_adapter(
        self,
        path: PathLike | Sequence[PathLike],
        image_encoder: PathLike | None = None,
        *,
        subfolder: str | Sequence[str] | None = None,
        weight_name: str | Sequence[str] | None = None,
        image_encoder_folder: PathLike | None = None,
    ) -> None:
        """Puts an IP-Adapter to work at scale 1, or several, in place of those that there were.

        `path` is a .safetensors or .bin file: IP-Adapter, Plus, those for whole faces, FaceID (with
        the LoRA that it brings) and InstantID (at scale 0.8; `control_context` of a call says what
        ControlNets read then). `image_encoder` is a folder or a file of CLIP's image encoder; None
        looks for the model's own and into image_encoder/ and models/image_encoder/ beside the
        adapter, for one that fits. Without any, calls need `ip_adapter_image_embeds`; FaceID and
        InstantID need those or `load_face_model`. In diffusers' words, `path` is a folder that the
        file `weight_name` is in, in `subfolder` of it, or lists of these; and the image encoder is
        in `image_encoder_folder`, which lies in `path`, or without a slash in `subfolder`.
        Raises FileError, CheckpointError (also for another family's adapter),
        UnsupportedModelError.
        """
        if isinstance(path, Sequence) and not isinstance(path, str):
            paths = list(path)
        else:
            paths = [as_path(path, "[ip-adapter] an adapter")]
        if not paths:
            raise InvalidArgumentError("[ip-adapter] load_ip_adapter needs a file, got no path")
        if image_encoder_folder is not None and image_encoder is None:
            beside = Path(image_encoder_folder).parent == Path()
            image_encoder = Path(paths[0], _listed(subfolder)[0] or "" if beside else "")
            image_encoder /= image_encoder_folder
        if weight_name is not None:
            paths = _files(paths, _listed(subfolder), _listed(weight_name))
        before, title = self._images, self._adapters.title
        shapes = before.unet.network.graph.weights
        files = [
            ip_adapter.read(one, i, before.attentions, shapes, title) for i, one in enumerate(paths)
        ]
        projections = tuple(
            self._load_part("image_encoder", PROJECTIONS[file.kind], file.projection)
            for file in files
        )
        encoder = self._encoder_for(projections, image_encoder, Path(paths[0]))
        weights = {name: tensor for file in files for name, tensor in file.weights.items()}
        network = before.unet.network.with_weights(weights)
        loras = {
            f"faceid_{i}": LoraFile(file.path, file.title, {"unet": file.changes})
            for i, file in enumerate(files)
            if file.changes
        }
        now = replace(
            before,
            projections=projections,
            scales=tuple((one.usual_scale,) * len(before.attentions) for one in projections),
            loras=tuple(loras),
        )
        self._exchange(now, before.unet.with_network(network), encoder, loras)
        if is_tight(self):  # as when a pipeline is opened
            self.unload = True

    def set_ip_adapter_scale(self, scale: Scale | Sequence[Scale]) -> None:
        """How much is made of the picture: 0 is nothing, 1 is all. With several adapters one for
        all, or a list with one for each.

        A dict is of blocks, as in diffusers (InstantStyle): `{"up": {"block_0": [0.0, 1.0, 0.0]}}`
        gives an attention of one block a scale, and the others 0.
        """
        images = self._require_ip_adapters()
        listed = list(scale) if isinstance(scale, list | tuple) else [scale]
        if len(listed) == 1:
            listed *= len(images.projections)
        if len(listed) != len(images.projections):
            raise InvalidArgumentError(
                f"[ip-adapter] there are {len(images.projections)} IP-Adapters and "
                f"{len(listed)} scales"
            )
        scales = tuple(tuple(expanded(one, images.attentions)) for one in listed)
        self._images = replace(images, scales=scales)

    def unload_ip_adapter(self) -> None:
        """Forgets all IP-Adapters and the image encoder."""
        images = self._images
        now = ImageAdapters(images.unet, images.attentions)
        self._exchange(now, images.unet, None, {})

    @property
    def has_ip_adapter(self) -> bool:
        """Whether an IP-Adapter is at work, so that calls need pictures."""
        return bool(self._images.projections)

    def at_work_beside(self) -> dict[str, str]:
        own = {"IP-Adapters": "unload_ip_adapter"} if self.has_ip_adapter else {}
        return super().at_work_beside() | own

    # -- in a call ----------------------------------------

    def stream(
        self, prompt: Texts | None = None, negative_prompt: Texts | None = None, **arguments: Any
    ) -> Stream:
        """With a face model, adapters that read faces are given those of the pictures."""
        if self.face_model is not None and arguments.get("ip_adapter_image_embeds") is None:
            arguments |= self._of_faces(arguments.get("ip_adapter_image"))
        return super().stream(prompt, negative_prompt, **arguments)

    def _of_faces(self, images: Any) -> dict[str, Any]:
        """What takes the place of `ip_adapter_image`, where no adapter looks at it whole."""
        projections = self._images.projections
        if images is None or not projections or any(one.reads != "face" for one in projections):
            return {}
        pairs = zip(projections, self._groups(images), strict=True)
        embeds = [self._embeddings(projection, group) for projection, group in pairs]
        return {"ip_adapter_image": None, "ip_adapter_image_embeds": embeds}

    def _embeddings(self, projection: Projection, pictures: Sequence[Any]) -> Array:
        """A face of each picture, as the adapter was trained on it."""
        if not pictures:
            raise InvalidArgumentError("[ip-adapter] ip_adapter_image is an empty list")
        dim = projection.config.embed_dim
        if isinstance(projection, InstantIDImageProjection):
            return np.stack([face.embedding for face in self._faces(pictures, largest, dim)])
        return np.stack([face.normed_embedding for face in self._faces(pictures, surest, dim)])

    @property
    def face_tokens(self) -> str | None:
        """What the conditioning calls the tokens of InstantID, of the first if there are more."""
        kinds = enumerate(self._images.projections)
        found = (i for i, kind in kinds if isinstance(kind, InstantIDImageProjection))
        return next((_TOKENS.format(i) for i in found), None)

    def denoiser_options(self, request: Request) -> dict[str, Any]:
        """Raises where what a call says of IP-Adapters does not fit."""
        self._check_pictures(request)
        self._intervals(request)
        return super().denoiser_options(request)

    def step_options(self, request: Request, index: int, steps: int) -> dict[str, Any]:
        """The scales, 0 of an adapter that rests: as diffusers counts for ControlNets."""
        scales = [
            scale if index / steps >= begin and (index + 1) / steps <= end else (0.0,) * len(scale)
            for scale, (begin, end) in zip(
                self._images.scales, self._intervals(request), strict=True
            )
        ]
        return {"ip_scales": np.array(scales, np.float32)} if scales else {}

    def _intervals(self, request: Request) -> list[tuple[float, float]]:
        """The shares of the steps between which each adapter is at work."""
        count, bounds = len(self._images.projections), []
        for name, usual in zip(_INTERVAL, (0.0, 1.0), strict=True):
            given = request.extra.get(name)
            given = usual if given is None else given
            listed = list(given) if isinstance(given, list | tuple) else [given] * count
            if len(listed) != count:
                raise InvalidArgumentError(
                    f"[ip-adapter] {name} must be one number or {count}, one an IP-Adapter, got "
                    f"{len(listed)}"
                )
            bounds.append([finite(one, name) for one in listed])
        intervals = list(zip(*bounds, strict=True))
        for begin, end in intervals:
            if not 0 <= begin < end <= 1:
                raise InvalidArgumentError(
                    "[ip-adapter] ip_adapter_start must lie before ip_adapter_end, both from 0 to "
                    f"1, got {begin:g} and {end:g}"
                )
        return intervals

    def image_tokens(self, prompts: Sequence[Prompt], request: Request) -> Conditioning:
        """The tokens of each IP-Adapter, a row a prompt: those of the pictures, and for negative
        prompts those of none."""
        told = {}
        for i, projection in enumerate(self._images.projections):
            rows = {
                negative: _in_one(projection(self._embeds(request, i, projection, negative)))
                for negative in {prompt.negative for prompt in prompts}
            }
            told[_TOKENS.format(i)] = np.stack([rows[one.negative] for one in prompts])
            if self.unload:
                projection.release()
        return told

    def _embeds(self, request: Request, i: int, projection: Projection, negative: bool) -> Array:
        """What adapter i takes: a row a picture, or as many rows of no picture."""
        given = request.extra.get("ip_adapter_image_embeds")
        if given is not None:
            halves = _halves(given[i], projection)
            if negative and len(halves) == 1:
                return self._nothing(projection, len(halves[0]))
            return halves[0 if negative else -1]
        pictures = self._pictures(request)[i]
        if negative:
            return self._nothing(projection, len(pictures))
        encoder = self.image_encoder
        assert encoder is not None  # _check_pictures saw to it
        self.needs_only(encoder)
        reads = encoder if projection.reads == "image_embeds" else encoder.hidden_states
        return reads(np.stack([clip_pixels(one, encoder.config.image_size) for one in pictures]))

    def _nothing(self, projection: Projection, count: int) -> Array:
        """What was trained to stand for no picture: zeros; of the encoder's hidden states those of
        a picture whose normalised pixels are zeros, which is not a black one."""
        if projection.reads != "hidden_states":
            return np.zeros((count, projection.config.embed_dim), np.float32)
        encoder = self.image_encoder
        if encoder is None:
            raise InvalidArgumentError(
                "[ip-adapter] without an image encoder ip_adapter_image_embeds need a second row "
                "for guidance: [2, pictures, tokens, channels], that of no picture first"
            )
        side = encoder.config.image_size
        states = encoder.hidden_states(np.zeros((1, 3, side, side), np.float32))
        return np.repeat(states, count, axis=0)

    def _pictures(self, request: Request) -> list[list[Image.Image]]:
        """Those of each adapter."""
        return [
            [as_picture(one, "ip_adapter_image") for one in group]
            for group in self._groups(request.extra.get("ip_adapter_image"))
        ]

    def _groups(self, given: Any) -> list[list[Any]]:
        """Pictures as they are given, for each adapter. With one adapter any list is of its
        pictures."""
        count = len(self._images.projections)
        groups = list(given) if isinstance(given, list | tuple) else [given]
        if count == 1:
            groups = [list(_flat(groups))]
        if len(groups) != count:
            raise InvalidArgumentError(
                f"[ip-adapter] there are {count} IP-Adapters and {len(groups)} of "
                "ip_adapter_image: give a list with a picture, or a list of them, for each"
            )
        return [list(_flat([group])) for group in groups]

    def _check_pictures(self, request: Request) -> None:
        extra, projections = request.extra, self._images.projections
        images, given = (extra.get(name) for name in _PICTURES)
        if not projections:
            for name in IP_ADAPTER_ARGUMENTS:
                if extra.get(name) is not None:
                    raise InvalidArgumentError(
                        f"[ip-adapter] {name} without an IP-Adapter: load one with "
                        "load_ip_adapter (--ip-adapter on the command line)"
                    )
            return
        faces = [projection for projection in projections if projection.reads == "face"]
        if given is None and faces:
            if self.face_model is not None and images is not None:
                raise InvalidArgumentError(
                    "[ip-adapter] faces are not found beside an adapter that looks at whole "
                    "pictures: give ip_adapter_image_embeds, an array for each IP-Adapter"
                )
            raise _no_face(faces[0])
        if (given is None) == (images is None):
            raise InvalidArgumentError(
                "[ip-adapter] an IP-Adapter needs a picture: give ip_adapter_image "
                "(--ip-adapter-image on the command line) or ip_adapter_image_embeds, not both, or "
                "unload_ip_adapter"
            )
        if given is not None:
            self._check_embeds(given)
            return
        if self.image_encoder is None:
            raise InvalidArgumentError(
                "[ip-adapter] there is no image encoder for this IP-Adapter: put it into "
                "image_encoder/ beside it, give load_ip_adapter image_encoder= (--clip_vision on "
                "the command line), or ip_adapter_image_embeds"
            )
        if not all(self._pictures(request)):
            raise InvalidArgumentError("[ip-adapter] ip_adapter_image is an empty list")

    def _check_embeds(self, given: Any) -> None:
        projections = self._images.projections
        if not isinstance(given, list | tuple) or len(given) != len(projections):
            raise InvalidArgumentError(
                f"[ip-adapter] ip_adapter_image_embeds must be a list of {len(projections)}, an "
                "array for each IP-Adapter"
            )
        for array, projection in zip(given, projections, strict=True):
            _halves(array, projection)

    # -- inside ----------------------------------------

    @property
    def lora_files(self) -> dict[str, Path]:
        files = super().lora_files
        return {name: path for name, path in files.items() if name not in self._images.loras}

    def _require_ip_adapters(self) -> ImageAdapters:
        if not self._images.projections:
            raise InvalidArgumentError(
                "[ip-adapter] there is no IP-Adapter: load one with load_ip_adapter"
            )
        return self._images

    def _exchange(
        self,
        images: ImageAdapters,
        unet: UNet2DConditionModel,
        encoder: CLIPVisionModelWithProjection | None,
        loras: Mapping[str, LoraFile],
    ) -> None:
        """All at once for other threads. LoRAs at work come to the new UNet too."""
        now, old = self._adapters, self._images.loras

        def others(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name not in old}

        adapters: Adapters = replace(
            now,
            base={**now.base, "unet": unet},
            loaded={**others(now.loaded), **loras},
            strengths={**others(now.strengths), **dict.fromkeys(loras, 1.0)},
        )
        models = adapters.models()
        with self._adapters_lock:
            self._set(adapters, models)
            self._images, self.image_encoder = images, encoder

    def _encoder_for(
        self, projections: Sequence[Projection], given: PathLike | None, adapter: Path
    ) -> CLIPVisionModelWithProjection | None:
        if given is None and all(one.reads == "face" for one in projections):
            return self.image_encoder
        if given is not None:
            part = checkpoint.open(given).component("image_encoder")
            if not _fits(CLIPVisionModelWithProjection.read_config(part.config), projections):
                raise CheckpointError(
                    f"[ip-adapter] '{given}' is not the image encoder of '{adapter}', which takes "
                    + " and ".join(
                        f"{p.reads} of {p.config.embed_dim} channels" for p in projections
                    )
                )
            return self._loaded(part)
        if self.image_encoder is not None and _fits(self.image_encoder.config, projections):
            return self.image_encoder
        for folder in (
            self._model_path / "image_encoder",
            adapter.parent / "image_encoder",
            adapter.parent.parent / "models" / "image_encoder",
        ):
            if folder.is_dir():
                part = checkpoint.open(folder).component("image_encoder")
                if _fits(CLIPVisionModelWithProjection.read_config(part.config), projections):
                    return self._loaded(part)
        return None

    def _loaded(self, part: Any) -> CLIPVisionModelWithProjection:
        model: CLIPVisionModelWithProjection = self._load_part(
            "image_encoder", CLIPVisionModelWithProjection, part
        )
        return model


def expanded(scale: Any, attentions: Sequence[str]) -> Iterator[float]:
    """The scale of each attention, which are named by their paths in the UNet."""
    if not isinstance(scale, Mapping):
        value = finite(scale, "ip_adapter_scale")
        yield from [value] * len(attentions)
        return
    places = [_place(path) for path in attentions]
    _check_names(scale, {way for way, _, _ in places}, "")
    for way, block, number in places:
        value = scale.get(way, 0.0)
        if isinstance(value, Mapping):
            _check_names(value, {b for w, b, _ in places if w == way}, f"{way}.")
            value = value.get(block, 0.0)
        if isinstance(value, list | tuple):
            there = 1 + max(n for w, b, n in places if (w, b) == (way, block))
            if len(value) not in (1, there):
                raise InvalidArgumentError(
                    f"[ip-adapter] {way}.{block} has {there} attentions, got {len(value)} scales"
                )
            value = value[number if len(value) > 1 else 0]
        yield finite(value, "ip_adapter_scale")


def _place(path: str) -> tuple[str, str, int]:
    """Which way, which block of it, and which attention there."""
    way, *rest = path.split(".")
    numbers = [int(part) for part in rest if part.isdecimal()]
    block = 0 if way == "mid_block" else numbers.pop(0)
    return way.partition("_")[0], f"block_{block}", numbers[0]


def _check_names(given: Mapping[str, Any], known: set[str], before: str) -> None:
    if unknown := sorted(map(str, given.keys() - known)):
        raise InvalidArgumentError(
            f"[ip-adapter] there is no '{before}{unknown[0]}' to scale in this UNet; there are: "
            + ", ".join(before + name for name in sorted(known))
        )


def _fits(config: CLIPVisionConfig, projections: Sequence[Projection]) -> bool:
    """Whether the encoder's channels are those that all of them take."""
    gives = {"image_embeds": config.projection_dim, "hidden_states": config.hidden_size}
    return all(
        one.reads == "face" or gives[one.reads] == one.config.embed_dim for one in projections
    )


def _halves(array: Any, projection: Projection) -> list[Array]:
    """What is given to an adapter: of its pictures, or of none and of its pictures. Faces may be
    given as they are, `[d]` or `[faces, d]`."""
    values = np.asarray(array, np.float32)
    of_faces = projection.reads == "face"
    if of_faces and values.ndim in (1, 2):
        values = values.reshape((1,) * (3 - values.ndim) + values.shape)
    middle = ("tokens",) if projection.reads == "hidden_states" else ()
    pictures = "faces" if of_faces else "pictures"
    sizes = ("1 or 2", pictures, *middle, str(projection.config.embed_dim))
    fits = values.ndim == len(sizes) and values.shape[0] in (1, 2) and 0 not in values.shape
    if not fits or values.shape[-1] != projection.config.embed_dim:
        raise InvalidArgumentError(
            f"[ip-adapter] ip_adapter_image_embeds must be [{', '.join(sizes)}], got "
            f"{list(np.shape(array))}"
        )
    if isinstance(projection, InstantIDImageProjection):
        _check_raw(values[-1])
    return list(values)


def _check_raw(faces: Array) -> None:
    """InstantID was trained on embeddings of many units: one of a single unit would make a stranger
    and no error."""
    if np.isclose(np.linalg.norm(faces, axis=1), 1.0, atol=1e-3).any():
        raise InvalidArgumentError(
            "[ip-adapter] InstantID reads embeddings as antelopev2 gives them, and this one is "
            "normed: give insightface's face['embedding'], not face.normed_embedding"
        )


def _no_face(projection: Projection) -> InvalidArgumentError:
    name, whose = "FaceID", "normed"
    if isinstance(projection, InstantIDImageProjection):
        name, whose = "InstantID", "antelopev2's, not normed"
    return InvalidArgumentError(
        f"[ip-adapter] {name} reads insightface's embedding of a face ({whose}): load_face_model "
        "makes it of ip_adapter_image (--face-model), or give it as ip_adapter_image_embeds, a "
        f"list with [{projection.config.embed_dim}] or [faces, {projection.config.embed_dim}] "
        "numbers (--ip-adapter-embeds on the command line)"
    )


def _in_one(tokens: Array) -> Array:
    """Those of several pictures one after another: `[pictures, t, c]` to `[pictures · t, c]`."""
    return tokens.reshape(-1, tokens.shape[-1])


def _flat(given: Sequence[Any]) -> Iterator[Any]:
    for one in given:
        if isinstance(one, list | tuple):
            yield from _flat(one)
        else:
            yield one


def _listed(names: str | Sequence[str] | None) -> list[str | None]:
    return [names] if names is None or isinstance(names, str) else list(names)


def _files(
    folders: Sequence[PathLike], subfolders: Sequence[str | None], names: Sequence[str | None]
) -> list[PathLike]:
    """As many as are named, each in a folder of its own or in the one for all."""
    columns = [list(one) * (len(names) if len(one) == 1 else 1) for one in (folders, subfolders)]
    if {len(column) for column in columns} != {len(names)}:
        raise InvalidArgumentError(
            f"[ip-adapter] there are {len(folders)} folders, {len(subfolders)} of subfolder and "
            f"{len(names)} of weight_name"
        )
    rows = zip(*columns, names, strict=True)
    return [within(folder, sub, name, "[ip-adapter] an adapter") for folder, sub, name in rows]
