"""What a call may be given besides its prompts, under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from numpy.typing import ArrayLike

from sdcore.arguments import nearest
from sdcore.errors import InvalidArgumentError
from sdcore.pictures.given import ImageLike
from sdcore.pipelines.from_diffusers import call_options
from sdcore.pipelines.prompt import Texts
from sdcore.schedulers import Scheduler

if TYPE_CHECKING:
    from sdcore.pipelines.pipeline import DiffusionPipeline

__all__ = ["DEFAULTS", "Arguments", "by_own_names", "of_family"]

# What the web UI and diffusers call arguments.
_ALIASES = {"steps": "num_inference_steps", "cfg_scale": "guidance_scale", "generator": "seed"}


class Arguments(TypedDict, total=False):
    """What a call may be given besides its prompts. None, as absence, is the model's default."""

    height: int | None  # pixels
    width: int | None
    num_inference_steps: int | None
    # The steps placed by hand, in place of a number: timesteps of the training, or levels of
    # noise and 0 in the end (flow matching: without it).
    timesteps: Sequence[float] | None
    sigmas: Sequence[float] | None
    guidance_scale: float | None  # 1 ignores the negative prompt
    guidance_rescale: float  # 0 to 1: how far guidance is kept from raising contrast
    guidance_start: float  # share of the steps before which there is none, 0 to 1
    guidance_end: float  # and after which there is none
    cache_threshold: (
        float  # change of the model's output below which it is not asked again, 0 (off)
    )
    num_images_per_prompt: int
    # The first image's; image i uses seed + i. None and -1 draw one. Or a list, one an image. Or
    # torch.Generators, which go on from call to call as in diffusers: one an image, or one for all.
    seed: int | Sequence[int] | None
    subseed: int | None  # of noise to mix in: a variation of the picture. None draws one
    subseed_strength: float  # its share, 0 to 1
    rng: str  # whose numbers seeds stand for: torch's on the "cpu", or its "cuda" devices'
    latents: ArrayLike | None  # [n, c, h, w] in the latents' size: noise in place of the seed's
    output_type: str  # "pil", "np" ([n, h, w, 3] in [0, 1]), torch's "pt" of these, or "latent"
    eta: float | None  # noise that DDIM and TCD add, 0 to 1. None is the scheduler's own, 0 and 0.3
    # What to begin from: one, or one a prompt. Also latents [n, c, h, w], and tensors of PyTorch's
    # [n, 3, h, w].
    image: ImageLike | Sequence[ImageLike] | None
    # Share of the steps that are made from it, 0 to 1; at 0 it is the last one alone.
    strength: float
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
    # What enlarges the first one's picture, "Lanczos" or "Nearest", or its latents, "Latent" and
    # the web UI's other names: that spares the VAE, and takes more strength to look sharp.
    hires_upscaler: str
    # SDXL's refiner, or another SDXL, that goes on with the last part of the steps, those of the
    # second pass if there is one; and how much of the schedule comes before it, 0.8.
    refiner: DiffusionPipeline | None
    refiner_switch: float | None
    image_guidance_scale: float  # of models for editing: how closely to keep to `image`
    mask_image: ImageLike | None  # white where `image` is to be painted over, black where kept
    # What the latents begin as under the mask: the "original", to which noise comes, "noise" in its
    # place too, or "nothing". At a strength of 1 they begin as noise alone.
    masked_content: str
    lora_scale: float  # times this all LoRAs that were put to work by set_adapters or loading
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


DEFAULTS: Mapping[str, Any] = {
    "height": None,
    "width": None,
    "num_inference_steps": None,
    "timesteps": None,
    "sigmas": None,
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
    "masked_content": "original",
    "lora_scale": 1.0,
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
    "hires_upscaler": "Lanczos",
}


def by_own_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, none under another's name."""
    named: dict[str, Any] = {}
    for name, value in call_options(arguments).items():
        own = _ALIASES.get(name, name)
        if own in named:
            raise InvalidArgumentError(f"[pipeline] {name} says {own} once more: give one")
        named[own] = value
    device = getattr(named.get("seed"), "device", "")  # of a torch.Generator
    if str(device).startswith("cuda"):
        named.setdefault("rng", "cuda")
    return named


def of_family(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those that only some families have. Raises InvalidArgumentError for what this one has not."""
    extra = {name: value for name, value in arguments.items() if name not in DEFAULTS}
    own = [
        *pipe.extra_arguments,
        *(side + name for name in pipe.embeds for side in ("", "negative_")),
    ]
    if unknown := sorted(set(extra) - set(own)):
        names = ["prompt", "negative_prompt", *DEFAULTS, *_ALIASES, *own]
        raise InvalidArgumentError(
            f"[pipeline] {type(pipe).__name__} has no argument {unknown[0]!r}"
            + (nearest(unknown[0], names) or "; sdcore.pipelines.Arguments lists them")
        )
    return extra
