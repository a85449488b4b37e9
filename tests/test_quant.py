"""Storage types against the `gguf` package: the same bits back, and no larger error going in."""

import gc
import threading

import gguf
import numpy as np
import pytest

import sdcore
from number_formats import FIELDS
from sdcore import _core
from sdcore.quantization import Tensor, dequantize, quantize, types

TYPES = {row["name"]: row for row in types()}
QUANTIZED = [name for name, row in TYPES.items() if row["block_size"] > 1]
MADE = [name for name in QUANTIZED if TYPES[name]["can_quantize"]]
PLAIN_FLOATS = ["f16", "bf16"]


def ggml(name):
    return gguf.GGMLQuantizationType[name.upper()]


def two_bits(blocks):
    shifted = blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8)
    return (shifted & 3).reshape(len(blocks), -1).astype(np.float32) - 1


def scales(blocks):
    return blocks[:, :2].copy().view(np.float16).astype(np.float32)


# What the package cannot read, by ggml's dequantize_row_*.
FORMULAS = {
    "q1_0": lambda b: np.where(np.unpackbits(b[:, 2:], 1, 128, "little"), 1, -1) * scales(b),
    "q2_0": lambda b: two_bits(b) * scales(b),
}


def reference(name, blocks):
    return FORMULAS[name](blocks) if name in FORMULAS else gguf.dequantize(blocks, ggml(name))


def random_blocks(name, count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, TYPES[name]["block_bytes"]), dtype=np.uint8)


def assert_dequantizes_alike(name, blocks):
    """Bit for bit; of a NaN only that it is one."""
    with np.errstate(all="ignore"):
        expected = np.asarray(reference(name, blocks), np.float32)
    actual = dequantize(Tensor.from_bytes(blocks, name, expected.shape))
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    number = ~np.isnan(expected)
    bits = actual[number].view(np.uint32), expected[number].view(np.uint32)
    np.testing.assert_array_equal(*bits)


def error(name, values):
    kept = dequantize(quantize(values, name)).astype(np.float64)
    return np.linalg.norm(kept - values) / np.linalg.norm(values)


def samples(kind, shape=(64, 1024)):
    rng = np.random.default_rng(2)
    normal = rng.standard_normal(shape)
    values = {
        "normal": normal,
        "laplace": rng.laplace(size=shape),
        "positive": rng.uniform(1, 2, shape),
        "rows of many sizes": normal * 10 ** rng.uniform(-3, 3, (shape[0], 1)),
        "sparse": normal * (rng.random(shape) < 0.05),
        "small": normal * 1e-5,
        "few values": rng.integers(-3, 4, shape) * 0.25,
    }[kind]
    return values.astype(np.float32) + np.float32(0)  # no zero is negative


KINDS = ["normal", "laplace", "positive", "rows of many sizes", "sparse", "small", "few values"]


def test_types_are_ggmls():
    for name, row in TYPES.items():
        assert sum(FIELDS[name]) == row["block_bytes"]
        if name == "q2_0":  # newer than the package: ggml.h
            assert (row["id"], row["block_size"]) == (42, 64)
            continue
        assert ggml(name) == row["id"]
        assert gguf.GGML_QUANT_SIZES[ggml(name)] == (row["block_size"], row["block_bytes"])
        assert row["can_quantize"] or name[0] == "i"


@pytest.mark.parametrize("name", [*QUANTIZED, *PLAIN_FLOATS])
def test_dequantize_random_bytes(name):
    assert_dequantizes_alike(name, random_blocks(name, 5000))


@pytest.mark.parametrize("name", [*QUANTIZED, *PLAIN_FLOATS])
def test_dequantize_every_scale(name):
    """Zeros, subnormals, infinities and NaN included; of the large blocks, one in 13 and all that
    are next to something special. Other fields of 16 bits are words: the first is tried likewise.
    """
    numbers = np.arange(1 << 16, dtype=np.uint16)
    if TYPES[name]["block_size"] > 32:
        size = numbers & 0x7FFF
        special = (size < 64) | (abs(size - 1024.0) < 64) | (abs(size - 31744.0) < 64)
        numbers = numbers[special | (numbers % 13 == 0)]
    fields = [
        end for end, width in zip(np.cumsum(FIELDS[name]), FIELDS[name], strict=True) if width == 2
    ]
    for end in fields[:2]:
        blocks = random_blocks(name, len(numbers))
        blocks[:, end - 2 : end] = numbers.view(np.uint8).reshape(-1, 2)
        assert_dequantizes_alike(name, blocks)


def test_dequantize_floats():
    values = samples("normal").astype(np.float64)
    np.testing.assert_array_equal(dequantize(Tensor.from_array(values)), values.astype(np.float32))
    bits = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(
        dequantize(Tensor.from_array(bits, "bf16")).view(np.uint32), bits.astype(np.uint32) << 16
    )


def test_dequantize_at_an_odd_address():
    blocks = random_blocks("q4_K", 9)
    shifted = np.empty(blocks.size + 1, np.uint8)[1:]
    shifted[:] = blocks.ravel()
    straight, odd = (Tensor.from_bytes(b, "q4_K", [9 * 256]) for b in (blocks, shifted))
    assert odd.data.ctypes.data % 2 == 1 or straight.data.ctypes.data % 2 == 1
    np.testing.assert_array_equal(dequantize(straight), dequantize(odd))


def test_dequantize_every_byte_of_small_floats():
    """The scales of mxfp4 and nvfp4, and the scale that iq1_m has in four places."""
    every = np.arange(256, dtype=np.uint8)[:, None]
    for name, begin, end in (("mxfp4", 0, 1), ("nvfp4", 0, 4)):
        blocks = random_blocks(name, 256)
        blocks[:, begin:end] = every
        assert_dequantizes_alike(name, blocks)
    numbers = np.arange(0, 1 << 16, 5, dtype=np.uint16)
    blocks = random_blocks("iq1_m", len(numbers))
    for i in range(4):
        blocks[:, 49 + 2 * i] &= 15
        blocks[:, 49 + 2 * i] |= ((numbers >> (4 * i)) << 4).astype(np.uint8)
    assert_dequantizes_alike("iq1_m", blocks)


@pytest.mark.parametrize(
    "name",
    ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0", "mxfp4", "f16", "bf16"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_quantize_gives_ggmls_bits(name, kind):
    values = samples(kind)
    expected = gguf.quantize(values, ggml(name))
    np.testing.assert_array_equal(quantize(values, name).data, expected.reshape(-1).view(np.uint8))


# What ggml's own quantizers leave of standard normal numbers (256 rows of 1024), measured: the
# lesser of what they leave by themselves and with an importance of one throughout, and, of the sum
# of squares weighed by `some_importance`, what they leave with that.
GGML_ERROR_ON_NORMAL = {
    "q2_K": (0.26802, 0.22423),
    "q3_K": (0.14514, 0.13035),
    "q4_K": (0.07078, 0.06271),
    "q5_K": (0.03545, 0.03221),
    "q6_K": (0.01728, 0.01565),
    "iq4_nl": (0.07504, 0.06888),
    "iq4_xs": (0.07570, 0.06967),
    "iq3_s": (0.13660, 0.11301),
    "iq3_xxs": (0.18146, 0.14083),
    "iq2_s": (0.24892, 0.21691),
    "iq2_xs": (0.29898, 0.24327),
    "iq2_xxs": (0.34344, 0.27851),
    "iq1_m": (0.45178, 0.36815),
    "iq1_s": (0.48558, 0.42640),
}
K_TYPES = ["q2_K", "q3_K", "q4_K", "q5_K", "q6_K"]


def some_importance():
    """Of 1024 columns: the fourth stretch of the numbers that the figures above come from."""
    rng = np.random.default_rng(2)
    rng.standard_normal((256, 1024))
    rng.laplace(size=(256, 1024))
    return (rng.standard_normal(1024) ** 2 + 0.05).astype(np.float32)


@pytest.mark.parametrize("name", GGML_ERROR_ON_NORMAL)
def test_quantize_is_better_than_ggmls_reference(name):
    values = samples("normal", (256, 1024))[:64]
    assert error(name, values) < GGML_ERROR_ON_NORMAL[name][0]
    importance = some_importance()
    kept = dequantize(quantize(values, name, importance)).astype(np.float64)
    weighed = np.sqrt((importance * (kept - values) ** 2).sum() / (importance * values**2).sum())
    assert weighed < GGML_ERROR_ON_NORMAL[name][1]


def least_error(groups, levels, steps):
    """Of each group, over all of these steps: the least sum of squared differences."""
    best = np.full(len(groups), np.inf)
    for step in steps.T if steps.ndim == 2 else steps:
        points = np.multiply.outer(step, levels) if np.ndim(step) else [step * levels]
        nearest = np.abs(groups[:, :, None] - np.asarray(points)[:, None]).min(2)
        best = np.minimum(best, (nearest**2).sum(1))
    return best.sum()


def test_nvfp4_has_the_best_of_all_scales():
    groups = samples("laplace", (64, 256)).astype(np.float64).reshape(-1, 16)
    codes = np.arange(0x7F, dtype=np.uint8)
    least = least_error(
        groups, np.array(gguf.quants.NVFP4.kvalues), gguf.quants.NVFP4.ue4m3_to_fp32(codes)
    )
    kept = dequantize(quantize(groups.reshape(64, 256), "nvfp4")).reshape(-1, 16)
    assert ((kept - groups) ** 2).sum() <= least * (1 + 1e-6)


def test_iq4_nl_against_a_fine_search():
    groups = samples("laplace", (64, 256)).astype(np.float64).reshape(-1, 32)
    furthest = np.abs(groups).max(1, keepdims=True)
    steps = furthest / np.r_[-160:-90:300j, 90:160:300j]
    least = least_error(groups, np.array(gguf.quants.IQ4_NL.kvalues), steps)
    kept = dequantize(quantize(groups.reshape(64, 256), "iq4_nl")).reshape(-1, 32)
    assert ((kept - groups) ** 2).sum() < least * 1.02


def test_iq3_s_points_are_the_nearest():
    values = samples("normal", (8, 1024))
    quantized = quantize(values, "iq3_s")
    blocks = quantized.data.reshape(-1, 110)
    levels = (blocks[:, 106:, None] >> np.array([0, 4], np.uint8) & 15).reshape(-1, 8)
    steps = scales(blocks).astype(np.float64) * (1 + 2 * levels)
    gguf.quants.IQ3_S.init_grid()
    grid = gguf.quants.IQ3_S.grid.reshape(512, 4).astype(np.float64)
    sizes = np.abs(values.astype(np.float64)).reshape(-1, 1, 4)
    distances = ((sizes - np.repeat(steps.reshape(-1), 8)[:, None, None] * grid) ** 2).sum(2)
    kept = dequantize(quantized).astype(np.float64).reshape(-1, 4)
    chosen = ((kept - values.reshape(-1, 4)) ** 2).sum(1)
    assert (chosen <= distances.min(1) + 1e-5).all()


def rounded_to_range(values, group, levels, symmetric):
    """Plain rounding between the ends of each group, whose scales stay exact: no search at all."""
    groups = values.reshape(-1, group).astype(np.float64)
    if symmetric:
        low, step = 0.0, np.abs(groups).max(1, keepdims=True) / (levels // 2)
    else:
        low = np.minimum(groups.min(1, keepdims=True), 0)  # a minimum above zero cannot be stored
        step = (groups.max(1, keepdims=True) - low) / levels
    step = np.where(step == 0, 1, step)
    return (np.round((groups - low) / step) * step + low).reshape(values.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "group", "levels"), [("q4_K", 32, 15), ("q5_K", 32, 31), ("q6_K", 16, 63)]
)
def test_k_quantize_against_plain_rounding(name, kind, group, levels):
    values = samples(kind)
    plain = rounded_to_range(values, group, levels, name == "q6_K") - values
    # The stored scales are themselves rounded, to 1 part in 2 * 63 or less: where rounding the
    # numbers costs next to nothing, that is what remains.
    allowed = max(np.linalg.norm(plain) / np.linalg.norm(values), 1 / 126)
    assert error(name, values) <= allowed


@pytest.mark.parametrize("name", MADE)
def test_quantize_awkward_blocks(name):
    zero, one_hot = np.zeros((2, 256), np.float32)
    assert not dequantize(quantize(zero, name)).any()
    one_hot[37] = -3.0
    # Not every format has a zero, or a level that suits any one number.
    is_coarse = name.startswith(("iq", "mx", "q1"))
    assert error(name, one_hot) < (1.0 if is_coarse else 0.01)
    assert error(name, np.full(256, 0.7, np.float32)) < (0.1 if is_coarse else 0.01)
    largest = np.full(256, np.finfo(np.float32).max, np.float32)
    quantize(largest * np.sign(samples("normal", (256,))), name)  # must only not misbehave


@pytest.mark.parametrize("name", GGML_ERROR_ON_NORMAL)
@pytest.mark.parametrize("size", [1e-7, 1e-9, 1e-30, 1e-44])
def test_quantize_below_the_smallest_scale(name, size):
    """What f16 has no scale for may become zero, but nothing worse."""
    tiny = (samples("normal", (4, 1024)) * size).astype(np.float32)
    assert np.linalg.norm(dequantize(quantize(tiny, name)) - tiny) <= np.linalg.norm(tiny)


@pytest.mark.parametrize("name", K_TYPES)
def test_k_quantize_keeps_a_block_that_fits(name):
    """Numbers that came from the format go back into it almost unchanged."""
    first = dequantize(quantize(samples("normal"), name))
    assert error(name, first) < 0.2 * error(name, samples("normal"))


def test_quantize_refuses():
    values = np.ones((2, 256), np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        values[1, 3] = bad
        with pytest.raises(sdcore.InvalidArgumentError, match="element 259 is not a finite number"):
            quantize(values, "q8_0")
        quantize(values, "f16")
    with pytest.raises(sdcore.InvalidArgumentError, match=r"\[3, 48\].*blocks of 32"):
        quantize(np.ones((3, 48)), "q4_0")
    with pytest.raises(sdcore.InvalidArgumentError, match="unknown name 'q9_9'"):
        quantize(values, "q9_9")
    with pytest.raises(sdcore.InvalidArgumentError, match="cannot make i32 of f32"):
        quantize(values, "i32")
    with pytest.raises(sdcore.InvalidArgumentError, match="no meaning as float"):
        dequantize(Tensor.from_array(np.arange(3)))


def test_requantize_and_sizes_that_do_not_fill_a_task():
    for count in (0, 256, 8192 - 256, 8192, 8192 + 256, 5 * 8192 + 512):
        values = samples("normal", (1, count)) if count else np.zeros((1, 0), np.float32)
        sixth = quantize(values, "Q6_k")
        assert (sixth.type, sixth.shape, sixth.nbytes) == ("q6_K", (1, count), count // 256 * 210)
        again = quantize(quantize(sixth, "f32"), "f64")
        np.testing.assert_array_equal(dequantize(again), dequantize(sixth))


def test_result_does_not_depend_on_threads():
    values = samples("normal")
    whole = quantize(values, "q4_K").data
    rows = [quantize(row, "q4_K").data for row in values]
    np.testing.assert_array_equal(whole, np.concatenate(rows))


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i1", "i2", "i4", "i8"])
def test_from_array(dtype):
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    tensor = Tensor.from_array(array)
    assert tensor.shape == (2, 3, 4)
    assert tensor.type == dtype[0] + str(8 * int(dtype[1]))
    assert tensor.nbytes == array.nbytes
    assert tensor.data.ctypes.data == array.ctypes.data  # shared
    assert not tensor.data.flags.writeable
    for awkward in (array.T, array[:, ::2], array[..., ::-1], array.astype(">" + dtype)):
        data = Tensor.from_array(awkward).data
        expected = np.ascontiguousarray(awkward).astype(dtype)
        np.testing.assert_array_equal(data, expected.reshape(-1).view(np.uint8))


def test_from_array_refuses():
    for array in (np.ones(3, np.uint16), np.ones(3, complex), np.array(["a"]), np.array([True])):
        with pytest.raises(sdcore.InvalidArgumentError, match="cannot hold an array of"):
            Tensor.from_array(array)
    with pytest.raises(sdcore.InvalidArgumentError, match="made of an array of uint16"):
        Tensor.from_array(np.ones(3, np.float32), "bf16")
    with pytest.raises(sdcore.InvalidArgumentError, match="float32 is not of type f16"):
        Tensor.from_array(np.ones(3, np.float32), "f16")
    with pytest.raises(sdcore.InvalidArgumentError, match="takes 34 bytes, got 33"):
        Tensor.from_bytes(np.zeros(33, np.uint8), "q8_0", [32])
    for shape in ([31], [-32], [2**62, 2**62]):
        with pytest.raises(
            sdcore.InvalidArgumentError, match="do not divide into the blocks of 32"
        ):
            Tensor.from_bytes(np.zeros(34, np.uint8), "q8_0", shape)


def test_a_tensor_keeps_its_array_alive():
    tensor = Tensor.from_array(np.arange(1000, dtype=np.float32)).rows(10, 20)
    data = tensor.data
    del tensor
    gc.collect()
    np.testing.assert_array_equal(data.view(np.float32), np.arange(10, 20))
    # The last reference may be dropped by any thread.
    held = [Tensor.from_array(np.zeros(10))]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()


def test_from_file(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(b"x" + np.arange(6, dtype=np.float32).tobytes())
    file = _core.MappedFile(path)
    tensor = Tensor.from_file(file, 1, "f32", [2, 3])
    del file
    gc.collect()
    np.testing.assert_array_equal(dequantize(tensor), [[0, 1, 2], [3, 4, 5]])
    assert Tensor.from_file(_core.MappedFile(path), 25, "f32", [0]).nbytes == 0
    for offset, shape in ((2, [6]), (26, [0]), (-1, [1]), (2**62, [1])):
        with pytest.raises(sdcore.CheckpointError, match="holds 25 bytes"):
            Tensor.from_file(_core.MappedFile(path), offset, "f32", shape)
    for shape in ([2**61], [2**40, 2**40], [-1]):
        with pytest.raises(sdcore.CheckpointError, match="too large"):
            Tensor.from_file(_core.MappedFile(path), 0, "f32", shape)


def test_reshape_and_rows():
    values = samples("normal", (6, 512))
    tensor = quantize(values, "q4_K")
    whole = dequantize(tensor)
    np.testing.assert_array_equal(
        dequantize(tensor.reshape([3, 2, 2, 256])), whole.reshape(3, 2, 2, 256)
    )
    np.testing.assert_array_equal(dequantize(tensor.rows(2, 5)), whole[2:5])
    np.testing.assert_array_equal(dequantize(tensor.rows(6, 6)), whole[6:])
    flat = tensor.reshape([6 * 512])
    np.testing.assert_array_equal(dequantize(flat.rows(256, 768)), whole.reshape(-1)[256:768])
    for shape in ([6 * 2, 128, 2], [6, 511], [-6, -512]):
        with pytest.raises(sdcore.InvalidArgumentError, match="reshape"):
            tensor.reshape(shape)
    for begin, end in ((-1, 2), (3, 2), (0, 7)):
        with pytest.raises(sdcore.InvalidArgumentError, match=f"{begin} to {end} of 6"):
            tensor.rows(begin, end)
    for begin, end in ((0, 100), (100, 356)):
        with pytest.raises(sdcore.InvalidArgumentError, match="cut a block"):
            flat.rows(begin, end)
    with pytest.raises(sdcore.InvalidArgumentError, match="no axes"):
        Tensor.from_array(np.array(1.0)).rows(0, 1)
