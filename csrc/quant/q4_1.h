// q4_1: 32 numbers of 4 bits with a scale and a minimum; 5 bits a number.
//
//   byte 0        2         4                                   20
//        | scale  | minimum | quants[16]                        |
//        | f16    | f16     | low half: i, high half: i + 16    |
//
//   x[i] = scale * q[i] + minimum
#pragma once

#include "quant/format.h"

namespace sdcore::quant {

struct Q4_1 {
  static constexpr int64_t block_size = 32;
  static constexpr int most_integer = 15;
  struct [[gnu::packed]] Block {
    f16 scale;
    f16 minimum;
    uint8_t quants[16];
  };
  static_assert(sizeof(Block) == 20);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    block.minimum = swapped(block.minimum);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale), minimum = to_float(block.minimum);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(block.quants[i] & 15) + minimum;
    }
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) {
      out[i + 16] = scale * static_cast<float>(block.quants[i] >> 4) + minimum;
    }
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales, float* offsets) {
    scales[0] = to_float(block.scale);
    offsets[0] = to_float(block.minimum);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) quants[i] = static_cast<int8_t>(block.quants[i] & 15);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) quants[i + 16] = static_cast<int8_t>(block.quants[i] >> 4);
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    const auto [low, high] = std::minmax_element(values, values + 32);
    const float minimum = *low, scale = (*high - minimum) / 15.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int i = 0; i < 16; ++i) {
      const uint8_t first = truncate((values[i] - minimum) * inverse + 0.5f, 15.0f);
      const uint8_t second = truncate((values[i + 16] - minimum) * inverse + 0.5f, 15.0f);
      block.quants[i] = static_cast<uint8_t>(first | (second << 4));
    }
    block.scale = to_f16(scale);
    block.minimum = to_f16(minimum);
  }
};

}  // namespace sdcore::quant
