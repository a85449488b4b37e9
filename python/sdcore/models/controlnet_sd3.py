"""SD3ControlNetModel: what a picture adds to the transformer of Stable Diffusion 3 and 3.5, by
diffusers' config.

InstantX's and those made like it copy the transformer's first blocks; Stability's for 3.5 large
have blocks that read no text, and take the transformer's own embedding of the latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.errors import UnsupportedModelError
from sdcore.graph import Scope, Value, nn
from sdcore.models.base import (
    Component,
    Conditions,
    Model,
    RunOptions,
    as_conditions,
    make_networks,
    run_with,
    text_shape,
    to_nhwc,
    tokens_of,
)
from sdcore.models.blocks import feed_forward
from sdcore.models.config import from_json, require_value
from sdcore.models.mmdit import NORM_EPS, BlockResiduals, MMDiTGraph, SD3Config
from sdcore.models.unet_graph import Features

__all__ = ["SD3ControlNetConfig", "SD3ControlNetModel", "build_control", "build_embedding"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class SD3ControlNetConfig(SD3Config):
    """That of the transformer, and what is its own. `joint_attention_dim` of None: it reads no
    text."""

    extra_conditioning_channels: int = 0  # 1: of a mask beside the picture's latents
    pos_embed_type: str | None = "sincos"
    # Whether it has an embedding of latents; else it takes the transformer's.
    use_pos_embed: bool = True
    # What it is told of the pooled prompt; with it, latents of its picture are not shifted.
    force_zeros_for_pooled_projection: bool = True
    # What its picture is, of Stability's: 0 blurred, 1 canny edges, 2 depth. None: not told.
    control_type: int | None = None

    @property
    def reads_text(self) -> bool:
        return self.joint_attention_dim is not None


class _Control(MMDiTGraph):
    """Blocks, each through a linear layer of its own."""

    config: SD3ControlNetConfig

    def control(self, after_another: bool) -> _core.Graph:
        config, b, w, c = self.config, self.b, self.b.weights, self.c
        patches = self.patches(w.pos_embed.proj, b.input("sample"), config.in_channels)
        if config.pos_embed_type is not None or not config.use_pos_embed:
            patches = self.placed(patches)
        x = nn.flatten(patches + b.input("features"))
        self.temb = nn.silu(self.time_text_embedding(w.time_text_embed))
        scale = b.input("scale")
        context = self.texts() if config.reads_text else None
        for i in range(config.num_layers):
            block = w.transformer_blocks[i]
            if context is None:
                x = self.single_block(block, x)
            else:
                dual = i in config.dual_attention_layers
                x, following = self.block(block, x, context, dual, False)
                assert following is not None
                context = following
            out = nn.linear(w.controlnet_blocks[i], x, c, c) * scale
            name = f"{config.num_layers}.{i}"
            b.output(name, b.input(name) + out if after_another else out)
        return b.graph

    def single_block(self, w: Scope, x: Value) -> Value:
        """SD3SingleTransformerBlock."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulation(w.norm1.linear, 6)
        h = nn.ada_layer_norm(x, scale, shift, NORM_EPS)
        x = x + self.self_attention(w.attn, h) * gate
        h = nn.ada_layer_norm(x, scale_ff, shift_ff, NORM_EPS)
        return x + feed_forward(w.ff, h, self.c, "gelu_tanh") * gate_ff


def build_control(config: SD3ControlNetConfig, after_another: bool = False) -> _core.Graph:
    """The transformer's inputs, without `encoder_hidden_states` where no text is read, `features`
    [n or 1, h / p, w / p, c] of a picture and `scale` [1, c] -> `BlockResiduals`. With
    `after_another` those of another ControlNet are inputs too, and added."""
    return _Control(config).control(after_another)


def build_embedding(config: SD3ControlNetConfig) -> _core.Graph:
    """`condition` [n, h, w, in_channels + extra_conditioning_channels], a picture's latents and
    what goes with them -> `features`."""
    graph = _Control(config)
    condition = graph.b.input("condition")
    channels = config.in_channels + config.extra_conditioning_channels
    w = graph.b.weights.pos_embed_input.proj
    graph.b.output("features", graph.patches(w, condition, channels))
    return graph.b.graph


class SD3ControlNetModel(Model):
    """A pipeline embeds the latents of its picture once (`embed`) and asks for `residuals` at each
    step; on a GPU both stay there."""

    steady = ("encoder_hidden_states", "pooled_projections")
    config: SD3ControlNetConfig

    def __init__(
        self, config: SD3ControlNetConfig, network: _core.Network, embedding: _core.Network
    ) -> None:
        super().__init__(config, network)
        self.embedding = embedding
        self._after_another: _core.Network | None = None

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> SD3ControlNetConfig:
        require_value("controlnet", config, "qk_norm", None, "rms_norm")
        require_value("controlnet", config, "pos_embed_type", None, "sincos")
        require_value("controlnet", config, "extra_conditioning_channels", 0, 1)
        typed = from_json(SD3ControlNetConfig, config)
        if typed.use_pos_embed and typed.pos_embed_type and not typed.pos_embed_max_size:
            raise UnsupportedModelError(
                "[controlnet] config field pos_embed_max_size is None; sdcore runs ControlNets "
                "whose files bring their positions, and Stability's, which have the transformer's"
            )
        widths = {"caption_projection_dim": typed.caption_projection_dim}
        if typed.reads_text:
            require_value("controlnet", widths, "caption_projection_dim", typed.channels)
        elif typed.qk_norm is not None or typed.dual_attention_layers:
            raise UnsupportedModelError(
                "[controlnet] config field joint_attention_dim is None, and qk_norm or "
                "dual_attention_layers are not: sdcore runs blocks without text as diffusers has "
                "them, without either"
            )
        return typed

    @classmethod
    def build(cls, config: SD3ControlNetConfig) -> _core.Graph:
        return build_control(config)

    @classmethod
    def from_component(
        cls, component: Component, options: RunOptions | None = None
    ) -> SD3ControlNetModel:
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

    def plan_shapes(self, mmdit: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
        """Sizes of the inputs of `network`, from those of the transformer."""
        (_, h, w, _), p, c = mmdit["sample"], self.config.patch_size, self.config.channels
        told = ["sample", "timestep", "pooled_projections"]
        told += ["encoder_hidden_states"] * self.config.reads_text
        sizes = {name: mmdit[name] for name in told}
        return {**sizes, "features": [1, h // p, w // p, c], "scale": [1, c]}

    def embed(self, controlnet_cond: ArrayLike) -> Features:
        """Features, for `residuals`, of latents [n, in_channels + extra_conditioning_channels, h,
        w]."""
        channels = self.config.in_channels + self.config.extra_conditioning_channels
        x = to_nhwc(controlnet_cond, "[controlnet] controlnet_cond", channels)
        features: Features = _run(self.embedding, {"condition": x}, {})["features"]
        return features

    def tell(self, encoder_hidden_states: ArrayLike, pooled_projections: ArrayLike) -> _core.Steady:
        """What several calls are told alike, to be given as `encoder_hidden_states`."""
        return _core.Steady(self._conditions(encoder_hidden_states, pooled_projections))

    def _conditions(self, states: ArrayLike, pooled: ArrayLike) -> dict[str, Array]:
        told = np.asarray(pooled, np.float32)
        if self.config.force_zeros_for_pooled_projection:
            told = np.zeros_like(told)
        text = {"encoder_hidden_states": states} if self.config.reads_text else {}
        tokens = {name: tokens_of(one, "controlnet") for name, one in text.items()}
        return {**tokens, "pooled_projections": told}

    def residuals(
        self,
        sample: ArrayLike,
        timestep: ArrayLike,
        encoder_hidden_states: ArrayLike | _core.Steady,
        pooled_projections: ArrayLike,
        features: Features,
        conditioning_scale: float = 1.0,
        after: BlockResiduals | None = None,
    ) -> BlockResiduals:
        """What to give to a transformer for the same sample, timestep, states and projections, or
        what `tell` made of the last two as states; `features` are of one picture for all of the
        batch, or of one each. Those of another ControlNet, `after`, are added."""
        config, after = self.config, after or {}
        x = to_nhwc(sample, "[controlnet] sample", config.in_channels)
        n = x.shape[0]
        told = as_conditions(
            encoder_hidden_states, lambda states: self._conditions(states, pooled_projections)
        )
        if config.reads_text:
            text_shape(told, "controlnet", n)
        inputs = {
            "sample": x,
            "timestep": np.broadcast_to(np.asarray(timestep, np.float32).reshape(-1), (n,)),
            "features": features,
            "scale": np.full((1, config.channels), conditioning_scale, np.float32),
        }
        others = {name: after[name] for name in self.network.graph.outputs if name in after}
        return {**after, **_run(self._network(bool(others)), {**inputs, **others}, told)}

    def _network(self, after_another: bool) -> _core.Network:
        if not after_another:
            return self.network
        if self._after_another is None:
            self._after_another = self.in_graph(build_control(self.config, after_another=True))
        return self._after_another

    def __call__(
        self,
        hidden_states: ArrayLike,
        controlnet_cond: ArrayLike,
        conditioning_scale: float = 1.0,
        encoder_hidden_states: ArrayLike | None = None,
        pooled_projections: ArrayLike | None = None,
        timestep: ArrayLike = 0.0,
    ) -> list[Array]:
        """As diffusers': the residuals of the blocks, [n, tokens, channels] each, of latents
        [n, c, h, w]; but that pooled projections are zeros where the config says so."""
        n, config = len(np.asarray(hidden_states)), self.config
        if pooled_projections is None:
            pooled_projections = np.zeros((n, config.pooled_projection_dim), np.float32)
        if encoder_hidden_states is None:
            encoder_hidden_states = np.zeros((n, 0, 1), np.float32)
        found = self.residuals(
            hidden_states,
            timestep,
            encoder_hidden_states,
            pooled_projections,
            self.embed(controlnet_cond),
            conditioning_scale,
        )
        return [np.asarray(found[name], np.float32) for name in self.network.graph.outputs]


def _run(network: _core.Network, inputs: Mapping[str, Any], told: Conditions) -> dict[str, Any]:
    """What comes out stays on a GPU."""
    return run_with(network, inputs, told, network.graph.outputs if network.device != "cpu" else [])
