"""Between latents and pictures."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdcore import _core
from sdcore.errors import UnsupportedModelError
from sdcore.models.autoencoder_tiny import AutoencoderTiny
from sdcore.models.autoencoders import Autoencoder
from sdcore.pictures.fit import resized
from sdcore.pipelines.finite import require_finite
from sdcore.pipelines.memory import fits
from sdcore.pipelines.noise import Draws

__all__ = ["cut_to", "decode", "encode", "encoded_mean", "to_pil", "to_torch"]

Array = NDArray[np.float32]


def decode(vae: Autoencoder, latents: Array) -> Array:
    """Latents [n, c, h, w] to pictures [n, H, W, 3] in [0, 1], one at a time to keep memory low."""
    tiled = _tiled(vae, vae.decoder, "latents", latents)
    images = np.concatenate([vae.decode(one[None], tiled) for one in vae.unscale(latents)])
    require_finite(images, "what the VAE made of the latents")
    pixels: Array = np.clip(images.transpose(0, 2, 3, 1) / 2 + 0.5, 0.0, 1.0)
    return pixels.astype(np.float32)


def encode(vae: Autoencoder, images: Array, noise: Draws) -> Array:
    """Latents [n, c, h, w] of pictures [n, 3, H, W] in [-1, 1]: drawn from what the encoder says,
    as diffusers draws them, with each image's next numbers. A tiny VAE leaves nothing to draw."""
    if isinstance(vae, AutoencoderTiny):
        return vae.scale(np.concatenate([vae.encode(one[None]) for one in images]))
    tiled = _tiled(vae, vae.encoder, "sample", images)
    moments = np.concatenate([vae.moments(one[None], tiled) for one in images])
    mean, log_variance = np.split(moments, 2, axis=1)
    return vae.scale(_core.draw_gaussian(mean, log_variance, noise.draw(mean.shape[1:])))


def encoded_mean(vae: Autoencoder, images: Array, shifted: bool = True) -> Array:
    """The means of what the encoder says, scaled as denoisers know latents; `shifted` unless they
    are to stay where the encoder has them, of which a tiny VAE knows nothing."""
    if isinstance(vae, AutoencoderTiny):
        if not shifted:
            raise UnsupportedModelError(
                "[controlnet] this ControlNet sees what the model's own VAE makes of its picture; "
                "open the model without a tiny one"
            )
        return vae.scale(vae.encode(images))
    tiled = _tiled(vae, vae.encoder, "sample", images)
    mean, _ = np.split(vae.moments(images, tiled), 2, axis=1)
    if shifted:
        return vae.scale(mean)
    _, factor = vae.normalization()
    scaled: Array = mean * factor
    return scaled


def _tiled(vae: Autoencoder, network: _core.Network, name: str, images: Array) -> bool:
    """As the user wants it; else where a whole image does not fit into memory."""
    if vae.tiling is not None:
        return vae.tiling
    c, h, w = images.shape[1:]
    return not fits(network, {name: [1, h, w, c]})


def to_pil(pixels: Array) -> list[Image.Image]:
    """Pictures [n, H, W, 3] in [0, 1] as images of 8 bits."""
    return [Image.fromarray(image) for image in np.round(pixels * 255).astype(np.uint8)]


def to_torch(pixels: Array) -> Any:
    """Pictures [n, H, W, 3] in [0, 1] as a tensor of torch's [n, 3, H, W]."""
    torch: Any = importlib.import_module("torch")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def cut_to(pixels: Array, width: int, height: int) -> Array:
    """Pictures [n, H, W, 3] shrunk or enlarged until they cover this size, and their middle."""
    drawn_height, drawn_width = pixels.shape[1:3]
    times = max(width / drawn_width, height / drawn_height)
    size = max(int(drawn_width * times), width), max(int(drawn_height * times), height)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    channels = [
        np.asarray(resized(Image.fromarray(channel), size))
        for channel in pixels.transpose(0, 3, 1, 2).reshape(-1, drawn_height, drawn_width)
    ]
    whole = np.stack(channels).reshape(len(pixels), 3, size[1], size[0]).transpose(0, 2, 3, 1)
    cut: Array = np.clip(whole[:, top : top + height, left : left + width], 0.0, 1.0)
    return cut
