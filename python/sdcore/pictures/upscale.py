"""Pictures and latents made larger, by the names that A1111's web UI has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sdcore.errors import InvalidArgumentError
from sdcore.pictures.fit import Size, resized

__all__ = ["LATENT_MODES", "UPSCALERS", "enlarged", "enlarged_latents", "find_upscaler"]

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]

UPSCALERS = ("Lanczos", "Nearest")  # of pictures
# Of latents: PyTorch's mode, and whether it smooths what it would skip, which enlarging does not.
LATENT_MODES: Mapping[str, tuple[str, bool]] = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}


def find_upscaler(name: str, among: Iterable[str] = (*UPSCALERS, *LATENT_MODES)) -> str:
    """As it is written there, whatever its letters. Raises InvalidArgumentError."""
    known = {one.lower(): one for one in among}
    if not isinstance(name, str) or name.lower() not in known:
        raise InvalidArgumentError(
            f"[upscaler] there is no upscaler {name!r:.80}; use one of {', '.join(known.values())}"
        )
    return known[name.lower()]


def enlarged(picture: Image.Image, size: Size, name: str, mode: str = "stretch") -> Image.Image:
    """A picture by one of UPSCALERS; `mode` is "stretch" or "crop", which cuts what sticks out."""
    if name == "Lanczos":
        return resized(picture, size, mode)
    how = Image.Resampling.NEAREST
    return ImageOps.fit(picture, size, how) if mode == "crop" else picture.resize(size, how)


def enlarged_latents(latents: Array, size: Size, name: str, mode: str = "stretch") -> Array:
    """[n, c, h, w] as [n, c, height, width] by one of LATENT_MODES, as PyTorch's `interpolate`
    does. `mode` is as for pictures."""
    height, width = latents.shape[2:]
    if mode == "crop":
        times = max(size[0] / width, size[1] / height)
        inner = max(round(width * times), size[0]), max(round(height * times), size[1])
        left, top = (inner[0] - size[0]) // 2, (inner[1] - size[1]) // 2
        whole = enlarged_latents(latents, inner, name)
        return whole[:, :, top : top + size[1], left : left + size[0]]
    kind, smooth = LATENT_MODES[name]
    weights = _WEIGHTS[kind]
    down, across = weights(height, size[1], smooth), weights(width, size[0], smooth)
    made: Array = (down @ latents.astype(np.float64) @ across.T).astype(np.float32)
    return made


def _taking(places: NDArray[np.int64], old: int) -> Doubles:
    """Each of the new takes one of the old."""
    weights: Doubles = (places[:, None] == np.arange(old)).astype(np.float64)
    return weights


def _nearest(old: int, new: int, _: bool) -> Doubles:
    return _taking(np.arange(new) * old // new, old)


def _nearest_exact(old: int, new: int, _: bool) -> Doubles:
    return _taking((2 * np.arange(new) + 1) * old // (2 * new), old)


def _bilinear(old: int, new: int, smooth: bool) -> Doubles:
    return _by_kernel(old, new, 1, lambda x: 1 - x, smooth)


def _bicubic(old: int, new: int, smooth: bool) -> Doubles:
    """Keys' kernel; PyTorch has another one of them where it smooths."""
    a = -0.5 if smooth else -0.75

    def kernel(x: Doubles) -> Doubles:
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        return np.where(x < 1, near, (((x - 5) * x + 8) * x - 4) * a)

    return _by_kernel(old, new, 2, kernel, smooth)


def _by_kernel(
    old: int, new: int, reach: int, kernel: Callable[[Doubles], Doubles], smooth: bool
) -> Doubles:
    """[new, old]: what each of the new takes of the old. Beyond an end is what lies at the end, or
    nothing, where the kernel is widened to smooth."""
    wide = max(old / new, 1.0) if smooth else 1.0
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    beyond = int(np.ceil(reach * wide)) + 1
    places = np.arange(-beyond, old + beyond)
    distance = np.abs(centers[:, None] - places) / wide
    weights = np.where(distance < reach, kernel(distance), 0.0)
    inside: Doubles = weights[:, beyond : beyond + old].copy()
    if smooth:
        inside /= inside.sum(axis=1, keepdims=True)
        return inside
    inside[:, 0] += weights[:, :beyond].sum(axis=1)
    inside[:, -1] += weights[:, beyond + old :].sum(axis=1)
    return inside


_WEIGHTS: Mapping[str, Callable[[int, int, bool], Doubles]] = {
    "nearest": _nearest,
    "nearest-exact": _nearest_exact,
    "bilinear": _bilinear,
    "bicubic": _bicubic,
}
