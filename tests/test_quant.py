"""Storage types: dequantization bit for bit as the `gguf` package, quantization at least as good."""

import gguf
import numpy as np
import pytest
from sdcore import _core

QUANTIZED = ["q4_0", "q8_0", "q4_K", "q5_K", "q6_K"]
TYPES = {row["name"]: row for row in _core.types()}


def ggml_type(name):
    return gguf.GGMLQuantizationType[name.upper()]


def dequantized(name, blocks):
    """What sdcore and the gguf package make of the same bytes."""
    row = TYPES[name]
    shape = [blocks.size // row["block_bytes"] * row["block_size"]]
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(blocks.reshape(1, -1), ggml_type(name)).reshape(-1)
    return _core.Tensor.from_bytes(blocks, name, shape).to_float(), expected


def assert_same_bits(actual, expected):
    """Bit for bit; of a NaN only that it is one."""
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(
        actual[numbers].view(np.uint32), expected[numbers].view(np.uint32)
    )


@pytest.mark.parametrize("name", [*QUANTIZED, "bf16", "f16"])
def test_dequantize_random_bytes(name):
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, TYPES[name]["block_bytes"] * 3000, dtype=np.uint8)
    assert_same_bits(*dequantized(name, blocks))


def error(values, name):
    kept = _core.quantize(values, name).to_float()
    return np.linalg.norm(kept - values) / np.linalg.norm(values)


@pytest.mark.parametrize("name", ["q4_0", "q8_0"])
def test_quantize_bits(name):
    x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    a = _core.quantize(x, name).data
    np.testing.assert_array_equal(a, gguf.quantize(x, ggml_type(name)).reshape(-1))
