"""An IP-Adapter of the pocket UNet, with a small image encoder: pictures like a picture.

    python tools/pocket/train_ip_adapter.py

Ye et al. (2023, "IP-Adapter", section 3.2): the encoder's embedding of a picture becomes four
tokens, which every cross-attention reads with keys and values of their own. No encoder of this
world's pictures exists, so it is trained with the rest; to have it look, half of the captions are
left out (of theirs one in ten), as for a ControlNet, and one picture in ten. Written as theirs:
ip_adapter.safetensors with `image_proj.` and `ip_adapter.` names, and a folder image_encoder in
transformers' layout, in float16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import config
from frozen import Frozen
from train_vae import to_tensor
from training import Run, arguments, optimizers

IMAGE_TOKENS = 4
NO_CAPTION, NO_PICTURE = 0.5, 0.1
VISION = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": 128,
    "image_size": 128,
    "patch_size": 16,
    "hidden_act": "quick_gelu",
}


def initial(unet: UNet2DConditionModel) -> dict[str, dict[str, torch.Tensor]]:
    """An adapter whose keys and values are those of the text, and whose projection is random.

    Attentions count as diffusers counts the UNet's processors; those of the text are the odd ones.
    """
    width = config.TEXT["hidden_size"]
    projection = nn.Linear(VISION["projection_dim"], IMAGE_TOKENS * width)
    state = {
        "image_proj": {
            "proj.weight": projection.weight,
            "proj.bias": projection.bias,
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": {},
    }
    for i, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            attention = unet.get_submodule(name.removesuffix(".processor"))
            for side in ("k", "v"):
                weight = getattr(attention, f"to_{side}").weight
                state["ip_adapter"][f"{i}.to_{side}_ip.weight"] = weight
    return {
        part: {name: w.detach().clone() for name, w in tensors.items()}
        for part, tensors in state.items()
    }


def trained(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What `initial` made, as training left it in a file."""
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, weight in load_file(path).items():
        part, rest = name.split(".", 1)
        state[part][rest] = weight.float()
    return state


class Adapted(nn.Module):
    """The UNet with an adapter in it, of which the adapter and the image encoder are trained."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        state = initial(unet)
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
        self.unet = unet
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_("_ip." in name or name.startswith("encoder_hid_proj."))

    def forward(
        self,
        pictures: torch.Tensor,
        keep: torch.Tensor,
        x: torch.Tensor,
        t: torch.Tensor,
        c: torch.Tensor,
    ) -> torch.Tensor:
        """What the UNet predicts; where `keep` is 0 the picture's embedding is zero, as it is for
        the unguided half at run time."""
        embeds = self.vision(pictures).image_embeds * keep[:, None]
        return self.unet(x, t, c, added_cond_kwargs={"image_embeds": [embeds[:, None]]}).sample

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors by the names of IP-Adapter's files."""
        projection = self.unet.encoder_hid_proj.image_projection_layers[0]
        out = {
            "image_proj.proj.weight": projection.image_embeds.weight,
            "image_proj.proj.bias": projection.image_embeds.bias,
            "image_proj.norm.weight": projection.norm.weight,
            "image_proj.norm.bias": projection.norm.bias,
        }
        for i, processor in enumerate(self.unet.attn_processors.values()):
            if hasattr(processor, "to_k_ip"):
                out[f"ip_adapter.{i}.to_k_ip.weight"] = processor.to_k_ip[0].weight
                out[f"ip_adapter.{i}.to_v_ip.weight"] = processor.to_v_ip[0].weight
        return {name: weight.detach().half().contiguous().cpu() for name, weight in out.items()}


def main() -> None:
    parser = arguments("Train an IP-Adapter.", steps=1500, batch=16, rate=1e-3)
    args = parser.parse_args()
    frozen = Frozen(args)
    noise, empty = frozen.noise, frozen.hidden([""])[0]
    run = Run("ip_adapter", args, {"ip_adapter": Adapted(frozen.unet())})
    run.optimize(*optimizers([run.nets["ip_adapter"]], args.rate, ("embed", "projection")))

    def loss(
        pictures: torch.Tensor,
        keep: torch.Tensor,
        x: torch.Tensor,
        c: torch.Tensor,
        eps: torch.Tensor,
        t: torch.Tensor,
    ) -> torch.Tensor:
        out = run.nets["ip_adapter"](pictures, keep, noise.add(x, eps, t), t, c)
        return F.mse_loss(out.float(), noise.velocity(x, eps, t))

    random = np.random.default_rng([args.seed, run.step])
    examples = frozen.examples(random, no_caption=0.0)
    total = 0.0
    for step in run.steps():
        pictures, x, c, eps, t = next(examples)
        no_text, no_picture = random.uniform(size=(2, args.batch))
        no_text = no_text < NO_CAPTION
        keep = torch.from_numpy((no_picture >= NO_PICTURE).astype(np.float32))
        c = torch.where(torch.from_numpy(no_text)[:, None, None].to(c.device), empty, c)
        total += run.descend(loss, to_tensor(pictures), keep, x, c, eps, t)
        if (step + 1) % 100 == 0:
            print(f"{step + 1} loss {total / 100:.4f}", flush=True)
            total = 0.0
    average = run.average["ip_adapter"]
    save_file(average.state(), args.out / "ip_adapter.safetensors")
    average.vision.half().save_pretrained(args.out / "image_encoder")
    print(f"{args.out}/ip_adapter.safetensors, {args.out}/image_encoder")


if __name__ == "__main__":
    main()
