// q6_K: 256 numbers of 6 bits in sixteen groups of 16, each with a signed 8-bit scale; 6.5625 bits
// a number. The two halves of 128 numbers are laid out alike; in each, j = i % 128:
//
//   byte 0                          128                         192          208     210
//        | low[128], 64 a half      | high[64], 32 a half       | scales[16] | scale |
//        | 4 low bits; byte j % 64, | 2 high bits; byte j % 32, | signed     | f16   |
//        | low nibble if j < 64     | at bit 2 * (j / 32)       |            |       |
//
//   x[i] = scale * scales[i / 16] * (q[i] - 32)
#pragma once

#include <cstring>

#include "quant/format.h"
#include "quant/k_search.h"

namespace sdcore::quant {

struct Q6_K {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    f16 scale;
  };
  static_assert(sizeof(Block) == 210);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    int8_t quants[256];
    for (int half = 0; half < 2; ++half) {
      const uint8_t *low = block.low + half * 64, *high = block.high + half * 32;
      int8_t* to = quants + half * 128;
      for (int i = 0; i < 32; ++i) {
        to[i] = static_cast<int8_t>((low[i] & 15) + ((high[i] & 3) << 4) - 32);
        to[i + 32] = static_cast<int8_t>((low[i + 32] & 15) + ((high[i] & 12) << 2) - 32);
        to[i + 64] = static_cast<int8_t>((low[i] >> 4) + (high[i] & 48) - 32);
        to[i + 96] = static_cast<int8_t>((low[i + 32] >> 4) + ((high[i] & 192) >> 2) - 32);
      }
    }
    const float scale = to_float(block.scale);
    for (int group = 0; group < 16; ++group) {
      const float step = scale * static_cast<float>(block.scales[group]);
      SDCORE_KEEP_LOOP
      for (int i = 0; i < 16; ++i) {
        out[group * 16 + i] = step * static_cast<float>(quants[group * 16 + i]);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    const SymmetricBlock fit = fit_q6_k(values, importance);
    block.scale = fit.scale;
    std::memcpy(block.scales, fit.scales, sizeof(block.scales));
    for (int half = 0; half < 2; ++half) {
      const uint8_t* quants = fit.quants + half * 128;
      for (int i = 0; i < 64; ++i) {
        block.low[half * 64 + i] =
            static_cast<uint8_t>((quants[i] & 15) | ((quants[i + 64] & 15) << 4));
      }
      for (int i = 0; i < 32; ++i) {
        block.high[half * 32 + i] =
            static_cast<uint8_t>((quants[i] >> 4) | ((quants[i + 32] >> 4) << 2) |
                                 ((quants[i + 64] >> 4) << 4) | ((quants[i + 96] >> 4) << 6));
      }
    }
  }
};

}  // namespace sdcore::quant
