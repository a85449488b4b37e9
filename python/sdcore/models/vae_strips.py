"""AutoencoderKL in less memory: its large levels run over a picture strip by strip.

A strip sees its neighbours' rows as far as convolutions reach, and group norms take the moments of
the whole picture, which a sweep over all strips gathers first. So the result is that of the whole
picture, and there is no border to see. Between sweeps the picture is kept in 16 bits, each written
over the last. What it costs: the first convolution of every residual block runs twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdcore import _core
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.vae_graphs import EPS, VAEConfig, decoder_head, encoder_tail

__all__ = ["StripDecoder", "StripEncoder"]

Array = NDArray[np.float32]

_PIXELS = 1 << 13  # of a strip: few for its memory, many for its kernels and for rows seen twice
_MOST_HALO = 2  # rows beside a strip that a stage may read
# Kept in half precision, which has more digits than bf16, of numbers so much smaller, because some
# VAEs (SDXL's) go past what half precision holds.
_SCALE = np.float32(2.0**-6)


class _Edges(NamedTuple):
    """Whether a strip begins and ends where the picture does."""

    top: bool
    bottom: bool

    def cropped(self, x: Value, rows: int) -> Value:
        """Without rows of the neighbours."""
        if all(self) or not rows:
            return x
        return nn.crop_rows(x, rows * (not self.top), rows * (not self.bottom))

    def conv(self, w: Scope, x: Value, c_in: int, c_out: int) -> Value:
        """Needs one row of each neighbour."""
        return nn.conv2d(w, x, c_in, c_out, padding=(int(self.top), 1, int(self.bottom), 1))


class _Moments:
    """Means and variances [2 * groups] of a picture, from those of its strips."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._each: list[Array] = []

    def add(self, rows: int, moments: Array) -> None:
        self._rows.append(rows)
        self._each.append(moments[0])

    def whole(self) -> Array:
        if not self._rows:
            return np.empty(0, np.float32)
        share = np.array(self._rows) / sum(self._rows)
        means, variances = np.split(np.array(self._each, np.float64), 2, axis=1)
        mean = share @ means
        variance = share @ (variances + (means - mean) ** 2)
        return np.concatenate([mean, variance])[None].astype(np.float32)


class _Picture:
    """A picture [h, w, c] in 16 bits, in memory with room for more channels than it has."""

    def __init__(self, memory: NDArray[np.float16], channels: int) -> None:
        self._memory = memory
        self.channels = channels

    @classmethod
    def empty(cls, height: int, width: int, channels: int, room: int) -> _Picture:
        return cls(np.empty((height, width, max(channels, room)), np.float16), channels)

    @property
    def size(self) -> tuple[int, int]:
        height, width, _ = self._memory.shape
        return height, width

    def read(self, begin: int, end: int) -> Array:
        """Some rows, [1, rows, w, c]."""
        rows = self._memory[None, begin:end, :, : self.channels]
        exact: Array = np.multiply(rows, 1 / _SCALE, dtype=np.float32)
        return exact

    def write(self, begin: int, rows: Array) -> None:
        to = self._memory[begin : begin + rows.shape[1], :, : self.channels]
        np.multiply(rows[0], _SCALE, out=to, casting="same_kind")

    def with_channels(self, channels: int) -> _Picture:
        """Another picture in the same memory."""
        return _Picture(self._memory, channels)

    def compact(self) -> _Picture:
        """The same in memory of its own size."""
        spare = self._memory.shape[2] > self.channels
        memory = self._memory[:, :, : self.channels].copy() if spare else self._memory
        return _Picture(memory, self.channels)


class _Exact:
    """A picture [h, w, c] as it is given or handed out, in float32."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def read(self, begin: int, end: int) -> Array:
        return self.array[None, begin:end]

    def write(self, begin: int, rows: Array) -> None:
        self.array[begin : begin + rows.shape[1]] = rows[0]


@dataclass(frozen=True)
class _Stage:
    """Part of the network on a strip. `write` adds it to a graph, given the strip `x` and the
    moments of the norms in it; what it gives is called "out", and its moments "moments"."""

    write: Callable[[Scope, Value, _Edges, list[Value]], Value]
    norms: int = 0
    reads: Callable[[int], int] = lambda row: row  # the row of the source where a row begins
    halo: int = 1  # rows of the source beside a strip
    below: int | None = None  # and after it, where that differs
    gives_moments: bool = True
    gives_rows: bool = True

    def rows(self, begin: int, end: int, edges: _Edges) -> tuple[int, int]:
        """Of the source, for rows from `begin` to `end`."""
        below = self.halo if self.below is None else self.below
        above = 0 if edges.top else self.halo
        return self.reads(begin) - above, self.reads(end) + (0 if edges.bottom else below)

    def graph(self, edges: _Edges, groups: int) -> _core.Graph:
        b = Builder()
        moments = [b.input(f"moments_{i}") for i in range(self.norms)]
        out = self.write(b.weights, b.input("x"), edges, moments)
        if self.gives_rows:
            b.output("out", out)
        if self.gives_moments:
            b.output("moments", nn.group_moments(out, groups))
        return b.graph


class _Strips(ABC):
    """Sweeps over a picture with parts of one network."""

    def __init__(self, config: VAEConfig, network: _core.Network) -> None:
        self.config = config
        self._network = network
        self._made: dict[tuple[str, _Edges], _core.Network] = {}

    def __call__(self, images: Array) -> Array:
        return np.concatenate([self.one(image[None]) for image in images])

    @abstractmethod
    def one(self, image: Array) -> Array:
        """The same for one image `[1, h, w, c]`."""

    def whole(self, name: str, build: Callable[[], _core.Graph]) -> _core.Network:
        """A part of the network that runs on all of a picture."""
        return self._part(name, _Edges(True, True), build)

    def _part(self, name: str, edges: _Edges, build: Callable[[], _core.Graph]) -> _core.Network:
        key = (name, edges)
        if key not in self._made:
            self._made[key] = self._network.with_graph(build())
        return self._made[key]

    def sweep(
        self,
        name: str,
        stage: _Stage,
        source: _Picture | _Exact,
        size: tuple[int, int],
        into: _Picture | _Exact | None,
        *moments: Array,
    ) -> Array:
        """Runs a stage over all strips of a picture of `size`; the moments of what it gives. `into`
        may lie over `source`."""
        found, groups = _Moments(), self.config.norm_num_groups
        given = {f"moments_{i}": each for i, each in enumerate(moments)}
        done: tuple[int, Array] | None = None
        for begin, end in _strips(*size):
            edges = _Edges(begin == 0, end == size[0])
            network = self._part(name, edges, partial(stage.graph, edges, groups))
            x = source.read(*stage.rows(begin, end, edges))
            # Only now, as this strip had yet to read rows in which the one before it lies.
            if into is not None and done is not None:
                into.write(*done)
            out = network.run({"x": x, **given})
            if stage.gives_moments:
                found.add(end - begin, out["moments"])
            done = (begin, out["out"]) if stage.gives_rows else None
        if into is not None and done is not None:
            into.write(*done)
        return found.whole()

    def resnet(
        self, path: str, picture: _Picture, c_out: int, norm: Array
    ) -> tuple[_Picture, Array]:
        """ResnetBlock2D over a picture with the moments `norm`: what becomes of both."""
        c_in, groups = picture.channels, self.config.norm_num_groups

        def inner(w: Scope, x: Value, edges: _Edges, moments: list[Value]) -> Value:
            block: Scope = getattr(w, path)
            h = nn.silu(nn.group_norm(block.norm1, x, c_in, groups, EPS, moments[0]))
            return edges.conv(block.conv1, h, c_in, c_out)

        def outer(w: Scope, x: Value, edges: _Edges, moments: list[Value]) -> Value:
            block: Scope = getattr(w, path)
            shortcut = edges.cropped(x, 2)
            if c_in != c_out:
                shortcut = nn.conv2d(block.conv_shortcut, shortcut, c_in, c_out, kernel=1)
            h = inner(w, x, edges, moments)
            h = nn.silu(nn.group_norm(block.norm2, h, c_out, groups, EPS, moments[1]))
            return edges.conv(block.conv2, h, c_out, c_out) + shortcut

        size, result = picture.size, picture.with_channels(c_out)
        first = _Stage(inner, norms=1, gives_rows=False)
        second = self.sweep(f"{path}.inner", first, picture, size, None, norm)
        stage = _Stage(outer, norms=2, halo=_MOST_HALO)
        return result, self.sweep(f"{path}.outer", stage, picture, size, result, norm, second)


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Rows of each strip, an even number except of the last, which is not left too short for the
    halo of the one before."""
    rows = max(_PIXELS // width // 2 * 2, _MOST_HALO)
    begins = [row for row in range(0, height, rows) if row == 0 or height - row >= _MOST_HALO]
    yield from zip(begins, [*begins[1:], height], strict=True)


class StripDecoder(_Strips):
    """Latents `[n, h, w, c]`, unscaled, to pictures `[n, 8h, 8w, out_channels]`."""

    def one(self, latents: Array) -> Array:
        config = self.config
        channels = list(reversed(config.block_out_channels))
        head = self.whole("head", lambda: decoder_head(config))
        source: _Picture | _Exact = _Exact(head.run({"latents": latents})["x"][0])
        _core.drop_idle_memory()  # that of the head, or of networks before: as much as is saved
        height, width = latents.shape[1:3]
        c, norm = channels[0], np.empty(0, np.float32)
        for i, c_next in enumerate(channels[1:], 1):
            height, width = 2 * height, 2 * width
            picture = _Picture.empty(height, width, c, room=c_next)
            norm = self.sweep(f"{i}.grow", _grow(i, c), source, picture.size, picture)
            for k in range(config.layers_per_block + 1):
                picture, norm = self.resnet(
                    f"decoder.up_blocks.{i}.resnets.{k}", picture, c_next, norm
                )
            source, c = picture.compact(), c_next
            del picture
        out = _Exact(np.empty((height, width, config.out_channels), np.float32))
        self.sweep("out", self._out(c), source, (height, width), out, norm)
        return out.array[None]

    def _out(self, c: int) -> _Stage:
        config = self.config

        def write(w: Scope, x: Value, edges: _Edges, moments: list[Value]) -> Value:
            d = w.decoder
            h = nn.group_norm(d.conv_norm_out, x, c, config.norm_num_groups, EPS, moments[0])
            return edges.conv(d.conv_out, nn.silu(h), c, config.out_channels)

        return _Stage(write, norms=1, gives_moments=False)


def _grow(level: int, c: int) -> _Stage:
    """Upsample2D before a level: a row of the source is two rows, of which one is read."""

    def write(w: Scope, x: Value, edges: _Edges, moments: list[Value]) -> Value:
        conv = w.decoder.up_blocks[level - 1].upsamplers[0].conv
        return edges.conv(conv, edges.cropped(nn.upsample(x), 1), c, c)

    return _Stage(write, reads=lambda row: row // 2)


class StripEncoder(_Strips):
    """Pictures `[n, h, w, c]` in [-1, 1] to moments of latents `[n, h / 8, w / 8, c']`."""

    def one(self, images: Array) -> Array:
        config, channels = self.config, self.config.block_out_channels
        height, width = images.shape[1:3]
        _core.drop_idle_memory()
        source: _Picture | _Exact = _Exact(images[0])
        stage, c = self._first(), channels[0]
        for i, c_next in enumerate(channels[:-1]):
            picture = _Picture.empty(height, width, c, room=c_next)
            norm = self.sweep(f"{i}.enter", stage, source, picture.size, picture)
            for k in range(config.layers_per_block):
                picture, norm = self.resnet(
                    f"encoder.down_blocks.{i}.resnets.{k}", picture, c_next, norm
                )
            source, c, stage = picture.compact(), c_next, _shrink(i, c_next)
            del picture
            height, width = height // 2, width // 2
        last = _Exact(np.empty((height, width, c), np.float32))
        self.sweep("last.enter", stage, source, (height, width), last)
        tail = self.whole("tail", lambda: encoder_tail(config))
        return tail.run({"x": last.array[None]})["moments"]

    def _first(self) -> _Stage:
        c_in, c = self.config.in_channels, self.config.block_out_channels[0]
        return _Stage(lambda w, x, edges, _: edges.conv(w.encoder.conv_in, x, c_in, c))


def _shrink(level: int, c: int) -> _Stage:
    """Downsample2D after a level: a row reads two rows and the one after them."""

    def write(w: Scope, x: Value, edges: _Edges, moments: list[Value]) -> Value:
        conv = w.encoder.down_blocks[level].downsamplers[0].conv
        return nn.conv2d(conv, x, c, c, stride=2, padding=(0, 0, int(edges.bottom), 1))

    return _Stage(write, reads=lambda row: 2 * row, halo=0, below=1)
