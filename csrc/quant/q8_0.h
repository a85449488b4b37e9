// q8_0: 32 numbers of 8 bits and one scale; 8.5 bits a number.
//
//   byte 0        2                  34
//        | scale  | quants[32]       |
//        | f16    | signed           |
//
//   x[i] = scale * q[i]
#pragma once

#include <cmath>

#include "quant/format.h"

namespace sdcore::quant {

struct Q8_0 {
  static constexpr int64_t block_size = 32;
  static constexpr int most_integer = 128;
  struct [[gnu::packed]] Block {
    f16 scale;
    int8_t quants[32];
  };
  static_assert(sizeof(Block) == 34);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(block.quants[i]);
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales) {
    scales[0] = to_float(block.scale);
    for (int i = 0; i < 32; ++i) quants[i] = block.quants[i];
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    float furthest = 0.0f;
    for (int i = 0; i < 32; ++i) {
      const float distance = std::fabs(values[i]);
      furthest = distance > furthest ? distance : furthest;
    }
    const float scale = furthest / 127.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int i = 0; i < 32; ++i) {
      const float value = values[i] * inverse;
      const int magnitude = round_away(std::fabs(value), 127.0f);
      block.quants[i] = static_cast<int8_t>(value < 0.0f ? -magnitude : magnitude);
    }
    block.scale = to_f16(scale);
  }
};

}  // namespace sdcore::quant
