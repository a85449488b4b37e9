// q5_1: 32 numbers of 5 bits with a scale and a minimum; 6 bits a number.
//
//   byte 0        2         4               24
//        | scale  | minimum | quants[20]    |
//        | f16    | f16     | five_bits.h   |
//
//   x[i] = scale * q[i] + minimum
#pragma once

#include "quant/five_bits.h"

namespace sdcore::quant {

struct Q5_1 {
  static constexpr int64_t block_size = 32;
  static constexpr int most_integer = 31;
  struct [[gnu::packed]] Block {
    f16 scale;
    f16 minimum;
    FiveBits quants;
  };
  static_assert(sizeof(Block) == 24);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    block.minimum = swapped(block.minimum);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale), minimum = to_float(block.minimum);
    uint8_t quants[32];
    block.quants.unpack(quants);
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(quants[i]) + minimum;
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales, float* offsets) {
    uint8_t unsigned_quants[32];
    block.quants.unpack(unsigned_quants);
    scales[0] = to_float(block.scale);
    offsets[0] = to_float(block.minimum);
    for (int i = 0; i < 32; ++i) quants[i] = static_cast<int8_t>(unsigned_quants[i]);
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    const auto [low, high] = std::minmax_element(values, values + 32);
    const float minimum = *low, scale = (*high - minimum) / 31.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    uint8_t quants[32];
    for (int i = 0; i < 32; ++i) {
      quants[i] = truncate((values[i] - minimum) * inverse + 0.5f, 31.0f);
    }
    block.quants.pack(quants);
    block.scale = to_f16(scale);
    block.minimum = to_f16(minimum);
  }
};

}  // namespace sdcore::quant
