"""What scripts for diffusers say that is said otherwise here: names that ask for nothing that
sdcore does not do by itself are taken, and the others are errors that name what there is.
docs/from-diffusers.md lists both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sdcore.errors import InvalidArgumentError, MissingAttributeError, MissingNameError

__all__ = [
    "CLASSES",
    "DiffusersNames",
    "by_position",
    "call_options",
    "in_order",
    "open_options",
    "require_class",
]

P = TypeVar("P", bound="DiffusersNames")

_PICTURES = (
    "sdcore.DiffusionPipeline draws from pictures too: give image=, mask_image= and strength=, "
    "which diffusers takes to be {strength}"
)
_CONTROL = "open sdcore.DiffusionPipeline with controlnet=, and give its picture as control_image="
# Classes that scripts import, and what there is in place of them.
CLASSES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("AutoPipelineForImage2Image", "StableDiffusionImg2ImgPipeline"),
            *("StableDiffusionXLImg2ImgPipeline", "StableDiffusion3Img2ImgPipeline"),
            *("LatentConsistencyModelImg2ImgPipeline", "StableDiffusionDepth2ImgPipeline"),
        ),
        _PICTURES.format(strength="0.8 (SDXL 0.3, SD 3 0.6)"),
    ),
    **dict.fromkeys(
        (
            *("AutoPipelineForInpainting", "StableDiffusionInpaintPipeline"),
            *("StableDiffusionXLInpaintPipeline", "StableDiffusion3InpaintPipeline"),
        ),
        _PICTURES.format(strength="1.0 (SDXL 0.9999, SD 3 0.6)"),
    ),
    **dict.fromkeys(
        (
            *("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline"),
            *("StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionAdapterPipeline"),
            *("StableDiffusionControlNetInpaintPipeline", "StableDiffusionXLAdapterPipeline"),
            *("StableDiffusion3ControlNetPipeline", "ControlNetModel", "SD3ControlNetModel"),
            *("MultiControlNetModel", "ControlNetUnionModel", "T2IAdapter"),
        ),
        _CONTROL,
    ),
    **dict.fromkeys(
        ("AutoencoderKL", "AutoencoderTiny"), "open sdcore.DiffusionPipeline with vae=, a path"
    ),
    "UNet2DConditionModel": "open a whole model with sdcore.DiffusionPipeline: its unet is a part",
    "DPMSolverSinglestepScheduler": "take sdcore.DPMSolverMultistepScheduler",
    "GGUFQuantizationConfig": "sdcore.DiffusionPipeline reads GGUF files as they are",
    "BitsAndBytesConfig": 'open sdcore.DiffusionPipeline with quantize="q8_0" or "q4_K"',
}

_NO_CHECKER = "sdcore has none: leave it out, or look at the pictures yourself"
# Options of from_pretrained that ask for nothing: there is no safety checker and no watermark, and
# nothing is downloaded.
_NOT_NEEDED = {
    *("requires_safety_checker", "feature_extractor", "use_safetensors", "low_cpu_mem_usage"),
    *("local_files_only", "cache_dir", "token", "use_auth_token", "force_download", "proxies"),
    *("resume_download", "revision", "offload_folder", "offload_state_dict", "max_memory"),
}
# Those that are errors, unless they switch something off.
_OPEN_INSTEAD = {
    **dict.fromkeys(("safety_checker", "load_safety_checker"), _NO_CHECKER),
    "add_watermarker": "sdcore marks no pictures: leave it out",
    "custom_pipeline": "sdcore runs no code of a model's: leave it out",
    "trust_remote_code": "sdcore runs no code of a model's: leave it out",
    "quantization_config": 'give quantize="q8_0" or "q4_K"',
    "original_config": "give config=, a diffusers folder",
    "original_config_file": "give config=, a diffusers folder",
    "unet": "parts are opened with the model: give the path of a whole one",
    "transformer": "parts are opened with the model: give the path of a whole one",
}
_PARTS_LEFT_OUT = ("text_encoder", "text_encoder_2", "text_encoder_3")

# Arguments of a call, likewise.
_CALL_INSTEAD = {
    "callback": "give callback_on_step_end=, which is called after every step",
    "padding_mask_crop": "cut the part to paint out yourself and paste it back, or use the server, "
    "whose inpaint_full_res does so",
    "masked_image_latents": "give image= and mask_image=",
}

# Where a call says how strong LoRAs are.
_ATTENTION_OPTIONS = ("cross_attention_kwargs", "joint_attention_kwargs")

_PICTURE_ARGUMENTS = ("image", "mask_image", "depth_map")

# Attributes of a pipeline.
_INSTEAD = {
    "guidance_scale": "it is a call's: give it there, or change it in callback_on_step_end",
    "num_timesteps": "it is a call's: ask in callback_on_step_end, or a step of pipe.stream(…)",
    "enable_freeu": "FreeU is not built",
    "enable_layerwise_casting": 'open the model with quantize="q8_0"',
    "enable_group_offload": "open the model with stream_weights=True",
    "save_pretrained": "sdcore.convert(model, folder) writes a diffusers folder, and "
    "pipe.export(file) what C programs draw with",
    "save_lora_weights": "sdcore trains no LoRAs",
    "progress_bar": "for step in pipe.stream(…) tells step.index and step.total",
    "image_processor": "output_type= says what pictures are, and image= takes them as they are",
    "mask_processor": "mask_image= takes pictures as they are",
    "feature_extractor": "sdcore has no safety checker",
    "from_pipe": "the pipeline itself draws from pictures too: give image= and mask_image=",
    "register_modules": "a part is set as an attribute, of another pipeline of sdcore's",
    "prepare_latents": "give latents= to the call",
    "check_inputs": "a call checks them",
    "upcast_vae": 'open the model with dtype={"vae": "f32"}',
    "dtype": "each part has its own, such as pipe.unet.network.dtype",
}


def require_class(name: str) -> None:
    """Raises MissingNameError for what `CLASSES` knows."""
    if name in CLASSES:
        raise MissingNameError(f"sdcore has no {name}: {CLASSES[name]}")


def open_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `open` that those of from_pretrained are; raises InvalidArgumentError."""
    own: dict[str, Any] = {}
    for name, value in options.items():
        if name in _OPEN_INSTEAD and value:
            raise InvalidArgumentError(
                f"[pipeline] {name}= is diffusers'; here {_OPEN_INSTEAD[name]}"
            )
        if name == "device_map" and value is not None:
            own["device"] = _device_of(value)
        elif name in _PARTS_LEFT_OUT and value is None:
            own[name] = False
        elif name not in (*_NOT_NEEDED, *_OPEN_INSTEAD, "device_map"):
            own[name] = value
    return own


def _device_of(device_map: Any) -> Any:
    if device_map in ("auto", "balanced", "sequential"):
        raise InvalidArgumentError(
            f'[pipeline] device_map={device_map!r} is diffusers\'; here give device="cuda", or one '
            "for each part; weights that find no room there are streamed"
        )
    return device_map if isinstance(device_map, Mapping) else str(device_map)


def call_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call in sdcore's words, without those of diffusers' that are None; raises
    InvalidArgumentError for those that there is nothing for."""
    for name, instead in _CALL_INSTEAD.items():
        if arguments.get(name) is not None:
            raise InvalidArgumentError(f"[pipeline] {name}= is diffusers'; here {instead}")
    # An output is a tuple too, and what was `callback` is called after every step.
    not_needed = (*_CALL_INSTEAD, "callback_steps", "return_dict")
    own = {name: value for name, value in arguments.items() if name not in not_needed}
    for name in _ATTENTION_OPTIONS:
        options = dict(own.pop(name, None) or {})
        if "scale" in options:
            own["lora_scale"] = options.pop("scale")
        if options:
            raise InvalidArgumentError(
                f"[pipeline] {name}= takes a scale, and no {next(iter(options))!r}"
            )
    return own


def by_position(
    order: Sequence[str], values: Sequence[Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call, those `given` by name and what follows its prompt without: in
    sdcore's order one text, the negative prompt, else in diffusers'. Raises InvalidArgumentError.
    """
    if len(values) == 1 and _is_text(values[0]):
        order = ("negative_prompt",)
    for name, value in zip(order, values, strict=False):
        if not (name in _PICTURE_ARGUMENTS or _is_text(value) or isinstance(value, Real)):
            raise InvalidArgumentError(
                f"[pipeline] {name} follows here, which is no {type(value).__name__}: give a "
                "picture as image="
            )
    return in_order(order, values, given)


def in_order(
    order: Sequence[str], values: Sequence[Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments after a prompt, the first of them without their names."""
    if len(values) > len(order):
        listed = ", ".join(("prompt", *order))
        raise InvalidArgumentError(
            f"[pipeline] {listed} may go without their names here: give what follows by name"
        )
    named = dict(zip(order, values, strict=False))
    for name in named:
        if given.get(name) is not None:
            raise InvalidArgumentError(f"[pipeline] {name} is given twice, once without its name")
    return {**given, **named}


def _is_text(value: Any) -> bool:
    """A prompt, several, or none."""
    listed = value if isinstance(value, list | tuple) else [value]
    return all(one is None or isinstance(one, str) for one in listed)


class DiffusersNames:
    """Methods and attributes of diffusers' pipelines."""

    # What follows the prompt in a call of diffusers' pipeline, as far as scripts rely on it.
    call_order: ClassVar[Sequence[str]] = ("height", "width", "num_inference_steps")
    # And in its encode_prompt.
    encode_order: ClassVar[Sequence[str]] = ()
    networks: ClassVar[Mapping[str, Any]]
    tokenizers: ClassVar[Sequence[str]]
    scheduler: Any
    denoiser: Any
    vae: Any
    unload: bool
    vae_tiling: bool | None

    def __new__(cls: type[P], *_: Any, **parts: Any) -> P:
        if parts:
            raise InvalidArgumentError(
                f"[pipeline] {cls.__name__} is not made of parts: open it with from_pretrained or "
                "from_single_file; one pipeline draws from text, from pictures and under masks"
            )
        return super().__new__(cls)

    @property
    def safety_checker(self) -> None:
        """There is none."""

    @safety_checker.setter
    def safety_checker(self, checker: Any) -> None:
        if hasattr(checker, "state_dict"):  # and no function that lets all pass
            raise InvalidArgumentError(f"[pipeline] safety_checker: {_NO_CHECKER}")

    @property
    def components(self) -> dict[str, Any]:
        """The parts by diffusers' names, with the scheduler."""
        parts = {name: getattr(self, name) for name in (*self.networks, *self.tokenizers)}
        return {**parts, "scheduler": self.scheduler}

    @property
    def device(self) -> str:
        """Where the denoiser runs, as `open` was told it."""
        return str(self.denoiser.network.device)

    @property
    def vae_scale_factor(self) -> int:
        """How many pixels of a side a latent stands for."""
        return int(self.vae.scale_factor)

    if not TYPE_CHECKING:  # for which every name would be there

        def __getattr__(self, name: str) -> Any:
            kind = type(self).__name__
            if name in _INSTEAD:
                raise MissingAttributeError(f"[pipeline] {kind} has no {name}: {_INSTEAD[name]}")
            raise AttributeError(f"'{kind}' object has no attribute '{name}'")

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Has parts give back their memory as soon as the next one runs (`unload`)."""
        self.unload = True

    enable_sequential_cpu_offload = enable_model_cpu_offload

    def enable_vae_tiling(self) -> None:
        """Has the VAE do pictures a strip at a time (`vae_tiling`)."""
        self.vae_tiling = True

    def disable_vae_tiling(self) -> None:
        """Has the VAE do so where a whole picture does not fit into memory alone."""
        self.vae_tiling = None

    def _done_already(self, *_: Any, **__: Any) -> None:
        """Nothing: what this asks for is always so here, or there is nothing to switch off."""

    # Attention is never held whole, the VAE does one picture at a time, and there is no bar.
    enable_attention_slicing = disable_attention_slicing = set_attention_slice = _done_already
    enable_xformers_memory_efficient_attention = _done_already
    disable_xformers_memory_efficient_attention = _done_already
    enable_vae_slicing = disable_vae_slicing = _done_already
    fuse_qkv_projections = unfuse_qkv_projections = _done_already
    set_progress_bar_config = _done_already
    disable_freeu = maybe_free_model_hooks = remove_all_hooks = reset_device_map = _done_already
    set_lora_device = _done_already
