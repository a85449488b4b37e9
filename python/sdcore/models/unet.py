"""UNet2DConditionModel: the denoiser of Stable Diffusion 1.x, 2.x and XL, by diffusers' config."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdcore import _core
from sdcore.models.base import (
    Model,
    as_conditions,
    run_with,
    text_shape,
    to_nchw,
    to_nhwc,
    tokens_of,
)
from sdcore.models.config import from_json, require_value
from sdcore.models.unet_graph import (
    DOWN_BLOCKS,
    FIXED,
    MIDDLES,
    UP_BLOCKS,
    Features,
    Residuals,
    UNetConfig,
    Variant,
    build_unet,
    build_variant,
)

__all__ = ["DeepFeatures", "UNet2DConditionModel", "guidance_embedding"]


class DeepFeatures:
    """What one run of a sampler keeps between steps, for `unet(…, deep=…)`: at every `interval`th
    step all of the network runs, and between them only what is above skip number `branch`."""

    def __init__(self, interval: int, branch: int = 0) -> None:
        self.interval = interval
        self.branch = branch
        self._reuses = False
        self._kept: dict[Hashable, tuple[Features, Residuals | None]] = {}

    def begin_step(self, index: int, anew: bool = False) -> None:
        """`anew`: what the network is told has changed, so that all of it runs."""
        self._reuses = index % self.interval != 0 and not anew

    def find(self, key: Hashable) -> tuple[Features, Residuals | None] | None:
        """Those of the last whole run for the same part of a batch, at a step that reuses them,
        and what was added to the skips above them."""
        return self._kept.get(key) if self._reuses else None

    def keep(self, key: Hashable, features: Features, residuals: Residuals | None) -> None:
        self._kept[key] = features, residuals


def _additions(residuals: Residuals) -> dict[str, Any]:
    """What of a variant follows from the names of residuals."""
    adapted = sum(name.startswith("level.") for name in residuals)
    return {"controlled": len(residuals) > adapted, "adapted": adapted}


def _above(residuals: Residuals, branch: int) -> Residuals:
    """Those of ControlNets for the skips that are read again, and all of T2I-Adapters, of which the
    graph passes over what is deeper."""
    again = {f"down.{i}" for i in range(branch + 1)}
    return {name: x for name, x in residuals.items() if name in again or name.startswith("level.")}


def guidance_embedding(scale: float, dim: int) -> NDArray[np.float32]:
    """`timestep_cond` [dim] of a model distilled with guidance, for a guidance scale (Luo et al.
    2023, LCM; the sinusoid is that of Kingma et al. 2021, variational diffusion models)."""
    half = dim // 2
    frequencies = np.exp(-np.log(10000.0) / (half - 1) * np.arange(half))
    # A number of 32 bits, as it is in C.
    angles = 1000.0 * (float(np.float32(scale)) - 1) * frequencies
    embedding = np.concatenate([np.sin(angles), np.cos(angles), np.zeros(dim % 2)])
    return embedding.astype(np.float32)


class UNet2DConditionModel(Model):
    """`unet(sample, timestep, encoder_hidden_states)` in diffusers' shapes."""

    steady = ("encoder_hidden_states", "text_embeds", "time_ids", "timestep_cond")
    config: UNetConfig

    def __init__(self, config: UNetConfig, network: _core.Network) -> None:
        super().__init__(config, network)
        self._variants: dict[Variant, _core.Network] = {}

    def with_network(self, network: _core.Network) -> UNet2DConditionModel:
        other = super().with_network(network)
        other._variants = {}
        return other

    def release(self) -> None:
        super().release()
        self._variants = {}

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> UNetConfig:
        for key, allowed in FIXED.items():
            require_value("unet", config, key, *allowed)
        require_value("unet", config, "mid_block_type", *MIDDLES)
        typed = from_json(UNetConfig, config)
        for kind in typed.down_block_types:
            require_value("unet", {"down_block_types": kind}, "down_block_types", *DOWN_BLOCKS)
        for kind in typed.up_block_types:
            require_value("unet", {"up_block_types": kind}, "up_block_types", *UP_BLOCKS)
        return typed

    @classmethod
    def build(cls, config: UNetConfig) -> _core.Graph:
        return build_unet(config)

    def tell(self, encoder_hidden_states: ArrayLike, **conditions: ArrayLike) -> _core.Steady:
        """What several calls are told alike, to be given in place of `encoder_hidden_states` and
        `conditions`."""
        return _core.Steady(self._conditions(encoder_hidden_states, conditions))

    @staticmethod
    def _conditions(states: ArrayLike, others: Mapping[str, ArrayLike]) -> dict[str, Any]:
        return {"encoder_hidden_states": tokens_of(states, "unet"), **others}

    def __call__(
        self,
        sample: ArrayLike,
        timestep: ArrayLike,
        encoder_hidden_states: ArrayLike | _core.Steady,
        *,
        perturbed: Sequence[str] = (),
        deep: tuple[DeepFeatures, Hashable] | None = None,
        merges: float = 0.0,
        ip_scales: ArrayLike | None = None,
        residuals: Callable[[], Residuals | None] | None = None,
        **conditions: ArrayLike,
    ) -> NDArray[np.float32]:
        """Noise (or whatever the model predicts) for `sample` [n, c, h, w], float32.

        `timestep` is one number or one an image; `encoder_hidden_states` is [n, t, d]. `conditions`
        are the further inputs of the config: `text_embeds`, `time_ids`, `timestep_cond`. What
        `tell` makes of both takes their place, for calls that have them in common.
        `perturbed` are self-attentions to do without, by parts of their names (mid). `deep` is
        what a run keeps between steps, and which part of its batch this is. `merges` is the share
        of tokens that are merged in the self-attentions of the largest size, 0 to 0.75. `ip_scales`
        [k, attentions], in the order of `text_attentions`, are those of k IP-Adapters, whose
        weights the network has and whose tokens [n, t, d] are the conditions `ip_hidden_states_0`
        and on. `residuals` gives what ControlNets and T2I-Adapters add, and is asked where
        all of the network runs: a step that reuses deep features adds what was added with them.
        """
        x = to_nhwc(sample, "[unet] sample", self.config.in_channels)
        told = as_conditions(
            encoder_hidden_states, lambda states: self._conditions(states, conditions)
        )
        shape = text_shape(told, "unet", x.shape[0])
        t = np.broadcast_to(np.asarray(timestep, dtype=np.float32).reshape(-1), (x.shape[0],))
        inputs: dict[str, Any] = {"sample": x, "timestep": t}
        images = 0
        if ip_scales is not None:
            scales = np.asarray(ip_scales, np.float32)
            images, channels = len(scales), self.config.cross_attention_dim
            inputs["ip_scales"] = np.repeat(scales.reshape(1, -1, 1), channels, axis=2)
        variant = Variant(tuple(perturbed), merges=merges, images=images)
        key = (variant.perturbed, x.shape, shape)
        found = None if deep is None else deep[0].find((deep[1], *key))
        if deep is not None and found is not None:
            features, skips = found
            variant = replace(variant, reuses=deep[0].branch, **_additions(skips or {}))
            inputs |= {"deep": features, **(skips or {})}
            return to_nchw(run_with(self._network(variant), inputs, told)["sample"])
        added = None if residuals is None else residuals()
        variant = replace(variant, **_additions(added or {}))
        inputs |= added or {}
        if deep is None:
            return to_nchw(run_with(self._network(variant), inputs, told)["sample"])
        network = self._network(replace(variant, keeps=deep[0].branch))
        out = run_with(network, inputs, told, ["deep"] if network.device != "cpu" else [])
        skips = None if added is None else _above(added, deep[0].branch)
        deep[0].keep((deep[1], *key), out["deep"], skips)
        return to_nchw(out["sample"])

    def _network(self, variant: Variant) -> _core.Network:
        if variant == Variant():
            return self.network
        if variant not in self._variants:
            self._variants[variant] = self.in_graph(build_variant(self.config, variant))
        return self._variants[variant]
