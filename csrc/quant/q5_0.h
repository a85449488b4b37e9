// q5_0: 32 numbers of 5 bits and one scale; 5.5 bits a number.
//
//   byte 0        2               22
//        | scale  | quants[20]    |
//        | f16    | five_bits.h   |
//
//   x[i] = scale * (q[i] - 16)
#pragma once

#include <cmath>

#include "quant/five_bits.h"

namespace sdcore::quant {

struct Q5_0 {
  static constexpr int64_t block_size = 32;
  static constexpr int most_integer = 16;
  struct [[gnu::packed]] Block {
    f16 scale;
    FiveBits quants;
  };
  static_assert(sizeof(Block) == 22);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    uint8_t quants[32];
    block.quants.unpack(quants);
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(quants[i] - 16);
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales) {
    uint8_t unsigned_quants[32];
    block.quants.unpack(unsigned_quants);
    scales[0] = to_float(block.scale);
    for (int i = 0; i < 32; ++i) quants[i] = static_cast<int8_t>(unsigned_quants[i] - 16);
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    // The number furthest from zero becomes -16, the end of the range that +15 does not reach.
    float furthest = values[0];
    for (int i = 1; i < 32; ++i) {
      if (std::fabs(values[i]) > std::fabs(furthest)) furthest = values[i];
    }
    const float scale = furthest / -16.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    uint8_t quants[32];
    for (int i = 0; i < 32; ++i) quants[i] = truncate(values[i] * inverse + 16.5f, 31.0f);
    block.quants.pack(quants);
    block.scale = to_f16(scale);
  }
};

}  // namespace sdcore::quant
