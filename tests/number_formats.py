"""How the numbers of each storage type lie in its blocks, for the tests of quant and gguf."""

# The widths in bytes of the numbers of a block, in order: what another byte order turns around. In
# the block types, the wide ones are the scales.
FIELDS = {
    "f32": [4],
    "f16": [2],
    "bf16": [2],
    "f64": [8],
    "i8": [1],
    "i16": [2],
    "i32": [4],
    "i64": [8],
    "q4_0": [2] + [1] * 16,
    "q8_0": [2] + [1] * 32,
    "q4_K": [2, 2] + [1] * 140,
    "q5_K": [2, 2] + [1] * 172,
    "q6_K": [1] * 208 + [2],
}
