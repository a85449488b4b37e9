"""How a whole model lies in each kind of file: original single files and diffusers' folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdcore.checkpoint.names import clip, unet, vae
from sdcore.checkpoint.names.table import NameTable
from sdcore.checkpoint.names.vae import LINEAR
from sdcore.checkpoint.tensor import SIZES, Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Original:
    """Where a part lies in an original file, and the table of its names, found from diffusers'."""

    prefix: str
    table: Callable[[Iterable[str]], NameTable]


@dataclass(frozen=True)
class Folder:
    """What model_index.json says: the parts and their classes, and the pipeline's own values."""

    pipeline: str
    components: dict[str, str]
    tokenizers: dict[str, str]  # and the token that fills up a prompt
    options: dict[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Layout:
    original: dict[str, Original]
    folder: Folder


_UNET = Original("model.diffusion_model.", unet.to_original)
_VAE = Original("first_stage_model.", vae.to_original)
_SD1: dict[str, Original] = {
    "unet": _UNET,
    "vae": _VAE,
    "text_encoder": Original("cond_stage_model.transformer.", clip.hugging_face),
}
_SD2 = _SD1 | {"text_encoder": Original("cond_stage_model.model.", clip.to_open_clip)}
_SDXL = {
    "unet": _UNET,
    "vae": _VAE,
    "text_encoder": Original("conditioner.embedders.0.transformer.", clip.hugging_face),
    "text_encoder_2": Original("conditioner.embedders.1.model.", clip.to_open_clip),
}
_REFINER = {
    "unet": _UNET,
    "vae": _VAE,
    "text_encoder_2": Original("conditioner.embedders.0.model.", clip.to_open_clip),
}

_UNET_CLASS = "UNet2DConditionModel"
_ONE_CLIP = {"unet": _UNET_CLASS, "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
_TWO_CLIPS = _ONE_CLIP | {"text_encoder_2": "CLIPTextModelWithProjection"}
_UNCHECKED = {"requires_safety_checker": False}
_END, _BANG = "<|endoftext|>", "!"


def _folder_1(pipeline: str, pad: str) -> Folder:
    return Folder(pipeline, _ONE_CLIP, {"tokenizer": pad}, _UNCHECKED)


def _folder_xl(pipeline: str) -> Folder:
    return Folder(
        pipeline,
        _TWO_CLIPS,
        {"tokenizer": _END, "tokenizer_2": _BANG},
        {"force_zeros_for_empty_prompt": True},
        absent=("feature_extractor", "image_encoder"),
    )


LAYOUTS: dict[str, Layout] = {
    "sd1": Layout(_SD1, _folder_1("StableDiffusionPipeline", _END)),
    "sd1-inpaint": Layout(_SD1, _folder_1("StableDiffusionInpaintPipeline", _END)),
    "sd1-edit": Layout(_SD1, _folder_1("StableDiffusionInstructPix2PixPipeline", _END)),
    "sd2": Layout(_SD2, _folder_1("StableDiffusionPipeline", _BANG)),
    "sd2-inpaint": Layout(_SD2, _folder_1("StableDiffusionInpaintPipeline", _BANG)),
    "sdxl": Layout(_SDXL, _folder_xl("StableDiffusionXLPipeline")),
    "sdxl-inpaint": Layout(_SDXL, _folder_xl("StableDiffusionXLInpaintPipeline")),
    "sdxl-edit": Layout(_SDXL, _folder_xl("StableDiffusionXLInstructPix2PixPipeline")),
    "playground-v2.5": Layout(_SDXL, _folder_xl("StableDiffusionXLPipeline")),
    "sdxl-refiner": Layout(
        _REFINER,
        Folder(
            "StableDiffusionXLImg2ImgPipeline",
            {
                "unet": _UNET_CLASS,
                "vae": "AutoencoderKL",
                "text_encoder_2": "CLIPTextModelWithProjection",
            },
            {"tokenizer_2": _BANG},
            {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
            absent=("text_encoder", "tokenizer", "feature_extractor", "image_encoder"),
        ),
    ),
}


# Parts alone, as other programs take them.
ALONE = {"vae": Original("", vae.to_original)}


def layout_of(family: str) -> Layout | None:
    """Of a family, or of the one that it is a variant of: "sd1-lcm" lies as "sd1" does."""
    return LAYOUTS.get(family) or LAYOUTS.get(family.partition("-")[0])


def original_names(component: str, tensors: Tensors, place: Original) -> dict[str, Tensor]:
    """A part's tensors as an original file has them, by name and shape; names that no row knows
    are kept as they are."""
    if component == "vae":
        tensors = {name: _convolution(name, tensor) for name, tensor in tensors.items()}
    restored, unknown = place.table(tensors).restore(tensors)
    restored |= {name: tensors[name] for name in unknown}
    return {place.prefix + name: tensor for name, tensor in restored.items()}


def _convolution(name: str, tensor: Tensor) -> Tensor:
    """The autoencoder's attention is made of 1x1 convolutions there; blocks cannot follow."""
    is_linear = LINEAR.search(name) and len(tensor.shape) == 2 and tensor.type in SIZES
    return tensor.reshape((*tensor.shape, 1, 1)) if is_linear else tensor
