"""Adapters of every kind for one module of the tiny UNet, and the changes that they mean."""

from __future__ import annotations

import numpy as np
import torch

import tiny_models
from adapters.lora_files import State

SPEC = tiny_models.PLAIN
RNG = np.random.default_rng(11)


def random(*shape: int) -> torch.Tensor:
    return torch.from_numpy(0.3 * RNG.standard_normal(shape, dtype=np.float32))


LINEAR, CONV, POINT = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.0.attentions.0.proj_in",
)


# A module, tensors, and the change that they mean, in float64 by the published formulas.
Kind = tuple[str, State, torch.Tensor]


def kinds() -> dict[str, Kind]:
    net = tiny_models.unet(SPEC)
    linear, conv = (net.get_submodule(name).weight.double().detach() for name in (LINEAR, CONV))
    return (
        loha(linear, conv)
        | lokr(linear, conv)
        | products(conv)
        | {"dora for each input": dora(conv)}
    )


def loha(linear: torch.Tensor, conv: torch.Tensor) -> dict[str, Kind]:
    (o, i), (co, ci, *taps) = linear.shape, conv.shape
    low = {"hada_w1_a": random(o, 3), "hada_w1_b": random(3, i), "hada_w2_a": random(o, 3),
           "hada_w2_b": random(3, i), "alpha": torch.tensor(2.0)}  # fmt: skip
    d = {key: value.double() for key, value in low.items()}
    product = (d["hada_w1_a"] @ d["hada_w1_b"]) * (d["hada_w2_a"] @ d["hada_w2_b"])
    whole = LINEAR, low, product * 2 / 3

    core = {"hada_t1": random(3, 3, *taps), "hada_t2": random(3, 3, *taps),
            "hada_w1_a": random(3, co), "hada_w1_b": random(3, ci),
            "hada_w2_a": random(3, co), "hada_w2_b": random(3, ci)}  # fmt: skip
    d = {key: value.double() for key, value in core.items()}
    halves = [
        torch.einsum("abxy,ao,bi->oixy", d[f"hada_t{n}"], d[f"hada_w{n}_a"], d[f"hada_w{n}_b"])
        for n in (1, 2)
    ]
    return {"loha": whole, "loha of a convolution": (CONV, core, halves[0] * halves[1])}


def lokr(linear: torch.Tensor, conv: torch.Tensor) -> dict[str, Kind]:
    (o, i), (co, ci, *taps) = linear.shape, conv.shape
    found: dict[str, Kind] = {}
    whole = {"lokr_w1": random(4, 2), "lokr_w2": random(o // 4, i // 2),
             "alpha": torch.tensor(7.0)}  # fmt: skip
    found["lokr of whole factors"] = (
        LINEAR, whole, torch.kron(whole["lokr_w1"].double(), whole["lokr_w2"].double())
    )  # fmt: skip
    parts = {"lokr_w1": random(4, 2), "lokr_w2_a": random(co // 4, 3),
             "lokr_w2_b": random(3, ci // 2 * taps[0] * taps[1]),
             "alpha": torch.tensor(2.0)}  # fmt: skip
    second = (parts["lokr_w2_a"].double() @ parts["lokr_w2_b"].double()).reshape(
        co // 4, ci // 2, *taps
    )
    kron = torch.kron(parts["lokr_w1"].double()[:, :, None, None], second)
    found["lokr of a convolution"] = CONV, parts, kron * 2 / 3
    tucker = {"lokr_w1_a": random(4, 2), "lokr_w1_b": random(2, 2),
              "lokr_t2": random(2, 2, *taps), "lokr_w2_a": random(2, co // 4),
              "lokr_w2_b": random(2, ci // 2)}  # fmt: skip
    d = {key: value.double() for key, value in tucker.items()}
    second = torch.einsum("abxy,ao,bi->oixy", d["lokr_t2"], d["lokr_w2_a"], d["lokr_w2_b"])
    kron = torch.kron((d["lokr_w1_a"] @ d["lokr_w1_b"])[:, :, None, None], second.contiguous())
    found["lokr with a core"] = CONV, tucker, kron
    return found


def products(conv: torch.Tensor) -> dict[str, Kind]:
    co, ci, *taps = conv.shape
    found: dict[str, Kind] = {}
    locon = {"lora_down.weight": random(3, ci, 1, 1), "lora_mid.weight": random(3, 3, *taps),
             "lora_up.weight": random(co, 3, 1, 1), "alpha": torch.tensor(1.5)}  # fmt: skip
    d = {key: value.double() for key, value in locon.items()}
    product = torch.einsum("om,mrxy,ri->oixy", d["lora_up.weight"][:, :, 0, 0],
                           d["lora_mid.weight"], d["lora_down.weight"][:, :, 0, 0])  # fmt: skip
    found["locon with a middle"] = CONV, locon, product / 2

    diff = random(co, ci, *taps)
    found["a whole difference"] = CONV, {"diff": diff}, diff.double()

    point = {"lora_down.weight": random(3, SPEC.channels[0], 1, 1),
             "lora_up.weight": random(SPEC.channels[0], 3, 1, 1),
             "alpha": torch.tensor(0.0)}  # fmt: skip
    up, down = (point[f"lora_{way}.weight"][:, :, 0, 0].double() for way in ("up", "down"))
    product = up @ down
    found["1x1 with an alpha of 0"] = POINT, point, product[:, :, None, None]
    return found


def dora(conv: torch.Tensor) -> Kind:
    co, ci, *taps = conv.shape
    low = {"lora_down.weight": random(2, ci, *taps), "lora_up.weight": random(co, 2, 1, 1),
           "dora_scale": 1 + random(1, ci, 1, 1).abs()}  # fmt: skip
    product = torch.einsum("or,rixy->oixy", low["lora_up.weight"][:, :, 0, 0].double(),
                           low["lora_down.weight"].double())  # fmt: skip
    merged = conv + product
    norm = torch.linalg.vector_norm(merged, dim=(0, 2, 3), keepdim=True)
    gain = low["dora_scale"].double() / norm
    return CONV, low, gain * merged - conv


KINDS = kinds()
