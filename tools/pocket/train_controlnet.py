"""A ControlNet of the pocket UNet: pictures whose edges lie where those of a drawing do.

    python tools/pocket/train_controlnet.py

Trained as Zhang et al. (2023, "Adding Conditional Control to Text-to-Image Diffusion Models",
section 3.4) have it: a copy of the UNet's encoder, joined by layers that begin at zero, with half
of the captions left out, so that it learns to read the drawing. Written as diffusers writes one: a
folder of config.json and diffusion_pytorch_model.safetensors, in float16.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel

from frozen import Frozen
from training import Run, arguments

EMBEDDING = (8, 16, 32, 48)  # channels that a drawing of 128 x 128 passes on its way to 16 x 16
NO_CAPTION = 0.5
EDGE = 24.0  # of 255: the least step of brightness or colour that is an edge


def edges(picture: np.ndarray) -> np.ndarray:
    """White lines on black where a picture [h, w, 3] uint8 changes, of the same shape."""
    rgb = picture.astype(np.float32)
    across = np.abs(np.diff(rgb, axis=1, append=rgb[:, -1:])).max(-1)
    down = np.abs(np.diff(rgb, axis=0, append=rgb[-1:])).max(-1)
    line = np.maximum(across, down) >= EDGE
    return np.repeat(np.where(line, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)


def control_input(drawings: np.ndarray) -> torch.Tensor:
    """[n, h, w, 3] uint8 to [n, 3, h, w] in 0..1, as diffusers gives them to a ControlNet."""
    return torch.from_numpy(drawings).permute(0, 3, 1, 2).float().div(255.0)


def main() -> None:
    parser = arguments("Train a ControlNet of edges.", steps=1500, batch=16, rate=1e-3)
    args = parser.parse_args()
    frozen = Frozen(args)
    unet, noise = frozen.unet(), frozen.noise
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING)
    run = Run("controlnet", args, {"controlnet": control.requires_grad_(True)})
    run.optimize(torch.optim.AdamW(run.parameters, args.rate, weight_decay=0.0))

    def loss(
        drawing: torch.Tensor, x: torch.Tensor, c: torch.Tensor, eps: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        noisy = noise.add(x, eps, t)
        down, mid = control(noisy, t, c, drawing, return_dict=False)
        out = unet(
            noisy,
            t,
            c,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
        return F.mse_loss(out.float(), noise.velocity(x, eps, t))

    examples = frozen.examples(np.random.default_rng([args.seed, run.step]), NO_CAPTION)
    total = 0.0
    for step in run.steps():
        pictures, *rest = next(examples)
        drawings = np.stack([edges(picture) for picture in pictures])
        total += run.descend(loss, control_input(drawings), *rest)
        if (step + 1) % 100 == 0:
            print(f"{step + 1} loss {total / 100:.4f}", flush=True)
            total = 0.0
    folder = args.out / "controlnet"
    run.average["controlnet"].half().save_pretrained(folder)
    print(f"{folder}: {sum(p.stat().st_size for p in folder.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
