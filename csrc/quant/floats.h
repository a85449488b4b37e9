// f32, f16, bf16, f64: a block is one number.
#pragma once

#include "quant/format.h"

namespace sdcore::quant {

template <class Number>
struct FloatFormat {
  static constexpr int64_t block_size = 1;
  struct [[gnu::packed]] Block {
    Number value;
  };
  SDCORE_FORMAT void swap(Block& block) { block.value = swapped(block.value); }
};

struct F32 : FloatFormat<float> {
  SDCORE_FORMAT void dequantize(const Block& block, float* out) { *out = block.value; }
  SDCORE_FORMAT void quantize(const float* values, Block& block) { block.value = *values; }
};

struct F16 : FloatFormat<f16> {
  SDCORE_FORMAT void dequantize(const Block& block, float* out) { *out = to_float(block.value); }
  SDCORE_FORMAT void quantize(const float* values, Block& block) { block.value = to_f16(*values); }
};

struct BF16 : FloatFormat<bf16> {
  SDCORE_FORMAT void dequantize(const Block& block, float* out) { *out = to_float(block.value); }
  SDCORE_FORMAT void quantize(const float* values, Block& block) { block.value = to_bf16(*values); }
};

struct F64 : FloatFormat<double> {
  SDCORE_FORMAT void dequantize(const Block& block, float* out) {
    *out = static_cast<float>(block.value);
  }
  SDCORE_FORMAT void quantize(const float* values, Block& block) { block.value = *values; }
};

}  // namespace sdcore::quant
