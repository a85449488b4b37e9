"""Flags from the settings in a picture, as sdcore and A1111's web UI write them, and what is said
where the picture will not come out the same."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcore.cli import control, family, model, photomaker
from sdcore.errors import InvalidArgumentError
from sdcore.pictures.upscale import find_upscaler
from sdcore.webui import samplers
from sdcore.webui.settings import RNG_NAMES, hires_steps

if TYPE_CHECKING:
    from sdcore.pipelines import DiffusionPipeline

__all__ = ["LEVELS", "OURS", "ZERO_SNR", "compare_hash", "compare_kernels", "model_name", "take"]

log = logging.getLogger("sdcore")

OURS = "sdcore "  # how Version begins
LEVELS, ZERO_SNR = "Noise Schedule", "Zero Terminal SNR"  # the web UI's words

_HIRES_SIZE = ("hires_scale", "hires_width", "hires_height")
# Keys that are a flag's value, and its type. "Denoising strength" is either pass's.
_FLAGS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int),
    "CFG scale": ("cfg_scale", float),
    "CFG Rescale": ("guidance_rescale", float),
    "Guidance start": ("guidance_start", float),
    "Guidance end": ("guidance_end", float),
    "Seed": ("seed", int),
    "Variation seed": ("subseed", int),
    "Variation seed strength": ("subseed_strength", float),
    "Resize mode": ("resize_mode", str),
    "Hires upscale": ("hires_scale", float),
    "Hires denoising strength": ("hires_strength", float),
    "Hires prompt": ("hires_prompt", str),
    "Hires negative prompt": ("hires_negative_prompt", str),
    "Hires CFG Scale": ("hires_guidance_scale", float),
    "Hires steps": ("hires_steps", int),
    "Clip skip": ("clip_skip", int),
    "Eta DDIM": ("eta", float),
    "PAG scale": ("pag_scale", float),
    "Cache interval": ("cache_interval", int),
    "Cache threshold": ("cache_threshold", float),
    "Token merging ratio": ("token_merging_ratio", float),
    "Weight type": ("type", str),
    "Prediction type": ("prediction", str),
    "Shift": ("flow_shift", float),
    "Refiner switch at": ("refiner_switch", float),
    "IP-Adapter scale": ("ip_adapter_scale", float),
    **{key: (argument, str) for key, argument in family.KEYS.items()},
    **control.KEYS,
    **photomaker.KEYS,
}
# Keys that are looked at one by one, or say nothing that draws.
_OTHERS = (
    *("Sampler", "Schedule type", "Size", "RNG", "Denoising strength", "Model", "VAE"),
    *("Model hash", "VAE hash", "Lora hashes", "Version", "Refiner", LEVELS),
    *("Hires upscaler", "Hires resize", "Hires sampler", "Hires schedule type"),
    *("ControlNet", "IP-Adapter", "PhotoMaker", "Dtype", "Kernels"),
)


def take(args: argparse.Namespace) -> None:
    """Gives the flags that are not given the values of the picture `--from-png`, if there is one.

    What the picture says and nobody here knows is left out with a warning.
    """
    args.kernels = args.model_hash = None
    if args.from_png is None:
        return
    from sdcore.image_io import Infotext, read_png_parameters

    written = read_png_parameters(Path(args.from_png))
    info = Infotext.parse(written or "")
    if not info.settings:
        raise InvalidArgumentError(
            f"[from-png] '{args.from_png}' carries no settings: only pictures as sdcore and "
            "A1111's web UI write them do, in PNG, JPEG and WebP files"
        )
    values = dict(_values(args.from_png, info.settings)) | {"prompt": info.prompt}
    if info.negative_prompt:
        values["negative_prompt"] = info.negative_prompt
    if args.words is not None:
        del values["prompt"]
    if "strength" in values and "strength" not in args:
        raise InvalidArgumentError(
            f"[from-png] '{args.from_png}' was made from another picture: give that one to "
            "sdcore img2img -i"
        )
    if args.sampler is not None:
        values.pop("schedule", None)  # it belongs to the picture's sampler
    if "dtype" in values and args.device == "cpu":
        values["dtype"] = _on_cpu(values["dtype"])
    if any(vars(args)[name] is not None for name in _HIRES_SIZE):
        for name in _HIRES_SIZE:  # one says the size
            values.pop(name, None)
    args.kernels = info.settings.get("Kernels")
    for name, value in values.items():
        if name in args and getattr(args, name) is None:
            setattr(args, name, value)
    _models(args, info.settings)


def _values(path: str, settings: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """Flags and their values."""

    def read(key: str, kind: Callable[[str], Any]) -> Any:
        value = str(settings[key])
        try:
            return kind(value)
        except (ValueError, IndexError):
            raise InvalidArgumentError(
                f"[from-png] '{path}': {key} cannot be {value!r:.80}"
            ) from None

    ours = str(settings.get("Version", "")).startswith(OURS)
    for key, (flag, kind) in _FLAGS.items():
        if key in settings:
            yield flag, read(key, kind)
    if "Size" in settings:
        width, height = read("Size", _size)
        yield from {"width": width, "height": height}.items()
    yield from _hires(read, settings, ours)
    yield from _sampling(path, settings)
    if "Dtype" in settings:
        yield "dtype", read("Dtype", _dtype)
    if settings.get(LEVELS) == ZERO_SNR:
        yield "zero_snr", True
    # The web UI says nothing about noise that is a graphics card's.
    rng = str(settings.get("RNG", "CPU" if ours else "GPU")).lower()
    yield "rng", RNG_NAMES.get(rng, "cpu")
    unknown = [key for key in settings if key not in _FLAGS and key not in _OTHERS]
    if rng not in RNG_NAMES:
        unknown.append("RNG")
    if unknown:
        log.warning(
            "[from-png] '%s': left out what is not known here: %s", path, ", ".join(unknown)
        )


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return width, height


def _dtype(text: str) -> str | dict[str, str]:
    """One, or one for each part, as `dtypes` of pipelines/arithmetic.py writes them."""
    pairs = [pair.rpartition("=") for pair in text.split()]
    if not pairs or any(name not in model.DTYPES for _, _, name in pairs):
        raise ValueError
    return {part: name for part, _, name in pairs} if "=" in text else text


def _on_cpu(dtype: str | dict[str, str]) -> str | dict[str, str]:
    """f16 is for GPUs alone."""
    if isinstance(dtype, str):
        return "auto" if dtype == "f16" else dtype
    return {part: name for part, name in dtype.items() if name != "f16"}


def _hires(
    read: Callable[[str, Callable[[str], Any]], Any], settings: Mapping[str, object], ours: bool
) -> Iterator[tuple[str, Any]]:
    """Size and sampler; whose the strength is; and steps, which the web UI counts in its own
    way."""
    if "Hires resize" in settings:
        for name, side in zip(_HIRES_SIZE[1:], read("Hires resize", _size), strict=True):
            if side:  # 0 follows the other
                yield name, side
    if "Hires upscaler" in settings:
        upscaler = str(settings["Hires upscaler"])
        try:
            yield "hires_upscaler", find_upscaler(upscaler)
        except InvalidArgumentError:
            log.warning("[from-png] there is no upscaler '%s' here: using Lanczos", upscaler)
    named = settings.get("Hires sampler", settings.get("Sampler"))
    titles = [settings[key] for key in ("Hires schedule type", "Schedule type") if key in settings]
    if "Hires sampler" in settings:
        yield "hires_sampler", str(named)
    if named and titles and ("Hires sampler" in settings or "Hires schedule type" in settings):
        schedule = samplers.schedule_of(str(titles[0]), str(named))
        if schedule is not None:
            yield "hires_schedule", schedule
    if "Denoising strength" not in settings:
        return
    strength = read("Denoising strength", float)
    twice = "Hires upscale" in settings or "Hires resize" in settings
    yield (
        "hires_strength" if twice and "Hires denoising strength" not in settings else "strength",
        strength,
    )
    if twice and not ours and strength:
        steps = read("Hires steps" if "Hires steps" in settings else "Steps", int)
        yield "hires_steps", hires_steps(steps, strength)


def _sampling(path: str, settings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if "Sampler" not in settings:
        return
    sampler, schedule = samplers.parted(str(settings["Sampler"]))
    if "Schedule type" in settings:
        title = str(settings["Schedule type"])
        schedule = samplers.schedule_of(title, sampler)
        if schedule is None and title != samplers.AUTOMATIC:
            log.warning("[from-png] '%s': there is no schedule '%s' here", path, title)
    yield "sampler", sampler
    if schedule is not None:
        yield "schedule", schedule


def compare_kernels(pipe: DiffusionPipeline, args: argparse.Namespace) -> None:
    """Says where the picture `--from-png` need not come out the same to the byte."""
    if args.kernels is None:
        return
    from sdcore.pipelines import arithmetic

    here = arithmetic.kernels(pipe)
    if here != args.kernels:
        log.warning(
            "[from-png] '%s' was drawn by the kernels of %s, and these are those of %s: the "
            "picture may differ in its last bits",
            args.from_png,
            args.kernels,
            here,
        )


def _models(args: argparse.Namespace, settings: Mapping[str, object]) -> None:
    """The model and the VAE have names in a picture, and no paths."""
    name = str(settings.get("Model", ""))
    if not model.is_given(args) and name and name != "pocket":
        raise InvalidArgumentError(
            f"[from-png] '{args.from_png}' was drawn with the model '{name}': name its file with -m"
        )
    if model.is_given(args):
        _compare_model(args, name, str(settings.get("Model hash", "")))
    second = str(settings.get("Refiner", "")).partition(" [")[0]  # before its hash
    if second and args.refiner is None:
        raise InvalidArgumentError(
            f"[from-png] '{args.from_png}' was drawn with the refiner '{second}': name its file "
            "with --refiner"
        )
    control.take(args, settings)
    photomaker.take(args, settings)
    vae = str(settings.get("VAE", ""))
    if vae and args.vae is None:
        log.warning(
            "[from-png] '%s' was drawn with the VAE '%s': name its file with --vae",
            args.from_png,
            vae,
        )
    adapter = str(settings.get("IP-Adapter", ""))
    if adapter and args.ip_adapter is None:
        log.warning(
            "[from-png] '%s' was drawn with the IP-Adapter '%s': name its file with --ip-adapter, "
            "and its picture with --ip-adapter-image",
            args.from_png,
            adapter,
        )


def _compare_model(args: argparse.Namespace, name: str, wanted: str) -> None:
    """Says where the picture's model is another one, as far as nothing must be hashed for it."""
    from sdcore.webui.hashes import short_hash

    path = model.path(args)
    found = short_hash(path, known=True) if wanted else None
    if name and model_name(path.resolve()) != name:
        if found is None or found != wanted:
            log.warning("[from-png] '%s' was drawn with another model, '%s'", args.from_png, name)
        return
    args.model_hash = wanted
    compare_hash(args, found)


def compare_hash(args: argparse.Namespace, found: str | None) -> None:
    """Says where the picture `--from-png` was drawn with another file of the model's name."""
    wanted = str(args.model_hash or "")
    if found and len(wanted) == len(found) and wanted.lower() != found:  # older ones have 8 digits
        log.warning(
            "[from-png] '%s' was drawn with a model of the hash %s, and that of '%s' is %s",
            args.from_png,
            wanted,
            model.path(args).name,
            found,
        )


def model_name(path: Path) -> str:
    """What settings call the model of a file or folder."""
    return path.name if path.is_dir() else path.stem
