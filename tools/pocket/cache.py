"""Stage 4: pictures as latents and captions as hidden states, so that stage 5 need not make them.

    python tools/pocket/cache.py

Run again, it adds pictures that are not in the cache yet.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import Dataset
from transformers import CLIPTextModel

import captions
import config
import tokens
import world
from train_text import text_encoder, trained
from train_vae import to_tensor
from training import arguments, averages, load

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
    paths = [folder / f"{shard:04}.pt" for shard in range(args.steps // args.shard)]
    missing = [shard for shard, path in enumerate(paths) if not path.exists()]
    for shard, pictures, ids in load(Shards(missing, tokenizer, args), args):
        pieces = zip(pictures.split(args.batch), ids.split(args.batch), strict=True)
        parts = [encode(vae, encoder, *piece) for piece in pieces]
        fresh = paths[shard].with_suffix(".new")
        torch.save({key: torch.cat([part[key] for part in parts]) for key in parts[0]}, fresh)
        fresh.replace(paths[shard])
        print(paths[shard], flush=True)


class Shards(Dataset):
    """Number, pictures [n, h, w, 3] uint8 and token ids [n, captions, tokens] of a shard."""

    def __init__(
        self, numbers: list[int], tokenizer: tokens.CLIPTokenizer, args: argparse.Namespace
    ) -> None:
        self.numbers, self.tokenizer, self.args = numbers, tokenizer, args

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        random = np.random.default_rng([self.args.seed, self.numbers[index]])
        scenes = [world.sample(random) for _ in range(self.args.shard)]
        pictures = np.stack([world.render(scene) for scene in scenes])
        texts = [captions.caption(s, random) for s in scenes for _ in range(CAPTIONS)]
        ids = self.tokenizer(texts, config.TOKENS).reshape(len(scenes), CAPTIONS, -1)
        return self.numbers[index], torch.from_numpy(pictures), torch.from_numpy(ids)


@torch.no_grad()
def encode(
    vae: AutoencoderKL, encoder: CLIPTextModel, pictures: torch.Tensor, ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    latents = vae.encode(to_tensor(pictures.to(vae.device))).latent_dist.mode()
    hidden = encoder(ids.flatten(0, 1).long().to(vae.device)).last_hidden_state
    return {
        "latents": latents.half().cpu(),
        "hidden": hidden.unflatten(0, ids.shape[:2]).half().cpu(),
    }


if __name__ == "__main__":
    main()
