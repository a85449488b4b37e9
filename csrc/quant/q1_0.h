// q1_0: the signs of 128 numbers and one scale; 1.125 bits a number.
//
//   byte 0        2                         18
//        | scale  | signs[16]               |
//        | f16    | bit i: x[i] is positive |
//
//   x[i] = signs[i] ? scale : -scale
#pragma once

#include <cmath>

#include "quant/format.h"

namespace sdcore::quant {

struct Q1_0 {
  static constexpr int64_t block_size = 128;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t signs[16];
  };
  static_assert(sizeof(Block) == 18);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int i = 0; i < 128; ++i) {
      out[i] = ((block.signs[i / 8] >> (i % 8)) & 1) != 0 ? scale : -scale;
    }
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    float sum = 0.0f;
    for (int i = 0; i < 128; ++i) sum += std::fabs(values[i]);
    block.scale = to_f16(sum / 128.0f);
    for (int byte = 0; byte < 16; ++byte) {
      int bits = 0;
      for (int i = 0; i < 8; ++i) bits |= (values[byte * 8 + i] >= 0.0f ? 1 : 0) << i;
      block.signs[byte] = static_cast<uint8_t>(bits);
    }
  }
};

}  // namespace sdcore::quant
