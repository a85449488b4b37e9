"""The way back from a packed model: checkpoints that every stage goes on from.

    python tools/pocket/unpack.py --from python/sdcore/data/pocket.gguf

They hold weights only, so optimizers and step counts begin anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sdcore import checkpoint
from sdcore.pipelines import POCKET
from sdcore.tokenizer import CLIPTokenizer

STAGES = {"vae": "vae", "text_encoder": "text", "unet": "unet"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack the pocket model to train it further.")
    parser.add_argument("--out", type=Path, default=Path("pocket-training"), help="folder")
    parser.add_argument("--from", dest="source", type=Path, default=POCKET)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    opened = checkpoint.open(args.source)
    for component, stage in STAGES.items():
        weights = {
            f"{stage}.{name.removeprefix('text_model.')}": torch.from_numpy(
                tensor.to_float().copy()
            )
            for name, tensor in opened.component(component).tensors.items()
        }
        state = {"nets": weights, "average": weights, "optimizers": [], "step": 0, "seconds": 0.0}
        torch.save(state, args.out / f"{stage}.pt")
    merges = CLIPTokenizer.from_gguf_metadata(opened.metadata).merges
    (args.out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    print(f"{args.out}: goes on from {args.source}")


if __name__ == "__main__":
    main()
