"""Stage 2: the AutoencoderKL, on crops of pictures.

    python tools/pocket/train_vae.py

The loss is L1 on pixels and on their differences (which keeps edges), and a light KL divergence.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import config
import world
from training import Run, arguments, batches, optimizers

CROP = 64
KL = 2e-6  # a sum over a latent's numbers, against means over pixels


def crops(batch: int, random: np.random.Generator) -> Iterator[torch.Tensor]:
    """Batches of crops [batch, 3, 64, 64] in -1..1; a picture serves two batches."""
    while True:
        pictures = [world.render(world.sample(random)) for _ in range(batch)]
        for _ in range(2):
            corners = random.integers(0, world.SIZE - CROP + 1, (batch, 2))
            cut = [
                p[y : y + CROP, x : x + CROP] for p, (y, x) in zip(pictures, corners, strict=True)
            ]
            yield to_tensor(np.stack(cut))


def to_tensor(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """[n, h, w, 3] uint8 to [n, 3, h, w] in -1..1."""
    return torch.as_tensor(pictures).permute(0, 3, 1, 2).float().contiguous().div_(127.5).sub_(1.0)


def distance(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    edges = sum(F.l1_loss(out.diff(dim=axis), target.diff(dim=axis)) for axis in (2, 3))
    return F.l1_loss(out, target) + 0.5 * edges + F.mse_loss(out, target)


@torch.no_grad()
def psnr(vae: AutoencoderKL, count: int = 32, seed: int = 1) -> tuple[float, float, float]:
    """Over held-out pictures: the mean PSNR in dB, and mean and deviation of their latents."""
    random = np.random.default_rng(seed)
    pictures = np.stack([world.render(world.sample(random, held_out=True)) for _ in range(count)])
    x = to_tensor(pictures).to(vae.device)
    z = vae.encode(x).latent_dist.mode()
    out = vae.decode(z).sample.clamp(-1, 1)
    error = (out - x).div(2).square().mean((1, 2, 3))
    return (-10 * error.log10()).mean().item(), z.mean().item(), z.std().item()


def main() -> None:
    parser = arguments("Train the pocket VAE.", steps=3000, batch=8, rate=3e-3)
    parser.add_argument(
        "--decoder",
        action="store_true",
        help="the decoder alone, so that latents stay what a UNet was trained on",
    )
    args = parser.parse_args()
    vae = AutoencoderKL(**config.VAE)
    if args.decoder:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    run = Run("vae", args, {"vae": vae})
    run.optimize(*optimizers([vae], args.rate, ("conv_in", "conv_out", "quant")))
    print(f"{sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M parameters", flush=True)
    source = batches(partial(crops, args.batch), args, run.step)
    total = 0.0

    def loss(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        latents = vae.encode(x).latent_dist
        out = vae.decode(latents.mean + latents.std * noise).sample
        return distance(out, x) + KL * latents.kl().mean()

    for step in run.steps():
        noise = torch.randn(args.batch, config.VAE["latent_channels"], CROP // 8, CROP // 8)
        total += run.descend(loss, next(source), noise)
        if (step + 1) % 100 == 0:
            quality = psnr(run.average["vae"])
            print(
                f"{step + 1} loss {total / 100:.4f} psnr {quality[0]:.2f} latents {quality[1:]}",
                flush=True,
            )
            total = 0.0


if __name__ == "__main__":
    main()
