"""LoRAs of the pocket UNet, in diffusers' layout.

    python tools/pocket/train_lora.py lcm      # pictures in 4 steps, without guidance
    python tools/pocket/train_lora.py style    # pictures in pastel colours

`lcm` distils guidance and many steps into few (Luo et al. 2023, "LCM-LoRA"): where a step of the
guided teacher leads, the student must see the same clean picture as where it began. `style` is
trained as the UNet was, on pictures whose colours are half white.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

import captions
import config
import world
from train_text import NO_CAPTION
from train_unet import Batch, Cache, load_encoder
from train_vae import to_tensor
from training import Run, arguments, averages

RANK = 8
TARGETS = r".*(attn\d\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out|conv1|conv2)"
GUIDANCE = 5.0  # of the teacher
GRID = 50  # timesteps that a consistency model knows: LCMScheduler's original_inference_steps
# Where a consistency model answers with its input (Song et al. 2023, appendix C, as LCM has it).
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def pastel(picture: np.ndarray) -> np.ndarray:
    return (picture // 2 + 127).astype(np.uint8)


class Noise:
    """x = a x0 + s eps with a and s of a timestep, and what v says of x0 and eps."""

    def __init__(self, device: str) -> None:
        alphas = DDIMScheduler.from_config(config.SCHEDULER).alphas_cumprod.to(device)
        self.a, self.s = alphas.sqrt(), (1 - alphas).sqrt()

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a[t].view(-1, 1, 1, 1), self.s[t].view(-1, 1, 1, 1)

    def add(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.at(t)
        return a * x0 + s * noise

    def clean(self, x: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.at(t)
        return a * x - s * v

    def noise(self, x: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.at(t)
        return s * x + a * v


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
        earlier = (t - skip).clamp(min=0)
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


def styled(args: argparse.Namespace, scale: float, random: np.random.Generator) -> Iterator[Batch]:
    """As Cache.batches, of pastel pictures."""
    encoder, tokenizer = load_encoder(args.out)
    vae = AutoencoderKL(**config.VAE).eval().requires_grad_(False)
    vae.load_state_dict(averages(args.out, "vae"))
    encoder.to(args.device)
    vae.to(args.device)
    while True:
        scenes = [world.sample(random) for _ in range(args.batch)]
        pictures = np.stack([pastel(world.render(scene)) for scene in scenes])
        texts = [captions.caption(s, random) * (random.uniform() > NO_CAPTION) for s in scenes]
        with torch.no_grad():
            ids = torch.from_numpy(tokenizer(texts, config.TOKENS)).long().to(args.device)
            c = encoder(ids).last_hidden_state
            x = vae.encode(to_tensor(pictures).to(args.device)).latent_dist.mode() * scale
        t = torch.from_numpy(random.integers(0, 1000, args.batch))
        yield x, c, torch.randn_like(x), t


def main() -> None:
    parser = arguments("Train a LoRA.", steps=1000, batch=16, rate=1e-3)
    parser.add_argument("kind", choices=("lcm", "style"))
    args = parser.parse_args()
    cache = Cache(args.out / "cache")
    weights = averages(args.out, "unet")
    student, teacher = (UNet2DConditionModel(**config.UNET) for _ in range(2))
    student.load_state_dict(weights)
    teacher.load_state_dict(weights)
    student.requires_grad_(False)
    teacher.eval().requires_grad_(False).to(args.device)
    student.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    run = Run(args.kind, args, {args.kind: student})
    run.optimize(torch.optim.AdamW(run.parameters, args.rate, weight_decay=0.0))

    random = np.random.default_rng([args.seed, run.step])
    encoder, tokenizer = load_encoder(args.out)
    with torch.no_grad():
        empty = encoder(torch.from_numpy(tokenizer("", config.TOKENS)).long()).last_hidden_state[0]
    noise = Noise(args.device)
    if args.kind == "lcm":
        loss = Consistency(student, teacher, noise, empty.to(args.device))
        source = cache.batches(args.batch, empty, random)
    else:
        source = styled(args, cache.scale, random)

        def loss(
            x: torch.Tensor, c: torch.Tensor, eps: torch.Tensor, t: torch.Tensor
        ) -> torch.Tensor:
            a, s = noise.at(t)
            out = student(noise.add(x, eps, t), t, c).sample
            return F.mse_loss(out.float(), a * eps - s * x)

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
