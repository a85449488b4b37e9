"""Stage 3: the CLIP text encoder, taught to say where in the picture what will be.

    python tools/pocket/train_text.py

A small head reads the encoder's hidden states and predicts, for each of 8 x 8 cells, the colour,
the shape and the texture that the scene shows there. The head is thrown away afterwards: what stays
is an encoder whose output says what a denoiser wants to know, before there is a denoiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

import captions
import config
import tokens
import world
from training import Run, arguments, averages, batches

CELLS = 8
SEEN_TOKENS = 40  # no caption is longer; the encoder is causal, so what follows changes nothing
COLOR_NAMES = [*world.COLORS, *(f"{b} background" for b in world.BACKGROUNDS), *world.SCENERY]
KIND_NAMES = [*world.shapes.SHAPES, "background", "sun", "moon", "wall", "roof", "door", "window",
              "trunk", "crown", "hills", "sea"]  # fmt: skip
NO_CAPTION = 0.1  # as often as the denoiser is trained without one


def text_encoder(tokenizer: tokens.CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer.tokens),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **config.TEXT,
        )
    )


class LayoutHead(nn.Module):
    """A query for each cell attends to the text: [n, tokens, c] to logits [n, cells, classes]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.5 * torch.randn(CELLS * CELLS, width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)
        self.sizes = (len(COLOR_NAMES), len(KIND_NAMES), len(world.TEXTURES))
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.queries.expand(len(hidden), -1, -1)
        x = x + self.attention(x, hidden, hidden, need_weights=False)[0]
        x = x + self.mlp(self.norm(x))
        return self.out(x).split(self.sizes, dim=-1)


def labels(scene: world.Scene) -> np.ndarray:
    """Indices of colour, shape and texture of each cell: [3, cells * cells]."""
    land = scene.background not in world.BACKGROUNDS
    color = scene.background if land else f"{scene.background} background"
    rows = [(COLOR_NAMES.index(color), KIND_NAMES.index("background"), 0)]
    rows += [
        (COLOR_NAMES.index(t.name), KIND_NAMES.index(t.kind), world.TEXTURES.index(t.texture))
        for t in scene.things
    ]
    return np.array(rows)[world.layout(scene, CELLS).ravel()].T


def examples(
    tokenizer: tokens.CLIPTokenizer, batch: int, random: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        scenes = [world.sample(random) for _ in range(batch)]
        texts = [captions.caption(s, random) * (random.uniform() > NO_CAPTION) for s in scenes]
        ids = tokenizer(texts, SEEN_TOKENS)
        yield torch.from_numpy(ids).long(), torch.from_numpy(np.stack([labels(s) for s in scenes]))


def trained(out: Path) -> dict[str, torch.Tensor]:
    """The encoder's averaged weights. Positions that training never saw are as the last it did."""
    weights = averages(out, "text")
    positions = weights["embeddings.position_embedding.weight"]
    positions[SEEN_TOKENS:] = positions[SEEN_TOKENS - 1].clone()
    return weights


def main() -> None:
    args = arguments("Train the text encoder.", steps=1500, batch=64, rate=2e-3).parse_args()
    tokenizer = tokens.load(args.out)
    torch.manual_seed(args.seed)
    encoder = text_encoder(tokenizer)
    run = Run("text", args, {"text": encoder, "head": LayoutHead(config.TEXT["hidden_size"])})
    run.optimize(torch.optim.AdamW(run.nets.parameters(), args.rate, betas=(0.9, 0.98)))
    print(f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters", flush=True)
    total, right = 0.0, torch.zeros(3)
    source = batches(partial(examples, tokenizer, args.batch), args, run.step)

    def loss(ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        outputs = run.nets["head"](encoder(ids).last_hidden_state)
        kinds = list(zip(outputs, wanted.unbind(1), strict=True))
        right.add_(torch.tensor([(o.argmax(-1) == w).float().mean() for o, w in kinds]))
        return sum(F.cross_entropy(o.flatten(0, 1).float(), w.flatten()) for o, w in kinds)

    for step in run.steps():
        total += run.descend(loss, *next(source))
        if (step + 1) % 100 == 0:
            print(f"{step + 1} loss {total / 100:.3f} right {(right / 100).tolist()}", flush=True)
            total = 0.0
            right.zero_()


if __name__ == "__main__":
    main()
