"""What ControlNets for inpainting were trained to see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import InvalidArgumentError
from sdcore.pictures.fit import fitted, fitted_mask
from sdcore.pictures.given import ImageLike, as_picture

__all__ = ["inpaint_condition"]


def inpaint_condition(
    image: ImageLike,
    mask_image: ImageLike,
    width: int | None = None,
    height: int | None = None,
    resize_mode: str = "stretch",
) -> NDArray[np.float32]:
    """The picture as `[height, width, 3]` from 0 to 1, and -1 where the mask says to paint: the
    `control_image` of lllyasviel's control_v11p_sd15_inpaint and its like (`make_inpaint_condition`
    of diffusers' guide, `inpaint_only` of the web UI's extension).

    Give the size that is drawn, and the `resize_mode` that goes with it; None is the picture's.
    Raises InvalidArgumentError unless picture and mask have one size.
    """
    picture, mask = as_picture(image, "image"), as_picture(mask_image, "mask_image")
    if picture.size != mask.size:
        raise InvalidArgumentError(
            f"[picture] mask_image must have the size of image, {picture.size}, got {mask.size}"
        )
    size = width or picture.width, height or picture.height
    seen = fitted(picture, *size, resize_mode) / 2 + 0.5
    seen[:, fitted_mask(mask, *size, resize_mode)[0] > 0] = -1
    return np.asarray(seen.transpose(1, 2, 0), np.float32)
