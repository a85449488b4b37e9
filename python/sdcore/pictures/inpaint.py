"""What the web UI does around a mask: blur it, fill what it covers, draw the masked part alone at
the whole size, and put what was kept back in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageFilter, ImageOps

from sdcore.errors import InvalidArgumentError
from sdcore.pictures.fit import Size, resized
from sdcore.pictures.masks import binary

__all__ = ["Masked", "masked"]

Box = tuple[int, int, int, int]

# Radii of the blurs that fill what a mask covers, from far to near, and how often each is laid on.
_BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


@dataclass(frozen=True)
class Masked:
    """What the pipeline begins from, what puts its picture back into the client's, and what cuts
    from another picture of the client's size what is drawn of it."""

    image: Image.Image
    mask: Image.Image
    restore: Callable[[Image.Image], Image.Image]
    cut: Callable[[Image.Image], Image.Image]


def masked(
    image: Image.Image,
    mask: Image.Image,
    size: Size,
    *,
    blur: float | tuple[float, float] = 0,
    fill: bool = False,
    padding: int | None = None,
    resize_mode: str = "stretch",
) -> Masked:
    """`image` and the binary `mask` to paint at `size`; one of another size is stretched over the
    picture. With `padding`, only what is masked and so many pixels around it is drawn, at the whole
    size; without, all of the picture, and each of the two is fitted to the size by itself. `blur`
    is a radius in pixels, or one across and one down."""
    fits = mask.size == image.size
    if padding is None:
        image, mask = (resized(one, size, resize_mode) for one in (image, mask))
    else:
        mask = resized(mask, image.size)
    if not fits:
        mask = binary(mask)  # a filter's ringing is nothing to paint
    soft = mask.filter(ImageFilter.GaussianBlur(blur)) if blur else mask
    box = (0, 0, *image.size) if padding is None else _around(soft, mask, padding, size)

    def restore(drawn: Image.Image) -> Image.Image:
        layer = image.copy()
        corner, part = box[:2], (box[2] - box[0], box[3] - box[1])
        layer.paste(drawn.resize(part, Image.Resampling.LANCZOS), corner)
        # Outside of what is painted nothing may shine through, inside all of it.
        return Image.composite(layer, image, ImageChops.add(soft, soft))

    start = _filled(image, mask) if fill else image
    return Masked(
        start.crop(box).resize(size, Image.Resampling.LANCZOS),
        soft.crop(box).resize(size, Image.Resampling.LANCZOS),
        restore,
        lambda other: other.resize(image.size, Image.Resampling.LANCZOS).crop(box),
    )


def _around(soft: Image.Image, mask: Image.Image, padding: int, size: Size) -> Box:
    """What is masked with `padding`, widened to the proportions of `size` within the picture."""
    found = soft.getbbox() or mask.getbbox()  # a blur may leave nothing of a few pixels
    if found is None:
        raise InvalidArgumentError("[inpaint] the mask is empty: there is nothing to paint")
    left, top = max(found[0] - padding, 0), max(found[1] - padding, 0)
    right, bottom = min(found[2] + padding, mask.width), min(found[3] + padding, mask.height)
    wanted = size[0] / size[1]
    width, height = right - left, bottom - top
    if width / height < wanted:
        left, right = _widened(left, right, round(height * wanted), mask.width)
    else:
        top, bottom = _widened(top, bottom, round(width / wanted), mask.height)
    return left, top, right, bottom


def _widened(low: int, high: int, length: int, most: int) -> tuple[int, int]:
    """`length` pixels about the middle of `low` to `high`, kept within 0 to `most`."""
    length = min(max(length, high - low), most)
    low = min(max((low + high - length) // 2, 0), most - length)
    return low, low + length


def _filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with what is masked in the colours around it."""
    kept = image.convert("RGBA")
    kept.putalpha(ImageOps.invert(mask))
    kept = kept.convert("RGBa")  # so that what is masked does not bleed into the blurs
    out = Image.new("RGBA", image.size)
    for radius, times in _BLURS:
        layer = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            out.alpha_composite(layer)
    return Image.composite(out.convert("RGB"), image, mask)
