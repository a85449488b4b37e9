"""T2IAdapter: what a picture adds to a UNet's way down (Mou et al. 2023), by diffusers' config.

Unlike a ControlNet it knows neither the latents nor the step, and runs once a picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import Component, Model, RunOptions, make_networks, to_nchw, to_nhwc
from sdcore.models.config import from_json, require_value

__all__ = ["FULL_XL", "T2IAdapter", "T2IAdapterConfig", "build_stretch"]

Array = NDArray[np.float32]

_LIGHT, FULL_XL = "light_adapter", "full_adapter_xl"


@dataclass(frozen=True)
class T2IAdapterConfig:
    in_channels: int = 3
    channels: Sequence[int] = (320, 640, 1280, 1280)
    num_res_blocks: int = 2
    downscale_factor: int = 8  # pixels of a side that become channels
    adapter_type: str = "full_adapter"

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Those of each feature. A light adapter has one more, of the last one's channels."""
        last = self.channels[-1:] if self.adapter_type == _LIGHT else ()
        return (*self.channels, *last)

    @property
    def halvings(self) -> tuple[int, ...]:
        """The blocks that halve what comes into them."""
        later = range(1, len(self.feature_channels))
        return tuple(i for i in later if self.adapter_type != FULL_XL or i == 2)

    @property
    def stretches(self) -> list[range]:
        """Blocks that run one after the other without a halving between."""
        bounds = (0, *self.halvings, len(self.feature_channels))
        return [range(*pair) for pair in itertools.pairwise(bounds)]


def build_stretch(config: T2IAdapterConfig, blocks: range) -> _core.Graph:
    """`x` [n, h, w, c] that comes into the first of these blocks -> `features.I` of each block I,
    [n, h, w, channels]."""
    b = Builder()
    x, w = b.input("x"), b.weights.adapter
    channels = config.feature_channels
    pixels = config.in_channels * config.downscale_factor**2
    if config.adapter_type != _LIGHT and blocks.start == 0:
        x = nn.conv2d(w.conv_in, x, pixels, channels[0])
    for i in blocks:
        if config.adapter_type == _LIGHT:
            x = _light_block(config, w.body[i], x, channels[i - 1] if i else pixels, channels[i])
        else:
            x = _block(config, w.body[i], x, channels[max(i - 1, 0)], channels[i])
        b.output(f"features.{i}", x)
    return b.graph


def _block(config: T2IAdapterConfig, w: Scope, x: Value, c_in: int, c: int) -> Value:
    """AdapterBlock, after its halving."""
    if c_in != c:
        x = nn.conv2d(w.in_conv, x, c_in, c, kernel=1)
    for k in range(config.num_res_blocks):
        x = _resnet(w.resnets[k], x, c, kernel=1)
    return x


def _light_block(config: T2IAdapterConfig, w: Scope, x: Value, c_in: int, c: int) -> Value:
    """LightAdapterBlock, after its halving: the same with a quarter of the channels within."""
    narrow = c // 4
    x = nn.conv2d(w.in_conv, x, c_in, narrow, kernel=1)
    for k in range(config.num_res_blocks):
        x = _resnet(w.resnets[k], x, narrow, kernel=3)
    return nn.conv2d(w.out_conv, x, narrow, c, kernel=1)


def _resnet(w: Scope, x: Value, c: int, kernel: int) -> Value:
    h = nn.activation(nn.conv2d(w.block1, x, c, c), "relu")
    return nn.conv2d(w.block2, h, c, c, kernel=kernel) + x


class T2IAdapter(Model):
    """`adapter(x)` in diffusers' shapes. The graph has no op for the means between blocks, which
    are made here; one network is what runs without one."""

    config: T2IAdapterConfig

    def __init__(self, config: T2IAdapterConfig, networks: Sequence[_core.Network]) -> None:
        super().__init__(config, networks[0])
        self._networks = tuple(networks)

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> T2IAdapterConfig:
        require_value("t2i-adapter", config, "adapter_type", "full_adapter", FULL_XL, _LIGHT)
        require_value("t2i-adapter", config, "in_channels", 1, 3)
        return from_json(T2IAdapterConfig, config)

    @classmethod
    def build(cls, config: T2IAdapterConfig) -> _core.Graph:
        return build_stretch(config, config.stretches[0])

    @classmethod
    def from_component(cls, component: Component, options: RunOptions | None = None) -> T2IAdapter:
        """Raises CheckpointError naming every tensor that is missing or has another shape."""
        config = cls.read_config(component.config)
        graphs = [build_stretch(config, blocks) for blocks in config.stretches]
        return cls(config, make_networks(component, graphs, options))

    @property
    def networks(self) -> Sequence[_core.Network]:
        return self._networks

    def plan_shapes(self, unet: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
        """Sizes of the input of `network`, from those of the UNet."""
        _, h, w, _ = unet["sample"]
        latents = (
            2 if self.config.adapter_type == FULL_XL else 1
        )  # of a side, in one of its features
        pixels = self.config.in_channels * self.config.downscale_factor**2
        return {"x": [1, -(-h // latents), -(-w // latents), pixels]}

    def features(self, x: ArrayLike) -> list[Array]:
        """What is to be added to a UNet after each level, [n, h, w, c], of pictures
        [n, in_channels, H, W] in [0, 1] whose sides are multiples of `downscale_factor`."""
        picture = to_nhwc(x, "[t2i-adapter] x", self.config.in_channels)
        return list(self._blocks(_unshuffled(picture, self.config.downscale_factor)))

    def _blocks(self, x: Array) -> Iterator[Array]:
        for network, blocks in zip(self._networks, self.config.stretches, strict=True):
            if blocks.start:
                x = _halved(x)
            out = network.run({"x": x})
            for i in blocks:
                x = out[f"features.{i}"]
                yield x

    def __call__(self, x: ArrayLike) -> list[Array]:
        """The features as [n, c, h, w]; else as `features`."""
        return [to_nchw(one) for one in self.features(x)]


def _unshuffled(x: Array, factor: int) -> Array:
    """PyTorch's PixelUnshuffle: squares of pixels become channels, in the order c, y, x."""
    n, h, w, c = x.shape
    squares = x.reshape(n, h // factor, factor, w // factor, factor, c)
    return np.ascontiguousarray(
        squares.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // factor, w // factor, -1)
    )


def _halved(x: Array) -> Array:
    """Means of squares of two, and of what is left of them at the edges of odd sides."""

    def sums(of: Array) -> Array:
        rows = np.add.reduceat(of, np.arange(0, of.shape[1], 2), axis=1)
        found: Array = np.add.reduceat(rows, np.arange(0, of.shape[2], 2), axis=2)
        return found

    mean: Array = sums(x) / sums(np.ones((1, *x.shape[1:3], 1), np.float32))
    return mean
