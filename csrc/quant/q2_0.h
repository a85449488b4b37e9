// q2_0: 64 numbers of 2 bits and one scale; 2.25 bits a number.
//
//   byte 0        2                               18
//        | scale  | quants[16]                    |
//        | f16    | byte i / 4, at bit 2 * (i % 4)|
//
//   x[i] = (q[i] - 1) * scale
#pragma once

#include <cmath>

#include "quant/format.h"

namespace sdcore::quant {

struct Q2_0 {
  static constexpr int64_t block_size = 64;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t quants[16];
  };
  static_assert(sizeof(Block) == 18);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int i = 0; i < 64; ++i) {
      const int quant = (block.quants[i / 4] >> (i % 4 * 2)) & 3;
      out[i] = static_cast<float>(quant - 1) * scale;
    }
  }

  // As ggml makes it, which leaves out twice the scale.
  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    float furthest = 0.0f;
    for (int i = 0; i < 64; ++i) furthest = std::max(furthest, std::fabs(values[i]));
    const float inverse = furthest > 0.0f ? 1.0f / furthest : 0.0f;
    for (int byte = 0; byte < 16; ++byte) {
      int bits = 0;
      for (int i = 0; i < 4; ++i) {
        const float value = values[byte * 4 + i] * inverse;
        const int size = round_away(std::fabs(value), 1.0f);
        bits |= (value < 0.0f ? 1 - size : 1 + size) << (i * 2);
      }
      block.quants[byte] = static_cast<uint8_t>(bits);
    }
    block.scale = to_f16(furthest);
  }
};

}  // namespace sdcore::quant
