"""Stage 1: the tokenizer, a byte-pair encoding in CLIP's form, learned from captions.

    python tools/pocket/tokens.py

Most words of the world become one token; all others are spelled in pieces, down to bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import captions
import world
from sdcore.tokenizer import CLIPTokenizer
from training import arguments

MERGES = 480


def learn(count: int, seed: int) -> list[str]:
    """Merges, best first, from so many captions."""
    random = np.random.default_rng(seed)
    texts = [captions.caption(world.sample(random), random) for _ in range(count)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=8, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in merges][:MERGES]


def load(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_merges((folder / "merges.txt").read_text("utf-8").splitlines())


def main() -> None:
    args = arguments("Learn the pocket tokenizer.", steps=20000, batch=1, rate=0).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    merges = learn(args.steps, args.seed)
    (args.out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    tokenizer = load(args.out)
    print(f"{len(tokenizer.tokens)} tokens; 'a red circle' is {tokenizer.encode('a red circle')}")


if __name__ == "__main__":
    main()
