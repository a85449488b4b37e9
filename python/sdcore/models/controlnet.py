"""ControlNetModel: what a picture adds to a UNet (Zhang et al. 2023), by diffusers' config."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import InvalidArgumentError
from sdcore.graph import Builder, Scope, Value, nn
from sdcore.models.base import (
    Component,
    Conditions,
    Model,
    RunOptions,
    as_conditions,
    make_networks,
    run_with,
    text_shape,
    to_nchw,
    to_nhwc,
    tokens_of,
)
from sdcore.models.config import from_json, require_value
from sdcore.models.unet_graph import DOWN_BLOCKS, FIXED, Features, Residuals, UNetConfig, UNetGraph

__all__ = ["ControlNetConfig", "ControlNetModel", "build_control", "build_embedding"]

Array = NDArray[np.float32]

# Defaults that diffusers' ControlNetUnionModel has otherwise.
_UNION = {"num_control_type": 6, "conditioning_embedding_out_channels": (48, 96, 192, 384)}
_WEAKEST = 0.1  # what guess mode leaves of the first residual; the last one stays whole


@dataclass(frozen=True)
class ControlNetConfig(UNetConfig):
    """That of the UNet whose way down it is a copy of, and what is its own."""

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: Sequence[int] = (16, 32, 96, 256)
    controlnet_conditioning_channel_order: str = "rgb"
    # Whether residuals are means over the picture: what is in it counts, and not where.
    global_pool_conditions: bool = False
    # Of a ControlNet-Union: kinds of pictures that it knows, and how it looks at one.
    num_control_type: int | None = None
    num_trans_channel: int = 320
    num_trans_layer: int = 1
    num_proj_channel: int = 320


class _Control(UNetGraph):
    """A UNet's way down and middle, each skip through a convolution of its own."""

    config: ControlNetConfig

    def __init__(self, config: ControlNetConfig, after_another: bool) -> None:
        super().__init__(config)
        self.after_another = after_another

    def build(self) -> _core.Graph:
        w = self.b.weights
        x = self.way_down(self.first() + self.b.input("features"))
        x = self.mid_block(w.mid_block, x)
        for i, (skip, c) in enumerate(self.skips):
            self.hand_out(f"down.{i}", w.controlnet_down_blocks[i], skip, c)
        self.hand_out("mid", w.controlnet_mid_block, x, self.levels[-1].channels)
        return self.b.graph

    def hand_out(self, name: str, w: Scope, x: Value, c: int) -> None:
        pools = self.config.global_pool_conditions
        x = nn.conv2d(w, x, c, c, kernel=1)
        if pools:
            x = _mean(x, c)
        x = x * self.b.input(f"scale.{name}")
        if self.after_another:
            other = self.b.input(name)
            # What is repeated over the other's pixels comes second.
            x = other + x if pools else x + other
        self.b.output(name, x)


class _Union(_Control):
    """One for several kinds of pictures, which it is told (xinsir's ControlNet++)."""

    def time_embedding(self, w: Scope, t: Value) -> Value:
        config, size = self.config, self.config.addition_time_embed_dim or 256
        types = nn.timestep_embedding(
            self.b.input("control_type"), size, config.flip_sin_to_cos, config.freq_shift
        )
        width = size * (config.num_control_type or 0)
        return super().time_embedding(w, t) + self.mlp(w.control_add_embedding, types, width)


def _values(w: Scope, x: Value, c: int) -> Value:
    """The last third of what one matrix makes of a token for attention."""
    weight, bias = w.attn.in_proj_weight.tensor(3 * c, c), w.attn.in_proj_bias.tensor(3 * c)
    three = nn.layer_norm(w.ln_1, x, c).apply("linear", weight, bias)
    return nn.token(nn.split_channels(nn.merge_tokens(three), 3), 2)


def _mean(x: Value, c: int) -> Value:
    """Over the pixels of each image, `[n, 1, c]`: attention that prefers none of them."""
    tokens = nn.flatten(x)
    nothing = nn.token(tokens, 0).apply("scale", factor=0.0)
    return nn.attention(nothing, tokens, tokens, heads=c // 64 if c % 64 == 0 else 1)


def build_control(config: ControlNetConfig, after_another: bool = False) -> _core.Graph:
    """A UNet's inputs, `features` [n or 1, h, w, c] of a picture, and `scale.NAME` [1, c] of each
    residual -> residuals, named as `Residuals` are: [n, h, w, c], or [n, 1, c] of means. With
    `after_another` those of another ControlNet are inputs too, and added. A ControlNet-Union also
    takes `control_type` [n, kinds], 1 at the kind of its picture."""
    kind = _Control if config.num_control_type is None else _Union
    return kind(config, after_another).build()


def build_embedding(config: ControlNetConfig) -> _core.Graph:
    """`picture` [n, h, w, 3] in [0, 1] -> `features` in the latents' size (ControlNet's
    ControlNetConditioningEmbedding, or input_hint_block). A ControlNet-Union also takes the kind of
    the picture, `control_mode` [n, 1]."""
    b = Builder()
    w = b.weights.controlnet_cond_embedding
    channels = config.conditioning_embedding_out_channels
    x = nn.conv2d(w.conv_in, b.input("picture"), config.conditioning_channels, channels[0])
    for i, (c_in, c_out) in enumerate(itertools.pairwise(channels)):
        x = nn.conv2d(w.blocks[2 * i], nn.silu(x), c_in, c_in)
        x = nn.conv2d(w.blocks[2 * i + 1], nn.silu(x), c_in, c_out, stride=2)
    x = nn.conv2d(w.conv_out, nn.silu(x), channels[-1], config.block_out_channels[0])
    b.output("features", x if config.num_control_type is None else _moved(b, config, x))
    return b.graph


def _moved(b: Builder, config: ControlNetConfig, features: Value) -> Value:
    """Features, and what their mean and the kind of picture say of each channel. The attention
    between is over the batch (by the order of axes in diffusers), in which all pictures are the
    same: what comes out of it is the values."""
    w, c = b.weights, config.num_trans_channel
    table = w.task_embedding.tensor(config.num_control_type or 0, c)
    kind = b.input("control_mode", "i32").apply("embedding", table)
    x = kind + _mean(features, c)
    for k in range(config.num_trans_layer):
        layer = w.transformer_layes[k]  # so spelt in all files
        x = nn.linear(layer.attn.out_proj, _values(layer, x, c), c, c) + x
        h = nn.linear(layer.mlp.c_fc, nn.layer_norm(layer.ln_2, x, c), c, 4 * c)
        x = nn.linear(layer.mlp.c_proj, nn.activation(h, "quick_gelu"), 4 * c, c) + x
    return features + nn.linear(w.spatial_ch_projs, x, c, config.num_proj_channel)


class ControlNetModel(Model):
    """`controlnet(sample, timestep, encoder_hidden_states, controlnet_cond)` in diffusers' shapes.

    A pipeline embeds its picture once (`embed`) and asks for `residuals` at each step; on a GPU
    both stay there.
    """

    steady = ("encoder_hidden_states", "text_embeds", "time_ids")
    config: ControlNetConfig

    def __init__(
        self, config: ControlNetConfig, network: _core.Network, embedding: _core.Network
    ) -> None:
        super().__init__(config, network)
        self.embedding = embedding
        self._after_another: _core.Network | None = None

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> ControlNetConfig:
        if config.get("_class_name") == "ControlNetUnionModel":
            config = {**_UNION, **config}
        for key, allowed in FIXED.items():
            require_value("controlnet", config, key, *allowed)
        require_value("controlnet", config, "conditioning_channels", 3)
        require_value("controlnet", config, "controlnet_conditioning_channel_order", "rgb", "bgr")
        middles = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")
        require_value("controlnet", config, "mid_block_type", *middles)
        typed = from_json(ControlNetConfig, config)
        for kind in typed.down_block_types:
            require_value(
                "controlnet", {"down_block_types": kind}, "down_block_types", *DOWN_BLOCKS
            )
        return typed

    @classmethod
    def build(cls, config: ControlNetConfig) -> _core.Graph:
        return build_control(config)

    @classmethod
    def from_component(
        cls, component: Component, options: RunOptions | None = None
    ) -> ControlNetModel:
        """Raises CheckpointError naming every tensor that is missing or has another shape."""
        config = cls.read_config(component.config)
        graphs = build_control(config), build_embedding(config)
        return cls(config, *make_networks(component, graphs, options))

    @property
    def networks(self) -> Sequence[_core.Network]:
        return (self.network, self.embedding)

    def release(self) -> None:
        super().release()
        self._after_another = None

    def plan_shapes(self, unet: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
        """Sizes of the inputs of `network`, from those of the UNet."""
        names = ["sample", "timestep", "encoder_hidden_states"]
        if self.config.addition_embed_type is not None:
            names += ["text_embeds", "time_ids"]
        n, h, w, _ = unet["sample"]
        kinds = self.config.num_control_type
        scales = {name: scale.shape for name, scale in self._scales(1.0, False).items()}
        return {
            **{name: unet[name] for name in names},
            "sample": [n, h, w, self.config.in_channels],
            "features": [1, h, w, self.config.block_out_channels[0]],
            **({} if kinds is None else {"control_type": [n, kinds]}),
            **scales,
        }

    def embed(self, controlnet_cond: ArrayLike, control_mode: int | None = None) -> Features:
        """Features of pictures [n, 3, H, W] in [0, 1], for `residuals`. A ControlNet-Union has to
        be told their kind, `control_mode`, and takes pictures that are all the same."""
        x = to_nhwc(controlnet_cond, "[controlnet] controlnet_cond", 3)
        if self.config.controlnet_conditioning_channel_order == "bgr":
            x = np.ascontiguousarray(x[..., ::-1])
        inputs: dict[str, NDArray[Any]] = {"picture": x}
        if self.config.num_control_type is not None:
            mode = np.argmax(self._control_type(control_mode, 1))
            inputs["control_mode"] = np.full((x.shape[0], 1), mode, np.int32)
        features: Features = _run(self.embedding, inputs, {})["features"]
        return features

    def tell(self, encoder_hidden_states: ArrayLike, **conditions: ArrayLike) -> _core.Steady:
        """What several calls are told alike, to be given in place of `encoder_hidden_states` and
        `conditions`."""
        return _core.Steady(self._conditions(encoder_hidden_states, conditions))

    def _conditions(self, states: ArrayLike, others: Mapping[str, ArrayLike]) -> dict[str, Any]:
        told = {} if self.config.addition_embed_type is None else others
        return {"encoder_hidden_states": tokens_of(states, "controlnet"), **told}

    def residuals(
        self,
        sample: ArrayLike,
        timestep: ArrayLike,
        encoder_hidden_states: ArrayLike | _core.Steady,
        features: Features,
        conditioning_scale: float = 1.0,
        guess_mode: bool = False,
        after: Residuals | None = None,
        control_mode: int | None = None,
        **conditions: ArrayLike,
    ) -> Residuals:
        """What to give to a UNet for the same sample, timestep, states and conditions, which are as
        for that, or what `tell` makes of the last two; `features` are of one picture for all of the
        batch, or of one each.

        In guess mode the residuals of upper layers count less, from a tenth up to the whole. Those
        of others, `after`, are added. `control_mode` is as for `embed`.
        """
        x = to_nhwc(sample, "[controlnet] sample", self.config.in_channels)
        told = as_conditions(
            encoder_hidden_states, lambda states: self._conditions(states, conditions)
        )
        text_shape(told, "controlnet", x.shape[0])
        t = np.broadcast_to(np.asarray(timestep, dtype=np.float32).reshape(-1), (x.shape[0],))
        inputs: dict[str, Any] = {"sample": x, "timestep": t, "features": features}
        inputs |= self._scales(conditioning_scale, guess_mode)
        if self.config.num_control_type is not None:
            inputs["control_type"] = self._control_type(control_mode, x.shape[0])
        after = after or {}
        others = {name: after[name] for name in self.network.graph.outputs if name in after}
        if not others:
            return {**after, **_run(self.network, inputs, told)}
        network = self._after_another
        if network is None:
            network = self.in_graph(build_control(self.config, after_another=True))
            self._after_another = network
        return {**after, **_run(network, {**inputs, **others}, told)}

    def _control_type(self, mode: int | None, n: int) -> Array:
        kinds = self.config.num_control_type or 0
        if mode is None or not 0 <= mode < kinds:
            raise InvalidArgumentError(
                f"[controlnet] control_mode must be from 0 to {kinds - 1}, got {mode}"
            )
        return np.tile(np.eye(kinds, dtype=np.float32)[mode], (n, 1))

    def _scales(self, scale: float, guess_mode: bool) -> dict[str, Array]:
        """As diffusers has it: guess mode raises them evenly in their logarithms, and means are
        never weakened."""
        names = self.network.graph.outputs
        shares = np.ones(len(names))
        if guess_mode and not self.config.global_pool_conditions:
            shares = np.geomspace(_WEAKEST, 1.0, len(names))
        weights = self.network.graph.weights
        return {
            f"scale.{name}": np.full((1, weights[_convolution(name)][0]), scale * share, np.float32)
            for name, share in zip(names, shares, strict=True)
        }

    def __call__(
        self,
        sample: ArrayLike,
        timestep: ArrayLike,
        encoder_hidden_states: ArrayLike,
        controlnet_cond: ArrayLike,
        conditioning_scale: float = 1.0,
        guess_mode: bool = False,
        control_mode: int | None = None,
        **conditions: ArrayLike,
    ) -> tuple[list[Array], Array]:
        """The residuals of the skips, and of the middle: [n, c, h, w] each, or [n, c, 1, 1] of
        means. `controlnet_cond` is [n, 3, H, W] in [0, 1]; else as for `residuals`."""
        found = self.residuals(
            sample,
            timestep,
            encoder_hidden_states,
            self.embed(controlnet_cond, control_mode),
            conditioning_scale,
            guess_mode,
            None,
            control_mode,
            **conditions,
        )
        arrays = [np.asarray(found[name], np.float32) for name in self.network.graph.outputs]
        *down, mid = (to_nchw(a if a.ndim == 4 else a[:, None]) for a in arrays)
        return down, mid


def _convolution(name: str) -> str:
    """The weight of the last convolution of a residual."""
    path, _, index = name.partition(".")
    return f"controlnet_down_blocks.{index}.weight" if index else f"controlnet_{path}_block.weight"


def _run(network: _core.Network, inputs: Mapping[str, Any], told: Conditions) -> dict[str, Any]:
    """What comes out stays on a GPU."""
    return run_with(network, inputs, told, network.graph.outputs if network.device != "cpu" else [])
