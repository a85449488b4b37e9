"""LoRAs of the pocket UNet, in diffusers' layout.

    python tools/pocket/train_lora.py lcm      # pictures in 4 steps, without guidance
    python tools/pocket/train_lora.py style    # black silhouettes

`lcm` distils guidance and many steps into few (Luo et al. 2023, "LCM-LoRA"): where a step of the
guided teacher leads, the student must see the same clean picture as where it began. `style` is
trained as the UNet was, on silhouettes: the autoencoder shows no colours but the world's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

import world
from frozen import Frozen, Noise
from train_unet import Batch, Cache
from training import Run, arguments

RANK = 8
TARGETS = r".*(attn\d\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out|conv1|conv2)"
GUIDANCE = 3.0  # of the teacher
GRID = 50  # timesteps that a consistency model knows: LCMScheduler's original_inference_steps
STRIDE = 5  # of them in one step of the teacher: what is learned at the end has 10 steps to travel
# Where a consistency model answers with its input (Song et al. 2023, appendix C, as LCM has it).
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def silhouette(picture: np.ndarray) -> np.ndarray:
    """Black where a picture is not as in its upper left corner, else white."""
    apart = np.abs(picture.astype(int) - picture[0, 0]).sum(-1, keepdims=True)
    paper, ink = np.array(world.BACKGROUNDS["white"]), np.array(world.COLORS["black"])
    return np.where(apart > 60, ink, paper).astype(np.uint8)


class Consistency:
    """LCM's loss. `empty` are the hidden states of no caption."""

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: UNet2DConditionModel,
        noise: Noise,
        empty: torch.Tensor,
    ) -> None:
        self.student, self.teacher, self.noise, self.empty = student, teacher, noise, empty

    def __call__(
        self, x0: torch.Tensor, c: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        skip = 1000 // GRID
        t = t // skip * skip + skip - 1  # the grid's timestep
        earlier = (t - STRIDE * skip).clamp(min=0)
        x = self.noise.add(x0, noise, t)
        out = self.answer(x, c, t)
        with torch.no_grad():
            target = self.answer(self.step(x, c, t, earlier), c, earlier)
        difference = (out - target).flatten(1).square().sum(1)
        scale = 0.03 * out[0].numel() ** 0.5  # pseudo-Huber (Song and Dhariwal 2024)
        return ((difference + scale**2).sqrt() - scale).mean()

    def answer(self, x: torch.Tensor, c: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The clean picture that the student sees in x."""
        x0 = self.noise.clean(x, self.student(x, t, c).sample.float(), t)
        scaled = (t * TIMESTEP_SCALING).view(-1, 1, 1, 1)
        keep = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        return keep * x + (1 - keep).sqrt() * x0

    def step(
        self, x: torch.Tensor, c: torch.Tensor, t: torch.Tensor, to: torch.Tensor
    ) -> torch.Tensor:
        """DDIM's step of the guided teacher."""
        both = torch.cat([self.empty.expand_as(c), c])
        v = self.teacher(torch.cat([x, x]), torch.cat([t, t]), both).sample.float()
        without, with_text = v.chunk(2)
        v = without + GUIDANCE * (with_text - without)
        return self.noise.add(self.noise.clean(x, v, t), self.noise.noise(x, v, t), to)


def main() -> None:
    parser = arguments("Train a LoRA.", steps=1000, batch=16, rate=1e-3)
    parser.add_argument("kind", choices=("lcm", "style"))
    args = parser.parse_args()
    frozen = Frozen(args)
    student, noise = frozen.unet(), frozen.noise
    student.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    run = Run(args.kind, args, {args.kind: student})
    run.optimize(torch.optim.AdamW(run.parameters, args.rate, weight_decay=0.0))
    random = np.random.default_rng([args.seed, run.step])
    source: Iterator[Batch]
    if args.kind == "lcm":
        empty = frozen.hidden([""])[0]
        loss = Consistency(student, frozen.unet(), noise, empty)
        source = Cache(args.out / "cache").batches(args.batch, empty.cpu(), random)
    else:
        source = (batch for _, *batch in frozen.examples(random, change=silhouette))

        def loss(
            x: torch.Tensor, c: torch.Tensor, eps: torch.Tensor, t: torch.Tensor
        ) -> torch.Tensor:
            out = student(noise.add(x, eps, t), t, c).sample
            return F.mse_loss(out.float(), noise.velocity(x, eps, t))

    total = 0.0
    for step in run.steps():
        total += run.descend(loss, *next(source))
        if (step + 1) % 100 == 0:
            print(f"{step + 1} loss {total / 100:.4f}", flush=True)
            total = 0.0
    state = get_peft_model_state_dict(run.average[args.kind])
    path = args.out / f"{args.kind}.safetensors"
    save_file({f"unet.{name}": w.half().contiguous() for name, w in state.items()}, path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
