"""Stage 5: the UNet, on cached latents and texts.

    python tools/pocket/train_unet.py

It learns v (Salimans and Ho 2022, "Progressive Distillation", appendix D) at uniformly drawn
timesteps, one time in ten without a caption, which is what guidance needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel

import config
import tokens
from train_text import NO_CAPTION, text_encoder, trained
from training import Run, arguments, optimizers

Batch = tuple[torch.Tensor, ...]


class Cache:
    """What stage 4 wrote, in memory; `scale` brings latents to a deviation of one."""

    def __init__(self, folder: Path) -> None:
        shards = [torch.load(p, weights_only=True, mmap=True) for p in sorted(folder.glob("*.pt"))]
        if not shards:
            raise SystemExit(f"{folder} is empty: run tools/pocket/cache.py first")
        self.latents = torch.cat([shard["latents"] for shard in shards])
        self.hidden = torch.cat([shard["hidden"] for shard in shards])
        self.scale = 1.0 / self.latents[:2000].float().std().item()

    def batches(
        self, size: int, empty: torch.Tensor, random: np.random.Generator
    ) -> Iterator[Batch]:
        """Latents x and hidden states c, then what is drawn anew: noise and timesteps."""
        while True:
            rows = torch.from_numpy(random.integers(0, len(self.latents), size))
            which = torch.from_numpy(random.integers(0, self.hidden.shape[1], size))
            x = self.latents[rows].float() * self.scale
            c = self.hidden[rows, which].float()
            c[torch.from_numpy(random.uniform(size=size) < NO_CAPTION)] = empty
            # One timestep of each of `size` equal parts: less noise in the gradient.
            t = torch.from_numpy((np.arange(size) + random.uniform(size=size)) / size * 1000).long()
            yield x, c, torch.randn_like(x), t[torch.from_numpy(random.permutation(size))]


def load_encoder(out: Path):
    """The text encoder of stage 3 and its tokenizer."""
    tokenizer = tokens.load(out)
    encoder = text_encoder(tokenizer).eval().requires_grad_(False)
    encoder.load_state_dict(trained(out))
    return encoder, tokenizer


def main() -> None:
    args = arguments("Train the UNet.", steps=3000, batch=32, rate=2e-3).parse_args()
    cache = Cache(args.out / "cache")
    encoder, tokenizer = load_encoder(args.out)
    with torch.no_grad():
        empty = encoder(torch.from_numpy(tokenizer("", config.TOKENS)).long()).last_hidden_state[0]
    run = Run("unet", args, {"unet": UNet2DConditionModel(**config.UNET)})
    unet = run.nets["unet"]
    run.optimize(*optimizers([unet], args.rate, ("conv_in", "conv_out", "time_emb")))
    scheduler = DDIMScheduler.from_config(config.SCHEDULER)
    (args.out / "scale.json").write_text(json.dumps(cache.scale))
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters, "
          f"{len(cache.latents)} pictures, scale {cache.scale:.4f}", flush=True)  # fmt: skip

    def loss(
        x: torch.Tensor, c: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        noisy = scheduler.add_noise(x, noise, t)
        out = unet(noisy, t, c).sample
        return F.mse_loss(out.float(), scheduler.get_velocity(x, noise, t))

    source = cache.batches(args.batch, empty, np.random.default_rng([args.seed, run.step]))
    total = 0.0
    for step in run.steps():
        total += run.descend(loss, *next(source))
        if (step + 1) % 100 == 0:
            print(f"{step + 1} loss {total / 100:.4f}", flush=True)
            total = 0.0


if __name__ == "__main__":
    main()
