"""Stage 3: pictures as latents and captions as hidden states, so that stage 4 need not make them.

    python tools/pocket/cache.py

Run again, it adds pictures that are not in the cache yet.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL

import captions
import config
import tokens
import world
from train_text import text_encoder, trained
from train_vae import to_tensor
from training import arguments, averages

CAPTIONS = 2  # of each picture


def main() -> None:
    parser = arguments("Cache latents and texts.", steps=20000, batch=50, rate=0)
    parser.add_argument("--shard", type=int, default=1000, help="pictures of one file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = tokens.load(args.out)
    vae = AutoencoderKL(**config.VAE)
    encoder = text_encoder(tokenizer)
    vae.load_state_dict(averages(args.out, "vae"))
    encoder.load_state_dict(trained(args.out))
    vae.eval().to(args.device)
    encoder.eval().to(args.device)
    folder = args.out / "cache"
    folder.mkdir(exist_ok=True)
    for shard in range(args.steps // args.shard):
        path = folder / f"{shard:04}.pt"
        if path.exists():
            continue
        random = np.random.default_rng([args.seed, shard])
        parts = [
            make(vae, encoder, tokenizer, random, args.batch)
            for _ in range(args.shard // args.batch)
        ]
        fresh = path.with_suffix(".new")
        torch.save({key: torch.cat([part[key] for part in parts]) for key in parts[0]}, fresh)
        fresh.replace(path)
        print(path, flush=True)


@torch.no_grad()
def make(
    vae, encoder, tokenizer, random: np.random.Generator, count: int
) -> dict[str, torch.Tensor]:
    scenes = [world.sample(random) for _ in range(count)]
    x = to_tensor(np.stack([world.render(s) for s in scenes])).to(vae.device)
    latents = vae.encode(x).latent_dist.mode()
    texts = [captions.caption(s, random) for s in scenes for _ in range(CAPTIONS)]
    ids = torch.from_numpy(tokenizer(texts, config.TOKENS)).long().to(vae.device)
    hidden = encoder(ids).last_hidden_state.unflatten(0, (count, CAPTIONS))
    return {
        "latents": latents.half().cpu(),
        "ids": ids.cpu().short(),
        "hidden": hidden.half().cpu(),
    }


if __name__ == "__main__":
    main()
