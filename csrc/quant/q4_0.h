// q4_0: 32 numbers of 4 bits and one scale; 4.5 bits a number.
//
//   byte 0        2                                   18
//        | scale  | quants[16]                        |
//        | f16    | low half: i, high half: i + 16    |
//
//   x[i] = scale * (q[i] - 8)
#pragma once

#include <cmath>

#include "quant/format.h"

namespace sdcore::quant {

struct Q4_0 {
  static constexpr int64_t block_size = 32;
  static constexpr int most_integer = 8;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t quants[16];
  };
  static_assert(sizeof(Block) == 18);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>((block.quants[i] & 15) - 8);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i)
      out[i + 16] = scale * static_cast<float>((block.quants[i] >> 4) - 8);
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales) {
    scales[0] = to_float(block.scale);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) quants[i] = static_cast<int8_t>((block.quants[i] & 15) - 8);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) quants[i + 16] = static_cast<int8_t>((block.quants[i] >> 4) - 8);
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    // The number furthest from zero becomes -8, the end of the range that +7 does not reach.
    float furthest = values[0];
    for (int i = 1; i < 32; ++i) {
      if (std::fabs(values[i]) > std::fabs(furthest)) furthest = values[i];
    }
    const float scale = furthest / -8.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int i = 0; i < 16; ++i) {
      const uint8_t low = truncate(values[i] * inverse + 8.5f, 15.0f);
      const uint8_t high = truncate(values[i + 16] * inverse + 8.5f, 15.0f);
      block.quants[i] = static_cast<uint8_t>(low | (high << 4));
    }
    block.scale = to_f16(scale);
  }
};

}  // namespace sdcore::quant
