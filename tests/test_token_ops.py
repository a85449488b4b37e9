"""Ops that move tokens and positions about, each as a graph of its own against NumPy or torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed
from transformers.models.t5.modeling_t5 import T5Attention

from sdcore import InvalidArgumentError, _core
from sdcore.graph import Builder, Scope, Value, nn

DTYPES = pytest.mark.parametrize("dtype", ["f32", "bf16"])


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Small whole numbers, which bf16 holds exactly."""
    return np.random.default_rng(seed).integers(-99, 99, shape).astype(np.float32)


def run(
    write: Callable[..., Value],
    *inputs: np.ndarray,
    dtype: str = "f32",
    **weights: np.ndarray,
) -> np.ndarray:
    """`write(scope, *inputs)` as a graph."""
    b = Builder()
    values = [b.input(f"x{i}") for i in range(len(inputs))]
    b.output("out", write(b.weights, *values))
    tensors = {name: _core.Tensor.from_array(array) for name, array in weights.items()}
    network = _core.Network(b.graph, tensors, dtype=dtype)
    out: np.ndarray = network.run({f"x{i}": x for i, x in enumerate(inputs)})["out"]
    return out


@DTYPES
@pytest.mark.parametrize("n", [1, 3])
def test_tokens_are_joined_and_parted(dtype: str, n: int) -> None:
    a, b = numbers(n, 5, 6), numbers(n, 2, 6, seed=1)

    def write(_w: object, x: Value, y: Value) -> Value:
        # What kernels write, what is an input and what is joined already, all into one.
        both = nn.concat_tokens(nn.activation(x, "relu"), y, nn.concat_tokens(y, x))
        last = nn.last_tokens(both, x)
        return nn.concat(
            nn.last_tokens(last, y), nn.first_tokens(both, y), nn.first_tokens(last, y)
        )

    both = np.concatenate([np.maximum(a, 0), b, b, a], 1)
    ref = np.concatenate([both[:, -2:], both[:, :2], both[:, -5:-3]], 2)
    np.testing.assert_array_equal(run(write, a, b, dtype=dtype), ref)
    with pytest.raises(InvalidArgumentError, match="all but the tokens must agree"):
        run(write, a, b[..., :4], dtype=dtype)


@DTYPES
def test_kernels_read_and_write_slices_of_joined_tokens(dtype: str) -> None:
    x, y = numbers(2, 4, 8), numbers(2, 3, 8, seed=1)
    weight = np.eye(8, dtype=np.float32)[::-1].copy()

    def write(w: object, a: Value, b: Value) -> Value:
        joined = nn.concat_tokens(
            nn.linear(w.p, a, 8, 8, bias=False), nn.linear(w.p, b, 8, 8, bias=False)
        )
        return nn.linear(w.p, nn.last_tokens(joined, b), 8, 8, bias=False) + b

    out = run(write, x, y, dtype=dtype, **{"p.weight": weight})
    np.testing.assert_array_equal(out, y * 2)


@DTYPES
def test_images_are_joined_as_tokens(dtype: str) -> None:
    image, tokens = numbers(2, 3, 4, 8), numbers(2, 5, 8, seed=1)

    def write(_w: object, x: Value, y: Value) -> Value:
        x = nn.activation(x, "relu")
        both = nn.concat_tokens(nn.flatten(x), y)
        return nn.unflatten(nn.first_tokens(both, nn.flatten(x)), x)

    np.testing.assert_array_equal(run(write, image, tokens, dtype=dtype), np.maximum(image, 0))


@DTYPES
def test_channels_become_tokens_and_back(dtype: str) -> None:
    x = numbers(3, 6 * 5)
    parted = run(lambda _, v: nn.split_channels(v, 6), x, dtype=dtype)
    np.testing.assert_array_equal(parted, x.reshape(3, 6, 5))
    merged = run(lambda _, v: nn.merge_tokens(nn.split_channels(v, 6)), x, dtype=dtype)
    np.testing.assert_array_equal(merged, x)
    one = run(lambda _, v: nn.merge_tokens(nn.token(nn.split_channels(v, 6), 4)), x, dtype=dtype)
    np.testing.assert_array_equal(one, x[:, 20:25])
    with pytest.raises(InvalidArgumentError, match="must divide by parts, got 30 and 4"):
        run(lambda _, v: nn.split_channels(v, 4), x)
    with pytest.raises(InvalidArgumentError, match="1 tokens from 6 are more than there are"):
        run(lambda _, v: nn.token(nn.split_channels(v, 6), 6), x)


@DTYPES
@pytest.mark.parametrize("size", [1, 2, 3])
def test_depth_to_space(dtype: str, size: int) -> None:
    x = numbers(2, 3, 4, size * size * 5)
    ref = x.reshape(2, 3, 4, size, size, 5).transpose(0, 1, 3, 2, 4, 5)
    out = run(lambda _, v: nn.depth_to_space(v, size), x, dtype=dtype)
    np.testing.assert_array_equal(out, ref.reshape(2, 3 * size, 4 * size, 5))


def test_depth_to_space_into_a_border() -> None:
    x, weight = numbers(1, 3, 4, 4 * 2), numbers(1, 2, 3, 3, seed=1)

    def write(w: object, v: Value) -> Value:
        return nn.conv2d(w.c, nn.depth_to_space(v, 2), 2, 1, bias=False)

    image = x.reshape(1, 3, 4, 2, 2, 2).transpose(0, 5, 1, 3, 2, 4).reshape(1, 2, 6, 8)
    ref = torch.nn.functional.conv2d(torch.from_numpy(image), torch.from_numpy(weight), padding=1)
    out = run(write, x, **{"c.weight": weight})
    np.testing.assert_allclose(out, ref.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("t", [1, 2, 77, 300])
def test_relative_buckets_are_t5s(t: int) -> None:
    table = np.arange(32 * 3, dtype=np.float32).reshape(32, 3)
    out = run(
        lambda w, v: nn.relative_bias(w.r, v, 32, 3, 128), numbers(1, t, 4), **{"r.weight": table}
    )
    distance = torch.arange(t - 1, -t, -1)  # of a key after the query, by row
    buckets = T5Attention._relative_position_bucket(distance, True, 32, 128)
    np.testing.assert_array_equal(out[0], table[buckets.numpy()])


@pytest.mark.parametrize(("h", "w"), [(8, 8), (3, 6), (7, 2)])
def test_position_embeddings_are_cropped_as_diffusers_does(h: int, w: int) -> None:
    table = numbers(64, 12)
    embed = PatchEmbed(16, 16, 2, 4, 12, pos_embed_max_size=8)
    embed.pos_embed.copy_(torch.from_numpy(table)[None])
    ref = embed.cropped_pos_embed(2 * h, 2 * w).reshape(1, h, w, 12).numpy()
    out = run(lambda s, v: nn.crop_embedding(s.pos, v, 8, 12), numbers(2, h, w, 3), pos=table)
    np.testing.assert_array_equal(out, ref)


def test_an_image_larger_than_its_positions_is_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match="9 x 2 patches is larger than the model's 8 x 8"
    ):
        run(
            lambda s, v: nn.crop_embedding(s.pos, v, 8, 12),
            numbers(1, 9, 2, 3),
            pos=numbers(64, 12),
        )


@pytest.mark.parametrize(("h", "w"), [(64, 64), (3, 50), (96, 40)])
def test_sinusoids_of_places_are_diffusers(h: int, w: int) -> None:
    ref = get_2d_sincos_pos_embed(72, (h, w), base_size=64, interpolation_scale=2, output_type="pt")
    out = run(lambda _, v: nn.sincos_embedding(v, 72, 64, 2), np.zeros((1, h, w, 1), np.float32))
    np.testing.assert_allclose(out.reshape(-1, 72), ref.float().numpy(), atol=1e-6)


@DTYPES
def test_a_part_of_an_image_is_normalized_as_in_the_whole(dtype: str) -> None:
    x, groups = numbers(2, 9, 5, 12) / 8 + 3, 4
    gain, bias = numbers(12, seed=1) / 64, numbers(12, seed=2)
    grouped = x.astype(np.float64).reshape(2, 45, groups, 3)
    moments = np.concatenate([grouped.mean((1, 3)), grouped.var((1, 3))], 1)
    out = run(lambda _, x: nn.group_moments(x, groups), x, dtype=dtype)
    np.testing.assert_allclose(out, moments, rtol=1e-6)

    def part(w: Scope, x: Value, moments: Value) -> Value:
        return nn.group_norm(w.norm, nn.crop_rows(x, 2, 3), 12, groups, 1e-5, moments)

    b = Builder()
    b.output("out", part(b.weights, b.input("x"), b.input("moments")))
    weights = {
        "norm.weight": _core.Tensor.from_array(gain),
        "norm.bias": _core.Tensor.from_array(bias),
    }
    network = _core.Network(b.graph, weights, dtype=dtype)
    out = network.run({"x": x, "moments": moments.astype(np.float32)})["out"]
    mean, variance = (each.repeat(3, 1)[:, None, None] for each in np.split(moments, 2, 1))
    ref = ((x - mean) / np.sqrt(variance + 1e-5) * gain + bias)[:, 2:6]
    assert np.linalg.norm(out - ref) < (1e-6 if dtype == "f32" else 4e-3) * np.linalg.norm(ref)
    with pytest.raises(InvalidArgumentError, match="nothing left"):
        run(lambda _, x: nn.crop_rows(x, 4, 5), x)
    with pytest.raises(InvalidArgumentError, match="channels must divide by groups, got 12 and 5"):
        run(lambda _, x: nn.group_moments(x, 5), x)
    with pytest.raises(InvalidArgumentError, match="moments must be"):
        network.run({"x": x, "moments": moments[:, 1:].astype(np.float32)})
