"""Noise against torch.randn bit for bit, and the step table against its definition in float64."""

import numpy as np
import pytest
import torch

from sdcore import _core
from sdcore.errors import InvalidArgumentError

SEEDS = (0, 1, 42, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1, -1, -(2**63))


def torch_randn(seed, *shapes):
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(shape, generator=generator).numpy() for shape in shapes]


def assert_same_bits(got, expected):
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("seed", SEEDS)
def test_randn_is_torch_randn_bit_for_bit(seed):
    for count in (*range(41), 1024, *range(16381, 16388)):
        assert_same_bits(_core.TorchRandom(seed).randn([count]), torch_randn(seed, count)[0])


def test_randn_over_a_million_numbers():
    assert_same_bits(_core.TorchRandom(7).randn([1_000_003]), torch_randn(7, 1_000_003)[0])


@pytest.mark.parametrize(("seed", "index"), [(12, 411302), (34, 298484), (3, 1532311)])
def test_randn_where_the_uniform_number_is_zero(seed, index):
    """Radius 0 gives zeros, whose sign is torch's too; these places were found by search."""
    count = index // 16 * 16 + 16
    expected = torch_randn(seed, count)[0]
    assert 0 in expected
    assert_same_bits(_core.TorchRandom(seed).randn([count]), expected)


def test_draws_continue_one_another():
    """Latents first, then a step's noise; an odd short draw leaves one number of a pair behind,
    which a long draw in between does not touch."""
    shapes = [(1, 4, 8, 8), (3,), (17,), (2, 4), (5,), (), (0,), (16,)]
    random = _core.TorchRandom(99)
    for shape, expected in zip(shapes, torch_randn(99, *shapes), strict=True):
        assert_same_bits(random.randn(shape), expected)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_against_the_known_answers_of_random123(counter, key, expected):
    assert [f"{word:08x}" for word in _core.philox4x32(counter, key)] == expected.split()


def test_cuda_noise_is_what_a_device_gave():
    """torch.randn(3, 4, device="cuda") after manual_seed(0), as the web UI's rng_philox quotes."""
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    np.testing.assert_allclose(_core.PhiloxRandom(0).randn([3, 4]), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_cuda_noise_is_its_definition(seed):
    """In float64: element i of call k is made of the block at counter (k, i) with the seed as key;
    the number's radius comes of the first word, and its angle of the second."""
    random = _core.PhiloxRandom(seed)
    key = [seed % 2**32, seed // 2**32 % 2**32]
    for call, shape in enumerate([(2, 3, 7), (5,), (0,), (), (4, 9)]):
        out = random.randn(shape)
        blocks = [_core.philox4x32([call, 0, i, 0], key) for i in range(out.size)]
        words = np.array(blocks, np.float64).reshape(-1, 4)
        radius = np.sqrt(-2 * np.log((words[:, 0] + 0.5) / 2**32))
        expected = radius * np.sin(2 * np.pi * (words[:, 1] + 0.5) / 2**32)
        assert out.shape == shape
        # Both uniform numbers are rounded to float, and 1 - u has few digits left near 1.
        np.testing.assert_allclose(out, expected.reshape(shape), atol=2e-6)


def test_randn_refuses_a_negative_size():
    with pytest.raises(InvalidArgumentError, match=r"\[-1, 4\]"):
        _core.TorchRandom(0).randn([-1, 4])


def test_guidance():
    rng = np.random.default_rng(0)
    uncond, cond = rng.standard_normal((2, 3, 5, 7), np.float32)
    expected = uncond + np.float32(7.5) * (cond - uncond)
    np.testing.assert_array_equal(_core.guide(uncond, cond, 7.5), expected)
    with pytest.raises(InvalidArgumentError, match=r"\[3, 5\].*\[3, 5, 7\]"):
        _core.guide(uncond, cond[..., 0], 7.5)


def row(timestep, x0_from, terms, noise=0.0, clip=np.inf, input_scale=1.0, quantile=0.0):
    terms = [_core.StepTerm(*term) for term in terms]
    draws = noise != 0
    return _core.StepRow(timestep, input_scale, *x0_from, clip, quantile, terms, noise, draws)


def random_rows(rng, count, depth):
    """Rows that look back as far as there is something to look back at, some of them noisy."""
    rows = []
    for i in range(count):
        terms = rng.uniform(-0.5, 0.5, (min(i, depth) + 1, 4))
        terms[rng.random(terms.shape) < 0.3] = 0
        terms[[age for age in range(len(terms)) if (i - age) % 2 == 0 or age == 0], 3] = 0
        clip = 1.0 if i % 3 == 2 else np.inf
        rows.append((count - i, tuple(rng.uniform(-1, 1, 2)), terms, 0.3 * (i % 2), clip))
    return rows


def reference_run(rows, x, outputs, noises):
    """The definition in step_table.h, in float64."""
    past, states = [], []
    for (_, (a, b), terms, noise, clip), m, z in zip(rows, outputs, noises, strict=True):
        x0 = np.clip(a * x + b * m, -clip, clip)
        past.insert(0, (x, x0, m, z))
        x = sum(np.tensordot(w, np.stack(p), 1) for w, p in zip(terms, past, strict=False))
        x = x + noise * z
        states.append((x, x0))
    return states


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("shape", [(1,), (2, 3, 5, 4), (4099,)])
def test_rows_mean_what_the_header_says(depth, shape):
    rng = np.random.default_rng(depth)
    rows = random_rows(rng, 9, depth)
    x = rng.standard_normal(shape, np.float32)
    outputs, noises = rng.standard_normal((2, 9, *shape), np.float32)
    sampler = _core.Sampler([row(*r) for r in rows])
    for i, (expected, x0) in enumerate(reference_run(rows, x.astype(float), outputs, noises)):
        x = sampler.step(i, x, outputs[i], noises[i])
        # Each step rounds at most 4 (depth + 1) + 2 products and sums of terms of size about 1.
        assert np.abs(x - expected).max() < 9 * (4 * depth + 6) * 2**-23
        np.testing.assert_allclose(sampler.x0, x0.ravel(), atol=9 * (4 * depth + 6) * 2**-23)


@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("clip", [1.0, 1.7, np.inf])
def test_thresholds_are_each_images_own(quantile, clip):
    """Saharia et al. 2022, Imagen, section 2.3."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 4, 5, 7), np.float32) * np.float32([0.1, 1, 9])[:, None, None, None]
    sampler = _core.Sampler([row(1, (1, 0), [(0, 1, 0)], clip=clip, quantile=quantile)])
    sizes = np.quantile(np.abs(x.astype(float)).reshape(3, -1), quantile, axis=1)
    sizes = np.clip(sizes, 1, clip).reshape(3, 1, 1, 1)
    expected = np.clip(x, -sizes, sizes) / sizes
    np.testing.assert_allclose(sampler.step(0, x, x), expected, rtol=3 * 2**-23)
    x[1] = np.nan
    np.testing.assert_allclose(sampler.step(0, x, x)[[0, 2]], expected[[0, 2]], rtol=3 * 2**-23)


def test_a_sample_does_not_depend_on_its_batch():
    rng = np.random.default_rng(3)
    rows = [row(*r) for r in random_rows(rng, 6, 2)]
    x = rng.standard_normal((5, 33), np.float32)
    outputs, noises = rng.standard_normal((2, 6, 5, 33), np.float32)
    together, alone = _core.Sampler(rows), _core.Sampler(rows)
    batch, single = x, x[3]
    for i in range(6):
        batch = together.step(i, batch, outputs[i], noises[i])
        single = alone.step(i, single, outputs[i][3], noises[i][3])
    assert_same_bits(single, batch[3])


def test_a_run_may_begin_again_and_in_the_middle():
    rng = np.random.default_rng(4)
    x, m = rng.standard_normal((2, 8), np.float32)
    two_steps = [(2, (1, -1), [(1, 0, 0)]), (1, (1, -1), [(1, 0, 0), (0, 1, 0)])]
    sampler = _core.Sampler([row(*r) for r in two_steps])
    first = [sampler.step(0, x, m), sampler.step(1, x, m)]
    again = [sampler.step(0, x, m), sampler.step(1, x, m)]
    np.testing.assert_array_equal(first, again)
    with pytest.raises(InvalidArgumentError, match="row 1 looks 1 steps back, but 0 came before"):
        _core.Sampler([row(*r) for r in two_steps]).step(1, x, m)
    with pytest.raises(InvalidArgumentError, match="row 1 looks 1 steps back"):
        sampler.step(1, x, m)


def test_what_is_not_used_need_not_be_finite():
    x = np.array([1.0, 2.0], np.float32)
    m = np.array([np.inf, np.nan], np.float32)
    out = _core.Sampler([row(1, (1, 0), [(0.5, 0, 0)])]).step(0, x, m)
    np.testing.assert_array_equal(out, 0.5 * x)


GOOD_TERMS = [(1, 0, 0)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([row(1, (1, 0), [])], "row 0 has no terms"),
        ([row(1, (1, 0), GOOD_TERMS), row(5, (np.inf, 0), GOOD_TERMS)], r"row 1 \(timestep 5\)"),
        ([row(1, (1, 0), [(np.nan, 0, 0)])], "not a finite number"),
        ([row(1, (1, 0), GOOD_TERMS, clip=0)], "clip must be positive, got 0"),
        ([row(1, (1, 0), GOOD_TERMS, quantile=1.5)], r"the quantile must lie in \[0, 1\], got 1.5"),
        ([row(1, (1, 0), GOOD_TERMS, quantile=np.nan)], "not a finite number"),
        ([row(1, (1, 0), [(1, 0, 0, 1)], noise=1.0)], "row 0 weighs noise that no row draws"),
        (
            [row(2, (1, 0), GOOD_TERMS), row(1, (1, 0), [(1, 0, 0), (0, 0, 0, 1)], noise=1.0)],
            "row 1 weighs noise that no row draws",
        ),
        ([row(1, (1, 0), [(1, 0, 0), (0, 0, 0, 1)], noise=1.0)], "row 0 weighs noise"),
    ],
)
def test_a_table_that_cannot_be_applied_is_refused(rows, message):
    with pytest.raises(InvalidArgumentError, match=message):
        _core.Sampler(rows)


def test_wrong_use_of_a_step_is_an_error():
    sampler = _core.Sampler([row(1, (1, 0), GOOD_TERMS, noise=0.5)])
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(InvalidArgumentError, match="row 0 adds noise, and none was given"):
        sampler.step(0, x, x)
    with pytest.raises(InvalidArgumentError, match="no row 1 in a table of 1"):
        sampler.step(1, x, x, x)
    with pytest.raises(InvalidArgumentError, match=r"output has shape \[3\].*\[2, 3\]"):
        sampler.step(0, x, x[0], x)
    with pytest.raises(InvalidArgumentError, match=r"noise has shape \[2\].*\[2, 3\]"):
        sampler.step(0, x, x, x[:, 0])
