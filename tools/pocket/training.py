"""What every stage of the training shares: checkpoints that resume, averages, rates, devices."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

SAVE_EVERY = 60.0  # seconds


def arguments(about: str, steps: int, batch: int, rate: float) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=Path("pocket-training"), help="folder")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of one operation")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="threads that share a batch; on a busy machine more of these, with one --threads, "
        "wait less for each other",
    )
    parser.add_argument(
        "--loaders", type=int, default=0, help="processes that make pictures and captions ahead"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


class Source(IterableDataset):
    """Batches by `make` from random numbers of the seed, the step and the process."""

    def __init__(self, make: Callable[[np.random.Generator], Iterator], *seeds: int) -> None:
        self.make, self.seeds = make, seeds

    def __iter__(self) -> Iterator:
        worker = get_worker_info()
        seeds = self.seeds if worker is None else (*self.seeds, worker.id)
        return self.make(np.random.default_rng(seeds))


def batches(
    make: Callable[[np.random.Generator], Iterator], args: argparse.Namespace, step: int
) -> Iterator:
    """What `make` gives, without end; made ahead by `--loaders` processes."""
    return iter(load(Source(make, args.seed, step), args))


def load(data: Dataset, args: argparse.Namespace) -> DataLoader:
    """The items of `data` as they are."""
    return DataLoader(data, batch_size=None, num_workers=args.loaders)


class Run:
    """A stage: networks under training, their average, and the loop that saves them.

    A checkpoint holds all that goes on from there: weights, averages, optimizers, the step and the
    time spent. It is written beside the old one and then takes its place.
    """

    def __init__(self, name: str, args: argparse.Namespace, nets: dict[str, nn.Module]) -> None:
        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        self.path = args.out / f"{name}.pt"
        self.args, self.step, self.seconds = args, 0, 0.0
        self.nets = nn.ModuleDict(nets).to(args.device)
        self.workers = ThreadPoolExecutor(args.workers)
        self.average = copy.deepcopy(self.nets).eval().requires_grad_(False)
        pairs = zip(self.nets.parameters(), self.average.parameters(), strict=True)
        trained = [(now, mean) for now, mean in pairs if now.requires_grad]
        self.parameters, self.means = (list(side) for side in zip(*trained, strict=True))
        self.optimizers: list[torch.optim.Optimizer] = []

    def optimize(self, *optimizers: torch.optim.Optimizer) -> None:
        """Takes the optimizers, and all else from the checkpoint if there is one."""
        self.optimizers = list(optimizers)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["full_rate"] = group["lr"]
        if not self.path.exists():
            return
        saved = torch.load(self.path, map_location=self.args.device, weights_only=True)
        # One that unpack.py made has weights alone, and only those that a packed model keeps.
        whole = bool(saved["optimizers"])
        self.nets.load_state_dict(saved["nets"], strict=whole)
        self.average.load_state_dict(saved["average"], strict=whole)
        states = saved["optimizers"] if _sizes(saved["optimizers"]) == _sizes(optimizers) else []
        for optimizer, state in zip(optimizers, states, strict=False):
            rates = [group["full_rate"] for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["full_rate"] = rate
        self.step, self.seconds = saved["step"], saved["seconds"]
        print(
            f"{self.path}: goes on from step {self.step}, {self.seconds / 60:.1f} min", flush=True
        )

    def save(self) -> None:
        fresh = self.path.with_suffix(".new")
        state = {
            "nets": self.nets.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, fresh)
        fresh.replace(self.path)

    def steps(self, every: int = 100) -> Iterator[int]:
        """Step numbers; each turn of the loop is one call of `descend`."""
        began, told, saved = time.time() - self.seconds, time.time(), time.time()
        while self.step < self.args.steps:
            yield self.step
            self.step += 1
            now = time.time()
            self.seconds = now - began
            if self.step == self.args.steps or now - saved > SAVE_EVERY:
                self.save()
                saved = now
            if self.step % every == 0:
                print(f"  {(now - told) / every:.2f} s a step", flush=True)
                told = now

    def descend(self, loss: Callable[..., torch.Tensor], *batch: torch.Tensor) -> float:
        """One step down the mean of `loss` over a batch, which the workers take piece by piece."""
        pieces = 1 if self.args.workers == 1 else 2 * self.args.workers
        chunks = list(zip(*(torch.tensor_split(part, pieces) for part in batch), strict=True))
        done = list(self.workers.map(lambda chunk: self._gradients(loss, chunk), chunks))
        shares = [len(chunk[0]) / len(batch[0]) for chunk in chunks]
        for i, parameter in enumerate(self.parameters):
            parameter.grad = sum(g[i] * share for (_, g), share in zip(done, shares, strict=True))
        factor = self.factor()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * factor
            optimizer.step()
        decay = min(0.995, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.means, self.parameters, strict=True):
                mean.lerp_(now, 1 - decay)
        return sum(part * share for (part, _), share in zip(done, shares, strict=True))

    def _gradients(
        self, loss: Callable[..., torch.Tensor], chunk: Sequence[torch.Tensor]
    ) -> tuple[float, tuple[torch.Tensor, ...]]:
        with autocast(self.args.device):
            value = loss(*(part.to(self.args.device) for part in chunk))
        return value.item(), torch.autograd.grad(value, self.parameters)

    def factor(self) -> float:
        """Of the rate: rises over 100 steps, stays, and falls over the last half of the steps,
        so that a run may be prolonged up to there by a larger --steps."""
        left = (self.args.steps - self.step) / (0.5 * self.args.steps)
        return min(1.0, (self.step + 1) / 100, max(left, 0.02))


def _sizes(optimizers: Sequence[torch.optim.Optimizer | dict]) -> list[int]:
    """How many parameters each group has: others than a checkpoint's where a run trains less."""
    states = [o if isinstance(o, dict) else o.state_dict() for o in optimizers]
    return [len(group["params"]) for state in states for group in state["param_groups"]]


def autocast(device: str) -> torch.autocast:
    """bfloat16 where it is faster than float32."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda"))


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon), for matrices, and
    for convolutions seen as matrices [out, in * height * width].

    Updates have the size of AdamW's (Liu et al. 2025, arXiv 2502.16982, equation 4). PyTorch's own
    takes matrices only, and works in bfloat16, which many processors do a hundred times slower.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, beta: float = 0.95) -> None:
        super().__init__(parameters, {"lr": rate, "beta": beta})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                grad = p.grad.reshape(len(p), -1)
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(grad))
                momentum.lerp_(grad, 1 - group["beta"])
                update = orthogonal(grad.lerp(momentum, group["beta"]))
                p.sub_(update.view_as(p), alpha=group["lr"] * 0.2 * max(update.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """About U Vᵀ of the matrix's singular value decomposition, by Newton and Schulz's iteration
    with Jordan's coefficients: singular values come to lie between 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x.T if len(matrix) > matrix.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)


def optimizers(
    nets: Sequence[nn.Module], rate: float, raw: Sequence[str] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for all that is no matrix or has a word of `raw` in its
    name: what meets the outside, where rows and columns are not alike."""
    named = [(name, p) for net in nets for name, p in net.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if p.ndim > 1 and not any(word in name for word in raw)]
    ids = {id(p) for p in inner}
    others = [p for _, p in named if id(p) not in ids]
    return [
        Muon(inner, rate),
        torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def averages(out: Path, stage: str) -> dict[str, torch.Tensor]:
    """The averaged weights of a stage's network, from its checkpoint."""
    saved = torch.load(out / f"{stage}.pt", weights_only=True, map_location="cpu")["average"]
    prefix = f"{stage}."
    return {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
