"""What the UNet's companions are trained with: the trained parts as they are, fresh pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

import captions
import config
import world
from train_text import NO_CAPTION
from train_unet import load_encoder
from train_vae import to_tensor
from training import averages

# Pictures [n, h, w, 3] uint8, their latents x, hidden states c of captions, noise and timesteps.
Example = tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Noise:
    """x = a x0 + s eps with a and s of a timestep, and what v says of x0 and eps."""

    def __init__(self, device: str) -> None:
        alphas = DDIMScheduler.from_config(config.SCHEDULER).alphas_cumprod.to(device)
        self.a, self.s = alphas.sqrt(), (1 - alphas).sqrt()

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a[t].view(-1, 1, 1, 1), self.s[t].view(-1, 1, 1, 1)

    def add(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.at(t)
        return a * x0 + s * noise

    def velocity(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.at(t)
        return a * noise - s * x0

    def clean(self, x: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.at(t)
        return a * x - s * v

    def noise(self, x: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.at(t)
        return s * x + a * v


class Frozen:
    """The VAE, the text encoder and copies of the UNet, from a training's folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.noise = args, Noise(args.device)
        self.scale = float(json.loads((args.out / "scale.json").read_text()))
        self.encoder, self.tokenizer = load_encoder(args.out)
        self.encoder.to(args.device)
        self.vae = AutoencoderKL(**config.VAE).eval().requires_grad_(False)
        self.vae.load_state_dict(averages(args.out, "vae"))
        self.vae.to(args.device)

    def unet(self) -> UNet2DConditionModel:
        unet = UNet2DConditionModel(**config.UNET).eval().requires_grad_(False)
        unet.load_state_dict(averages(self.args.out, "unet"))
        return unet.to(self.args.device)

    @torch.no_grad()
    def hidden(self, texts: list[str]) -> torch.Tensor:
        ids = torch.from_numpy(self.tokenizer(texts, config.TOKENS)).long().to(self.args.device)
        return self.encoder(ids).last_hidden_state

    @torch.no_grad()
    def latents(self, pictures: np.ndarray) -> torch.Tensor:
        x = to_tensor(pictures).to(self.args.device)
        return self.vae.encode(x).latent_dist.mode() * self.scale

    def examples(
        self,
        random: np.random.Generator,
        no_caption: float = NO_CAPTION,
        change: Callable[[np.ndarray], np.ndarray] = lambda picture: picture,
    ) -> Iterator[Example]:
        while True:
            scenes = [world.sample(random) for _ in range(self.args.batch)]
            pictures = np.stack([change(world.render(scene)) for scene in scenes])
            texts = [captions.caption(s, random) * (random.uniform() > no_caption) for s in scenes]
            x = self.latents(pictures)
            t = torch.from_numpy(random.integers(0, 1000, len(scenes)))
            yield pictures, x, self.hidden(texts), torch.randn_like(x), t.to(x.device)
