"""Token merging: groups by their definition, and a UNet against diffusers' with the same ones."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
import tiny_models
from reference.common import BF16_FACTOR, NETWORK_F32, TorchComponent, error, in_bf16
from sdcore import _core
from sdcore.graph import Builder, nn
from sdcore.models.base import RunOptions
from sdcore.models.unet import UNet2DConditionModel

SIZES = [(6, 8), (5, 7), (1, 9), (8, 1), (2, 2), (1, 1)]


def groups_of(tokens: np.ndarray, height: int, width: int, ratio: float) -> np.ndarray:
    """One image's, in float64 and plain words."""
    unit = tokens.astype(np.float64).reshape(height, width, -1)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=2, keepdims=True), 1e-300)
    places = [(y, x) for y in range(height) for x in range(width)]
    stay = [(y, x) for y, x in places if y % 2 == 0 and x % 2 == 0]
    nearest = {}
    for y, x in places:
        if (y, x) in stay:
            continue
        near = [s for s in stay if abs(s[0] // 2 - y // 2) <= 1 and abs(s[1] // 2 - x // 2) <= 1]
        likeness = [unit[y, x] @ unit[s] for s in near]
        nearest[y, x] = (-max(likeness), near[int(np.argmax(likeness))])
    count = min(int(height * width * ratio), len(places) - len(stay))
    joins = sorted(nearest, key=lambda place: (nearest[place][0], place))[:count]
    kept = [place for place in places if place not in joins]
    group = {place: i for i, place in enumerate(kept)}
    group |= {place: group[nearest[place][1]] for place in joins}
    return np.array([group[place] for place in places])


def means(tokens: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.stack([tokens[groups == i].mean(0) for i in range(groups.max() + 1)])


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def run(x: np.ndarray, ratio: float, dtype: str = "f32", threads: int | None = None) -> Any:
    """Means of the groups of x [n, h, w, c], and what each token gets of them."""
    b = Builder()
    image = b.input("x")
    tokens = nn.flatten(image)
    groups = nn.token_groups(tokens, image, ratio)
    fewer = nn.mean_tokens(tokens, groups, image, ratio)
    b.output("means", fewer)
    b.output("spread", nn.spread_tokens(fewer, groups))
    return _core.Network(b.graph, {}, dtype=dtype, threads=threads).run({"x": x})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.75])
@pytest.mark.parametrize("channels", [3, 24])
def test_groups_are_those_of_the_definition(
    size: tuple[int, int], ratio: float, channels: int
) -> None:
    x = numbers(2, *size, channels)
    out = run(x, ratio, threads=2)
    tokens = x.reshape(2, -1, channels)
    for image in range(2):
        groups = groups_of(tokens[image], *size, ratio)
        expected = means(tokens[image], groups)
        np.testing.assert_allclose(out["means"][image], expected, rtol=1e-6, atol=1e-7)
        assert np.array_equal(out["spread"][image], out["means"][image][groups])


def test_of_equals_the_first_wins_and_what_is_no_number_joins_last() -> None:
    x = np.ones((1, 4, 6, 8), np.float32)
    tokens = x.reshape(-1, 8)
    expected = groups_of(tokens, 4, 6, 0.5)
    x[0, 1, 2] = np.nan  # the eighth token
    places = np.arange(24, dtype=np.float32).reshape(1, 24, 1)
    b = Builder()
    image, numbered = b.input("x"), b.input("places")
    groups = nn.token_groups(nn.flatten(image), image, 0.5)
    b.output("out", nn.mean_tokens(numbered, groups, image, 0.5))
    out = _core.Network(b.graph, {}, dtype="f32").run({"x": x, "places": places})["out"][0]
    assert 8.0 in out  # alone
    x[0, 1, 2] = 1.0
    out = _core.Network(b.graph, {}, dtype="f32").run({"x": x, "places": places})["out"][0]
    np.testing.assert_allclose(out, means(places[0], expected), rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    x = numbers(1, 4, 4, 8)
    with pytest.raises(sdcore.InvalidArgumentError, match="ratio must be from 0 to"):
        run(x, 0.8)
    b = Builder()
    b.output("out", nn.spread_tokens(b.input("x"), b.input("groups", "i32")))
    network = _core.Network(b.graph, {}, dtype="f32")
    tokens = numbers(1, 3, 8)
    for wrong in (3, -1):
        with pytest.raises(sdcore.InvalidArgumentError, match=f"group {wrong} of token 1 is outsi"):
            network.run({"x": tokens, "groups": np.array([[0, wrong]], np.int32)})
    b = Builder()
    b.output("out", nn.token_groups(b.input("x"), b.input("image"), 0.5))
    with pytest.raises(sdcore.InvalidArgumentError, match="must have the tokens of image"):
        b.graph.plan({"x": [1, 8, 4], "image": [1, 3, 3, 4]})


# ---- in a UNet -----------------------------------------------------------------------------------


class Merged(torch.nn.Module):
    """diffusers' self-attention on fewer tokens."""

    def __init__(self, attention: torch.nn.Module, block: dict[str, Any], ratio: float) -> None:
        super().__init__()
        self.attention, self.block, self.ratio = attention, block, ratio

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        size = self.block["size"]
        outs = []
        for x, h in zip(self.block["x"], hidden_states, strict=True):
            groups = torch.from_numpy(groups_of(x.float().numpy(), *size, self.ratio))
            fewer = torch.stack([h[groups == i].mean(0) for i in range(int(groups.max()) + 1)])
            outs.append(self.attention(fewer[None], **kwargs)[0][groups])
        return torch.stack(outs)


def merged(unet: torch.nn.Module, ratio: float, size: tuple[int, int]) -> torch.nn.Module:
    """The uppermost blocks that have attention, on the way down and up."""
    kinds = [type(block).__name__ for block in unet.down_blocks]
    first = next(i for i, kind in enumerate(kinds) if "CrossAttn" in kind)
    for block in (unet.down_blocks[first], unet.up_blocks[len(kinds) - 1 - first]):
        for transformer in block.attentions:
            for inner in transformer.transformer_blocks:
                seen: dict[str, Any] = {"size": tuple(-(-side // 2**first) for side in size)}
                inner.register_forward_pre_hook(
                    lambda _, given, seen=seen: seen.update(x=given[0]), with_kwargs=False
                )
                inner.attn1 = Merged(inner.attn1, seen, ratio)
    return unet


@pytest.mark.parametrize("spec", tiny_models.SPECS[:2], ids=lambda spec: spec.name)
@pytest.mark.parametrize("ratio", [0.3, 0.75])
def test_a_unet_is_diffusers_with_the_same_tokens_merged(
    spec: tiny_models.Spec, ratio: float
) -> None:
    x, text, size = numbers(2, 4, 9, 6), numbers(2, 5, spec.context), (9, 6)
    module = tiny_models.unet(spec)
    ours, rounded = (
        UNet2DConditionModel.from_component(
            TorchComponent(dict(module.config), module), RunOptions(dtype=dtype)
        )
        for dtype in ("f32", "bf16")
    )
    given = torch.from_numpy(x), torch.tensor(7.0), torch.from_numpy(text)
    with torch.no_grad():
        ref = merged(copy.deepcopy(module), ratio, size)(*given).sample.numpy()
        half = merged(in_bf16(module), ratio, size)(*(v.bfloat16() for v in given)).sample
    assert error(ours(x, 7, text, merges=ratio), ref) <= NETWORK_F32
    assert error(ours(x, 7, text), ref) > 1e-3
    assert np.array_equal(ours(x, 7, text, merges=0.0), ours(x, 7, text))
    # Rounded likeness chooses others here and there, in either program.
    assert error(rounded(x, 7, text, merges=ratio), ref) <= BF16_FACTOR * error(
        half.float().numpy(), ref
    )


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> sdcore.DiffusionPipeline:
    folder = tmp_path_factory.mktemp("model")
    return sdcore.DiffusionPipeline.open(tiny_models.save_folder(tiny_models.PLAIN, folder))


def test_a_picture_of_a_batch_is_the_picture_alone(pipe: Any) -> None:
    args = {"num_inference_steps": 2, "output_type": "latent", "token_merging_ratio": 0.5}
    both = pipe(["a cat", "a dog"], seed=3, **args).images
    for i, prompt in enumerate(("a cat", "a dog")):
        assert np.array_equal(pipe(prompt, seed=3 + i, **args).images[0], both[i])
    pipe.guidance_in_turns = True
    assert np.array_equal(pipe(["a cat", "a dog"], seed=3, **args).images, both)
    pipe.guidance_in_turns = None
    plain = pipe(["a cat", "a dog"], seed=3, **{**args, "token_merging_ratio": 0.0}).images
    assert 1e-4 < error(both, plain) < 0.5


def test_it_goes_with_the_other_ways_to_save(pipe: Any) -> None:
    args = {"num_inference_steps": 3, "output_type": "latent", "seed": 3}
    plain, kept, both, perturbed = (
        pipe("a cat", **args, **more).images
        for more in (
            {"token_merging_ratio": 0.5},
            {"cache_interval": 2},
            {"token_merging_ratio": 0.5, "cache_interval": 2},
            {"token_merging_ratio": 0.5, "pag_scale": 2.0},
        )
    )
    assert len({one.tobytes() for one in (plain, kept, both, perturbed)}) == 4


@pytest.mark.parametrize("ratio", [-0.1, 0.8, float("nan"), "half"])
def test_bad_ratios_are_refused(pipe: Any, ratio: Any) -> None:
    with pytest.raises(sdcore.InvalidArgumentError, match="token_merging_ratio must be"):
        pipe("x", token_merging_ratio=ratio)
