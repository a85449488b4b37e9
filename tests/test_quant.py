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


def random_blocks(name, count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, TYPES[name]["block_bytes"]), dtype=np.uint8)


def assert_dequantizes_alike(name, blocks):
    """Bit for bit; of a NaN only that it is one."""
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(blocks, ggml(name))
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
    return values.astype(np.float32)


KINDS = ["normal", "laplace", "positive", "rows of many sizes", "sparse", "small", "few values"]


def test_types_are_ggmls():
    for name, row in TYPES.items():
        assert ggml(name) == row["id"]
        assert gguf.GGML_QUANT_SIZES[ggml(name)] == (row["block_size"], row["block_bytes"])
        assert sum(FIELDS[name]) == row["block_bytes"]
        assert row["can_quantize"] or name[0] == "i"


@pytest.mark.parametrize("name", [*QUANTIZED, *PLAIN_FLOATS])
def test_dequantize_random_bytes(name):
    assert_dequantizes_alike(name, random_blocks(name, 5000))


@pytest.mark.parametrize("name", [*QUANTIZED, *PLAIN_FLOATS])
def test_dequantize_every_scale(name):
    """All 65,536 of them: zeros, subnormals, infinities and NaN included."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    ends = np.cumsum(FIELDS[name])
    for end, width in zip(ends, FIELDS[name], strict=True):
        if width == 2:
            blocks = random_blocks(name, 1 << 16)
            blocks[:, end - 2 : end] = every
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


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "f16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_quantize_gives_ggmls_bits(name, kind):
    values = samples(kind)
    expected = gguf.quantize(values, ggml(name))
    np.testing.assert_array_equal(quantize(values, name).data, expected.reshape(-1).view(np.uint8))


# What ggml's own quantize_row_*_ref leave of standard normal numbers (256 rows of 1024), measured.
GGML_ERROR_ON_NORMAL = {"q4_K": 0.07147, "q5_K": 0.03618, "q6_K": 0.01776}


@pytest.mark.parametrize("name", GGML_ERROR_ON_NORMAL)
def test_k_quantize_is_better_than_ggmls_reference(name):
    assert error(name, samples("normal", (256, 1024))) < GGML_ERROR_ON_NORMAL[name]


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
    assert error(name, one_hot) < 0.01
    assert error(name, np.full(256, 0.7, np.float32)) < 0.01
    largest = np.full(256, np.finfo(np.float32).max, np.float32)
    quantize(largest * np.sign(samples("normal", (256,))), name)  # must only not misbehave


@pytest.mark.parametrize("name", GGML_ERROR_ON_NORMAL)
@pytest.mark.parametrize("size", [1e-7, 1e-9, 1e-30, 1e-44])
def test_k_quantize_below_the_smallest_scale(name, size):
    """What f16 has no scale for may become zero, but nothing worse."""
    tiny = (samples("normal", (4, 1024)) * size).astype(np.float32)
    assert np.linalg.norm(dequantize(quantize(tiny, name)) - tiny) <= np.linalg.norm(tiny)


@pytest.mark.parametrize("name", GGML_ERROR_ON_NORMAL)
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
