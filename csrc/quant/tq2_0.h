// tq2_0: 256 numbers that are -1, 0 or 1 times one scale, in 2 bits each; 2.0625 bits a number. The
// two halves of 128 numbers are laid out alike; in each, j = i % 128:
//
//   byte 0                                     64      66
//        | quants[64], 32 a half               | scale |
//        | byte j % 32, at bit 2 * (j / 32)    | f16   |
//
//   x[i] = scale * (q[i] - 1)
#pragma once

#include <cmath>

#include "quant/format.h"

namespace sdcore::quant {

struct TQ2_0 {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    uint8_t quants[64];
    f16 scale;
  };
  static_assert(sizeof(Block) == 66);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int half = 0; half < 2; ++half) {
      for (int part = 0; part < 4; ++part) {
        for (int i = 0; i < 32; ++i) {
          const int quant = (block.quants[half * 32 + i] >> (part * 2)) & 3;
          out[half * 128 + part * 32 + i] = scale * static_cast<float>(quant - 1);
        }
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    float furthest = 0.0f;
    for (int i = 0; i < 256; ++i) furthest = std::max(furthest, std::fabs(values[i]));
    const float inverse = furthest == 0.0f ? 0.0f : 1.0f / furthest;
    for (int byte = 0; byte < 64; ++byte) {
      int bits = 0;
      for (int part = 0; part < 4; ++part) {
        const float value = values[byte / 32 * 128 + part * 32 + byte % 32] * inverse;
        const int size = round_away(std::fabs(value), 1.0f);
        bits |= (value < 0.0f ? 1 - size : 1 + size) << (part * 2);
      }
      block.quants[byte] = static_cast<uint8_t>(bits);
    }
    block.scale = to_f16(furthest);
  }
};

}  // namespace sdcore::quant
