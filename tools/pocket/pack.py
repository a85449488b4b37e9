"""Stage 6: the averaged weights of all stages, and the tokenizer, as one GGUF file.

    python tools/pocket/pack.py

Tensors have the original names of Stable Diffusion 1.x. Matrices and kernels are F16, vectors F32.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

import config
import sdcore
import tokens
from sdcore.checkpoint.names import clip, unet, vae
from sdcore.checkpoint.names.table import NameTable
from sdcore.pipelines import POCKET
from train_text import trained
from training import averages

State = Mapping[str, torch.Tensor]

# Where each part lies in the file, the stage whose checkpoint has it, and its names there.
PARTS: dict[str, tuple[str, str, Callable[[Iterable[str]], NameTable]]] = {
    "unet": ("model.diffusion_model.", "unet", unet.to_original),
    "vae": ("first_stage_model.", "vae", vae.to_original),
    "text_encoder": ("cond_stage_model.transformer.", "text", clip.hugging_face),
}
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
}


def stored(weight: torch.Tensor) -> np.ndarray:
    return weight.numpy().astype(np.float32 if weight.ndim == 1 else np.float16)


def tensors(out: Path) -> Iterator[tuple[str, np.ndarray]]:
    for component, (prefix, stage, naming) in PARTS.items():
        state = trained(out) if stage == "text" else averages(out, stage)
        if component == "text_encoder":
            state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in state.items()}
        table = naming(state)
        for name, weight in state.items():
            original = table.to_original(name)
            if original is None:
                raise SystemExit(f"{component}: no original name is known for {name}")
            yield prefix + original, stored(weight)


def metadata(out: Path, about: str) -> dict[str, object]:
    tokenizer = tokens.load(out)
    scale = json.loads((out / "scale.json").read_text())
    configs = {
        "unet": config.UNET,
        "vae": config.VAE | {"scaling_factor": scale},
        "text_encoder": config.TEXT | {"vocab_size": len(tokenizer.tokens)},
    }
    configs = {name: {"_class_name": CLASSES[name], **fields} for name, fields in configs.items()}
    types = tokenizer.to_gguf_metadata()
    types["tokenizer.ggml.token_type"] = sdcore.gguf.Typed(
        types["tokenizer.ggml.token_type"], "i32"
    )
    return {
        "general.architecture": "sd1",
        "general.name": "pocket",
        "general.license": "mit",
        "general.date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "general.description": about,
        "sdcore.default.steps": 20,
        "sdcore.default.guidance_scale": 5.0,
        **{f"sdcore.config.{name}": json.dumps(fields) for name, fields in configs.items()},
        "sdcore.config.scheduler": json.dumps(config.SCHEDULER),
        **types,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack the pocket model.")
    parser.add_argument("--out", type=Path, default=Path("pocket-training"), help="training folder")
    parser.add_argument("--to", type=Path, default=POCKET)
    parser.add_argument("--about", default="", help="how it was trained and what it scored")
    args = parser.parse_args()
    args.to.parent.mkdir(parents=True, exist_ok=True)
    sdcore.gguf.write(args.to, metadata(args.out, args.about), dict(tensors(args.out)))
    print(f"{args.to}: {args.to.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
