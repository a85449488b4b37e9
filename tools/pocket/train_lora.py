"""LoRAs of the pocket UNet, in diffusers' layout.

    python tools/pocket/train_lora.py lcm      # pictures in 4 steps, without guidance
    python tools/pocket/train_lora.py style    # black silhouettes

`lcm` makes a consistency model (Song et al. 2023; Luo et al. 2023, "LCM-LoRA"): from every point of
the guided teacher's path the student sees the clean picture where that path ends. LCM learns it
from single steps and its own answers; so small a teacher walks whole paths, and the targets are
right from the first step (Luhman and Luhman 2021). `style` is trained as the UNet was, on
silhouettes: the autoencoder shows no colours but the world's.
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

RANK = {"lcm": 32, "style": 8}
TARGETS = r".*(attn\d\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out|conv1|conv2)"
GUIDANCE = 3.0  # of the teacher
PATHS = 16  # walked at once; their points are shuffled
GRID = 20  # LCMScheduler asks for timesteps 19, 39 .. 999
STRIDE = 4  # of the grid in one step of the teacher
# Where a consistency model answers with its input (Song et al. 2023, appendix C, as LCM has it).
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def silhouette(picture: np.ndarray) -> np.ndarray:
    """Black where a picture is not as in its upper left corner, else white."""
    apart = np.abs(picture.astype(int) - picture[0, 0]).sum(-1, keepdims=True)
    paper, ink = np.array(world.BACKGROUNDS["white"]), np.array(world.COLORS["black"])
    return np.where(apart > 60, ink, paper).astype(np.uint8)


class Teacher:
    """Walks from noise to pictures, with guidance. `empty` are the hidden states of no caption."""

    def __init__(self, unet: UNet2DConditionModel, noise: Noise, empty: torch.Tensor) -> None:
        self.unet, self.noise, self.empty = unet, noise, empty

    @torch.no_grad()
    def walk(self, x: torch.Tensor, c: torch.Tensor, random: np.random.Generator) -> Batch:
        """Of the paths from noise x [n, 4, h, w]: all points x, their captions c, timesteps t and
        the pictures where they end."""
        first = torch.from_numpy(random.integers(1, STRIDE + 1, len(x))).to(x.device)
        t = torch.full_like(first, 999)
        points, times = [x], [t]
        for i in range(1000 // (GRID * STRIDE) + 1):
            to = (999 - GRID * (first + STRIDE * i)).clamp(min=GRID - 1)
            clean, noise = self.look(points[-1], c, times[-1])
            points.append(self.noise.add(clean, noise, to))
            times.append(to)
        end, _ = self.look(points[-1], c, times[-1])
        count = len(points)
        return (
            torch.cat(points),
            c.repeat(count, 1, 1),
            torch.cat(times),
            end.repeat(count, 1, 1, 1),
        )

    def look(
        self, x: torch.Tensor, c: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is seen in x with guidance: the clean picture and the noise, as DDIM uses them."""
        both = torch.cat([self.empty.expand_as(c), c])
        v = self.unet(torch.cat([x, x]), torch.cat([t, t]), both).sample.float()
        without, with_text = v.chunk(2)
        v = without + GUIDANCE * (with_text - without)
        return self.noise.clean(x, v, t), self.noise.noise(x, v, t)

    def batches(
        self, size: int, source: Iterator[Batch], random: np.random.Generator
    ) -> Iterator[Batch]:
        """Points of paths with the captions of `source`, shuffled."""
        while True:
            _, c, noise, _ = next(source)
            walked = self.walk(noise, c, random)
            for rows in torch.randperm(len(walked[0])).split(size):
                yield tuple(part[rows] for part in walked)


class Consistency:
    """The loss of a consistency model whose targets are known."""

    def __init__(self, student: UNet2DConditionModel, noise: Noise) -> None:
        self.student, self.noise = student, noise

    def __call__(
        self, x: torch.Tensor, c: torch.Tensor, t: torch.Tensor, end: torch.Tensor
    ) -> torch.Tensor:
        difference = (self.answer(x, c, t) - end).flatten(1).square().sum(1)
        scale = 0.03 * end[0].numel() ** 0.5  # pseudo-Huber (Song and Dhariwal 2024)
        return ((difference + scale**2).sqrt() - scale).mean()

    def answer(self, x: torch.Tensor, c: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The clean picture that the student sees in x."""
        x0 = self.noise.clean(x, self.student(x, t, c).sample.float(), t)
        scaled = (t * TIMESTEP_SCALING).view(-1, 1, 1, 1)
        keep = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        return keep * x + (1 - keep).sqrt() * x0


def main() -> None:
    parser = arguments("Train a LoRA.", steps=4000, batch=16, rate=1e-3)
    parser.add_argument("kind", choices=tuple(RANK))
    args = parser.parse_args()
    frozen = Frozen(args)
    student, noise = frozen.unet(), frozen.noise
    rank = RANK[args.kind]
    student.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS))
    run = Run(args.kind, args, {args.kind: student})
    run.optimize(torch.optim.AdamW(run.parameters, args.rate, weight_decay=0.0))
    random = np.random.default_rng([args.seed, run.step])
    source: Iterator[Batch]
    if args.kind == "lcm":
        empty = frozen.hidden([""])[0]
        loss = Consistency(student, noise)
        captions = Cache(args.out / "cache").batches(PATHS, empty.cpu(), random)
        source = Teacher(frozen.unet(), noise, empty).batches(args.batch, captions, random)
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
