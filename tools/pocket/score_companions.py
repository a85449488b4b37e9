"""What the ControlNet and the IP-Adapter add, by what is in pictures drawn without a caption.

    python tools/pocket/score_companions.py

Each is shown held-out pictures (the ControlNet their edges) and nothing else; what the evaluator
then finds is compared with what they show. Drawn with diffusers, DDIM, 20 steps, without guidance.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler
from transformers import CLIPVisionModelWithProjection

import config
import score
import world
from frozen import Frozen
from train_controlnet import control_input, edges
from train_ip_adapter import trained
from train_vae import to_tensor

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def drawn(frozen: Frozen, predict: Predict, count: int) -> list[np.ndarray]:
    """Pictures [h, w, 3] uint8 from noise of a fixed seed; `predict` takes latents and timestep."""
    scheduler = DDIMScheduler.from_config(config.SCHEDULER)
    scheduler.set_timesteps(20)
    side = config.UNET["sample_size"]
    x = torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x).prev_sample
    pixels = frozen.vae.decode(x / frozen.scale).sample.clamp(-1, 1) * 127.5 + 127.5
    return list(pixels.round().byte().permute(0, 2, 3, 1).numpy())


def with_controlnet(frozen: Frozen, pictures: np.ndarray, c: torch.Tensor) -> Predict:
    unet = frozen.unet()
    control = ControlNetModel.from_pretrained(frozen.args.out / "controlnet").float().eval()
    drawing = control_input(np.stack([edges(picture) for picture in pictures]))

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        down, mid = control(x, t, c, drawing, return_dict=False)
        return unet(
            x, t, c, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample

    return predict


def with_ip_adapter(frozen: Frozen, pictures: np.ndarray, c: torch.Tensor) -> Predict:
    unet, out = frozen.unet(), frozen.args.out
    adapter = trained(out / "ip_adapter.safetensors")
    unet._load_ip_adapter_weights([adapter], low_cpu_mem_usage=False)
    vision = CLIPVisionModelWithProjection.from_pretrained(out / "image_encoder").float().eval()
    with torch.no_grad():
        embeds = vision(to_tensor(pictures)).image_embeds[:, None]

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return unet(x, t, c, added_cond_kwargs={"image_embeds": [embeds]}).sample

    return predict


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge the ControlNet and the IP-Adapter.")
    parser.add_argument("--out", type=Path, default=Path("pocket-training"), help="training folder")
    parser.add_argument("--count", type=int, default=100, help="pictures")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    frozen = Frozen(args)
    scenes = [scene for scene, _ in score.held_out(args.count)]
    pictures = np.stack([world.render(scene) for scene in scenes])
    c = frozen.hidden([""]).expand(args.count, -1, -1)
    unet = frozen.unet()
    ways: dict[str, Predict] = {
        "neither": lambda x, t: unet(x, t, c).sample,
        "ControlNet": with_controlnet(frozen, pictures, c),
        "IP-Adapter": with_ip_adapter(frozen, pictures, c),
    }
    for name, predict in ways.items():
        print(f"{name}: {score.score(drawn(frozen, predict, args.count), scenes)}", flush=True)


if __name__ == "__main__":
    main()
